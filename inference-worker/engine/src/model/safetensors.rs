//! Finds tensors in safetensors files: headers first, then the numbers where they lie.
//!
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::BitAnd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(unix)]
use memmap2::Advice;
use memmap2::{Mmap, MmapMut};
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensorError};
use serde::Deserialize;

use super::config::Config;
use super::layout::layout;
use super::numbers::{Numbers, bf16_to_f32, f16_to_f32};
use super::weights::Data;
use crate::error::Error;
use crate::files::{self, read_json};

/// Bytes of a header at most. A hundred thousand tensors need about ten million.
const HEADER_LIMIT: u64 = 16 << 20;
/// Bytes of a tensor that are read at once; every type's size divides it.
const BLOCK: usize = 1 << 20;

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// Tensor name to file name.
    weight_map: BTreeMap<String, String>,
}

/// Where a tensor lies, row-major and little-endian.
#[derive(Debug)]
pub(super) struct Stored {
    path: PathBuf,
    pub(super) dtype: Dtype,
    shape: Vec<usize>,
    /// From the beginning of the file.
    start: u64,
    bytes: usize,
}

impl Stored {
    pub(super) fn elements(&self) -> u64 {
        // The header was checked against the file, so this is no more than its bytes.
        self.shape.iter().product::<usize>() as u64
    }

    /// Refuses numbers that are not finite; `bytes` are the tensor's from element `from` on.
    fn expect_finite(&self, name: &str, from: usize, bytes: &[u8]) -> Result<(), Error> {
        match first_not_finite(self.dtype, bytes) {
            None => Ok(()),
            Some((at, value)) => {
                let reason = format!("holds {value} at element {}", from + at);
                Err(Error::tensor(&self.path, name, reason))
            }
        }
    }

    /// Reads the numbers once, a block at a time, and keeps nothing.
    fn read(&self, name: &str) -> Result<(), Error> {
        let cannot_read = |source| Error::Read {
            path: self.path.clone(),
            source,
        };
        let (mut file, _) = files::open(&self.path)?;
        file.seek(SeekFrom::Start(self.start))
            .map_err(cannot_read)?;
        let mut buffer = vec![0; BLOCK.min(self.bytes)];
        let mut done = 0;
        while done < self.bytes {
            let part = &mut buffer[..BLOCK.min(self.bytes - done)];
            file.read_exact(part).map_err(cannot_read)?;
            self.expect_finite(name, done * 8 / self.dtype.bitsize(), part)?;
            done += part.len();
        }
        Ok(())
    }
}

/// The tensors of a model directory, by name. Only headers are in memory.
#[derive(Debug)]
pub(super) struct Tensors {
    dir: PathBuf,
    tensors: BTreeMap<String, Stored>,
}

