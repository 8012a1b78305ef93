//! A model as its directory describes it: the checked configuration and the weights in memory.
//!
//! All families here are decoders of one shape: token embedding, layers of grouped-query
//! attention with rotary positions and a SiLU-gated MLP, each behind an RMSNorm and added to the
//! residual stream, then a last norm and the projection to the vocabulary. [`Config`] says where
//! they differ; [`backend`](crate::backend) computes.

mod config;
mod inspection;
pub mod int8;
pub(crate) mod layout;
mod numbers;
mod random;
mod rope_scaling;
mod safetensors;
mod weights;

use std::path::Path;

pub use config::{Architecture, Config};
pub use inspection::Inspection;
pub use numbers::Numbers;
pub(crate) use numbers::{bf16_to_f32, f16_to_f32, f32_to_bf16};
pub use random::{SHAPES, Shape};
pub use rope_scaling::RopeScaling;
pub use weights::{Data, Layer, Linear, Matrix, Projection, Weights};

use crate::error::Error;

/// How the weights are kept in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WeightsIn {
    /// The files are mapped: nothing is copied, processes share the memory, and the system may
    /// take it back and read it again. A file that is cut off or overwritten in place while the
    /// model is loaded kills the process (SIGBUS) or changes its answers. Replacing it by renaming
    /// another over it is safe, and is what downloads do.
    #[default]
    Mapped,
    /// The files are read once, and what becomes of them then does not matter.
    Copied,
    /// The matrices are rounded to eight bits with a scale for every 32 weights, and inputs are
    /// rounded likewise: half the memory of bf16, faster, less exact.
    Int8,
}

/// A loaded model; immutable.
#[derive(Debug)]
pub struct Model {
    config: Config,
    weights: Weights,
    parameters: u64,
}

impl Model {
    /// Loads config.json and model.safetensors, or the shards that model.safetensors.index.json
    /// lists, and maps them. Weights may be f32, f16 or bf16.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Json`], [`Error::Field`], [`Error::Safetensors`], or
    /// [`Error::Tensor`] for a tensor that is missing, surplus, misshapen or not finite.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        Self::load_in(dir, WeightsIn::default())
    }

    /// As [`load`](Self::load), with the weights kept as `weights_in` says.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_in(dir: &Path, weights_in: WeightsIn) -> Result<Self, Error> {
        let config = Config::load(dir)?;
        let tensors = safetensors::Tensors::open(dir)?;
        tensors.check(&config)?;
        let files = safetensors::Loaded::new(&tensors, weights_in == WeightsIn::Copied)?;
        let mut weights = Weights::take(&config, &files)?;
        if weights_in == WeightsIn::Int8 {
            weights.round_to_int8();
        }
        let parameters = tensors.iter().map(safetensors::Stored::elements).sum();
        Ok(Self {
            config,
            weights,
            parameters,
        })
    }

    /// The checked configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Numbers in all tensors of the files, a tied embedding counted once.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }
}
