//! config.json, checked: a field that the engine would have to ignore is refused instead.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::rope_scaling::{RawRope, RopeScaling};
use crate::error::Error;
use crate::files::read_json;

/// Model families that differ in their tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3 (<https://arxiv.org/abs/2307.09288>, <https://arxiv.org/abs/2407.21783>).
    Llama,
    /// Mistral without a sliding window: the tensors of Llama.
    Mistral,
    /// Qwen2 and 2.5: biases on q, k and v (<https://arxiv.org/abs/2407.10671>).
    Qwen2,
    /// Qwen3, dense: RMSNorm over each head of q and k (<https://arxiv.org/abs/2505.09388>).
    Qwen3,
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        })
    }
}

/// The checked shape of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `_name_or_path`, else the directory's name.
    pub id: String,
    /// Which family.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; each serves `num_attention_heads / num_key_value_heads` query heads.
    pub num_key_value_heads: usize,
    /// Width of a head, even.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Positions at most, those that a scaling adds included.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Whether q and k are normalised per head.
    pub qk_norm: bool,
    /// `"amaima_demo": true`.
    pub demo: bool,
}

/// The fields of config.json that decide something here; others are descriptive.
#[derive(Deserialize)]
struct Raw {
    _name_or_path: Option<String>,
    #[serde(default)]
    architectures: Vec<String>,
    hidden_size: Option<u64>,
    intermediate_size: Option<u64>,
    num_hidden_layers: Option<u64>,
    num_attention_heads: Option<u64>,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    vocab_size: Option<u64>,
    max_position_embeddings: Option<u64>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    /// Where transformers 5 keeps both `rope_theta` and the scaling.
    rope_parameters: Option<RawRope>,
    tie_word_embeddings: Option<bool>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    sliding_window: Option<u64>,
    use_sliding_window: Option<bool>,
    layer_types: Option<Vec<String>>,
    partial_rotary_factor: Option<f64>,
    quantization_config: Option<Value>,
    #[serde(default)]
    amaima_demo: bool,
}

/// Reads fields and names them in refusals.
pub(super) struct Fields<'a> {
    path: &'a Path,
}

impl Fields<'_> {
    /// The largest size.
    pub(super) const MOST: usize = 1 << 24;

    pub(super) fn refuse<T>(
        &self,
        field: &'static str,
        value: impl ToString,
        reason: impl Into<String>,
    ) -> Result<T, Error> {
        Err(Error::Field {
            path: self.path.into(),
            field,
            value: value.to_string(),
            reason: reason.into(),
        })
    }

    /// A size: present, above zero, and below 2^24, so that no product of sizes overflows.
    fn size(&self, field: &'static str, value: Option<u64>) -> Result<usize, Error> {
        match value {
            None => self.refuse(field, "absent", "a size is required"),
            Some(value) => match usize::try_from(value) {
                Ok(size) if (1..=Self::MOST).contains(&size) => Ok(size),
                _ => self.refuse(field, value, "expected a size from 1 to 16777216"),
            },
        }
    }

    pub(super) fn positive(&self, field: &'static str, value: Option<f64>) -> Result<f64, Error> {
        match value {
            None => self.refuse(field, "absent", "a number is required"),
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            Some(value) => self.refuse(field, value, "expected a positive number"),
        }
    }
}

impl Config {
    /// Reads and checks `config.json` of a model directory.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Json`], or [`Error::Field`] naming the first field that the
    /// engine cannot serve.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("config.json");
        let raw: Raw = read_json(&path)?;
        let directory = dir
            .file_name()
            .map_or_else(String::new, |n| n.to_string_lossy().into());
        raw.check(&Fields { path: &path }, directory)
    }
}

