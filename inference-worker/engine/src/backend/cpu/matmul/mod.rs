//! Products of weight matrices with one or many input vectors.
//!
//! Every output is one sum in one fixed order. It depends neither on how many inputs are computed
//! together nor on which thread computes it, so a chunked prefill is bit-equal to a whole one.
//! The weights are read once for all inputs.

mod bytes;
mod dense;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::lanes::{Kernel, LANES, Lanes, Work};
use super::pool::Pool;
use super::table::Table;
use crate::model::{Data, Linear, Matrix, Projection};

/// Bytes of weights in one task: no fewer than are worth handing over, and no more than stay in a
/// core's cache while the inputs pass by.
const TASK_BYTES: Range<usize> = 1 << 15..1 << 17;

/// So few inputs pass by once or twice, and long tasks are read faster: the processor fetches ahead.
const FEW: usize = 8;
/// The most bytes of a task of those.
const LONG_TASK_BYTES: usize = 1 << 20;

/// Rows of a task are whole groups of this many.
const GROUP: usize = crate::model::int8::GROUP;

/// How products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Inputs are rounded to bf16 for weights of bf16 where the processor multiplies those faster,
    /// as llama.cpp and PyTorch do.
    #[default]
    Fast,
    /// Inputs stay f32. (With weights in eight bits, inputs have eight bits in any case.)
    Exact,
}

/// What becomes of the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Set,
    /// Added to what is there.
    Add,
}

/// Multiplies; keeps its memory between products.
#[derive(Debug)]
pub(super) struct Multiplier {
    kernel: Kernel,
    precision: Precision,
    inputs: Rounded,
}

/// The inputs as the weights want them.
#[derive(Debug, Default)]
struct Rounded {
    halves: Vec<u16>,
    bytes: bytes::Inputs,
}

impl Multiplier {
    pub(super) fn new(kernel: Kernel, precision: Precision) -> Self {
        Self {
            kernel,
            precision,
            inputs: Rounded::default(),
        }
    }

    /// `outputs[t] = linear(inputs[t])` for the `inputs.len() / columns` vectors in `inputs`;
    /// `outputs` is `[t, rows of all parts]`.
    pub(super) fn linear(
        &mut self,
        pool: &mut Pool,
        linear: &Linear,
        inputs: &[f32],
        outputs: &mut [f32],
        then: Then,
    ) {
        let parts = linear.parts.iter().map(Part::from);
        self.multiply(pool, &parts.collect::<Vec<_>>(), inputs, outputs, then);
    }

    /// As [`linear`](Self::linear), without a bias.
    pub(super) fn matrix(
        &mut self,
        pool: &mut Pool,
        matrix: &Matrix,
        inputs: &[f32],
        outputs: &mut [f32],
    ) {
        let part = Part {
            weight: matrix,
            bias: None,
        };
        self.multiply(pool, &[part], inputs, outputs, Then::Set);
    }

    fn multiply(
        &mut self,
        pool: &mut Pool,
        parts: &[Part<'_>],
        inputs: &[f32],
        outputs: &mut [f32],
        then: Then,
    ) {
        let columns = parts[0].weight.columns;
        self.round(pool, parts, inputs, columns);
        let table = Table::new(outputs, parts.iter().map(|part| part.weight.rows).sum());
        let mut tasks = Vec::new();
        let mut before = 0;
        for part in parts {
            let rows = part.weight.rows;
            let step = rows_per_task(part.weight, pool.threads(), inputs.len() / columns);
            tasks.extend((0..rows).step_by(step).map(|start| Rows {
                part,
                range: start..rows.min(start + step),
                before,
                inputs,
                rounded: &self.inputs,
                halves: self.rounds(part.weight),
                table: &table,
                then,
            }));
            before += rows;
        }
        let kernel = self.kernel;
        pool.run(tasks.len(), &|task| kernel.run(tasks[task].clone()));
    }

    /// Whether inputs of these weights are rounded to bf16.
    fn rounds(&self, weight: &Matrix) -> bool {
        matches!(weight.data, Data::Bf16(_))
            && self.precision == Precision::Fast
            && self.kernel.multiplies_bf16()
    }

    fn round(&mut self, pool: &mut Pool, parts: &[Part<'_>], inputs: &[f32], columns: usize) {
        if parts.iter().any(|part| self.rounds(part.weight)) {
            let halves = &mut self.inputs.halves;
            halves.resize(inputs.len(), 0);
            let (table, kernel) = (Table::new(halves, columns), self.kernel);
            pool.run_if_worthwhile(inputs.len() / columns, inputs.len(), &|vector| {
                let from = &inputs[vector * columns..][..columns];
                // SAFETY: each task has a row of its own.
                let to = unsafe { table.part(vector, 0..columns) };
                kernel.run(dense::ToBf16 { from, to });
            });
        }
        if parts
            .iter()
            .any(|part| matches!(part.weight.data, Data::Int8(_)))
        {
            self.inputs.bytes.round(pool, self.kernel, inputs, columns);
        }
    }
}

/// A matrix with its bias.
struct Part<'a> {
    weight: &'a Matrix,
    bias: Option<&'a [f32]>,
}

impl<'a> From<&'a Projection> for Part<'a> {
    fn from(projection: &'a Projection) -> Self {
        Self {
            weight: &projection.weight,
            bias: projection.bias.as_deref(),
        }
    }
}

