//! Reads tensors from safetensors files, one file in memory at a time.
//!
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::config::Config;
use super::weights::Data;
use crate::error::Error;
use crate::files::{read, read_json};

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// Tensor name to file name.
    weight_map: BTreeMap<String, String>,
}

/// One tensor, row-major, finite.
#[derive(Debug)]
struct Tensor {
    path: PathBuf,
    shape: Vec<usize>,
    data: Data,
}

/// All tensors of a model directory that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Tensors {
    dir: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

impl Tensors {
    pub(super) fn load(dir: &Path) -> Result<Self, Error> {
        let mut all = Self {
            dir: dir.into(),
            tensors: BTreeMap::new(),
        };
        let index = dir.join("model.safetensors.index.json");
        if !index.exists() {
            all.load_file(&dir.join("model.safetensors"))?;
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
            all.load_file(&dir.join(file))?;
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

    fn load_file(&mut self, path: &Path) -> Result<(), Error> {
        let bytes = read(path)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|source| Error::Safetensors {
            path: path.into(),
            source,
        })?;
        for (name, view) in file.tensors() {
            let data = finite(path, &name, &view)?;
            let tensor = Tensor {
                path: path.into(),
                shape: view.shape().to_vec(),
                data,
            };
            if let Some(earlier) = self.tensors.insert(name.clone(), tensor) {
                let reason = format!("is in {} too", earlier.path.display());
                return Err(Error::tensor(path, &name, reason));
            }
        }
        Ok(())
    }

    pub(super) fn parameters(&self) -> u64 {
        self.tensors
            .values()
            .map(|tensor| tensor.shape.iter().product::<usize>() as u64)
            .sum()
    }

    pub(super) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Data, Error> {
        let Some(tensor) = self.tensors.remove(name) else {
            return Err(Error::tensor(&self.dir, name, "is missing"));
        };
        if tensor.shape != shape {
            let reason = format!(
                "has shape {:?}, config.json asks for {shape:?}",
                tensor.shape
            );
            return Err(Error::tensor(&tensor.path, name, reason));
        }
        Ok(tensor.data)
    }

    /// A tensor that nobody took would have changed the result where its model was trained.
    /// Two kinds are redundant and pass: rotary frequencies, and a tied output projection.
    pub(super) fn expect_none_left(&self, config: &Config) -> Result<(), Error> {
        let surplus = self.tensors.iter().find(|(name, _)| {
            let tied = config.tie_word_embeddings && *name == "lm_head.weight";
            !tied && !name.ends_with("rotary_emb.inv_freq")
        });
        match surplus {
            None => Ok(()),
            Some((name, tensor)) => {
                let reason = format!("{} has no use for it", config.architecture);
                Err(Error::tensor(&tensor.path, name, reason))
            }
        }
    }
}

/// The tensor's numbers, bf16 as it is, others as f32.
fn finite(path: &Path, name: &str, view: &TensorView<'_>) -> Result<Data, Error> {
    let bytes = view.data();
    let halves = || {
        bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| u16::from_le_bytes(*b))
    };
    let data = match view.dtype() {
        Dtype::F32 => Data::F32(
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
        ),
        Dtype::F16 => Data::F32(halves().map(f16_to_f32).collect()),
        Dtype::BF16 => Data::Bf16(halves().collect()),
        other => {
            let reason = format!("has type {other:?}, expected F32, F16 or BF16");
            return Err(Error::tensor(path, name, reason));
        }
    };
    let wrong = data
        .iter()
        .enumerate()
        .find(|(_, value)| !value.is_finite());
    match wrong {
        None => Ok(data),
        Some((at, value)) => Err(Error::tensor(
            path,
            name,
            format!("holds {value} at element {at}"),
        )),
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