impl Raw {
    fn check(self, fields: &Fields<'_>, directory: String) -> Result<Config, Error> {
        let architecture = self.architecture(fields)?;
        self.refuse_unsupported(fields, architecture)?;

        let hidden_size = fields.size("hidden_size", self.hidden_size)?;
        let heads = fields.size("num_attention_heads", self.num_attention_heads)?;
        let kv_heads = match self.num_key_value_heads {
            None => heads,
            some => fields.size("num_key_value_heads", some)?,
        };
        if heads % kv_heads != 0 {
            let reason = format!("must divide num_attention_heads = {heads}");
            return fields.refuse("num_key_value_heads", kv_heads, reason);
        }
        let head_dim = match self.head_dim {
            None if hidden_size % heads != 0 => {
                let reason = format!("must divide hidden_size = {hidden_size} without head_dim");
                return fields.refuse("num_attention_heads", heads, reason);
            }
            None => hidden_size / heads,
            some => fields.size("head_dim", some)?,
        };
        if head_dim % 2 != 0 {
            return fields.refuse("head_dim", head_dim, "rotary embedding needs an even width");
        }
        let attention_bias = self.attention_bias.unwrap_or(false);
        let rope = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let rope_theta = self.rope_theta.or(rope.and_then(|rope| rope.rope_theta));
        let trained = fields.size("max_position_embeddings", self.max_position_embeddings)?;
        let rope_scaling =
            rope.map_or(Ok(RopeScaling::None), |rope| rope.check(fields, trained))?;
        let positions = rope_scaling.positions(trained);
        self.refuse_window(fields, architecture, positions)?;
        Ok(Config {
            id: self
                ._name_or_path
                .clone()
                .filter(|name| !name.is_empty())
                .unwrap_or(directory),
            architecture,
            hidden_size,
            intermediate_size: fields.size("intermediate_size", self.intermediate_size)?,
            num_hidden_layers: fields.size("num_hidden_layers", self.num_hidden_layers)?,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            vocab_size: fields.size("vocab_size", self.vocab_size)?,
            max_position_embeddings: positions,
            rms_norm_eps: fields.positive("rms_norm_eps", self.rms_norm_eps)? as f32,
            // 10,000 is the default of transformers for every family here.
            rope_theta: fields.positive("rope_theta", rope_theta.or(Some(10_000.0)))?,
            rope_scaling,
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(false),
            qkv_bias: attention_bias || architecture == Architecture::Qwen2,
            output_bias: attention_bias,
            mlp_bias: self.mlp_bias.unwrap_or(false),
            qk_norm: architecture == Architecture::Qwen3,
            demo: self.amaima_demo,
        })
    }

    fn architecture(&self, fields: &Fields<'_>) -> Result<Architecture, Error> {
        let all = [
            Architecture::Llama,
            Architecture::Mistral,
            Architecture::Qwen2,
            Architecture::Qwen3,
        ];
        let [name] = self.architectures.as_slice() else {
            let value = format!("{:?}", self.architectures);
            return fields.refuse("architectures", value, "expected exactly one name");
        };
        match all.into_iter().find(|known| known.to_string() == *name) {
            Some(architecture) => Ok(architecture),
            None => {
                let known = all.map(|known| known.to_string()).join(", ");
                fields.refuse("architectures", name, format!("expected one of {known}"))
            }
        }
    }

    /// Features that would change the result and are not computed here.
    fn refuse_unsupported(
        &self,
        fields: &Fields<'_>,
        architecture: Architecture,
    ) -> Result<(), Error> {
        if let Some(act) = self.hidden_act.as_deref().filter(|act| *act != "silu") {
            return fields.refuse("hidden_act", act, "only silu is supported");
        }
        if let Some(quantization) = &self.quantization_config {
            let reason = "quantised weights are not supported";
            return fields.refuse("quantization_config", quantization, reason);
        }
        let rotary = self.partial_rotary_factor.or(self
            .rope_parameters
            .as_ref()
            .and_then(|rope| rope.partial_rotary_factor));
        if let Some(factor) = rotary.filter(|factor| *factor != 1.0) {
            return fields.refuse("partial_rotary_factor", factor, "only 1 is supported");
        }
        if architecture == Architecture::Qwen2 && self.attention_bias == Some(true) {
            return fields.refuse("attention_bias", true, "Qwen2 has no output bias");
        }
        if let Some(kind) = self
            .layer_types
            .iter()
            .flatten()
            .find(|kind| *kind != "full_attention")
        {
            return fields.refuse("layer_types", kind, "only full_attention is supported");
        }
        Ok(())
    }