fn rows_per_task(matrix: &Matrix, threads: usize, inputs: usize) -> usize {
    let bytes = match matrix.data {
        Data::F32(_) => 4,
        Data::F16(_) | Data::Bf16(_) => 2,
        Data::Int8(_) => 1,
    };
    let row = bytes * matrix.columns;
    // Eight for each thread, so that none waits long for the others.
    let even = matrix.rows * row / (8 * threads);
    let most = if inputs <= FEW {
        LONG_TASK_BYTES
    } else {
        TASK_BYTES.end
    };
    (even.clamp(TASK_BYTES.start, most) / row)
        .max(1)
        .next_multiple_of(GROUP)
}

/// Some rows of a part with all inputs.
#[derive(Clone)]
struct Rows<'a> {
    part: &'a Part<'a>,
    range: Range<usize>,
    /// Outputs of the parts before this one.
    before: usize,
    inputs: &'a [f32],
    rounded: &'a Rounded,
    /// Whether `rounded.halves` are used.
    halves: bool,
    table: &'a Table<'a, f32>,
    then: Then,
}

impl dense::Sink for &Rows<'_> {
    #[inline(always)]
    fn write(self, row: usize, vector: usize, sums: &[f32]) {
        let row = self.range.start + row;
        let first = self.before + row;
        // SAFETY: tasks have disjoint rows.
        let outputs = unsafe { self.table.part(vector, first..first + sums.len()) };
        let bias = self.part.bias.map(|bias| &bias[row..row + sums.len()]);
        // Decided once, since the compiler does not know that writing an output changes neither.
        match (bias, self.then) {
            (None, Then::Set) => outputs.copy_from_slice(sums),
            (None, Then::Add) => {
                for (output, sum) in outputs.iter_mut().zip(sums) {
                    *output += sum;
                }
            }
            (Some(bias), Then::Set) => {
                for ((output, sum), bias) in outputs.iter_mut().zip(sums).zip(bias) {
                    *output = sum + bias;
                }
            }
            (Some(bias), Then::Add) => {
                for ((output, sum), bias) in outputs.iter_mut().zip(sums).zip(bias) {
                    *output += sum + bias;
                }
            }
        }
    }
}

impl Work for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let columns = self.part.weight.columns;
        let range = self.range.start * columns..self.range.end * columns;
        let sink = &self;
        match &self.part.weight.data {
            Data::F32(weights) => {
                dense::rows::<L, dense::F32, LANES>(&weights[range], columns, self.inputs, sink);
            }
            Data::F16(weights) => {
                dense::rows::<L, dense::F16, LANES>(&weights[range], columns, self.inputs, sink);
            }
            Data::Bf16(weights) if self.halves => {
                let inputs = &self.rounded.halves;
                dense::rows::<L, dense::Pairs, { 2 * LANES }>(
                    &weights[range],
                    columns,
                    inputs,
                    sink,
                );
            }
            Data::Bf16(weights) => {
                dense::rows::<L, dense::Bf16, LANES>(&weights[range], columns, self.inputs, sink);
            }
            Data::Int8(weights) => {
                bytes::rows::<L>(weights, self.range.clone(), &self.rounded.bytes, sink);
            }
        }
    }
}

const _: () = assert!(GROUP == LANES, "a group of rows fills the lanes");
