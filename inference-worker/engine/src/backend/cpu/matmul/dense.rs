//! Rows of floating-point weights.
//!
//! An output has one register of partial sums, over every sixteenth product (or pair of products),
//! whose lanes are added at the end. A tile keeps those of a few rows and inputs, so that what is
//! loaded is used several times.

#![expect(
    clippy::needless_range_loop,
    reason = "numbers below a constant are what the compiler turns into registers"
)]

use crate::backend::cpu::lanes::{LANES, Lanes, Work, padded};

/// Kinds of weights and inputs, and how they are multiplied.
pub(super) trait Product<L: Lanes, const STEP: usize> {
    type Weight: Copy + Default;
    type Input: Copy + Default;
    type Weights: Copy;
    type Inputs: Copy;

    fn weights(from: &[Self::Weight; STEP]) -> Self::Weights;
    fn inputs(from: &[Self::Input; STEP]) -> Self::Inputs;
    fn add(sums: L, weights: Self::Weights, inputs: Self::Inputs) -> L;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;
/// Weights and inputs of bf16.
pub(super) struct Pairs;

macro_rules! widened {
    ($kind:ty, $weight:ty, $load:ident) => {
        impl<L: Lanes> Product<L, LANES> for $kind {
            type Weight = $weight;
            type Input = f32;
            type Weights = L;
            type Inputs = L;

            #[inline(always)]
            fn weights(from: &[$weight; LANES]) -> L {
                L::$load(from)
            }

            #[inline(always)]
            fn inputs(from: &[f32; LANES]) -> L {
                L::load(from)
            }

            #[inline(always)]
            fn add(sums: L, weights: L, inputs: L) -> L {
                weights.mul_add(inputs, sums)
            }
        }
    };
}
widened!(F32, f32, load);
widened!(F16, u16, load_f16);
widened!(Bf16, u16, load_bf16);

impl<L: Lanes> Product<L, { 2 * LANES }> for Pairs {
    type Weight = u16;
    type Input = u16;
    type Weights = L::Pairs;
    type Inputs = L::Pairs;

    #[inline(always)]
    fn weights(from: &[u16; 2 * LANES]) -> L::Pairs {
        L::load_pairs(from)
    }

    #[inline(always)]
    fn inputs(from: &[u16; 2 * LANES]) -> L::Pairs {
        L::load_pairs(from)
    }

    #[inline(always)]
    fn add(sums: L, weights: L::Pairs, inputs: L::Pairs) -> L {
        sums.add_pairs(weights, inputs)
    }
}

/// Takes the sums. (A closure would not be compiled for the kernel.)
pub(super) trait Sink: Copy {
    /// Those of consecutive rows from `row` on, counted from the first row that is computed.
    fn write(self, row: usize, vector: usize, sums: &[f32]);

