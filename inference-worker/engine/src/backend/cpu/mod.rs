//! The CPU backend: f32 arithmetic, the reference that other backends are compared with.
//!
//! The ids of a step, of however many sequences, pass through the layers together: every
//! projection is one product over all of them, attention runs per id and head over the blocks of
//! the id's own sequence. No result depends on what else is in the step.

mod attention;
mod kv_memory;
mod matmul;
mod pool;
mod rope;

use std::fmt;
use std::num::NonZeroUsize;

pub use kv_memory::block_bytes;

use self::attention::attend;
use self::kv_memory::KvMemory;
use self::matmul::{Kernel, linear, matmul};
use self::pool::Pool;
use self::rope::{Rope, rotate};
use super::{Backend, Run};
use crate::error::Error;
use crate::kv::{BLOCK, Block};
use crate::model::{Layer, Model};

/// A model, the threads that compute it, and the keys and values of sequences.
pub struct Cpu {
    model: Model,
    rope: Rope,
    pool: Pool,
    kernel: Kernel,
    buffers: Buffers,
    memory: KvMemory,
}

/// Intermediate results of a step, kept between steps for their memory.
#[derive(Default)]
struct Buffers {
    /// The residual stream, `[ids, hidden]`.
    stream: Vec<f32>,
    /// A normalised copy of it.
    normed: Vec<f32>,
    /// q, k and v of each id.
    qkv: Vec<f32>,
    /// What the heads found, `[ids, q]`.
    attended: Vec<f32>,
    /// Gate and up of each id.
    gate_up: Vec<f32>,
    /// The gated activations, `[ids, intermediate]`.
    gated: Vec<f32>,
    /// What a block adds to the stream, `[ids, hidden]`.
    added: Vec<f32>,
    /// Cosine and sine of each pair of a head.
    turns: Vec<(f32, f32)>,
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu")
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

impl Cpu {
    /// Starts the threads and gets the memory of `blocks` blocks; `threads` counts the caller's
    /// own, all available cores when absent.
    ///
    /// # Errors
    /// [`Error::Thread`], [`Error::Backend`] when the memory cannot be had.
    pub fn new(model: Model, threads: Option<NonZeroUsize>, blocks: u32) -> Result<Self, Error> {
        Ok(Self {
            memory: KvMemory::new(model.config(), blocks)?,
            rope: Rope::new(model.config()),
            pool: Pool::new(threads)?,
            kernel: Kernel::detect(),
            buffers: Buffers::default(),
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    fn check(&self, run: &Run<'_>) -> Result<(), Error> {
        let vocabulary = self.model.config().vocab_size;
        let (count, from) = (run.ids.len(), run.from);
        if count == 0 {
            return Err(Error::Backend("a run without ids".into()));
        }
        if let Some(id) = run.ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(Error::Backend(format!(
                "id {id} is outside the vocabulary {vocabulary}"
            )));
        }
        let room = run.blocks.len() * BLOCK;
        if from.saturating_add(count) > room {
            return Err(Error::Backend(format!(
                "{count} ids do not fit after {from} in {room} positions"
            )));
        }
        let held = self.memory.blocks();
        if let Some(block) = run.blocks.iter().find(|block| block.0 >= held) {
            return Err(Error::Backend(format!("block {} of {held}", block.0)));
        }
        Ok(())
    }

    fn embed<'a>(&mut self, ids: impl Iterator<Item = &'a u32>) {
        let embedding = &self.model.weights().embedding;
        let stream = &mut self.buffers.stream;
        stream.clear();
        for id in ids {
            let start = stream.len();
            stream.resize(start + embedding.columns, 0.0);
            embedding.copy_row(*id as usize, &mut stream[start..]);
        }
    }
}

/// Where one id of a step stands.
struct Row<'a> {
    pages: &'a [Block],
    position: usize,
}

/// What the layers need while the ids of a step pass through them.
struct Step<'a> {
    model: &'a Model,
    rope: &'a Rope,
    pool: &'a mut Pool,
    kernel: Kernel,
    buffers: &'a mut Buffers,
    rows: &'a [Row<'a>],
}

