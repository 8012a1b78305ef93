//! Every kernel against a reference in f64, with fresh random inputs and poisoned outputs: on the
//! CPU, where a C++ compiler is, by [`emulation`]; and on a [`device`] where there is one.
//! [`compiling`] needs none.

mod attention;
mod compiling;
mod device;
mod elementwise;
mod emulation;
mod linear;
mod rotate;
mod scores;
mod steps;

use std::sync::OnceLock;

use super::kernels::{Shape, Source};
use crate::error::Error;
use crate::model::bf16_to_f32;

/// An argument of a kernel.
#[derive(Clone)]
enum Argument {
    Int(i32),
    Float(f32),
    Buffer(Vec<u8>),
    Null,
}

/// A kernel and everything that it gets.
struct Launch<'a> {
    source: Source,
    shape: Shape,
    kernel: &'a str,
    grid: [usize; 3],
    threads: u32,
    arguments: Vec<Argument>,
}

/// Shapes of heads, of which some kernels take nothing.
const SHAPE: Shape = Shape {
    head_dim: 64,
    q_heads: 2,
    kv_heads: 1,
    qk_norm: true,
};

impl Launch<'_> {
    /// Runs the kernel wherever it can run; `check` gets the buffers as it left them, in their
    /// order, and panics where they are wrong.
    fn check(&self, check: impl Fn(&[Vec<u8>])) {
        if let Some(first) = emulation::run(self, 0) {
            check(&first);
            // Another order of the threads: what depends on it lacks a barrier.
            let seed = RandomNumbers::fresh().0 as u32 | 1;
            let second = emulation::run(self, seed);
            assert!(
                second == Some(first),
                "{} depends on the order of threads {seed}",
                self.kernel
            );
        }
        if let Some(buffers) = device::run(self) {
            check(&buffers);
        }
    }
}

/// Inputs that differ from run to run.
struct RandomNumbers(u64);

impl RandomNumbers {
    fn fresh() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self(RandomState::new().hash_one("inputs"))
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ bits >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// About normal, with this deviation.
    fn number(&mut self, deviation: f32) -> f32 {
        let twelve: f64 = (0..12).map(|_| self.next() as f64 / u64::MAX as f64).sum();
        (twelve - 6.0) as f32 * deviation
    }

    fn numbers(&mut self, count: usize, deviation: f32) -> Vec<f32> {
        (0..count).map(|_| self.number(deviation)).collect()
    }

    fn halves(&mut self, count: usize, deviation: f32) -> Vec<u16> {
        let numbers = self.numbers(count, deviation);
        numbers.into_iter().map(crate::model::f32_to_bf16).collect()
    }

    /// The numbers below `count`, shuffled.
    fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for at in (1..count).rev() {
            order.swap(at, self.below(at + 1));
        }
        order
    }
}

fn floats(numbers: &[f32]) -> Argument {
    Argument::Buffer(numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
}

fn halves(numbers: &[u16]) -> Argument {
    Argument::Buffer(numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
}

fn ints(numbers: &[usize]) -> Argument {
    let ints = numbers.iter().map(|number| *number as i32);
    Argument::Buffer(ints.flat_map(i32::to_le_bytes).collect())
}

/// A buffer whose numbers are not numbers, in either width.
fn poison(bytes: usize) -> Argument {
    Argument::Buffer(vec![0xff; bytes])
}

fn as_floats(bytes: &[u8]) -> Vec<f32> {
    let (numbers, _) = bytes.as_chunks();
    numbers
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

fn as_halves(bytes: &[u8]) -> Vec<u16> {
    let (numbers, _) = bytes.as_chunks();
    numbers
        .iter()
        .map(|bytes| u16::from_le_bytes(*bytes))
        .collect()
}

fn widened(halves: &[u16]) -> Vec<f64> {
    halves
        .iter()
        .map(|bits| f64::from(bf16_to_f32(*bits)))
        .collect()
}

/// Found numbers are within `relative` of the expected ones, or within `absolute`.
fn assert_close(
    found: impl IntoIterator<Item = f64>,
    expected: &[f64],
    (relative, absolute): (f64, f64),
    what: &str,
) {
    let mut count = 0;
    for (at, (found, expected)) in found.into_iter().zip(expected).enumerate() {
        let most = relative * expected.abs() + absolute;
        assert!(
            (found - expected).abs() <= most,
            "{what}: number {at} is {found}, expected {expected} within {most}"
        );
        count += 1;
    }
    assert_eq!(count, expected.len(), "{what}: numbers are missing");
}

/// What rounding to bf16 changes.
const BF16: f64 = 1.0 / 256.0;
