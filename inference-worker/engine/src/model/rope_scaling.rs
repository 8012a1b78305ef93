//! How rotary frequencies are stretched for longer contexts, as config.json says it.

use serde::Deserialize;

use super::config::Fields;
use crate::error::Error;

/// How rotary frequencies are stretched for longer contexts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All positions divided by a factor.
    Linear {
        /// The divisor, at least 1.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided, short ones kept, a smooth band between.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` positions are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` positions are kept.
        high_freq_factor: f64,
        /// Positions that the model was first trained on.
        original_max_position_embeddings: f64,
    },
    /// YaRN, as the Qwen families do it: pairs that turn often are kept, those that hardly turn are
    /// divided, a ramp over the pairs between, and longer keys and queries sharpen the attention
    /// (Peng et al., 2023, <https://arxiv.org/abs/2309.00071>).
    Yarn {
        /// The divisor of pairs that hardly turn, at least 1.
        factor: f64,
        /// Pairs with more turns than this over the original context are kept.
        beta_fast: f64,
        /// Pairs with fewer turns than this are divided.
        beta_slow: f64,
        /// Whether the ramp begins and ends at whole pairs.
        truncate: bool,
        /// What cosines and sines are multiplied with.
        attention_factor: f64,
        /// Positions that the model was first trained on.
        original_max_position_embeddings: f64,
    },
}

impl RopeScaling {
    /// Positions that a model serves which states this many. Where YaRN's factor is not yet in
    /// them, it is in these.
    pub(super) fn positions(self, stated: usize) -> usize {
        match self {
            Self::Yarn {
                factor,
                original_max_position_embeddings,
                ..
            } => stated.max((original_max_position_embeddings * factor) as usize),
            Self::None | Self::Linear { .. } | Self::Llama3 { .. } => stated,
        }
    }
}

/// The fields of `rope_scaling`.
#[derive(Deserialize)]
pub(super) struct RawRope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    pub(super) rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    pub(super) partial_rotary_factor: Option<f64>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
}

impl RawRope {
    pub(super) fn check(&self, fields: &Fields<'_>, trained: usize) -> Result<RopeScaling, Error> {
        match self.rope_type.as_deref() {
            None | Some("default") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear {
                factor: self.factor(fields)?,
            }),
            Some("llama3") => {
                let low = fields.positive("rope_scaling.low_freq_factor", self.low_freq_factor)?;
                let high =
                    fields.positive("rope_scaling.high_freq_factor", self.high_freq_factor)?;
                if high <= low {
                    let reason = format!("must exceed low_freq_factor = {low}");
                    return fields.refuse("rope_scaling.high_freq_factor", high, reason);
                }
                Ok(RopeScaling::Llama3 {
                    factor: self.factor(fields)?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: fields.positive(
                        "rope_scaling.original_max_position_embeddings",
                        self.original_max_position_embeddings,
                    )?,
                })
            }
            Some("yarn") => self.yarn(fields, trained),
            Some(other) => fields.refuse(
                "rope_scaling.rope_type",
                other,
                "expected one of default, linear, llama3, yarn",
            ),
        }
    }

    /// As `transformers.modeling_rope_utils` reads it.
    fn yarn(&self, fields: &Fields<'_>, trained: usize) -> Result<RopeScaling, Error> {
        let factor = self.factor(fields)?;
        if factor < 1.0 {
            return fields.refuse("rope_scaling.factor", factor, "must be at least 1");
        }
        let or = |field, value: Option<f64>, usual| fields.positive(field, value.or(Some(usual)));
        let beta_fast = or("rope_scaling.beta_fast", self.beta_fast, 32.0)?;
        let beta_slow = or("rope_scaling.beta_slow", self.beta_slow, 1.0)?;
        if beta_fast < beta_slow {
            let reason = format!("must be at least beta_slow = {beta_slow}");
            return fields.refuse("rope_scaling.beta_fast", beta_fast, reason);
        }
        let longer = |scale: f64| 0.1 * scale * factor.ln() + 1.0;
        let usual = match (self.mscale, self.mscale_all_dim) {
            (Some(part), Some(all)) if part != 0.0 && all != 0.0 => longer(part) / longer(all),
            _ => longer(1.0),
        };
        let original = or(
            "rope_scaling.original_max_position_embeddings",
            self.original_max_position_embeddings,
            trained as f64,
        )?;
        if original * factor > Fields::MOST as f64 {
            let reason = format!("gives more than {} positions", Fields::MOST);
            return fields.refuse("rope_scaling.factor", factor, reason);
        }
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            truncate: self.truncate.unwrap_or(true),
            attention_factor: or(
                "rope_scaling.attention_factor",
                self.attention_factor,
                usual,
            )?,
            original_max_position_embeddings: original,
        })
    }

    fn factor(&self, fields: &Fields<'_>) -> Result<f64, Error> {
        fields.positive("rope_scaling.factor", self.factor)
    }
}
