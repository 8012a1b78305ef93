//! The weights, arranged for computing: projections that read the same input are one matrix.

use super::config::Config;
use super::safetensors::Tensors;
use crate::error::Error;

/// Numbers in memory: bf16 keeps its two bytes, f32 and f16 become f32.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// binary32.
    F32(Vec<f32>),
    /// The upper 16 bits of binary32.
    Bf16(Vec<u16>),
}

impl Data {
    /// The numbers as f32; exact for both kinds.
    pub fn iter(&self) -> Box<dyn Iterator<Item = f32> + '_> {
        match self {
            Self::F32(values) => Box::new(values.iter().copied()),
            Self::Bf16(values) => Box::new(values.iter().map(|bits| bf16_to_f32(*bits))),
        }
    }

    fn into_f32(self) -> Vec<f32> {
        match self {
            Self::F32(values) => values,
            Self::Bf16(_) => self.iter().collect(),
        }
    }

    /// Appends rows; mixed kinds become f32.
    fn concat(self, other: Self) -> Self {
        match (self, other) {
            (Self::Bf16(mut head), Self::Bf16(tail)) => {
                head.extend(tail);
                Self::Bf16(head)
            }
            (head, tail) => {
                let mut head = head.into_f32();
                head.extend(tail.iter());
                Self::F32(head)
            }
        }
    }
}

/// bfloat16 is binary32 without its lower half.
pub(crate) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rows × columns, row-major; a row holds the weights of one output.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// `rows * columns` numbers.
    pub data: Data,
}

impl Matrix {
    /// Copies row `row` into `out`, which has `columns` places.
    pub fn copy_row(&self, row: usize, out: &mut [f32]) {
        let range = row * self.columns..(row + 1) * self.columns;
        match &self.data {
            Data::F32(values) => out.copy_from_slice(&values[range]),
            Data::Bf16(values) => {
                for (out, bits) in out.iter_mut().zip(&values[range]) {
                    *out = bf16_to_f32(*bits);
                }
            }
        }
    }
}

/// `y = W x + b`.
#[derive(Debug)]
pub struct Linear {
    /// W.
    pub weight: Matrix,
    /// b, one per row, where the model has one.
    pub bias: Option<Vec<f32>>,
}

/// One decoder layer.
#[derive(Debug)]
pub struct Layer {
    /// RMSNorm before attention, `[hidden]`.
    pub attention_norm: Vec<f32>,
    /// The q heads, then the k heads, then the v heads: `[(q + 2 kv) * head_dim, hidden]`.
    pub qkv: Linear,
    /// RMSNorm of each q head, `[head_dim]` (Qwen3).
    pub q_norm: Option<Vec<f32>>,
    /// RMSNorm of each k head, `[head_dim]` (Qwen3).
    pub k_norm: Option<Vec<f32>>,
    /// `[hidden, q * head_dim]`.
    pub output: Linear,
    /// RMSNorm before the MLP, `[hidden]`.
    pub mlp_norm: Vec<f32>,
    /// The gate's rows, then the up projection's: `[2 * intermediate, hidden]`.
    pub gate_up: Linear,
    /// `[hidden, intermediate]`.
    pub down: Linear,
}

/// Everything that is learned.
#[derive(Debug)]
pub struct Weights {
    /// `[vocab, hidden]`; the output projection too when `lm_head` is absent.
    pub embedding: Matrix,
    /// In order.
    pub layers: Vec<Layer>,
    /// The last RMSNorm, `[hidden]`.
    pub norm: Vec<f32>,
    /// `[vocab, hidden]`, where it is not tied to the embedding.
    pub lm_head: Option<Matrix>,
}

impl Weights {
    /// The projection from the last norm to the logits.
    pub fn output_projection(&self) -> &Matrix {
        self.lm_head.as_ref().unwrap_or(&self.embedding)
    }

    pub(super) fn take(config: &Config, tensors: &Tensors) -> Result<Self, Error> {
        let table = [config.vocab_size, config.hidden_size];
        let matrix = |name: &str| -> Result<Matrix, Error> {
            Ok(Matrix {
                rows: table[0],
                columns: table[1],
                data: tensors.take(name, &table)?,
            })
        };
        let embedding = matrix("model.embed_tokens.weight")?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(matrix("lm_head.weight")?),
        };
        let layers = (0..config.num_hidden_layers)
            .map(|layer| Layer::take(config, tensors, &format!("model.layers.{layer}")))
            .collect::<Result<_, _>>()?;
        let norm = vector(tensors, "model.norm.weight", config.hidden_size)?;
        Ok(Self {
            embedding,
            layers,
            norm,
            lm_head,
        })
    }
}

impl Layer {
    fn take(config: &Config, tensors: &Tensors, layer: &str) -> Result<Self, Error> {
        let hidden = config.hidden_size;
        let intermediate = config.intermediate_size;
        let q = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let attention = format!("{layer}.self_attn");
        let mlp = format!("{layer}.mlp");

        let head_norm = |name: &str| match config.qk_norm {
            true => vector(
                tensors,
                &format!("{attention}.{name}.weight"),
                config.head_dim,
            )
            .map(Some),
            false => Ok(None),
        };
        let (q_norm, k_norm) = (head_norm("q_norm")?, head_norm("k_norm")?);
        let norm = |name: &str| vector(tensors, &format!("{layer}.{name}.weight"), hidden);
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            mlp_norm: norm("post_attention_layernorm")?,
            q_norm,
            k_norm,
            qkv: Linear::take(
                tensors,
                &attention,
                &[("q_proj", q), ("k_proj", kv), ("v_proj", kv)],
                hidden,
                config.qkv_bias,
            )?,
            output: Linear::take(
                tensors,
                &attention,
                &[("o_proj", hidden)],
                q,
                config.output_bias,
            )?,
            gate_up: Linear::take(
                tensors,
                &mlp,
                &[("gate_proj", intermediate), ("up_proj", intermediate)],
                hidden,
                config.mlp_bias,
            )?,
            down: Linear::take(
                tensors,
                &mlp,
                &[("down_proj", hidden)],
                intermediate,
                config.mlp_bias,
            )?,
        })
    }
}

impl Linear {
    /// Stacks the named projections `(name, rows)`.
    fn take(
        tensors: &Tensors,
        prefix: &str,
        parts: &[(&str, usize)],
        columns: usize,
        with_bias: bool,
    ) -> Result<Self, Error> {
        let mut weight = None;
        let mut bias = Vec::new();
        for (name, rows) in parts {
            let data = tensors.take(&format!("{prefix}.{name}.weight"), &[*rows, columns])?;
            weight = Some(match weight {
                None => data,
                Some(head) => Data::concat(head, data),
            });
            if with_bias {
                bias.extend(vector(tensors, &format!("{prefix}.{name}.bias"), *rows)?);
            }
        }
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        let data = weight.unwrap_or(Data::F32(Vec::new()));
        Ok(Self {
            weight: Matrix {
                rows,
                columns,
                data,
            },
            bias: with_bias.then_some(bias),
        })
    }
}

fn vector(tensors: &Tensors, name: &str, length: usize) -> Result<Vec<f32>, Error> {
    Ok(tensors.take(name, &[length])?.into_f32())
}
