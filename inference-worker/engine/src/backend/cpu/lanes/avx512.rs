//! One 512-bit register for sixteen numbers.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::{LANES, Lanes, Work};

/// Made inside [`run`] or [`run_bf16`] only, and so only where its features are; `BF16` says which.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const BF16: bool>(__m512);

/// # Safety
/// AVX-512 F, BW, DQ, VL and VNNI, and what [`avx2`](super::avx2) needs.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn run<W: Work>(work: W) -> W::Output {
    work.run::<Avx512<false>>()
}

/// # Safety
/// As [`run`], and AVX-512 BF16.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[target_feature(enable = "avx512bf16")]
pub(super) unsafe fn run_bf16<W: Work>(work: W) -> W::Output {
    work.run::<Avx512<true>>()
}

/// Applies an intrinsic.
macro_rules! whole {
    ($function:ident, $($operand:expr),+) => {
        // SAFETY: a value of this type exists only where the features are.
        Self(unsafe { $function($($operand.0),+) })
    };
}

impl<const BF16: bool> Lanes for Avx512<BF16> {
    /// Sixteen registers of sums, four of inputs, one of weights. (There are more, but on Zen 5 a
    /// loop that uses them all takes half as long again for each product.)
    const TILE: (usize, usize) = (4, 4);
    /// Eight registers of whole sums, eight of those in progress, two of weights.
    const BYTE_TILE: (usize, usize) = (2, 4);
    const QUERIES: usize = 4;

    type Pairs = __m512i;
    type Ints = __m512i;
    type Bytes = __m512i;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: the caller runs with AVX-512.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        // SAFETY: sixteen floats lie there; the caller runs with AVX-512.
        Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn load_f16(from: &[u16; LANES]) -> Self {
        // SAFETY: the same size; the caller runs with AVX-512.
        Self(unsafe { _mm512_cvtph_ps(transmute::<[u16; LANES], __m256i>(*from)) })
    }

    #[inline(always)]
    fn load_bf16(from: &[u16; LANES]) -> Self {
        // SAFETY: the same size; the caller runs with AVX-512.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(transmute::<[u16; LANES], __m256i>(*from));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        // SAFETY: sixteen floats have room there.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn store_bf16(self, to: &mut [u16; LANES]) {
        // SAFETY: a value of this type exists only where the features are; the same size.
        unsafe {
            let rounded = if BF16 {
                transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0))
            } else {
                let bits = _mm512_castps_si512(self.0);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let half_unit = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
                let up = _mm512_add_epi32(bits, half_unit);
                let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
                let chosen = _mm512_mask_blend_epi32(nan, up, quiet);
                _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(chosen))
            };
            *to = transmute::<__m256i, [u16; LANES]>(rounded);
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        whole!(_mm512_add_ps, self, other)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        whole!(_mm512_mul_ps, self, other)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        whole!(_mm512_div_ps, self, other)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        whole!(_mm512_max_ps, self, other)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, added: Self) -> Self {
        whole!(_mm512_fmadd_ps, self, factor, added)
    }

    #[inline(always)]
    fn round(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: a value of this type exists only where the features are.
        Self(unsafe { _mm512_roundscale_ps::<NEAREST>(self.0) })
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: a value of this type exists only where the features are.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
        }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        Self::sums([self])[0]
    }

    /// Four at a time share their additions.
    #[inline(always)]
    fn sums<const N: usize>(all: [Self; N]) -> [f32; N] {
        let mut sums = [0.0; N];
        for start in (0..N).step_by(4) {
            let at = |i: usize| all[if start + i < N { start + i } else { start }].0;
            // SAFETY: a value of this type exists only where the features are.
            unsafe {
                let half = |a, b| {
                    let lower = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
                    _mm512_add_ps(lower, _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b))
                };
                let (ab, cd) = (half(at(0), at(1)), half(at(2), at(3)));
                let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd);
                let four = _mm512_add_ps(even, _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd));
                let two = _mm512_add_ps(four, _mm512_permute_ps::<0b01_00_11_10>(four));
                let one = _mm512_add_ps(two, _mm512_permute_ps::<0b10_11_00_01>(two));
                let apart = _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, one));
                let apart: [f32; 4] = transmute(apart);
                let count = 4.min(N - start);
                sums[start..start + count].copy_from_slice(&apart[..count]);
            }
        }
        sums
    }

    #[inline(always)]
    fn highest(self) -> f32 {
        // SAFETY: a value of this type exists only where the features are.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    #[inline(always)]
    fn load_pairs(from: &[u16; 2 * LANES]) -> Self::Pairs {
        // SAFETY: as many bytes lie there; the caller runs with AVX-512.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn add_pairs(self, a: Self::Pairs, b: Self::Pairs) -> Self {
        // SAFETY: a value of this type exists only where the features are; the same size.
        unsafe {
            if BF16 {
                let (a, b) = (
                    transmute::<__m512i, __m512bh>(a),
                    transmute::<__m512i, __m512bh>(b),
                );
                return Self(_mm512_dpbf16_ps(self.0, a, b));
            }
            let odd = |pairs| {
                let mask = _mm512_set1_epi32(0xffff_0000_u32 as i32);
                _mm512_castsi512_ps(_mm512_and_si512(pairs, mask))
            };
            let even = |pairs| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
            let sum = _mm512_fmadd_ps(odd(a), odd(b), self.0);
            Self(_mm512_fmadd_ps(even(a), even(b), sum))
        }
    }

    #[inline(always)]
    fn splat_int(value: i32) -> Self::Ints {
        // SAFETY: the caller runs with AVX-512.
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn load_bytes(from: &[u8; 4 * LANES]) -> Self::Bytes {
        // SAFETY: as many bytes lie there; the caller runs with AVX-512.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn add_bytes(sums: Self::Ints, unsigned: Self::Bytes, signed: [i8; 4]) -> Self::Ints {
        // SAFETY: the caller runs with AVX-512 VNNI.
        unsafe {
            let signed = _mm512_set1_epi32(transmute::<[i8; 4], i32>(signed));
            _mm512_dpbusd_epi32(sums, unsigned, signed)
        }
    }

    #[inline(always)]
    fn from_ints(ints: Self::Ints) -> Self {
        // SAFETY: the caller runs with AVX-512.
        Self(unsafe { _mm512_cvtepi32_ps(ints) })
    }

    #[inline(always)]
    fn prefetch(address: *const u8) {
        // SAFETY: a hint, which no address makes fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}
