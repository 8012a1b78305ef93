//! One step: ids in, scores out.

use super::attention::{Attention, Query, TOGETHER};
use super::elementwise::{Gate, Heads, RmsNorm};
use super::kv_memory::{KvMemory, Pages};
use super::lanes::Kernel;
use super::matmul::{Multiplier, Then};
use super::pool::Pool;
use super::rope::Rope;
use super::table::Table;
use super::{Cpu, Run};
use crate::kv::Block;
use crate::model::{Config, Layer, Model};

/// Intermediate results of a step, kept between steps for their memory.
#[derive(Default)]
pub(super) struct Buffers {
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
    /// Of each id, each pair of a head.
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

/// A few queries of a run that read the same keys and values.
#[derive(Clone, Copy)]
struct Tile<'a> {
    blocks: &'a [Block],
    /// The run's first id in the step, and its position.
    first: usize,
    from: usize,
    /// The head of keys and values.
    head: usize,
    /// The queries of that head, id after id, the heads of a group for each.
    start: usize,
    end: usize,
}

/// What the layers need while the ids of a step pass through them.
pub(super) struct Step<'a> {
    model: &'a Model,
    pool: &'a mut Pool,
    kernel: Kernel,
    multiplier: &'a mut Multiplier,
    buffers: &'a mut Buffers,
    memory: &'a mut KvMemory,
    runs: &'a [Run<'a>],
    /// Ids of all runs.
    ids: usize,
    tiles: Vec<Tile<'a>>,
}

