//! Products of a weight matrix with one or many input vectors.
//!
//! Every output is one sum in one fixed order: eight partial sums over every eighth product, added
//! pairwise, then the rest of the row. It depends neither on how many inputs are computed
//! together nor on which thread computes it, so a chunked prefill is bit-equal to a whole one.

use std::ops::Range;

use super::pool::Pool;
use crate::model::{Data, Linear, Matrix};

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
    match (kernel, &matrix.data) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `detect` found the features.
        (Kernel::Avx2, Data::F32(weights)) => unsafe {
            avx2::compute(&weights[range], columns, first, inputs, write);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Kernel::Avx2, Data::Bf16(weights)) => unsafe {
            avx2::compute(&weights[range], columns, first, inputs, write);
        },
        (Kernel::Portable, Data::F32(weights)) => {
            portable::compute(&weights[range], columns, first, inputs, write);
        }
        (Kernel::Portable, Data::Bf16(weights)) => {
            portable::compute(&weights[range], columns, first, inputs, write);
        }
    }
}

mod portable {
    use crate::model::bf16_to_f32;

    /// A stored weight.
    pub(super) trait Weight: Copy {
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

    pub(super) fn compute<W: Weight>(
        weights: &[W],
        columns: usize,
        first: usize,
        inputs: &[f32],
        mut write: impl FnMut(usize, usize, f32),
    ) {
        for (row, weights) in weights.chunks_exact(columns).enumerate() {
            for (vector, input) in inputs.chunks_exact(columns).enumerate() {
                write(first + row, vector, dot(weights, input));
            }
        }
    }

    fn dot<W: Weight>(weights: &[W], input: &[f32]) -> f32 {
        let (weights, weights_rest) = weights.as_chunks::<8>();
        let (input, input_rest) = input.as_chunks::<8>();
        let mut lanes = [0.0f32; 8];
        for (w, x) in weights.iter().zip(input) {
            for lane in 0..8 {
                lanes[lane] += w[lane].to_f32() * x[lane];
            }
        }
        let mut sum = super::add_lanes(lanes);
        for (w, x) in weights_rest.iter().zip(input_rest) {
            sum += w.to_f32() * x;
        }
        sum
    }
}

/// Pairwise, the upper half onto the lower.
fn add_lanes(lanes: [f32; 8]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, _mm_loadu_si128, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_fmadd_ps,
        _mm256_loadu_ps, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps,
    };

    use super::portable;

    /// A stored weight that AVX2 can widen, eight at a time.
    pub(super) trait Weight: portable::Weight {
        /// # Safety
        /// Eight weights at `at`, and AVX2.
        unsafe fn load(at: *const Self) -> __m256;
    }

    impl Weight for f32 {
        #[inline(always)]
        unsafe fn load(at: *const Self) -> __m256 {
            // SAFETY: as the trait asks.
            unsafe { _mm256_loadu_ps(at) }
        }
    }

    impl Weight for u16 {
        #[inline(always)]
        unsafe fn load(at: *const Self) -> __m256 {
            // SAFETY: as the trait asks.
            unsafe {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            }
        }
    }

    /// # Safety
    /// AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn compute<W: Weight>(
        weights: &[W],
        columns: usize,
        first: usize,
        inputs: &[f32],
        mut write: impl FnMut(usize, usize, f32),
    ) {
        let mut row = first;
        let mut groups = weights.chunks_exact(4 * columns);
        for group in &mut groups {
            // SAFETY: the group has four rows, and the features are there.
            unsafe { rows::<W, 4>(group, columns, row, inputs, &mut write) };
            row += 4;
        }
        for rest in groups.remainder().chunks_exact(columns) {
            // SAFETY: one row, and the features are there.
            unsafe { rows::<W, 1>(rest, columns, row, inputs, &mut write) };
            row += 1;
        }
    }

    /// # Safety
    /// `weights` has `ROWS` rows; AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn rows<W: Weight, const ROWS: usize>(
        weights: &[W],
        columns: usize,
        row: usize,
        inputs: &[f32],
        write: &mut impl FnMut(usize, usize, f32),
    ) {
        let mut vector = 0;
        let mut groups = inputs.chunks_exact(3 * columns);
        // 4 rows by 3 vectors keep 12 sums, 3 inputs and a weight in the 16 registers.
        for group in &mut groups {
            // SAFETY: the sizes match, and the features are there.
            let sums = unsafe { tile::<W, ROWS, 3>(weights, group, columns) };
            scatter(&sums, row, vector, write);
            vector += 3;
        }
        for rest in groups.remainder().chunks_exact(columns) {
            // SAFETY: the sizes match, and the features are there.
            let sums = unsafe { tile::<W, ROWS, 1>(weights, rest, columns) };
            scatter(&sums, row, vector, write);
            vector += 1;
        }
    }

    fn scatter<const ROWS: usize, const VECTORS: usize>(
        sums: &[[f32; VECTORS]; ROWS],
        row: usize,
        vector: usize,
        write: &mut impl FnMut(usize, usize, f32),
    ) {
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                write(row + r, vector + v, *sum);
            }
        }
    }

    /// # Safety
    /// `weights` has `ROWS` and `inputs` has `VECTORS` times `columns` numbers; AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile<W: Weight, const ROWS: usize, const VECTORS: usize>(
        weights: &[W],
        inputs: &[f32],
        columns: usize,
    ) -> [[f32; VECTORS]; ROWS] {
        debug_assert!(weights.len() == ROWS * columns && inputs.len() == VECTORS * columns);
        let (weight, input) = (weights.as_ptr(), inputs.as_ptr());
        let mut lanes = [[_mm256_setzero_ps(); VECTORS]; ROWS];
        let whole = columns / 8 * 8;
        for column in (0..whole).step_by(8) {
            let mut x = [_mm256_setzero_ps(); VECTORS];
            for (vector, x) in x.iter_mut().enumerate() {
                // SAFETY: eight columns of an existing vector.
                *x = unsafe { _mm256_loadu_ps(input.add(vector * columns + column)) };
            }
            for (row, lanes) in lanes.iter_mut().enumerate() {
                // SAFETY: eight columns of an existing row.
                let w = unsafe { W::load(weight.add(row * columns + column)) };
                for (lane, x) in lanes.iter_mut().zip(x) {
                    *lane = _mm256_fmadd_ps(w, x, *lane);
                }
            }
        }
        let mut sums = [[0.0; VECTORS]; ROWS];
        for row in 0..ROWS {
            for vector in 0..VECTORS {
                let mut stored = [0.0; 8];
                // SAFETY: eight floats.
                unsafe { _mm256_storeu_ps(stored.as_mut_ptr(), lanes[row][vector]) };
                let mut sum = super::add_lanes(stored);
                for column in whole..columns {
                    let w = weights[row * columns + column].to_f32();
                    sum = w.mul_add(inputs[vector * columns + column], sum);
                }
                sums[row][vector] = sum;
            }
        }
        sums
    }
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
