//! Two 256-bit registers for sixteen numbers.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::{LANES, Lanes, Work};

/// Made inside [`run`] only, and so only where its features are.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256, __m256);

/// # Safety
/// AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<W: Work>(work: W) -> W::Output {
    work.run::<Avx2>()
}

/// Applies an intrinsic to both halves.
macro_rules! halves {
    ($function:ident, $($operand:expr),+) => {
        // SAFETY: a value of this type exists only where the features are.
        unsafe { Avx2($function($($operand.0),+), $function($($operand.1),+)) }
    };
}

impl Lanes for Avx2 {
    /// Twelve registers of sums, one of weights, one of inputs.
    const TILE: (usize, usize) = (2, 3);
    const BYTE_TILE: (usize, usize) = (1, 2);
    const QUERIES: usize = 2;

    type Pairs = (__m256i, __m256i);
    type Ints = (__m256i, __m256i);
    type Bytes = (__m256i, __m256i);

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self::load(&[value; LANES])
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        // SAFETY: the same size, and any bits are floats.
        let halves: [__m256; 2] = unsafe { transmute(*from) };
        Self(halves[0], halves[1])
    }

    #[inline(always)]
    fn load_f16(from: &[u16; LANES]) -> Self {
        // SAFETY: the same size; the caller runs with F16C.
        unsafe {
            let halves: [__m128i; 2] = transmute(*from);
            Self(_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1]))
        }
    }

    #[inline(always)]
    fn load_bf16(from: &[u16; LANES]) -> Self {
        // SAFETY: the same size; the caller runs with AVX2.
        unsafe {
            let halves: [__m128i; 2] = transmute(*from);
            let widen =
                |half| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)));
            Self(widen(halves[0]), widen(halves[1]))
        }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        // SAFETY: the same size.
        *to = unsafe { transmute::<[__m256; 2], [f32; LANES]>([self.0, self.1]) };
    }

    #[inline(always)]
    fn store_bf16(self, to: &mut [u16; LANES]) {
        // SAFETY: a value of this type exists only where the features are; the same size.
        unsafe {
            let rounded = |half: __m256| {
                let bits = _mm256_castps_si256(half);
                let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let half_unit = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
                let up = _mm256_add_epi32(bits, half_unit);
                let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(half, half));
                let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
                _mm256_srli_epi32::<16>(_mm256_blendv_epi8(up, quiet, nan))
            };
            // Packing works on the 128-bit halves of both; the permutation sorts them.
            let packed = _mm256_packus_epi32(rounded(self.0), rounded(self.1));
            *to = transmute::<__m256i, [u16; LANES]>(_mm256_permute4x64_epi64::<0b11_01_10_00>(
                packed,
            ));
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        halves!(_mm256_add_ps, self, other)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        halves!(_mm256_mul_ps, self, other)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        halves!(_mm256_div_ps, self, other)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        halves!(_mm256_max_ps, self, other)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, added: Self) -> Self {
        halves!(_mm256_fmadd_ps, self, factor, added)
    }

    #[inline(always)]
    fn round(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: a value of this type exists only where the features are.
        unsafe {
            Self(
                _mm256_round_ps::<NEAREST>(self.0),
                _mm256_round_ps::<NEAREST>(self.1),
            )
        }
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: a value of this type exists only where the features are.
        unsafe {
            let power = |n| {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            };
            Self(power(self.0), power(self.1))
        }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: a value of this type exists only where the features are.
        unsafe {
            let eight = _mm256_add_ps(self.0, self.1);
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn highest(self) -> f32 {
        // SAFETY: a value of this type exists only where the features are.
        unsafe {
            let eight = _mm256_max_ps(self.0, self.1);
            let four = _mm_max_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn load_pairs(from: &[u16; 2 * LANES]) -> Self::Pairs {
        // SAFETY: the same size, and any bits are integers.
        let halves: [__m256i; 2] = unsafe { transmute(*from) };
        (halves[0], halves[1])
    }

    #[inline(always)]
    fn add_pairs(self, a: Self::Pairs, b: Self::Pairs) -> Self {
        // SAFETY: a value of this type exists only where the features are.
        unsafe {
            let odd = |pairs| {
                let mask = _mm256_set1_epi32(0xffff_0000_u32 as i32);
                _mm256_castsi256_ps(_mm256_and_si256(pairs, mask))
            };
            let even = |pairs| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs));
            let both =
                |a, b, sum| _mm256_fmadd_ps(even(a), even(b), _mm256_fmadd_ps(odd(a), odd(b), sum));
            Self(both(a.0, b.0, self.0), both(a.1, b.1, self.1))
        }
    }

    #[inline(always)]
    fn splat_int(value: i32) -> Self::Ints {
        // SAFETY: the same size, and any bits are integers.
        let half: __m256i = unsafe { transmute([value; 8]) };
        (half, half)
    }

    #[inline(always)]
    fn load_bytes(from: &[u8; 4 * LANES]) -> Self::Bytes {
        // SAFETY: the same size, and any bits are integers.
        let halves: [__m256i; 2] = unsafe { transmute(*from) };
        (halves[0], halves[1])
    }

    #[inline(always)]
    fn add_bytes(sums: Self::Ints, unsigned: Self::Bytes, signed: [i8; 4]) -> Self::Ints {
        // SAFETY: the caller runs with AVX2.
        unsafe {
            // The instruction adds two products in 16 bits, which 255 * 127 * 2 would exceed. With
            // the middle taken off the weights and their sign moved over, 128 * 127 * 2 do not.
            let signed = _mm256_set1_epi32(transmute::<[i8; 4], i32>(signed));
            let magnitude = _mm256_abs_epi8(signed);
            let add = |sum, unsigned| {
                let centred = _mm256_xor_si256(unsigned, _mm256_set1_epi8(-128));
                let products = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(centred, signed));
                let fours = _mm256_madd_epi16(products, _mm256_set1_epi16(1));
                _mm256_add_epi32(sum, fours)
            };
            // What was taken off: 128 times the four.
            let total = _mm256_madd_epi16(
                _mm256_maddubs_epi16(_mm256_set1_epi8(1), signed),
                _mm256_set1_epi16(128),
            );
            let sums = (
                _mm256_add_epi32(sums.0, total),
                _mm256_add_epi32(sums.1, total),
            );
            (add(sums.0, unsigned.0), add(sums.1, unsigned.1))
        }
    }

    #[inline(always)]
    fn from_ints(ints: Self::Ints) -> Self {
        halves!(_mm256_cvtepi32_ps, ints)
    }

    #[inline(always)]
    fn prefetch(address: *const u8) {
        // SAFETY: a hint, which no address makes fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}
