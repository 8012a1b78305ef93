//! Products of a weight matrix with one or many input vectors.
//!
//! Every output is one sum in one fixed order: eight partial sums over every eighth product, added
//! pairwise, then the rest of the row. It depends neither on how many inputs are computed
//! together nor on which thread computes it, so a chunked prefill is bit-equal to a whole one.

use std::ops::Range;

// What a weight must be able to do here.
#[cfg(not(target_arch = "x86_64"))]
use self::Weight as Stored;
#[cfg(target_arch = "x86_64")]
use self::avx2::Widen as Stored;
use super::pool::Pool;
use crate::model::{Data, Linear, Matrix, bf16_to_f32};

/// Weights in one task at least; smaller tasks cost more to hand over than to compute.
const TASK_WEIGHTS: usize = 16_384;

/// Instructions that the processor at hand has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    /// 256-bit vectors with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of plain loops.
    Portable,
}

impl Kernel {
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Self::Avx2;
        }
        Self::Portable
    }
}

/// `outputs[t] = linear(inputs[t])` for the `inputs.len() / columns` vectors in `inputs`;
/// `outputs` is resized to `[t, rows]`.
pub(super) fn linear(
    pool: &mut Pool,
    kernel: Kernel,
    linear: &Linear,
    inputs: &[f32],
    outputs: &mut Vec<f32>,
) {
    matmul(pool, kernel, &linear.weight, inputs, outputs);
    if let Some(bias) = &linear.bias {
        for output in outputs.chunks_exact_mut(bias.len()) {
            output.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    }
}

/// As [`linear`], without a bias.
pub(super) fn matmul(
    pool: &mut Pool,
    kernel: Kernel,
    matrix: &Matrix,
    inputs: &[f32],
    outputs: &mut Vec<f32>,
) {
    let Matrix { rows, columns, .. } = *matrix;
    let vectors = inputs.len() / columns;
    outputs.clear();
    outputs.resize(vectors * rows, 0.0);
    // Whole groups of four rows, for the kernel's sake.
    let rows_per_task = (TASK_WEIGHTS / (columns * vectors.min(8)))
        .next_multiple_of(4)
        .max(4);
    let table = Table {
        start: outputs.as_mut_ptr(),
        rows,
    };
    pool.run(rows.div_ceil(rows_per_task), &|task| {
        let range = task * rows_per_task..rows.min((task + 1) * rows_per_task);
        // SAFETY: tasks have disjoint rows, vectors are within `vectors`, and `outputs` outlives
        // the region.
        compute(kernel, matrix, range, inputs, |row, vector, sum| unsafe {
            table.write(row, vector, sum);
        });
    });
}

/// `[vectors, rows]` outputs that several threads fill, each its own rows.
struct Table {
    start: *mut f32,
    rows: usize,
}

// SAFETY: a pointer to floats; `write` names the conditions for using it from any thread.
unsafe impl Sync for Table {}

impl Table {
    /// # Safety
    /// The place exists, and no other thread uses it meanwhile.
    unsafe fn write(&self, row: usize, vector: usize, value: f32) {
        // SAFETY: as the function asks.
        unsafe { *self.start.add(vector * self.rows + row) = value }
    }
}

/// Calls `write(row, vector, sum)` for every row in `range` and every vector of `inputs`.
fn compute(
    kernel: Kernel,
    matrix: &Matrix,
    range: Range<usize>,
    inputs: &[f32],
    write: impl FnMut(usize, usize, f32),
) {
    let columns = matrix.columns;
    let first = range.start;
    let range = range.start * columns..range.end * columns;
    match &matrix.data {
        Data::F32(weights) => dispatch(kernel, &weights[range], columns, first, inputs, write),
        Data::Bf16(weights) => dispatch(kernel, &weights[range], columns, first, inputs, write),
    }
}

fn dispatch<W: Stored>(
    kernel: Kernel,
    weights: &[W],
    columns: usize,
    first: usize,
    inputs: &[f32],
    write: impl FnMut(usize, usize, f32),
) {
    match kernel {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `detect` found the features.
        Kernel::Avx2 => unsafe { avx2::rows(weights, columns, first, inputs, write) },
        Kernel::Portable => rows::<W, [f32; 8]>(weights, columns, first, inputs, write),
    }
}

/// A stored weight.
trait Weight: Copy {
    fn to_f32(self) -> f32;
}

impl Weight for f32 {
    fn to_f32(self) -> f32 {
        self
    }
}

impl Weight for u16 {
    fn to_f32(self) -> f32 {
        bf16_to_f32(self)
    }
}

/// Eight sums in progress.
///
/// The compiler is not left to find the vectors by itself: of plain loops over lanes it makes
/// vectors across rows, and shuffles for half of its time.
trait Lanes<W: Weight>: Copy {
    const ZERO: Self;

    /// `self + weights * inputs`, lane by lane.
    fn add_products(self, weights: &[W; 8], inputs: &[f32; 8]) -> Self;

    /// `sum + weight * input`, rounded as the lanes are.
    fn add_product(sum: f32, weight: W, input: f32) -> f32;

    fn to_array(self) -> [f32; 8];
}

impl<W: Weight> Lanes<W> for [f32; 8] {
    const ZERO: Self = [0.0; 8];

    fn add_products(self, weights: &[W; 8], inputs: &[f32; 8]) -> Self {
        std::array::from_fn(|lane| self[lane] + weights[lane].to_f32() * inputs[lane])
    }

    fn add_product(sum: f32, weight: W, input: f32) -> f32 {
        sum + weight.to_f32() * input
    }

    fn to_array(self) -> [f32; 8] {
        self
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m128i, __m256, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_fmadd_ps,
        _mm256_slli_epi32,
    };
    use std::mem::transmute;

    use super::{Lanes, Weight};

    /// Lanes in a register. Made by [`rows`] only, and so only where AVX2 and FMA are.
    #[derive(Clone, Copy)]
    struct Register(__m256);

    /// Eight stored weights widened to a register.
    pub(super) trait Widen: Weight {
        /// # Safety
        /// AVX2.
        unsafe fn widen(weights: &[Self; 8]) -> __m256;
    }

    impl Widen for f32 {
        #[inline(always)]
        unsafe fn widen(weights: &[Self; 8]) -> __m256 {
            // SAFETY: the same size, and any bits are floats.
            unsafe { transmute(*weights) }
        }
    }

    impl Widen for u16 {
        #[inline(always)]
        unsafe fn widen(weights: &[Self; 8]) -> __m256 {
            // SAFETY: the same size, any bits are integers, and the caller has AVX2.
            unsafe {
                let halves: __m128i = transmute(*weights);
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
            }
        }
    }

    impl<W: Widen> Lanes<W> for Register {
        // SAFETY: the same size, and any bits are floats.
        const ZERO: Self = Self(unsafe { transmute::<[f32; 8], __m256>([0.0; 8]) });

        #[inline(always)]
        fn add_products(self, weights: &[W; 8], inputs: &[f32; 8]) -> Self {
            // SAFETY: a register exists only where the features are.
            unsafe {
                Self(_mm256_fmadd_ps(
                    W::widen(weights),
                    f32::widen(inputs),
                    self.0,
                ))
            }
        }

        #[inline(always)]
        fn add_product(sum: f32, weight: W, input: f32) -> f32 {
            weight.to_f32().mul_add(input, sum)
        }

        #[inline(always)]
        fn to_array(self) -> [f32; 8] {
            // SAFETY: the same size, and any bits are floats.
            unsafe { transmute(self.0) }
        }
    }

    /// # Safety
    /// AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn rows<W: Widen>(
        weights: &[W],
        columns: usize,
        first: usize,
        inputs: &[f32],
        write: impl FnMut(usize, usize, f32),
    ) {
        super::rows::<W, Register>(weights, columns, first, inputs, write);
    }
}

