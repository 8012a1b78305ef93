//! Weights rounded to eight bits, for less memory and faster decoding.
//!
//! Every 32 weights of a row share a scale: weight = scale * (byte - 128), with bytes from 1 to 255.
//! Sixteen rows lie interleaved, four columns of each at a time, as the processor's byte products
//! want them: a sum stays in the lane of its row.

use super::numbers::bf16_to_f32;
use super::weights::Matrix;

/// Rows that lie interleaved.
pub const GROUP: usize = 16;
/// Columns that share a scale.
pub const COLUMNS: usize = 32;
/// Columns of a row that lie together.
const TOGETHER: usize = 4;

/// The bytes that stand for zero.
const ZERO: u8 = 128;

/// Four columns of sixteen rows; on one line of the cache.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(align(64))]
pub struct Line(pub [u8; GROUP * TOGETHER]);

/// A quantised matrix. Rows and columns that fill the last group and the last block are zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8 {
    /// Eight lines for each block of 32 columns of a group of 16 rows.
    lines: Vec<Line>,
    /// As bf16, of each row for each such block.
    scales: Vec<[u16; GROUP]>,
    /// Blocks in a row.
    blocks: usize,
}

impl Int8 {
    /// Rounds each weight to the nearest step of its block, whose largest weight is at most 127
    /// steps.
    pub(crate) fn round(matrix: &Matrix) -> Self {
        let blocks = matrix.columns.div_ceil(COLUMNS);
        let groups = matrix.rows.div_ceil(GROUP);
        let mut quantised = Self {
            lines: vec![Line([ZERO; GROUP * TOGETHER]); groups * blocks * COLUMNS / TOGETHER],
            scales: vec![[0; GROUP]; groups * blocks],
            blocks,
        };
        let mut row = vec![0.0; matrix.columns];
        for at in 0..matrix.rows {
            matrix.copy_row(at, &mut row);
            let (group, within) = (at / GROUP, at % GROUP);
            for (block, weights) in row.chunks(COLUMNS).enumerate() {
                let block = group * blocks + block;
                let largest = weights.iter().fold(0.0f32, |most, w| most.max(w.abs()));
                let scale = bf16_above(largest / 127.0);
                quantised.scales[block][within] = scale;
                let steps = 1.0 / bf16_to_f32(scale);
                if !steps.is_finite() {
                    continue;
                }
                let lines = &mut quantised.lines[block * COLUMNS / TOGETHER..];
                for (weights, line) in weights.chunks(TOGETHER).zip(lines) {
                    for (weight, byte) in weights.iter().zip(&mut line.0[within * TOGETHER..]) {
                        let step = (weight * steps).round_ties_even().clamp(-127.0, 127.0);
                        *byte = (step as i32 + i32::from(ZERO)) as u8;
                    }
                }
            }
        }
        quantised
    }

    /// Bytes that scales and lines take.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.lines[..]) + size_of_val(&self.scales[..])
    }

    /// The scales and lines of the blocks of a group of rows.
    pub(crate) fn group(&self, group: usize) -> (&[[u16; GROUP]], &[Line]) {
        let (scales, lines) = (self.blocks, self.blocks * COLUMNS / TOGETHER);
        (
            &self.scales[group * scales..][..scales],
            &self.lines[group * lines..][..lines],
        )
    }

    /// Writes the numbers that a row stands for.
    pub(super) fn copy_row(&self, row: usize, out: &mut [f32]) {
        let (scales, lines) = self.group(row / GROUP);
        let within = row % GROUP;
        let blocks = lines.as_chunks::<{ COLUMNS / TOGETHER }>().0;
        for ((scale, lines), out) in scales.iter().zip(blocks).zip(out.chunks_mut(COLUMNS)) {
            let scale = bf16_to_f32(scale[within]);
            for (line, out) in lines.iter().zip(out.chunks_mut(TOGETHER)) {
                for (byte, out) in line.0[within * TOGETHER..].iter().zip(out) {
                    *out = scale * (i32::from(*byte) - i32::from(ZERO)) as f32;
                }
            }
        }
    }
}

/// The smallest bf16 that is not below a finite number from zero up.
fn bf16_above(value: f32) -> u16 {
    let bits = value.to_bits();
    (bits.next_multiple_of(1 << 16) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Data;

    #[test]
    fn every_weight_is_within_half_a_step_and_the_rest_is_zero() {
        let (rows, columns) = (21, 70);
        let weights: Vec<f32> = (0..rows * columns)
            .map(|i| (i as f32 * 0.37).sin() * 1.1f32.powi((i / 16) as i32 % 90 - 60))
            .collect();
        let mut matrix = Matrix {
            rows,
            columns,
            data: Data::F32(weights.clone().into()),
        };
        matrix.data = Data::Int8(Int8::round(&matrix));
        let mut row = vec![0.0; columns];
        for at in 0..rows {
            matrix.copy_row(at, &mut row);
            let exact = &weights[at * columns..][..columns];
            for (found, exact) in row.chunks(COLUMNS).zip(exact.chunks(COLUMNS)) {
                let largest = exact.iter().fold(0.0f32, |most, w| most.max(w.abs()));
                for (found, exact) in found.iter().zip(exact) {
                    // The scale was rounded up to eight bits.
                    let bound = largest / 127.0 * (0.5 + 1.0 / 128.0);
                    assert!((found - exact).abs() <= bound, "{found} {exact} {bound}");
                }
            }
        }
    }

    #[test]
    fn zeros_and_the_smallest_numbers_stay_finite() {
        for value in [0.0, f32::MIN_POSITIVE / 4.0, 1e38] {
            let mut matrix = Matrix {
                rows: 1,
                columns: 3,
                data: Data::F32(vec![value; 3].into()),
            };
            matrix.data = Data::Int8(Int8::round(&matrix));
            let mut row = [f32::NAN; 3];
            matrix.copy_row(0, &mut row);
            for found in row {
                assert!((found - value).abs() <= 1e38 / 250.0, "{found} {value}");
            }
        }
    }
}
