//! What a step begins on the device, in order. All of it can be recorded as a graph: pointers and
//! sizes depend on the bucket alone, and what differs from step to step is read from the plan.

use super::blas::{Into, ROUNDED};
use super::kernels::{
    FEW, HEADS_TOGETHER, KEPT, LINEAR_THREADS, ROW_THREADS, SORTED, SORTERS, SPLIT, SUMMARY, Shape,
    WARPS_THREADS,
};
use super::machine::{Machine, Memory, float, int};
use super::plan::{Limits, Part, Plan};
use super::weights::{DeviceLayer, DeviceWeights, Product, vector};
use crate::backend::cpu::rope::Rope;
use crate::error::Error;
use crate::kv::BLOCK;
use crate::model::Config;

/// Results between the kernels of a step.
pub(super) struct Buffers {
    stream: Memory,
    normed: Memory,
    qkv: Memory,
    queries: Memory,
    attended: Memory,
    gate_up: Memory,
    gated: Memory,
    /// What parts of the positions of single queries gave.
    parts: Memory,
    part_weights: Memory,
    /// `[wanted, vocabulary]`.
    pub(super) scores: Memory,
    chunk_keys: Memory,
    chunk_summaries: Memory,
    pub(super) ids: Memory,
    pub(super) best: Memory,
    pub(super) whole: Memory,
    pub(super) plan: Memory,
}

/// Keys and values, and how far each position is turned.
pub(super) struct Positions {
    pub(super) keys: Memory,
    pub(super) values: Memory,
    /// Bytes of a layer in either.
    pub(super) layer: usize,
    pub(super) cosines: Memory,
    pub(super) sines: Memory,
}

/// The machine and all that lies on it.
pub(super) struct Parts<M> {
    pub(super) config: Config,
    pub(super) shape: Shape,
    pub(super) limits: Limits,
    pub(super) weights: DeviceWeights,
    pub(super) positions: Positions,
    pub(super) buffers: Buffers,
    /// Dropped after what lies on it.
    pub(super) machine: M,
}

