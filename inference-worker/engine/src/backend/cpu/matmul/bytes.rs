//! Rows of weights in eight bits, with inputs rounded to eight bits as well.
//!
//! The products of a block of 32 columns are added as whole numbers, exactly; the sums of the
//! blocks are scaled and added as f32, in the order of the columns.

#![expect(
    clippy::needless_range_loop,
    reason = "numbers below a constant are what the compiler turns into registers"
)]

use std::ops::Range;

use super::dense::Sink;
use crate::backend::cpu::lanes::{Kernel, LANES, Lanes, Work};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::table::Table;
use crate::model::int8::{COLUMNS, GROUP, Int8, Line};

/// Four-byte groups in a block.
const STEPS: usize = COLUMNS / 4;

/// A block of an input: input = scale * byte, with bytes from -127 to 127.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    bytes: [[i8; 4]; STEPS],
    scale: f32,
    /// What the offset of the weights adds to each sum, negated.
    correction: i32,
}

/// Vectors in blocks; the last block of each is filled with zeros.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    blocks: Vec<Block>,
    /// Blocks in a vector.
    each: usize,
}

impl Inputs {
    pub(super) fn round(
        &mut self,
        pool: &mut Pool,
        kernel: Kernel,
        inputs: &[f32],
        columns: usize,
    ) {
        let vectors = inputs.len() / columns;
        self.each = columns.div_ceil(COLUMNS);
        self.blocks.resize(vectors * self.each, Block::default());
        let (table, each) = (Table::new(&mut self.blocks, self.each), self.each);
        pool.run_if_worthwhile(vectors, 4 * inputs.len(), &|vector| {
            let from = &inputs[vector * columns..][..columns];
            // SAFETY: each task has a row of its own.
            let to = unsafe { table.part(vector, 0..each) };
            kernel.run(Round { from, to });
        });
    }
}

struct Round<'a> {
    from: &'a [f32],
    to: &'a mut [Block],
}

impl Work for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        for (numbers, block) in self.from.chunks(COLUMNS).zip(self.to) {
            let mut padded = [0.0; COLUMNS];
            padded[..numbers.len()].copy_from_slice(numbers);
            *block = round_block::<L>(&padded);
        }
    }
}

#[inline(always)]
fn round_block<L: Lanes>(numbers: &[f32; COLUMNS]) -> Block {
    let halves = numbers.as_chunks::<LANES>().0;
    let mut largest = L::splat(0.0);
    for half in halves {
        let x = L::load(half);
        largest = largest.max(x).max(x.mul(L::splat(-1.0)));
    }
    let scale = largest.highest() / 127.0;
    let steps = 1.0 / scale;
    if !steps.is_finite() {
        // All zero, or too small for any difference to come of it; an infinity has a scale of its
        // own kind and ends as NaN.
        return Block {
            scale: if scale.is_finite() { 0.0 } else { scale },
            ..Block::default()
        };
    }
    let mut bytes = [0i8; COLUMNS];
    for (half, bytes) in halves.iter().zip(bytes.as_chunks_mut::<LANES>().0) {
        let mut rounded = [0.0; LANES];
        L::load(half)
            .mul(L::splat(steps))
            .round()
            .store(&mut rounded);
        for (byte, rounded) in bytes.iter_mut().zip(rounded) {
            *byte = rounded as i8;
        }
    }
    let total: i32 = bytes.iter().map(|byte| i32::from(*byte)).sum();
    let mut grouped = [[0; 4]; STEPS];
    grouped.copy_from_slice(bytes.as_chunks().0);
    Block {
        bytes: grouped,
        scale,
        correction: -128 * total,
    }
}