/// Four rows at a time, then one at a time; inlined, so that it is compiled for the features of
/// its caller.
#[inline(always)]
fn rows<W: Weight, L: Lanes<W>>(
    weights: &[W],
    columns: usize,
    first: usize,
    inputs: &[f32],
    mut write: impl FnMut(usize, usize, f32),
) {
    let mut row = first;
    let mut groups = weights.chunks_exact(4 * columns);
    for group in &mut groups {
        vectors::<W, L, 4>(group, columns, inputs, |r, v, sum| write(row + r, v, sum));
        row += 4;
    }
    for rest in groups.remainder().chunks_exact(columns) {
        vectors::<W, L, 1>(rest, columns, inputs, |r, v, sum| write(row + r, v, sum));
        row += 1;
    }
}

/// `ROWS` rows with all vectors, three at a time: 4 by 3 sums, 3 inputs and a weight are what 16
/// registers hold.
#[inline(always)]
fn vectors<W: Weight, L: Lanes<W>, const ROWS: usize>(
    weights: &[W],
    columns: usize,
    inputs: &[f32],
    mut write: impl FnMut(usize, usize, f32),
) {
    let mut vector = 0;
    let mut groups = inputs.chunks_exact(3 * columns);
    for group in &mut groups {
        tile::<W, L, ROWS, 3>(weights, group, columns, |r, v, sum| {
            write(r, vector + v, sum)
        });
        vector += 3;
    }
    for rest in groups.remainder().chunks_exact(columns) {
        tile::<W, L, ROWS, 1>(weights, rest, columns, |r, v, sum| {
            write(r, vector + v, sum)
        });
        vector += 1;
    }
}