    /// A window that is shorter than the context would change the result too.
    fn refuse_window(
        &self,
        fields: &Fields<'_>,
        architecture: Architecture,
        positions: usize,
    ) -> Result<(), Error> {
        // The Qwen family states a window and switches it off separately.
        let windowed = self
            .use_sliding_window
            .unwrap_or(architecture == Architecture::Mistral);
        match self.sliding_window {
            Some(window) if windowed && window < positions as u64 => fields.refuse(
                "sliding_window",
                window,
                "sliding windows are not supported",
            ),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(changes: Value) -> Result<Config, Error> {
        let mut config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
            "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        });
        for (key, value) in changes.as_object().expect("an object") {
            config[key] = value.clone();
        }
        let raw: Raw = serde_json::from_value(config).expect("a config");
        raw.check(
            &Fields {
                path: Path::new("config.json"),
            },
            "dir".into(),
        )
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let config = check(serde_json::json!({})).expect("a config");
        assert_eq!((config.id.as_str(), config.demo), ("dir", false));
        assert_eq!((config.head_dim, config.num_key_value_heads), (16, 4));
        assert_eq!(
            (config.rope_theta, config.rope_scaling),
            (10_000.0, RopeScaling::None)
        );
        assert!(!config.tie_word_embeddings && !config.qkv_bias && !config.qk_norm);
    }

    #[test]
    fn both_places_of_the_rotary_settings_are_read() {
        let scaling = serde_json::json!({"type": "linear", "factor": 2.0});
        let old = check(serde_json::json!({"rope_theta": 5e5, "rope_scaling": scaling}));
        let new = check(serde_json::json!({
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5},
        }));
        let (old, new) = (old.expect("a config"), new.expect("a config"));
        assert_eq!(old.rope_scaling, RopeScaling::Linear { factor: 2.0 });
        assert_eq!(old, new);
    }

    #[test]
    fn yarn_adds_positions_where_they_are_not_stated_yet() {
        let with = |positions: u64, original: Value| {
            let config = check(serde_json::json!({
                "max_position_embeddings": positions,
                "rope_scaling": {
                    "type": "yarn", "factor": 4.0, "original_max_position_embeddings": original,
                },
            }));
            let config = config.expect("a config");
            let RopeScaling::Yarn {
                original_max_position_embeddings,
                attention_factor,
                ..
            } = config.rope_scaling
            else {
                panic!("{:?}", config.rope_scaling);
            };
            assert_eq!(original_max_position_embeddings, 256.0);
            assert!((attention_factor - 1.138_629_436).abs() < 1e-9);
            config.max_position_embeddings
        };
        assert_eq!(with(256, Value::Null), 1024);
        assert_eq!(with(256, 256.into()), 1024);
        assert_eq!(with(1024, 256.into()), 1024);
    }

    #[test]
    fn qwen_families_bring_their_own_tensors() {
        let qwen2 = check(serde_json::json!({"architectures": ["Qwen2ForCausalLM"],
            "use_sliding_window": false, "sliding_window": 32, "amaima_demo": true}));
        let qwen2 = qwen2.expect("a config");
        assert!(qwen2.qkv_bias && !qwen2.output_bias && qwen2.demo);
        let qwen3 = check(serde_json::json!({"architectures": ["Qwen3ForCausalLM"],
            "head_dim": 32, "_name_or_path": "tiny"}));
        let qwen3 = qwen3.expect("a config");
        assert!(qwen3.qk_norm && !qwen3.qkv_bias && qwen3.head_dim == 32 && qwen3.id == "tiny");
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_field_and_value() {
        let cases = [
            (
                "architectures",
                serde_json::json!({"architectures": ["GPT2LMHeadModel"]}),
            ),
            ("architectures", serde_json::json!({"architectures": []})),
            ("hidden_act", serde_json::json!({"hidden_act": "gelu"})),
            ("hidden_size", serde_json::json!({"hidden_size": null})),
            ("hidden_size", serde_json::json!({"hidden_size": 0})),
            (
                "num_key_value_heads",
                serde_json::json!({"num_key_value_heads": 3}),
            ),
            (
                "num_attention_heads",
                serde_json::json!({"num_attention_heads": 5}),
            ),
            ("head_dim", serde_json::json!({"head_dim": 15})),
            ("rms_norm_eps", serde_json::json!({"rms_norm_eps": -1.0})),
            (
                "quantization_config",
                serde_json::json!({"quantization_config": {"bits": 4}}),
            ),
            (
                "partial_rotary_factor",
                serde_json::json!({"partial_rotary_factor": 0.5}),
            ),
            (
                "layer_types",
                serde_json::json!({"layer_types": ["sliding_attention"]}),
            ),
            (
                "sliding_window",
                serde_json::json!({"architectures": ["MistralForCausalLM"], "sliding_window": 32}),
            ),
            (
                "rope_scaling.rope_type",
                serde_json::json!({"rope_scaling": {"type": "longrope"}}),
            ),
            (
                "rope_scaling.factor",
                serde_json::json!({"rope_scaling": {"type": "linear"}}),
            ),
            (
                "rope_scaling.factor",
                serde_json::json!({"rope_scaling": {"type": "yarn", "factor": 0.5}}),
            ),
            (
                "rope_scaling.factor",
                serde_json::json!({"rope_scaling": {"type": "yarn", "factor": 65_537}}),
            ),
            (
                "sliding_window",
                serde_json::json!({"architectures": ["MistralForCausalLM"], "sliding_window": 256,
                    "rope_scaling": {"type": "yarn", "factor": 4}}),
            ),
            (
                "rope_scaling.beta_fast",
                serde_json::json!({"rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": 0.5}}),
            ),
        ];
        for (expected, changes) in cases {
            match check(changes) {
                Err(Error::Field { field, .. }) => assert_eq!(field, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }
}