impl Step<'_> {
    /// Adds the layer's attention to the stream and its keys and values to the memory.
    fn attention(&mut self, number: usize, layer: &Layer, memory: &mut KvMemory) {
        let config = self.model.config();
        let (head_dim, eps) = (config.head_dim, config.rms_norm_eps);
        let q = config.num_attention_heads * head_dim;
        let kv = config.num_key_value_heads * head_dim;
        let Buffers {
            stream,
            normed,
            qkv,
            attended,
            added,
            turns,
            ..
        } = &mut *self.buffers;

        rms_norm(stream, &layer.attention_norm, eps, normed);
        linear(self.pool, self.kernel, &layer.qkv, normed, qkv);
        for (row, qkv) in self.rows.iter().zip(qkv.chunks_exact_mut(q + 2 * kv)) {
            self.rope.turns(row.position, turns);
            let (queries, rest) = qkv.split_at_mut(q);
            let (keys, values) = rest.split_at_mut(kv);
            for (heads, norm) in [(queries, &layer.q_norm), (&mut *keys, &layer.k_norm)] {
                for head in heads.chunks_exact_mut(head_dim) {
                    if let Some(norm) = norm {
                        rms_norm_in_place(head, norm, eps);
                    }
                    rotate(head, turns);
                }
            }
            memory.write(number, row.pages, row.position, keys, values);
        }

        let scale = (head_dim as f32).sqrt().recip();
        let group = config.num_attention_heads / config.num_key_value_heads;
        let (memory, qkv, kernel, rows) = (&*memory, &*qkv, self.kernel, self.rows);
        attended.clear();
        attended.resize(rows.len() * q, 0.0);
        let longest = rows.iter().map(|row| row.position + 1).max().unwrap_or(0);
        self.pool
            .for_each_chunk(attended, head_dim, longest, |task, out| {
                let (at, head) = (
                    task / config.num_attention_heads,
                    task % config.num_attention_heads,
                );
                let query = &qkv[at * (q + 2 * kv) + head * head_dim..][..head_dim];
                let Row { pages, position } = rows[at];
                let pages = memory.read(number, head / group, pages, position + 1);
                attend(kernel, query, pages, scale, out);
            });
        linear(self.pool, self.kernel, &layer.output, attended, added);
        add(stream, added);
    }

    /// Adds the layer's MLP to the stream.
    fn mlp(&mut self, layer: &Layer) {
        let config = self.model.config();
        let Buffers {
            stream,
            normed,
            gate_up,
            gated,
            added,
            ..
        } = &mut *self.buffers;
        rms_norm(stream, &layer.mlp_norm, config.rms_norm_eps, normed);
        linear(self.pool, self.kernel, &layer.gate_up, normed, gate_up);
        gated.clear();
        for row in gate_up.chunks_exact(2 * config.intermediate_size) {
            let (gate, up) = row.split_at(config.intermediate_size);
            gated.extend(gate.iter().zip(up).map(|(gate, up)| silu(*gate) * up));
        }
        linear(self.pool, self.kernel, &layer.down, gated, added);
        add(stream, added);
    }

    /// Scores after the ids in the rows `last`.
    fn logits(&mut self, last: &[usize], logits: &mut Vec<f32>) {
        logits.clear();
        if last.is_empty() {
            return;
        }
        let config = self.model.config();
        let weights = self.model.weights();
        let Buffers {
            stream,
            normed,
            added,
            ..
        } = &mut *self.buffers;
        added.clear();
        for row in last {
            added.extend_from_slice(&stream[row * config.hidden_size..][..config.hidden_size]);
        }
        rms_norm(added, &weights.norm, config.rms_norm_eps, normed);
        matmul(
            self.pool,
            self.kernel,
            weights.output_projection(),
            normed,
            logits,
        );
    }
}

impl Backend for Cpu {
    fn blocks(&self) -> u32 {
        self.memory.blocks()
    }

    fn step(&mut self, runs: &[Run<'_>], logits: &mut Vec<f32>) -> Result<(), Error> {
        runs.iter().try_for_each(|run| self.check(run))?;
        let mut rows = Vec::new();
        let mut last = Vec::new();
        for run in runs {
            rows.extend((run.from..run.from + run.ids.len()).map(|position| Row {
                pages: run.blocks,
                position,
            }));
            if run.logits {
                last.push(rows.len() - 1);
            }
        }
        self.embed(runs.iter().flat_map(|run| run.ids));
        let step = &mut Step {
            model: &self.model,
            rope: &self.rope,
            pool: &mut self.pool,
            kernel: self.kernel,
            buffers: &mut self.buffers,
            rows: &rows,
        };
        for (number, layer) in step.model.weights().layers.iter().enumerate() {
            step.attention(number, layer, &mut self.memory);
            step.mlp(layer);
        }
        step.logits(&last, logits);
        Ok(())
    }
}

/// Zhang and Sennrich, 2019, <https://arxiv.org/abs/1910.07467>, per `weight.len()` numbers.
fn rms_norm(input: &[f32], weight: &[f32], eps: f32, out: &mut Vec<f32>) {
    out.clear();
    out.extend_from_slice(input);
    for row in out.chunks_exact_mut(weight.len()) {
        rms_norm_in_place(row, weight, eps);
    }
}

fn rms_norm_in_place(row: &mut [f32], weight: &[f32], eps: f32) {
    let squares: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let scale = (squares as f32 / row.len() as f32 + eps).sqrt().recip();
    row.iter_mut()
        .zip(weight)
        .for_each(|(x, w)| *x = *x * scale * w);
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

fn add(stream: &mut [f32], added: &[f32]) {
    stream.iter_mut().zip(added).for_each(|(x, a)| *x += a);
}
