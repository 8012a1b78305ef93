//! A model as its directory describes it: the checked configuration and the weights in memory.
//!
//! All families here are decoders of one shape: token embedding, layers of grouped-query
//! attention with rotary positions and a SiLU-gated MLP, each behind an RMSNorm and added to the
//! residual stream, then a last norm and the projection to the vocabulary. [`Config`] says where
//! they differ; [`backend`](crate::backend) computes.

mod config;
mod inspection;
mod layout;
mod safetensors;
mod weights;

use std::path::Path;

pub use config::{Architecture, Config, RopeScaling};
pub use inspection::Inspection;
pub(crate) use weights::bf16_to_f32;
pub use weights::{Data, Layer, Linear, Matrix, Weights};

use crate::error::Error;

/// A loaded model; immutable.
#[derive(Debug)]
pub struct Model {
    config: Config,
    weights: Weights,
    parameters: u64,
}

impl Model {
    /// Loads config.json and model.safetensors, or the shards that model.safetensors.index.json
    /// lists. Weights may be f32, f16 or bf16.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Json`], [`Error::Field`], [`Error::Safetensors`], or
    /// [`Error::Tensor`] for a tensor that is missing, surplus, misshapen or not finite.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let config = Config::load(dir)?;
        let tensors = safetensors::Tensors::open(dir)?;
        tensors.check(&config)?;
        let weights = Weights::take(&config, &tensors)?;
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
