//! The numbers of a tensor, where they lie.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use memmap2::Mmap;

/// What can be read from a file's bytes as they are: any bits are a number, little-endian.
pub(super) trait Plain: Copy + PartialEq + fmt::Debug + 'static {
    fn from_bytes(bytes: &[u8]) -> Vec<Self>;
}

impl Plain for f32 {
    fn from_bytes(bytes: &[u8]) -> Vec<Self> {
        let numbers = bytes.as_chunks::<4>().0.iter();
        numbers.map(|bytes| Self::from_le_bytes(*bytes)).collect()
    }
}

impl Plain for u16 {
    fn from_bytes(bytes: &[u8]) -> Vec<Self> {
        let numbers = bytes.as_chunks::<2>().0.iter();
        numbers.map(|bytes| Self::from_le_bytes(*bytes)).collect()
    }
}

/// Numbers in memory of their own, or in memory that many tensors share: a mapped file.
#[derive(Clone)]
pub struct Numbers<T> {
    place: Place<T>,
}

#[derive(Clone)]
enum Place<T> {
    Own(Vec<T>),
    Shared {
        memory: Arc<Mmap>,
        /// In bytes.
        start: usize,
        /// In numbers.
        length: usize,
        kind: PhantomData<T>,
    },
}

impl<T> From<Vec<T>> for Numbers<T> {
    fn from(numbers: Vec<T>) -> Self {
        Self {
            place: Place::Own(numbers),
        }
    }
}

#[expect(private_bounds, reason = "nobody else adds a kind of number")]
impl<T: Plain> Numbers<T> {
    /// The numbers in `bytes` bytes from `start` on; copied where they do not lie as the processor
    /// wants them.
    ///
    /// # Panics
    /// When the memory ends before them.
    pub(super) fn within(memory: &Arc<Mmap>, start: usize, bytes: usize) -> Self {
        let wanted = &memory[start..start + bytes];
        let place = if cfg!(target_endian = "little") && wanted.as_ptr().cast::<T>().is_aligned() {
            Place::Shared {
                memory: Arc::clone(memory),
                start,
                length: bytes / size_of::<T>(),
                kind: PhantomData,
            }
        } else {
            Place::Own(T::from_bytes(wanted))
        };
        Self { place }
    }
}

impl<T: Plain> Deref for Numbers<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.place {
            Place::Own(numbers) => numbers,
            Place::Shared {
                memory,
                start,
                length,
                ..
            } => {
                let start = memory[*start..].as_ptr().cast::<T>();
                // SAFETY: `within` found the start aligned and as many numbers behind it, any bits
                // are a number, and the memory is not written while it is mapped.
                unsafe { std::slice::from_raw_parts(start, *length) }
            }
        }
    }
}

impl<T: Plain> PartialEq for Numbers<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T> fmt::Debug for Numbers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.place {
            Place::Own(_) => "own",
            Place::Shared { .. } => "shared",
        };
        write!(f, "Numbers({kind})")
    }
}

/// bfloat16 is binary32 without its lower half.
#[inline(always)]
pub(crate) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// To the nearest bfloat16, ties to even; NaN stays one.
#[inline(always)]
pub(crate) fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    let half = 0x7fff + (bits >> 16 & 1);
    ((bits + half) >> 16) as u16
}

/// IEEE 754 binary16 to binary32, exact.
#[inline]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let exponent = u32::from(bits >> 10) & 0x1f;
    let fraction = u32::from(bits) & 0x3ff;
    let magnitude = match exponent {
        // Subnormal: fraction × 2^-24.
        0 => (fraction as f32 * f32::from_bits((127 - 24) << 23)).to_bits(),
        31 => 0x7f80_0000 | fraction << 13,
        // The biases of the two formats differ by 112.
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::f16_to_f32;

    #[test]
    fn binary16_converts_exactly() {
        let cases = [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x3555, 0.333_251_95),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x03ff, 6.097_555e-5),
            (0x8000, -0.0),
            (0x7c00, f32::INFINITY),
        ];
        for (bits, expected) in cases {
            assert_eq!(
                f16_to_f32(bits).to_bits(),
                f32::to_bits(expected),
                "{bits:#06x}"
            );
        }
        assert!(f16_to_f32(0x7e00).is_nan());
    }
}
