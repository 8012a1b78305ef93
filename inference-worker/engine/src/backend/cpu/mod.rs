//! The CPU backend: f32 arithmetic, the reference that other backends are compared with.
//!
//! A chunk of ids passes through the layers together: every projection is one product over all
//! of them, attention runs per id and head. Nothing depends on the size of the chunk.

mod attention;
mod kv_cache;
mod matmul;
mod pool;
mod rope;

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;

pub use kv_cache::KvCache;

use self::attention::attend;
use self::matmul::{Kernel, linear, matmul};
use self::pool::Pool;
use self::rope::{Rope, rotate};
use super::{Backend, Sequence};
use crate::error::Error;
use crate::model::{Layer, Model};

/// A model, the threads that compute it, and the sequences in progress.
pub struct Cpu {
    model: Model,
    rope: Rope,
    pool: Pool,
    kernel: Kernel,
    buffers: Buffers,
    sequences: HashMap<Sequence, KvCache>,
    opened: u64,
}

/// Intermediate results of a chunk, kept between chunks for their memory.
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
    /// Starts the threads; `threads` counts the caller's own, all available cores when absent.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn new(model: Model, threads: Option<NonZeroUsize>) -> Result<Self, Error> {
        Ok(Self {
            rope: Rope::new(model.config()),
            pool: Pool::new(threads)?,
            kernel: Kernel::detect(),
            buffers: Buffers::default(),
            sequences: HashMap::new(),
            opened: 0,
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Appends `ids` to a sequence whose state is `cache`. With `logits`, writes the scores of
    /// the id that follows the last one there, resized to the vocabulary.
    ///
    /// # Errors
    /// [`Error::Backend`] for no ids, ids outside the vocabulary, or more than the cache has room
    /// for; the cache is then as before.
    pub fn forward(
        &mut self,
        cache: &mut KvCache,
        ids: &[u32],
        logits: Option<&mut Vec<f32>>,
    ) -> Result<(), Error> {
        self.check(cache, ids)?;
        self.embed(ids);
        let Self {
            model,
            rope,
            pool,
            kernel,
            buffers,
            ..
        } = self;
        let step = &mut Step {
            model,
            rope,
            pool,
            kernel: *kernel,
            buffers,
        };
        for (number, layer) in step.model.weights().layers.iter().enumerate() {
            step.attention(number, layer, cache);
            step.mlp(layer);
        }
        cache.advance(ids.len());
        if let Some(logits) = logits {
            step.logits(logits);
        }
        Ok(())
    }

    fn check(&self, cache: &KvCache, ids: &[u32]) -> Result<(), Error> {
        let vocabulary = self.model.config().vocab_size;
        if ids.is_empty() {
            return Err(Error::Backend("no ids to append".into()));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(Error::Backend(format!(
                "id {id} is outside the vocabulary {vocabulary}"
            )));
        }
        if ids.len() > cache.capacity() - cache.len() {
            let (count, length, capacity) = (ids.len(), cache.len(), cache.capacity());
            return Err(Error::Backend(format!(
                "{count} ids do not fit after {length} in a cache of {capacity}"
            )));
        }
        Ok(())
    }

    fn embed(&mut self, ids: &[u32]) {
        let embedding = &self.model.weights().embedding;
        let stream = &mut self.buffers.stream;
        stream.clear();
        stream.resize(ids.len() * embedding.columns, 0.0);
        for (id, out) in ids.iter().zip(stream.chunks_exact_mut(embedding.columns)) {
            embedding.copy_row(*id as usize, out);
        }
    }
}

/// What the layers need while a chunk passes through them.
struct Step<'a> {
    model: &'a Model,
    rope: &'a Rope,
    pool: &'a mut Pool,
    kernel: Kernel,
    buffers: &'a mut Buffers,
}

impl Step<'_> {
    /// Adds the layer's attention to the stream and its keys and values to the cache.
    fn attention(&mut self, number: usize, layer: &Layer, cache: &mut KvCache) {
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
        for (at, row) in qkv.chunks_exact_mut(q + 2 * kv).enumerate() {
            let position = cache.len() + at;
            self.rope.turns(position, turns);
            let (queries, rest) = row.split_at_mut(q);
            let (keys, values) = rest.split_at_mut(kv);
            for (heads, norm) in [(queries, &layer.q_norm), (&mut *keys, &layer.k_norm)] {
                for head in heads.chunks_exact_mut(head_dim) {
                    if let Some(norm) = norm {
                        rms_norm_in_place(head, norm, eps);
                    }
                    rotate(head, turns);
                }
            }
            cache.write(number, position, keys, values);
        }

        let scale = (head_dim as f32).sqrt().recip();
        let group = config.num_attention_heads / config.num_key_value_heads;
        let ids = qkv.len() / (q + 2 * kv);
        let (cache, qkv, kernel) = (&*cache, &*qkv, self.kernel);
        attended.clear();
        attended.resize(ids * q, 0.0);
        let length = cache.len();
        self.pool
            .for_each_chunk(attended, head_dim, length + ids, |task, out| {
                let (at, head) = (
                    task / config.num_attention_heads,
                    task % config.num_attention_heads,
                );
                let query = &qkv[at * (q + 2 * kv) + head * head_dim..][..head_dim];
                let (keys, values) = cache.read(number, head / group, length + at + 1);
                attend(kernel, query, keys, values, scale, out);
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

    /// Scores after the last id.
    fn logits(&mut self, logits: &mut Vec<f32>) {
        let config = self.model.config();
        let weights = self.model.weights();
        let Buffers { stream, normed, .. } = &mut *self.buffers;
        let last = &stream[stream.len() - config.hidden_size..];
        rms_norm(last, &weights.norm, config.rms_norm_eps, normed);
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
    fn open(&mut self, positions: usize) -> Result<Sequence, Error> {
        let cache = KvCache::new(self.model.config(), positions)?;
        self.opened += 1;
        let sequence = Sequence(self.opened);
        self.sequences.insert(sequence, cache);
        Ok(sequence)
    }

    fn extend(
        &mut self,
        sequence: Sequence,
        ids: &[u32],
        logits: Option<&mut Vec<f32>>,
    ) -> Result<(), Error> {
        let Some(mut cache) = self.sequences.remove(&sequence) else {
            return Err(Error::Backend(format!("no sequence {}", sequence.0)));
        };
        let result = self.forward(&mut cache, ids, logits);
        self.sequences.insert(sequence, cache);
        result
    }

    fn close(&mut self, sequence: Sequence) {
        self.sequences.remove(&sequence);
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
