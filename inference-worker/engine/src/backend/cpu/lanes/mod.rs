//! Sixteen numbers that are computed together, on whatever instructions the processor has.
//!
//! Everything that is computed a million times is written once, over [`Lanes`], as a [`Work`];
//! [`Kernel::run`] compiles it for each set of instructions and runs the best one that was found.
//! All of them add in the same order. With f32 inputs the two kernels with fused multiply-add give
//! the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(test)]
mod tests;

/// Numbers in a [`Lanes`].
pub(super) const LANES: usize = 16;

/// Instructions that the processor at hand has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    /// 512-bit vectors, byte products, and products of bf16 pairs.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// 512-bit vectors and byte products.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 256-bit vectors with fused multiply-add and conversion of f16.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of plain loops.
    Portable,
}

/// Something to compute on any kernel.
pub(super) trait Work {
    type Output;

    /// To be inlined, with everything that it calls, so that it is compiled for the kernel.
    fn run<L: Lanes>(self) -> Self::Output;
}

impl Kernel {
    /// All that this processor has, the best first.
    pub(super) fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
            [
                bf16.then_some(Self::Avx512Bf16),
                avx512.then_some(Self::Avx512),
                avx2.then_some(Self::Avx2),
                Some(Self::Portable),
            ]
            .into_iter()
            .flatten()
        }
        #[cfg(not(target_arch = "x86_64"))]
        std::iter::once(Self::Portable)
    }

    pub(super) fn detect() -> Self {
        Self::available().next().unwrap_or(Self::Portable)
    }

    /// Whether products of bf16 pairs are faster than those of widened numbers.
    pub(super) fn multiplies_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Avx512Bf16;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    pub(super) fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            // SAFETY: `available` found the features.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => unsafe { avx512::run_bf16(work) },
            // SAFETY: likewise.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::run(work) },
            // SAFETY: likewise.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::run(work) },
            Self::Portable => work.run::<portable::Array>(),
        }
    }
}

/// Sixteen f32. Values exist only inside [`Kernel::run`], and so only where the instructions do.
pub(super) trait Lanes: Copy {
    /// Rows and inputs that [`matmul`](super::matmul) multiplies at once, as the registers allow.
    const TILE: (usize, usize);
    /// Groups of rows and inputs that it multiplies at once in bytes.
    const BYTE_TILE: (usize, usize);

    /// Queries that [`attention`](super::attention) computes at once.
    const QUERIES: usize;

    /// Thirty-two bf16.
    type Pairs: Copy;
    /// Sixteen i32.
    type Ints: Copy;
    /// Sixteen groups of four bytes.
    type Bytes: Copy;

    fn splat(value: f32) -> Self;
    fn load(from: &[f32; LANES]) -> Self;
    fn load_f16(from: &[u16; LANES]) -> Self;
    fn load_bf16(from: &[u16; LANES]) -> Self;
    fn store(self, to: &mut [f32; LANES]);
    /// Rounded to the nearest, ties to even.
    fn store_bf16(self, to: &mut [u16; LANES]);

    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// The larger one; where one is NaN, any.
    fn max(self, other: Self) -> Self;
    /// `self * factor + added`.
    fn mul_add(self, factor: Self, added: Self) -> Self;
    /// To the nearest whole number.
    fn round(self) -> Self;
    /// `2^self`, of whole numbers from -126 to 127.
    fn power_of_two(self) -> Self;
    /// The upper half onto the lower, four times.
    fn sum(self) -> f32;
    /// The sums of several.
    #[inline(always)]
    fn sums<const N: usize>(all: [Self; N]) -> [f32; N] {
        let mut sums = [0.0; N];
        for at in 0..N {
            sums[at] = all[at].sum();
        }
        sums
    }
    fn highest(self) -> f32;

    fn load_pairs(from: &[u16; 2 * LANES]) -> Self::Pairs;
    /// To each lane the two products of its pair.
    fn add_pairs(self, a: Self::Pairs, b: Self::Pairs) -> Self;

    fn splat_int(value: i32) -> Self::Ints;
    fn load_bytes(from: &[u8; 4 * LANES]) -> Self::Bytes;
    /// To each lane the four products of its unsigned bytes with the same four signed ones.
    fn add_bytes(sums: Self::Ints, unsigned: Self::Bytes, signed: [i8; 4]) -> Self::Ints;
    fn from_ints(ints: Self::Ints) -> Self;

    /// A hint that this will be read soon; any address.
    fn prefetch(_address: *const u8) {}
}

/// Numbers and then zeros.
#[inline(always)]
pub(super) fn padded<T: Copy + Default, const N: usize>(rest: &[T]) -> [T; N] {
    let mut padded = [T::default(); N];
    padded[..rest.len()].copy_from_slice(rest);
    padded
}

/// e^x with a relative error below 2e-7; 0 from -87.3 down, and as of 88 from there up.
///
/// With x = n ln 2 + r it is 2^n e^r, where e^r is the first eight terms of its series; |r| is at
/// most ln(2) / 2, so that the ninth is below 6e-9.
#[inline(always)]
pub(super) fn exp<L: Lanes>(x: L) -> L {
    const LOWEST: f32 = -87.3;
    let bounded = x.max(L::splat(LOWEST));
    // The negation turns the larger into the smaller.
    let bounded = bounded
        .mul(L::splat(-1.0))
        .max(L::splat(-88.0))
        .mul(L::splat(-1.0));
    let n = bounded.mul(L::splat(std::f32::consts::LOG2_E)).round();
    // ln 2 in two parts; n times the first, which has nine bits, is exact.
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = (std::f64::consts::LN_2 - 355.0 / 512.0) as f32;
    let r = n.mul_add(L::splat(-LN_2_HIGH), bounded);
    let r = n.mul_add(L::splat(-LN_2_LOW), r);
    let mut series = L::splat(1.0 / 5040.0);
    for factorial in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        series = series.mul_add(r, L::splat(1.0 / factorial));
    }
    series.mul(n.power_of_two())
}