impl Tensors {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let mut all = Self {
            dir: dir.into(),
            tensors: BTreeMap::new(),
        };
        let index = dir.join("model.safetensors.index.json");
        if !index.exists() {
            all.add_file(&dir.join("model.safetensors"))?;
            return Ok(all);
        }
        let Index { weight_map } = read_json(&index)?;
        for file in weight_map.values().collect::<BTreeSet<_>>() {
            // A name is a plain file name, so that an index cannot reach out of its directory.
            if Path::new(file)
                .file_name()
                .is_none_or(|name| name != file.as_str())
            {
                return Err(Error::Field {
                    path: index,
                    field: "weight_map",
                    value: file.clone(),
                    reason: "expected a file name without a directory".into(),
                });
            }
            all.add_file(&dir.join(file))?;
        }
        for (name, file) in &weight_map {
            let path = dir.join(file);
            if all
                .tensors
                .get(name)
                .is_none_or(|tensor| tensor.path != path)
            {
                return Err(Error::tensor(
                    &path,
                    name,
                    "the index lists it, the file lacks it",
                ));
            }
        }
        Ok(all)
    }

    fn add_file(&mut self, path: &Path) -> Result<(), Error> {
        let (start, metadata) = header(path)?;
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            let stored = Stored {
                path: path.into(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                start: start + from as u64,
                bytes: to - from,
            };
            if let Some(earlier) = self.tensors.insert(name.clone(), stored) {
                let reason = format!("is in {} too", earlier.path.display());
                return Err(Error::tensor(path, &name, reason));
            }
        }
        Ok(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stored> {
        self.tensors.values()
    }

    /// Compares names, shapes and types with what the configuration asks for.
    ///
    /// A tensor that nobody needs would have changed the result where its model was trained, and
    /// is refused. Two kinds are redundant and pass: rotary frequencies, and a tied output
    /// projection.
    pub(super) fn check(&self, config: &Config) -> Result<(), Error> {
        let mut needed = HashSet::new();
        // Ends with the first that is missing, however many the configuration claims.
        for wanted in layout(config) {
            self.find(&wanted.name, &wanted.shape)?;
            needed.insert(wanted.name);
        }
        let surplus = self.tensors.iter().find(|(name, _)| {
            let tied = config.tie_word_embeddings && *name == "lm_head.weight";
            !needed.contains(*name) && !tied && !name.ends_with("rotary_emb.inv_freq")
        });
        match surplus {
            None => Ok(()),
            Some((name, tensor)) => {
                let reason = format!("{} has no use for it", config.architecture);
                Err(Error::tensor(&tensor.path, name, reason))
            }
        }
    }

    pub(super) fn find(&self, name: &str, shape: &[usize]) -> Result<&Stored, Error> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(Error::tensor(&self.dir, name, "is missing"));
        };
        if tensor.shape != shape {
            let reason = format!(
                "has shape {:?}, config.json asks for {shape:?}",
                tensor.shape
            );
            return Err(Error::tensor(&tensor.path, name, reason));
        }
        if !matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let reason = format!("has type {:?}, expected F32, F16 or BF16", tensor.dtype);
            return Err(Error::tensor(&tensor.path, name, reason));
        }
        Ok(tensor)
    }

    /// Reads everything that the configuration asks for and keeps nothing.
    pub(super) fn expect_finite(&self, config: &Config) -> Result<(), Error> {
        layout(config)
            .try_for_each(|wanted| self.find(&wanted.name, &wanted.shape)?.read(&wanted.name))
    }
}

/// The tensors with their files in memory, or mapped to it.
#[derive(Debug)]
pub(super) struct Loaded<'a> {
    tensors: &'a Tensors,
    files: BTreeMap<PathBuf, Arc<Mmap>>,
}

impl<'a> Loaded<'a> {
    /// Maps the files, or copies them with `copy`.
    pub(super) fn new(tensors: &'a Tensors, copy: bool) -> Result<Self, Error> {
        let mut files = BTreeMap::new();
        for tensor in tensors.iter() {
            if !files.contains_key(&tensor.path) {
                let memory = match copy {
                    true => copied(&tensor.path),
                    false => mapped(&tensor.path),
                };
                let memory = memory.map_err(|source| Error::Read {
                    path: tensor.path.clone(),
                    source,
                })?;
                files.insert(tensor.path.clone(), Arc::new(memory));
            }
        }
        Ok(Self { tensors, files })
    }

    /// A tensor's numbers, all finite.
    pub(super) fn take(&self, name: &str, shape: &[usize]) -> Result<Data, Error> {
        let tensor = self.tensors.find(name, shape)?;
        let (start, bytes) = (tensor.start as usize, tensor.bytes);
        let Some(memory) = self.files.get(&tensor.path).filter(|memory| {
            start
                .checked_add(bytes)
                .is_some_and(|end| end <= memory.len())
        }) else {
            let reason = "its file became shorter while it was read";
            return Err(Error::tensor(&tensor.path, name, reason));
        };
        tensor.expect_finite(name, 0, &memory[start..start + bytes])?;
        Ok(match tensor.dtype {
            Dtype::BF16 => Data::Bf16(Numbers::within(memory, start, bytes)),
            Dtype::F16 => Data::F16(Numbers::within(memory, start, bytes)),
            _ => Data::F32(Numbers::within(memory, start, bytes)),
        })
    }
}

