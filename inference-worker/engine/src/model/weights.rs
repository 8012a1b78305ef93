//! The weights, arranged for computing: projections that read the same input belong together.

use super::config::Config;
use super::int8::Int8;
use super::numbers::{Numbers, bf16_to_f32, f16_to_f32};
use super::safetensors::Loaded;
use crate::error::Error;

/// Numbers in memory, as the file has them or rounded to eight bits.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// binary32.
    F32(Numbers<f32>),
    /// binary16.
    F16(Numbers<u16>),
    /// The upper 16 bits of binary32.
    Bf16(Numbers<u16>),
    /// Eight bits and a scale for each block.
    Int8(Int8),
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
        let widen = |halves: &[u16], widen: fn(u16) -> f32, out: &mut [f32]| {
            for (out, bits) in out.iter_mut().zip(halves) {
                *out = widen(*bits);
            }
        };
        match &self.data {
            Data::F32(values) => out.copy_from_slice(&values[range]),
            Data::F16(values) => widen(&values[range], f16_to_f32, out),
            Data::Bf16(values) => widen(&values[range], bf16_to_f32, out),
            Data::Int8(values) => values.copy_row(row, out),
        }
    }

    /// Bytes that its numbers take.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Data::F32(values) => size_of_val(&values[..]),
            Data::F16(values) | Data::Bf16(values) => size_of_val(&values[..]),
            Data::Int8(values) => values.bytes(),
        }
    }

    fn round_to_int8(&mut self) {
        self.data = Data::Int8(Int8::round(self));
    }
}

/// `y = W x + b`.
#[derive(Debug)]
pub struct Projection {
    /// W.
    pub weight: Matrix,
    /// b, one per row, where the model has one.
    pub bias: Option<Vec<f32>>,
}

/// Projections of the same input, whose outputs follow each other.
#[derive(Debug)]
pub struct Linear {
    /// At least one.
    pub parts: Vec<Projection>,
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

    /// Bytes of matrices that a step reads, however many ids it computes.
    pub fn bytes_per_step(&self) -> usize {
        let layers = self.layers.iter().flat_map(|layer| {
            let linears = [&layer.qkv, &layer.output, &layer.gate_up, &layer.down];
            linears.into_iter().flat_map(|linear| &linear.parts)
        });
        self.output_projection().bytes() + layers.map(|part| part.weight.bytes()).sum::<usize>()
    }

    /// Rounds all matrices to eight bits; norms and biases stay as they are.
    pub(super) fn round_to_int8(&mut self) {
        self.embedding.round_to_int8();
        if let Some(head) = &mut self.lm_head {
            head.round_to_int8();
        }
        for layer in &mut self.layers {
            for linear in [
                &mut layer.qkv,
                &mut layer.output,
                &mut layer.gate_up,
                &mut layer.down,
            ] {
                for part in &mut linear.parts {
                    part.weight.round_to_int8();
                }
            }
        }
    }

    pub(super) fn take(config: &Config, tensors: &Loaded<'_>) -> Result<Self, Error> {
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
    fn take(config: &Config, tensors: &Loaded<'_>, layer: &str) -> Result<Self, Error> {
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
    /// Puts the named projections `(name, rows)` together.
    fn take(
        tensors: &Loaded<'_>,
        prefix: &str,
        parts: &[(&str, usize)],
        columns: usize,
        with_bias: bool,
    ) -> Result<Self, Error> {
        let part = |(name, rows): &(&str, usize)| {
            let weight = Matrix {
                rows: *rows,
                columns,
                data: tensors.take(&format!("{prefix}.{name}.weight"), &[*rows, columns])?,
            };
            let bias = match with_bias {
                true => Some(vector(tensors, &format!("{prefix}.{name}.bias"), *rows)?),
                false => None,
            };
            Ok(Projection { weight, bias })
        };
        let parts = parts.iter().map(part).collect::<Result<_, _>>()?;
        Ok(Self { parts })
    }
}

fn vector(tensors: &Loaded<'_>, name: &str, length: usize) -> Result<Vec<f32>, Error> {
    let row = Matrix {
        rows: 1,
        columns: length,
        data: tensors.take(name, &[length])?,
    };
    let mut vector = vec![0.0; length];
    row.copy_row(0, &mut vector);
    Ok(vector)
}