    #[inline(always)]
    fn behind(self, row: usize, vector: usize) -> Behind<Self> {
        Behind {
            sink: self,
            row,
            vector,
        }
    }
}

/// A sink that counts from some row and vector on.
#[derive(Clone, Copy)]
pub(super) struct Behind<S> {
    sink: S,
    row: usize,
    vector: usize,
}

impl<S: Sink> Sink for Behind<S> {
    #[inline(always)]
    fn write(self, row: usize, vector: usize, sums: &[f32]) {
        self.sink.write(self.row + row, self.vector + vector, sums);
    }
}

/// Gives the sums of every row with every vector to the sink.
#[inline(always)]
pub(super) fn rows<L: Lanes, P: Product<L, STEP>, const STEP: usize>(
    weights: &[P::Weight],
    columns: usize,
    inputs: &[P::Input],
    sink: impl Sink,
) {
    let (rows, vectors) = (weights.len() / columns, inputs.len() / columns);
    let mut vector = 0;
    // The last ones are shared out: five are three and two rather than four and one.
    let tiles = vectors.div_ceil(L::TILE.1);
    for tile in 0..tiles {
        let count = (vectors - vector).div_ceil(tiles - tile);
        let inputs = &inputs[vector * columns..][..count * columns];
        let mut row = 0;
        while row < rows {
            let height = if row + L::TILE.0 <= rows {
                L::TILE.0
            } else {
                1
            };
            let weights = &weights[row * columns..];
            let sink = sink.behind(row, vector);
            match height {
                4 => width::<L, P, STEP, 4>(weights, columns, inputs, count, sink),
                2 => width::<L, P, STEP, 2>(weights, columns, inputs, count, sink),
                _ => width::<L, P, STEP, 1>(weights, columns, inputs, count, sink),
            }
            row += height;
        }
        vector += count;
    }
}

#[inline(always)]
fn width<L: Lanes, P: Product<L, STEP>, const STEP: usize, const ROWS: usize>(
    weights: &[P::Weight],
    columns: usize,
    inputs: &[P::Input],
    count: usize,
    sink: impl Sink,
) {
    if ROWS > L::TILE.0 || count > L::TILE.1 {
        return;
    }
    match count {
        4 => tile::<L, P, STEP, ROWS, 4>(weights, columns, inputs, sink),
        3 => tile::<L, P, STEP, ROWS, 3>(weights, columns, inputs, sink),
        2 => tile::<L, P, STEP, ROWS, 2>(weights, columns, inputs, sink),
        _ => tile::<L, P, STEP, ROWS, 1>(weights, columns, inputs, sink),
    }
}

/// `ROWS` rows with `VECTORS` vectors, both `columns` long.
#[inline(always)]
fn tile<
    L: Lanes,
    P: Product<L, STEP>,
    const STEP: usize,
    const ROWS: usize,
    const VECTORS: usize,
>(
    weights: &[P::Weight],
    columns: usize,
    inputs: &[P::Input],
    sink: impl Sink,
) {
    let weights = &weights[..ROWS * columns];
    let inputs = &inputs[..VECTORS * columns];
    let mut sums = [[L::splat(0.0); ROWS]; VECTORS];
    let whole = columns / STEP;
    for step in 0..whole {
        let mut x = [P::inputs(&[P::Input::default(); STEP]); VECTORS];
        for vector in 0..VECTORS {
            // SAFETY: the step ends within `columns`, and so within the slice.
            x[vector] = P::inputs(unsafe { chunk(inputs, vector * columns + step * STEP) });
        }
        for row in 0..ROWS {
            let at = row * columns + step * STEP;
            // SAFETY: likewise.
            let w = P::weights(unsafe { chunk(weights, at) });
            L::prefetch(weights.as_ptr().wrapping_add(at + ROWS * columns).cast());
            for vector in 0..VECTORS {
                sums[vector][row] = P::add(sums[vector][row], w, x[vector]);
            }
        }
    }
    if whole * STEP < columns {
        let rest = whole * STEP..columns;
        for row in 0..ROWS {
            let w = P::weights(&padded(&weights[row * columns..][rest.clone()]));
            for vector in 0..VECTORS {
                let x = P::inputs(&padded(&inputs[vector * columns..][rest.clone()]));
                sums[vector][row] = P::add(sums[vector][row], w, x);
            }
        }
    }
    for vector in 0..VECTORS {
        sink.write(0, vector, &L::sums(sums[vector]));
    }
}

/// # Safety
/// `N` numbers from `start` on are in the slice.
#[inline(always)]
unsafe fn chunk<T, const N: usize>(slice: &[T], start: usize) -> &[T; N] {
    debug_assert!(start + N <= slice.len());
    // SAFETY: as the function asks.
    unsafe { &*slice.as_ptr().add(start).cast() }
}

/// Rounds a vector.
pub(super) struct ToBf16<'a> {
    pub(super) from: &'a [f32],
    pub(super) to: &'a mut [u16],
}

impl Work for ToBf16<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (from, from_rest) = self.from.as_chunks::<LANES>();
        let (to, to_rest) = self.to.as_chunks_mut::<LANES>();
        for (from, to) in from.iter().zip(to) {
            L::load(from).store_bf16(to);
        }
        let mut last = [0; LANES];
        L::load(&padded(from_rest)).store_bf16(&mut last);
        to_rest.copy_from_slice(&last[..to_rest.len()]);
    }
}