fn mapped(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: only that nobody writes the file or cuts it off while it is mapped, which
    // `WeightsIn::Mapped` asks of the operator. Any bits are numbers.
    let map = unsafe { Mmap::map(&file)? };
    #[cfg(unix)]
    map.advise(Advice::WillNeed)?;
    Ok(map)
}

fn copied(path: &Path) -> io::Result<Mmap> {
    let mut file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut memory = MmapMut::map_anon(length)?;
    // Fewer entries of the page tables to walk. A kernel without them does without.
    #[cfg(target_os = "linux")]
    let _ = memory.advise(Advice::HugePage);
    file.read_exact(&mut memory)?;
    memory.make_read_only()
}

/// Where the data begins, and what the header says, which is then true of the file's length.
fn header(path: &Path) -> Result<(u64, Metadata), Error> {
    let (mut file, length) = files::open(path)?;
    let invalid = |source| Error::Safetensors {
        path: path.into(),
        source,
    };
    let mut size = [0; 8];
    file.read_exact(&mut size)
        .map_err(|_| invalid(SafeTensorError::HeaderTooSmall))?;
    let size = u64::from_le_bytes(size);
    if size > HEADER_LIMIT {
        return Err(invalid(SafeTensorError::HeaderTooLarge));
    }
    let start = size + 8;
    if start > length {
        return Err(invalid(SafeTensorError::InvalidHeaderLength));
    }
    let mut json = Vec::new();
    file.take(size)
        .read_to_end(&mut json)
        .map_err(|source| Error::Read {
            path: path.into(),
            source,
        })?;
    let metadata: Metadata = serde_json::from_slice(&json)
        .map_err(|error| invalid(SafeTensorError::InvalidHeaderDeserialization(error)))?;
    if metadata.data_len() as u64 != length - start {
        return Err(invalid(SafeTensorError::MetadataIncompleteBuffer));
    }
    Ok((start, metadata))
}

/// The first number that is a NaN or an infinity, and its place.
fn first_not_finite(dtype: Dtype, bytes: &[u8]) -> Option<(usize, f32)> {
    match dtype {
        Dtype::BF16 => first_with(bytes.as_chunks().0, 0x7f80, u16::from_le_bytes, bf16_to_f32),
        Dtype::F16 => first_with(bytes.as_chunks().0, 0x7c00, u16::from_le_bytes, f16_to_f32),
        _ => first_with(
            bytes.as_chunks().0,
            0x7f80_0000,
            u32::from_le_bytes,
            f32::from_bits,
        ),
    }
}

/// The first number whose `exponent` bits are all set. Whole blocks are looked through without a
/// branch: this passes over every weight when a model is loaded.
fn first_with<const BYTES: usize, T>(
    numbers: &[[u8; BYTES]],
    exponent: T,
    from_bytes: fn([u8; BYTES]) -> T,
    to_f32: fn(T) -> f32,
) -> Option<(usize, f32)>
where
    T: Copy + PartialEq + BitAnd<Output = T>,
{
    let all_set = |bytes: &[u8; BYTES]| from_bytes(*bytes) & exponent == exponent;
    const BLOCK: usize = 1024;
    let (block, numbers) = numbers.chunks(BLOCK).enumerate().find(|(_, numbers)| {
        numbers
            .iter()
            .fold(false, |found, bytes| found | all_set(bytes))
    })?;
    let within = numbers.iter().position(all_set)?;
    Some((block * BLOCK + within, to_f32(from_bytes(numbers[within]))))
}
