//! Arrays and loops; the compiler finds the instructions.

use super::{LANES, Lanes};
use crate::model::{bf16_to_f32, f16_to_f32, f32_to_bf16};

#[derive(Clone, Copy)]
pub(super) struct Array([f32; LANES]);

impl Array {
    #[inline(always)]
    fn with(mut self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        for lane in 0..LANES {
            self.0[lane] = operation(self.0[lane], other.0[lane]);
        }
        self
    }

    #[inline(always)]
    fn fold(self, operation: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = self.0;
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                lanes[lane] = operation(lanes[lane], lanes[lane + half]);
            }
        }
        lanes[0]
    }
}

impl Lanes for Array {
    const TILE: (usize, usize) = (1, 2);
    const BYTE_TILE: (usize, usize) = (1, 1);
    const QUERIES: usize = 1;

    type Pairs = (Self, Self);
    type Ints = [i32; LANES];
    type Bytes = [u8; 4 * LANES];

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        Self(*from)
    }

    #[inline(always)]
    fn load_f16(from: &[u16; LANES]) -> Self {
        Self(from.map(f16_to_f32))
    }

    #[inline(always)]
    fn load_bf16(from: &[u16; LANES]) -> Self {
        Self(from.map(bf16_to_f32))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = self.0;
    }

    #[inline(always)]
    fn store_bf16(self, to: &mut [u16; LANES]) {
        *to = self.0.map(f32_to_bf16);
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.with(other, |a, b| a + b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.with(other, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.with(other, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.with(other, |a, b| if a > b { a } else { b })
    }

    /// Not fused: without the instruction, that would be a call for each number.
    #[inline(always)]
    fn mul_add(self, factor: Self, added: Self) -> Self {
        self.mul(factor).add(added)
    }

    #[inline(always)]
    fn round(self) -> Self {
        Self(self.0.map(f32::round_ties_even))
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        Self(
            self.0
                .map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23)),
        )
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        self.fold(|a, b| a + b)
    }

    #[inline(always)]
    fn highest(self) -> f32 {
        self.fold(|a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn load_pairs(from: &[u16; 2 * LANES]) -> Self::Pairs {
        let (mut even, mut odd) = ([0.0; LANES], [0.0; LANES]);
        for lane in 0..LANES {
            even[lane] = bf16_to_f32(from[2 * lane]);
            odd[lane] = bf16_to_f32(from[2 * lane + 1]);
        }
        (Self(even), Self(odd))
    }

    #[inline(always)]
    fn add_pairs(self, a: Self::Pairs, b: Self::Pairs) -> Self {
        a.0.mul_add(b.0, a.1.mul_add(b.1, self))
    }

    #[inline(always)]
    fn splat_int(value: i32) -> Self::Ints {
        [value; LANES]
    }

    #[inline(always)]
    fn load_bytes(from: &[u8; 4 * LANES]) -> Self::Bytes {
        *from
    }

    #[inline(always)]
    fn add_bytes(mut sums: Self::Ints, unsigned: Self::Bytes, signed: [i8; 4]) -> Self::Ints {
        for (sum, four) in sums.iter_mut().zip(unsigned.as_chunks::<4>().0) {
            for (a, b) in four.iter().zip(signed) {
                *sum += i32::from(*a) * i32::from(b);
            }
        }
        sums
    }

    #[inline(always)]
    fn from_ints(ints: Self::Ints) -> Self {
        Self(ints.map(|int| int as f32))
    }
}
