//! What a model directory holds and needs, without loading it.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;

use super::config::Config;
use super::layout::layout;
use super::safetensors::Tensors;
use crate::backend::cpu::block_bytes;
use crate::error::Error;
use crate::kv::BLOCK;

/// A directory whose configuration and tensors belong together.
#[derive(Debug)]
pub struct Inspection {
    config: Config,
    tensors: Tensors,
}

impl Inspection {
    /// Reads config.json and the headers of the weights; memory and time do not depend on the
    /// model's size.
    ///
    /// # Errors
    /// As [`Model::load`](super::Model::load), but for numbers that are not finite.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let config = Config::load(dir)?;
        let tensors = Tensors::open(dir)?;
        tensors.check(&config)?;
        Ok(Self { config, tensors })
    }

    /// Reads every weight once, a block at a time.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Tensor`] for the first number that is not finite.
    pub fn expect_finite(&self) -> Result<(), Error> {
        self.tensors.expect_finite(&self.config)
    }

    /// The checked configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Numbers in all tensors of the files, a tied embedding counted once.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.elements()).sum()
    }

    /// How many numbers the files hold of each type, by the format's name for it.
    pub fn types(&self) -> BTreeMap<String, u64> {
        let mut types = BTreeMap::new();
        for tensor in self.tensors.iter() {
            *types.entry(format!("{:?}", tensor.dtype)).or_default() += tensor.elements();
        }
        types
    }

    /// Bytes of the loaded weights: matrices stay as they are in the files, everything else has four
    /// bytes a number.
    pub fn weights_bytes(&self) -> u64 {
        layout(&self.config)
            .filter_map(|wanted| {
                let stored = self.tensors.find(&wanted.name, &wanted.shape).ok()?;
                let halves = stored.dtype != Dtype::F32 && wanted.shape.len() == 2;
                Some(stored.elements() * if halves { 2 } else { 4 })
            })
            .sum()
    }

    /// Bytes that the keys and values of one position take, in f32 as the CPU backend keeps them.
    pub fn kv_bytes_per_token(&self) -> u64 {
        (block_bytes(&self.config) / BLOCK) as u64
    }
}