/// What becomes of a product, and where.
#[derive(Clone, Copy)]
enum To<'a> {
    Set(&'a Memory),
    Add(&'a Memory),
    /// Needs the second for as long as it takes.
    Gated(&'a Memory, &'a Memory),
    Scores(&'a Memory),
}

impl Buffers {
    pub(super) fn new(
        machine: &impl Machine,
        config: &Config,
        shape: Shape,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let wanted = limits.wanted;
        let rows = limits.rows.next_multiple_of(ROUNDED);
        let chunks = config.vocab_size.div_ceil(SORTED);
        let scored = wanted.next_multiple_of(ROUNDED);
        let get = |numbers: usize, bytes: usize| machine.memory(numbers * bytes, "a step");
        let of_rows = |each: usize, bytes| get(rows * each, bytes);
        Ok(Self {
            stream: of_rows(config.hidden_size, 4)?,
            normed: of_rows(config.hidden_size, 2)?,
            qkv: of_rows(shape.q() + 2 * shape.kv(), 2)?,
            queries: of_rows(shape.q(), 2)?,
            attended: of_rows(shape.q(), 2)?,
            gate_up: of_rows(2 * config.intermediate_size, 2)?,
            gated: of_rows(config.intermediate_size, 2)?,
            parts: get(limits.parts * shape.q(), 4)?,
            part_weights: get(limits.parts * shape.q_heads * 2, 4)?,
            scores: get(scored * config.vocab_size, 4)?,
            chunk_keys: get(wanted * chunks * KEPT, 8)?,
            chunk_summaries: get(wanted * chunks * SUMMARY, 4)?,
            ids: get(wanted * KEPT, 4)?,
            best: get(wanted * KEPT, 4)?,
            whole: get(wanted * SUMMARY, 4)?,
            plan: get(Part::all(limits), 4)?,
        })
    }
}

impl<M: Machine> Parts<M> {
    /// Begins a step. The plan is on the device already.
    pub(super) fn begin(&self, plan: &Plan) -> Result<(), Error> {
        let Buffers {
            stream,
            normed,
            attended,
            gate_up,
            gated,
            ..
        } = &self.buffers;
        let hidden = self.config.hidden_size;
        self.launch(
            "embed",
            [plan.rows, 1, 1],
            ROW_THREADS,
            &[
                stream.at(0),
                self.weights.embedding.weight.at(0),
                self.part(Part::Ids),
                int(hidden),
            ],
        )?;
        let rows = plan.rows;
        for (number, layer) in self.weights.layers.iter().enumerate() {
            self.norm(rows, &layer.attention_norm, 0)?;
            self.product(&layer.qkv, normed, rows, To::Set(&self.buffers.qkv))?;
            self.attend(number, layer, plan)?;
            self.product(&layer.output, attended, rows, To::Add(stream))?;
            self.norm(rows, &layer.mlp_norm, 0)?;
            let to = To::Gated(gated, gate_up);
            self.product(&layer.gate_up, normed, rows, to)?;
            self.product(&layer.down, gated, rows, To::Add(stream))?;
        }
        if plan.wanted > 0 {
            self.norm(plan.wanted, &self.weights.norm, self.part(Part::Wanted))?;
            let to = To::Scores(&self.buffers.scores);
            self.product(self.weights.head(), normed, plan.wanted, to)?;
        }
        Ok(())
    }

    /// Begins to summarise the scores of a step.
    pub(super) fn summarise(&self, wanted: usize) -> Result<(), Error> {
        let Buffers {
            scores,
            chunk_keys,
            chunk_summaries,
            ids,
            best,
            whole,
            ..
        } = &self.buffers;
        let vocabulary = self.config.vocab_size;
        let chunks = vocabulary.div_ceil(SORTED);
        self.launch(
            "summarise",
            [chunks, wanted, 1],
            SORTERS,
            &[
                chunk_keys.at(0),
                chunk_summaries.at(0),
                scores.at(0),
                self.part(Part::Temperatures),
                int(vocabulary),
            ],
        )?;
        self.launch(
            "summarise_parts",
            [wanted, 1, 1],
            SORTERS,
            &[
                ids.at(0),
                best.at(0),
                whole.at(0),
                chunk_keys.at(0),
                chunk_summaries.at(0),
                self.part(Part::Temperatures),
                int(chunks),
            ],
        )
    }

    fn part(&self, part: Part) -> u64 {
        self.buffers.plan.at(part.start(&self.limits) * 4)
    }

    fn launch(
        &self,
        kernel: &str,
        grid: [usize; 3],
        threads: u32,
        arguments: &[u64],
    ) -> Result<(), Error> {
        // SAFETY: the callers here pass what the kernels of these names take, and all buffers are
        // as large as the limits, which every plan keeps to.
        unsafe { self.machine.launch(kernel, grid, threads, arguments) }
    }

    /// `rows` says which rows, by address; 0 for all in order.
    fn norm(&self, count: usize, weight: &Memory, rows: u64) -> Result<(), Error> {
        let (stream, normed) = (&self.buffers.stream, &self.buffers.normed);
        self.launch(
            "rms_norm",
            [count, 1, 1],
            ROW_THREADS,
            &[
                normed.at(0),
                stream.at(0),
                weight.at(0),
                rows,
                int(self.config.hidden_size),
                float(self.config.rms_norm_eps),
            ],
        )
    }

    fn attend(&self, number: usize, layer: &DeviceLayer, plan: &Plan) -> Result<(), Error> {
        let shape = self.shape;
        let (buffers, positions) = (&self.buffers, &self.positions);
        let (queries, attended) = (buffers.queries.at(0), buffers.attended.at(0));
        let keys = positions.keys.at(number * positions.layer);
        let values = positions.values.at(number * positions.layer);
        let norm = |norm: &Option<Memory>| norm.as_ref().map_or(0, |norm| norm.at(0));
        let heads = shape.q_heads + 2 * shape.kv_heads;
        // Of exp2, which is what the device has.
        let scale = std::f32::consts::LOG2_E / (shape.head_dim as f32).sqrt();
        self.launch(
            "rotate",
            [plan.rows, heads.div_ceil(HEADS_TOGETHER), 1],
            WARPS_THREADS,
            &[
                queries,
                keys,
                values,
                buffers.qkv.at(0),
                norm(&layer.q_norm),
                norm(&layer.k_norm),
                positions.cosines.at(0),
                positions.sines.at(0),
                self.part(Part::Positions),
                self.part(Part::Places),
                float(self.config.rms_norm_eps),
                float(scale),
            ],
        )?;
        if plan.tiles > 0 {
            self.launch(
                "attend_prompt",
                [plan.tiles, shape.kv_heads, 1],
                WARPS_THREADS,
                &[
                    attended,
                    queries,
                    keys,
                    values,
                    self.part(Part::Tiles),
                    self.part(Part::Blocks),
                ],
            )?;
        }
        if plan.singles == 0 {
            return Ok(());
        }
        let (parts, weights) = (buffers.parts.at(0), buffers.part_weights.at(0));
        self.launch(
            "attend_decode",
            [shape.kv_heads, plan.singles, splits(plan.longest)],
            WARPS_THREADS,
            &[
                parts,
                weights,
                queries,
                keys,
                values,
                self.part(Part::Rows),
                self.part(Part::Lengths),
                self.part(Part::Tables),
                self.part(Part::Firsts),
                self.part(Part::Blocks),
            ],
        )?;
        self.launch(
            "combine",
            [shape.q_heads, plan.singles, 1],
            shape.head_dim as u32,
            &[
                attended,
                parts,
                weights,
                self.part(Part::Rows),
                self.part(Part::Lengths),
                self.part(Part::Firsts),
            ],
        )
    }

    /// Few inputs go to the own kernels, many to cuBLASLt.
    fn product(
        &self,
        product: &Product,
        input: &Memory,
        inputs: usize,
        to: To<'_>,
    ) -> Result<(), Error> {
        match inputs <= FEW {
            true => self.few(product, input, inputs, to),
            false => self.many(product, input, inputs, to),
        }
    }

    fn few(
        &self,
        product: &Product,
        input: &Memory,
        inputs: usize,
        to: To<'_>,
    ) -> Result<(), Error> {
        let (mode, out) = match to {
            To::Set(out) => ("set", out),
            To::Add(out) => ("add", out),
            To::Gated(out, _) => ("gated", out),
            To::Scores(out) => ("scores", out),
        };
        // Twice as many rows in a block read the inputs half as often, where that leaves enough
        // blocks to fill the device twice.
        let wide = product.rows / 32 >= 2 * self.machine.multiprocessors();
        let rows = if wide { 32 } else { 16 };
        let of_inputs = if inputs <= 8 { 8 } else { 16 };
        let bias = product.bias.as_ref().map_or(0, |bias| bias.at(0));
        self.launch(
            &format!("linear_{mode}_{of_inputs}_{rows}"),
            [product.rows.div_ceil(rows), 1, 1],
            LINEAR_THREADS,
            &[
                out.at(0),
                product.weight.at(0),
                input.at(0),
                bias,
                int(product.rows),
                int(product.columns),
                int(inputs),
            ],
        )
    }

    fn many(
        &self,
        product: &Product,
        input: &Memory,
        inputs: usize,
        to: To<'_>,
    ) -> Result<(), Error> {
        let (out, into) = match to {
            To::Set(out) | To::Gated(_, out) => (out, Into::Halves),
            To::Add(out) => (out, Into::Sum),
            To::Scores(out) => (out, Into::Floats),
        };
        let to_blas = (out.at(0), into);
        // SAFETY: buffers have room for a rounded number of rows, and outlive the stream's work.
        unsafe {
            self.machine
                .multiply(product, input.at(0), inputs, to_blas)?;
        };
        let rows = product.rows;
        let blocks = |numbers: usize| {
            let most = 32 * self.machine.multiprocessors();
            [numbers.div_ceil(ROW_THREADS as usize).min(most), 1, 1]
        };
        if let Some(bias) = &product.bias {
            let kernel = match into {
                Into::Halves => "add_bias",
                Into::Floats | Into::Sum => "add_bias_stream",
            };
            let arguments = [out.at(0), bias.at(0), int(rows), int(inputs)];
            self.launch(kernel, blocks(inputs * rows), ROW_THREADS, &arguments)?;
        }
        if let To::Gated(gated, _) = to {
            let arguments = [gated.at(0), out.at(0), int(rows / 2), int(inputs)];
            self.launch("gate", blocks(inputs * rows / 4), ROW_THREADS, &arguments)?;
        }
        Ok(())
    }
}

impl Positions {
    /// For so many blocks, and sequences of so many positions.
    pub(super) fn new(
        machine: &impl Machine,
        config: &Config,
        shape: Shape,
        (blocks, context): (usize, usize),
    ) -> Result<Self, Error> {
        let rope = Rope::new(config);
        let pairs = rope.pairs();
        let (mut cosines, mut sines) = (vec![0.0; context * pairs], vec![0.0; context * pairs]);
        let rows = cosines
            .chunks_exact_mut(pairs)
            .zip(sines.chunks_exact_mut(pairs));
        for (position, (cosines, sines)) in rows.enumerate() {
            rope.turns(position, cosines, sines);
        }
        let layer = layer_bytes(shape, blocks);
        let half = || machine.memory(layer * config.num_hidden_layers, "keys and values");
        Ok(Self {
            keys: half()?,
            values: half()?,
            layer,
            cosines: vector(machine, &cosines)?,
            sines: vector(machine, &sines)?,
        })
    }
}

/// Parts that are begun for so many positions: a power of two, so that there are few graphs.
pub(super) fn splits(positions: usize) -> usize {
    positions.div_ceil(SPLIT).next_power_of_two()
}

/// Bytes of keys, or values, of one layer in so many blocks.
pub(super) fn layer_bytes(shape: Shape, blocks: usize) -> usize {
    blocks * BLOCK * shape.kv() * 2
}
