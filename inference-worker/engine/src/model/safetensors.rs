//! Reads tensors from safetensors files: headers first, then one tensor after another.
//!
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensorError};
use serde::Deserialize;

use super::config::Config;
use super::layout::layout;
use super::weights::{Data, bf16_to_f32};
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

    fn read(&self, name: &str, mut block: impl FnMut(&[u8])) -> Result<(), Error> {
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
            if let Some((at, value)) = first_not_finite(self.dtype, part) {
                let at = done * 8 / self.dtype.bitsize() + at;
                let reason = format!("holds {value} at element {at}");
                return Err(Error::tensor(&self.path, name, reason));
            }
            block(part);
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

    /// Reads a tensor's numbers, all finite: bf16 as it is, others as f32.
    pub(super) fn take(&self, name: &str, shape: &[usize]) -> Result<Data, Error> {
        let tensor = self.find(name, shape)?;
        let elements = tensor.bytes * 8 / tensor.dtype.bitsize();
        if tensor.dtype == Dtype::BF16 {
            let mut numbers = Vec::with_capacity(elements);
            tensor.read(name, |block| numbers.extend(halves(block)))?;
            return Ok(Data::Bf16(numbers));
        }
        let mut numbers = Vec::with_capacity(elements);
        tensor.read(name, |block| match tensor.dtype {
            Dtype::F16 => numbers.extend(halves(block).map(f16_to_f32)),
            _ => numbers.extend(singles(block)),
        })?;
        Ok(Data::F32(numbers))
    }

    /// Reads everything that the configuration asks for and keeps nothing.
    pub(super) fn expect_finite(&self, config: &Config) -> Result<(), Error> {
        layout(config).try_for_each(|wanted| {
            self.find(&wanted.name, &wanted.shape)?
                .read(&wanted.name, |_| {})
        })
    }
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

fn halves(block: &[u8]) -> impl Iterator<Item = u16> {
    block
        .as_chunks::<2>()
        .0
        .iter()
        .map(|b| u16::from_le_bytes(*b))
}

fn singles(block: &[u8]) -> impl Iterator<Item = f32> {
    block
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
}

/// The first number of a block that is a NaN or an infinity, and its place.
fn first_not_finite(dtype: Dtype, block: &[u8]) -> Option<(usize, f32)> {
    fn first(numbers: impl Iterator<Item = f32>) -> Option<(usize, f32)> {
        numbers.enumerate().find(|(_, value)| !value.is_finite())
    }
    match dtype {
        Dtype::BF16 => first(halves(block).map(bf16_to_f32)),
        Dtype::F16 => first(halves(block).map(f16_to_f32)),
        _ => first(singles(block)),
    }
}

/// IEEE 754 binary16 to binary32, exact.
fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let exponent = u32::from(bits >> 10) & 0x1f;
    let fraction = u32::from(bits) & 0x3ff;
    let magnitude = match exponent {
        // Subnormal: fraction × 2^-24.
        0 => (fraction as f32 * f32::from_bits((127 - 24) << 23)).to_bits(),
        31 => 0x7f80_0000 | fraction << 13,
        // The biases of the two formats differ by 112.
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::f16_to_f32;

    #[test]
    fn binary16_converts_exactly() {
        let cases = [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x3555, 0.333_251_95),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x03ff, 6.097_555e-5),
            (0x8000, -0.0),
            (0x7c00, f32::INFINITY),
        ];
        for (bits, expected) in cases {
            assert_eq!(
                f16_to_f32(bits).to_bits(),
                f32::to_bits(expected),
                "{bits:#06x}"
            );
        }
        assert!(f16_to_f32(0x7e00).is_nan());
    }
}