/// `ROWS` rows with `VECTORS` vectors, both `columns` long.
#[inline(always)]
fn tile<W: Weight, L: Lanes<W>, const ROWS: usize, const VECTORS: usize>(
    weights: &[W],
    inputs: &[f32],
    columns: usize,
    mut write: impl FnMut(usize, usize, f32),
) {
    let weights: [(&[[W; 8]], &[W]); ROWS] =
        std::array::from_fn(|row| weights[row * columns..][..columns].as_chunks());
    let inputs: [(&[[f32; 8]], &[f32]); VECTORS] =
        std::array::from_fn(|vector| inputs[vector * columns..][..columns].as_chunks());
    let mut lanes = [[L::ZERO; VECTORS]; ROWS];
    for column in 0..columns / 8 {
        for row in 0..ROWS {
            for vector in 0..VECTORS {
                lanes[row][vector] = lanes[row][vector]
                    .add_products(&weights[row].0[column], &inputs[vector].0[column]);
            }
        }
    }
    for row in 0..ROWS {
        for vector in 0..VECTORS {
            let mut sum = add_lanes(lanes[row][vector].to_array());
            for (w, x) in weights[row].1.iter().zip(inputs[vector].1) {
                sum = L::add_product(sum, *w, *x);
            }
            write(row, vector, sum);
        }
    }
}

/// Pairwise, the upper half onto the lower.
fn add_lanes(lanes: [f32; 8]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    /// Repeatable numbers in (-1, 1).
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn matrices(rows: usize, columns: usize) -> [Matrix; 2] {
        let values = numbers(rows * columns, 7);
        let halves = values
            .iter()
            .map(|value| (value.to_bits() >> 16) as u16)
            .collect();
        [Data::F32(values), Data::Bf16(halves)].map(|data| Matrix {
            rows,
            columns,
            data,
        })
    }

    fn product(kernel: Kernel, threads: usize, matrix: &Matrix, inputs: &[f32]) -> Vec<f32> {
        let mut pool = Pool::new(NonZeroUsize::new(threads)).expect("threads");
        let mut outputs = Vec::new();
        matmul(&mut pool, kernel, matrix, inputs, &mut outputs);
        outputs
    }

    #[test]
    fn every_kernel_agrees_with_a_sum_in_double_precision() {
        for (rows, columns, vectors) in [(1, 1, 1), (5, 13, 2), (64, 256, 7), (333, 100, 4)] {
            let inputs = numbers(columns * vectors, 3);
            for matrix in matrices(rows, columns) {
                for kernel in [Kernel::detect(), Kernel::Portable] {
                    let outputs = product(kernel, 2, &matrix, &inputs);
                    let weights: Vec<f32> = matrix.data.iter().collect();
                    for (at, output) in outputs.iter().enumerate() {
                        let (vector, row) = (at / rows, at % rows);
                        let exact: f64 = (0..columns)
                            .map(|column| {
                                f64::from(weights[row * columns + column])
                                    * f64::from(inputs[vector * columns + column])
                            })
                            .sum();
                        assert!((f64::from(*output) - exact).abs() < 1e-4, "{kernel:?} {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_output_does_not_depend_on_its_company_or_on_threads() {
        let (columns, vectors) = (100, 8);
        let inputs = numbers(columns * vectors, 3);
        for matrix in matrices(333, columns) {
            for kernel in [Kernel::detect(), Kernel::Portable] {
                let together = product(kernel, 3, &matrix, &inputs);
                let alone: Vec<f32> = inputs
                    .chunks_exact(columns)
                    .flat_map(|input| product(kernel, 1, &matrix, input))
                    .collect();
                assert!(together == alone, "{kernel:?}");
            }
        }
    }
}