/// As [`dense::rows`](super::dense::rows), for the rows in `range`, which begins with a whole group.
#[inline(always)]
pub(super) fn rows<L: Lanes>(
    weights: &Int8,
    range: Range<usize>,
    inputs: &Inputs,
    sink: impl Sink,
) {
    let vectors = inputs.blocks.len() / inputs.each;
    let (first, end) = (range.start / GROUP, range.end.div_ceil(GROUP));
    let mut vector = 0;
    let tiles = vectors.div_ceil(L::BYTE_TILE.1);
    for tile in 0..tiles {
        let count = (vectors - vector).div_ceil(tiles - tile);
        let blocks = &inputs.blocks[vector * inputs.each..][..count * inputs.each];
        let mut group = first;
        while group < end {
            let height = if group + L::BYTE_TILE.0 <= end {
                L::BYTE_TILE.0
            } else {
                1
            };
            let first = group * GROUP;
            let sink = Groups {
                sink: sink.behind(first - range.start, vector),
                rows: range.end - first,
            };
            match height {
                2 => width::<L, 2>(weights, group, blocks, count, sink),
                _ => width::<L, 1>(weights, group, blocks, count, sink),
            }
            group += height;
        }
        vector += count;
    }
}

/// Takes the sums of whole groups, of which `rows` rows are there.
#[derive(Clone, Copy)]
struct Groups<S> {
    sink: S,
    rows: usize,
}

impl<S: Sink> Groups<S> {
    #[inline(always)]
    fn write(self, group: usize, vector: usize, sums: &[f32; GROUP]) {
        let row = group * GROUP;
        let count = GROUP.min(self.rows - row);
        self.sink.write(row, vector, &sums[..count]);
    }
}

#[inline(always)]
fn width<L: Lanes, const GROUPS: usize>(
    weights: &Int8,
    group: usize,
    inputs: &[Block],
    count: usize,
    sink: Groups<impl Sink>,
) {
    if GROUPS > L::BYTE_TILE.0 || count > L::BYTE_TILE.1 {
        return;
    }
    match count {
        4 => tile::<L, GROUPS, 4>(weights, group, inputs, sink),
        3 => tile::<L, GROUPS, 3>(weights, group, inputs, sink),
        2 => tile::<L, GROUPS, 2>(weights, group, inputs, sink),
        _ => tile::<L, GROUPS, 1>(weights, group, inputs, sink),
    }
}

#[inline(always)]
fn tile<L: Lanes, const GROUPS: usize, const VECTORS: usize>(
    weights: &Int8,
    group: usize,
    inputs: &[Block],
    sink: Groups<impl Sink>,
) {
    let each = inputs.len() / VECTORS;
    let mut scales = [&[][..]; GROUPS];
    let mut lines: [&[Line]; GROUPS] = [&[][..]; GROUPS];
    for g in 0..GROUPS {
        (scales[g], lines[g]) = weights.group(group + g);
        assert!(scales[g].len() == each && lines[g].len() == each * STEPS);
    }
    assert!(inputs.len() == each * VECTORS);
    let mut sums = [[L::splat(0.0); GROUPS]; VECTORS];
    for block in 0..each {
        let mut ints = [[L::splat_int(0); GROUPS]; VECTORS];
        for v in 0..VECTORS {
            ints[v] = [L::splat_int(inputs[v * each + block].correction); GROUPS];
        }
        for step in 0..STEPS {
            let at = block * STEPS + step;
            let mut w = [L::load_bytes(&lines[0][at].0); GROUPS];
            for g in 0..GROUPS {
                w[g] = L::load_bytes(&lines[g][at].0);
                // The next groups lie behind these.
                let ahead = lines[g].as_ptr().wrapping_add(at + GROUPS * each * STEPS);
                L::prefetch(ahead.cast());
            }
            for v in 0..VECTORS {
                let x = inputs[v * each + block].bytes[step];
                for g in 0..GROUPS {
                    ints[v][g] = L::add_bytes(ints[v][g], w[g], x);
                }
            }
        }
        for g in 0..GROUPS {
            let scale = L::load_bf16(&scales[g][block]);
            for v in 0..VECTORS {
                let scale = scale.mul(L::splat(inputs[v * each + block].scale));
                sums[v][g] = L::from_ints(ints[v][g]).mul_add(scale, sums[v][g]);
            }
        }
    }
    for v in 0..VECTORS {
        for g in 0..GROUPS {
            let mut out = [0.0; GROUP];
            sums[v][g].store(&mut out);
            sink.write(g, v, &out);
        }
    }
}