impl<'a> Step<'a> {
    pub(super) fn new(cpu: &'a mut Cpu, runs: &'a [Run<'a>]) -> Self {
        let step = Self {
            ids: runs.iter().map(|run| run.ids.len()).sum(),
            tiles: tiles(cpu.model.config(), runs),
            model: &cpu.model,
            pool: &mut cpu.pool,
            kernel: cpu.kernel,
            multiplier: &mut cpu.multiplier,
            buffers: &mut cpu.buffers,
            memory: &mut cpu.memory,
            runs,
        };
        step.buffers.prepare(step.model, &cpu.rope, step.ids, runs);
        step
    }

    pub(super) fn compute(mut self, logits: &mut Vec<f32>) {
        for (number, layer) in self.model.weights().layers.iter().enumerate() {
            self.attention(number, layer);
            self.mlp(layer);
        }
        self.logits(logits);
    }

    /// Adds the layer's attention to the stream and its keys and values to the memory.
    fn attention(&mut self, number: usize, layer: &Layer) {
        let config = self.model.config();
        let Buffers {
            stream,
            normed,
            qkv,
            ..
        } = &mut *self.buffers;
        let eps = config.rms_norm_eps;
        rms_norm(
            self.pool,
            self.kernel,
            stream,
            &layer.attention_norm,
            eps,
            normed,
        );
        self.multiplier
            .linear(self.pool, &layer.qkv, normed, qkv, Then::Set);
        self.turn_and_remember(number, layer);
        self.attend(number);
        let Buffers {
            stream, attended, ..
        } = &mut *self.buffers;
        self.multiplier
            .linear(self.pool, &layer.output, attended, stream, Then::Add);
    }

    fn turn_and_remember(&mut self, number: usize, layer: &Layer) {
        let config = self.model.config();
        let (q, kv, pairs) = (q(config), kv(config), config.head_dim / 2);
        let Buffers {
            qkv,
            cosines,
            sines,
            ..
        } = &mut *self.buffers;
        let (kernel, eps) = (self.kernel, config.rms_norm_eps);
        let work = 2 * qkv.len();
        let table = Table::new(qkv, q + 2 * kv);
        self.pool.run_if_worthwhile(self.ids, work, &|id| {
            for (range, norm) in [(0..q, &layer.q_norm), (q..q + kv, &layer.k_norm)] {
                kernel.run(Heads {
                    // SAFETY: each task has a row of its own.
                    heads: unsafe { table.part(id, range) },
                    norm: norm.as_deref(),
                    eps,
                    cosines: &cosines[id * pairs..][..pairs],
                    sines: &sines[id * pairs..][..pairs],
                });
            }
        });
        let mut rows = qkv.chunks_exact(q + 2 * kv);
        for run in self.runs {
            for (position, row) in (run.from..).zip(rows.by_ref().take(run.ids.len())) {
                let (keys, values) = row[q..].split_at(kv);
                self.memory
                    .write(number, run.blocks, position, keys, values);
            }
        }
    }

    fn attend(&mut self, layer: usize) {
        let config = self.model.config();
        let (head_dim, q, kv) = (config.head_dim, q(config), kv(config));
        let group = config.num_attention_heads / config.num_key_value_heads;
        let scale = (head_dim as f32).sqrt().recip();
        let (kernel, memory, tiles) = (self.kernel, &*self.memory, &self.tiles);
        let Buffers { qkv, attended, .. } = &mut *self.buffers;
        let (qkv, table) = (&*qkv, Table::new(attended, q));
        let last = tiles.iter().map(|tile| tile.from + tile.end / group);
        let work = last.max().unwrap_or(0) * tiles.len() * head_dim;
        self.pool.run_if_worthwhile(tiles.len(), work, &|task| {
            let tile = tiles[task];
            let query = |at: usize| {
                let (id, head) = (at / group, tile.head * group + at % group);
                let head = head * head_dim..(head + 1) * head_dim;
                Query {
                    numbers: &qkv[(tile.first + id) * (q + 2 * kv)..][head.clone()],
                    positions: tile.from + id + 1,
                    // SAFETY: tiles have disjoint queries, and each its place.
                    out: unsafe { table.part(tile.first + id, head) },
                }
            };
            let mut queries: Vec<Query<'_>> = (tile.start..tile.end).map(query).collect();
            kernel.run(Attention {
                memory,
                pages: Pages {
                    layer,
                    head: tile.head,
                    blocks: tile.blocks,
                },
                scale,
                queries: &mut queries,
            });
        });
    }

    /// Adds the layer's MLP to the stream.
    fn mlp(&mut self, layer: &Layer) {
        let config = self.model.config();
        let (kernel, eps) = (self.kernel, config.rms_norm_eps);
        let intermediate = config.intermediate_size;
        let Buffers {
            stream,
            normed,
            gate_up,
            gated,
            ..
        } = &mut *self.buffers;
        rms_norm(self.pool, kernel, stream, &layer.mlp_norm, eps, normed);
        self.multiplier
            .linear(self.pool, &layer.gate_up, normed, gate_up, Then::Set);
        let (gate_up, work) = (&*gate_up, 8 * gated.len());
        let table = Table::new(gated, intermediate);
        self.pool.run_if_worthwhile(self.ids, work, &|id| {
            let (gate, up) =
                gate_up[id * 2 * intermediate..][..2 * intermediate].split_at(intermediate);
            // SAFETY: each task has a row of its own.
            let out = unsafe { table.part(id, 0..intermediate) };
            kernel.run(Gate { gate, up, out });
        });
        self.multiplier
            .linear(self.pool, &layer.down, gated, stream, Then::Add);
    }

    /// Scores after the last ids of the runs that want them.
    fn logits(&mut self, logits: &mut Vec<f32>) {
        let config = self.model.config();
        let weights = self.model.weights();
        let hidden = config.hidden_size;
        let Buffers { stream, normed, .. } = &mut *self.buffers;
        let (mut end, mut wanted) = (0, 0);
        for run in self.runs {
            end += run.ids.len();
            if run.logits {
                stream.copy_within((end - 1) * hidden..end * hidden, wanted * hidden);
                wanted += 1;
            }
        }
        logits.resize(wanted * config.vocab_size, 0.0);
        if wanted == 0 {
            return;
        }
        let (stream, normed) = (&stream[..wanted * hidden], &mut normed[..wanted * hidden]);
        let eps = config.rms_norm_eps;
        rms_norm(self.pool, self.kernel, stream, &weights.norm, eps, normed);
        self.multiplier
            .matrix(self.pool, weights.output_projection(), normed, logits);
    }
}

impl Buffers {
    /// Gives each buffer its size, looks the ids up, and finds how far each is turned.
    fn prepare(&mut self, model: &Model, rope: &Rope, ids: usize, runs: &[Run<'_>]) {
        let config = model.config();
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        for (buffer, each) in [
            (&mut self.stream, hidden),
            (&mut self.normed, hidden),
            (&mut self.qkv, q(config) + 2 * kv(config)),
            (&mut self.attended, q(config)),
            (&mut self.gate_up, 2 * intermediate),
            (&mut self.gated, intermediate),
            (&mut self.cosines, rope.pairs()),
            (&mut self.sines, rope.pairs()),
        ] {
            buffer.resize(ids * each, 0.0);
        }
        let embedding = &model.weights().embedding;
        let known = runs.iter().flat_map(|run| (run.from..).zip(run.ids));
        for (((position, id), row), (cosines, sines)) in
            known.zip(self.stream.chunks_exact_mut(hidden)).zip(
                self.cosines
                    .chunks_exact_mut(rope.pairs())
                    .zip(self.sines.chunks_exact_mut(rope.pairs())),
            )
        {
            embedding.copy_row(*id as usize, row);
            rope.turns(position, cosines, sines);
        }
    }
}

fn q(config: &Config) -> usize {
    config.num_attention_heads * config.head_dim
}

fn kv(config: &Config) -> usize {
    config.num_key_value_heads * config.head_dim
}

fn tiles<'a>(config: &Config, runs: &[Run<'a>]) -> Vec<Tile<'a>> {
    let group = config.num_attention_heads / config.num_key_value_heads;
    let mut tiles = Vec::new();
    let mut first = 0;
    for run in runs {
        let queries = run.ids.len() * group;
        for head in 0..config.num_key_value_heads {
            tiles.extend((0..queries).step_by(TOGETHER).map(|start| Tile {
                blocks: run.blocks,
                first,
                from: run.from,
                head,
                start,
                end: queries.min(start + TOGETHER),
            }));
        }
        first += run.ids.len();
    }
    tiles
}

fn rms_norm(
    pool: &mut Pool,
    kernel: Kernel,
    input: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    let (hidden, work) = (weight.len(), input.len());
    let table = Table::new(out, hidden);
    pool.run_if_worthwhile(input.len() / hidden, work, &|id| {
        let row = &input[id * hidden..][..hidden];
        // SAFETY: each task has a row of its own.
        let out = unsafe { table.part(id, 0..hidden) };
        kernel.run(RmsNorm {
            row,
            weight,
            eps,
            out,
        });
    });
}
