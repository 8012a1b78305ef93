//! What is computed number by number between the products.

use super::lanes::{LANES, Lanes, Work, exp, padded};

/// RMSNorm (Zhang and Sennrich, 2019, <https://arxiv.org/abs/1910.07467>) of one row.
pub(super) struct RmsNorm<'a> {
    pub(super) row: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) eps: f32,
    pub(super) out: &'a mut [f32],
}

impl Work for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let scale = scale_of::<L>(self.row, self.eps);
        zip(Scaled(L::splat(scale)), self.row, self.weight, self.out);
    }
}

#[derive(Clone, Copy)]
struct Scaled<L>(L);

impl<L: Lanes> Pairwise<L> for Scaled<L> {
    #[inline(always)]
    fn of(self, x: L, weight: L) -> L {
        x.mul(self.0).mul(weight)
    }
}

#[inline(always)]
fn scale_of<L: Lanes>(row: &[f32], eps: f32) -> f32 {
    let (whole, rest) = row.as_chunks::<LANES>();
    let mut squares = L::splat(0.0);
    for x in whole {
        let x = L::load(x);
        squares = x.mul_add(x, squares);
    }
    let rest = L::load(&padded(rest));
    let squares = rest.mul_add(rest, squares).sum();
    (squares / row.len() as f32 + eps).sqrt().recip()
}

/// `out = silu(gate) * up`.
pub(super) struct Gate<'a> {
    pub(super) gate: &'a [f32],
    pub(super) up: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Work for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        zip::<L, _>(Gated, self.gate, self.up, self.out);
    }
}

#[derive(Clone, Copy)]
struct Gated;

impl<L: Lanes> Pairwise<L> for Gated {
    #[inline(always)]
    fn of(self, gate: L, up: L) -> L {
        let one = L::splat(1.0);
        gate.div(exp(gate.mul(L::splat(-1.0))).add(one)).mul(up)
    }
}

/// Norms, where the model has them, and turns the heads of one row in place.
pub(super) struct Heads<'a> {
    pub(super) heads: &'a mut [f32],
    pub(super) norm: Option<&'a [f32]>,
    pub(super) eps: f32,
    /// Of each pair of a head's components, as [`Rope`](super::rope::Rope) wrote them.
    pub(super) cosines: &'a [f32],
    pub(super) sines: &'a [f32],
}

impl Work for Heads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        for head in self.heads.chunks_exact_mut(2 * self.cosines.len()) {
            if let Some(norm) = self.norm {
                let scale = scale_of::<L>(head, self.eps);
                for (x, weight) in head.iter_mut().zip(norm) {
                    *x = *x * scale * weight;
                }
            }
            rotate::<L>(head, self.cosines, self.sines);
        }
    }
}

#[inline(always)]
fn rotate<L: Lanes>(head: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let (low, high) = head.split_at_mut(cosines.len());
    let pairs = low.chunks_mut(LANES).zip(high.chunks_mut(LANES));
    let turns = cosines.chunks(LANES).zip(sines.chunks(LANES));
    for ((low, high), (cos, sin)) in pairs.zip(turns) {
        let (a, b) = (L::load(&padded(low)), L::load(&padded(high)));
        let (cos, sin) = (L::load(&padded(cos)), L::load(&padded(sin)));
        let minus_sin = sin.mul(L::splat(-1.0));
        let (mut first, mut second) = ([0.0; LANES], [0.0; LANES]);
        b.mul_add(minus_sin, a.mul(cos)).store(&mut first);
        a.mul_add(sin, b.mul(cos)).store(&mut second);
        low.copy_from_slice(&first[..low.len()]);
        high.copy_from_slice(&second[..high.len()]);
    }
}

/// Makes one number of two. (A closure would not be compiled for the kernel.)
trait Pairwise<L>: Copy {
    fn of(self, a: L, b: L) -> L;
}

#[inline(always)]
fn zip<L: Lanes, P: Pairwise<L>>(operation: P, a: &[f32], b: &[f32], out: &mut [f32]) {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let (out, out_rest) = out.as_chunks_mut::<LANES>();
    for ((a, b), out) in a.iter().zip(b).zip(out) {
        operation.of(L::load(a), L::load(b)).store(out);
    }
    if !out_rest.is_empty() {
        let mut last = [0.0; LANES];
        let (a, b) = (L::load(&padded(a_rest)), L::load(&padded(b_rest)));
        operation.of(a, b).store(&mut last);
        out_rest.copy_from_slice(&last[..out_rest.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Kernel;
    use super::*;

    fn close(found: &[f32], exact: impl Iterator<Item = f64>, kernel: Kernel) {
        for (found, exact) in found.iter().zip(exact) {
            let error = (f64::from(*found) - exact).abs();
            assert!(
                error <= 1e-6 * exact.abs().max(1.0),
                "{kernel:?}: {found} {exact}"
            );
        }
    }

    #[test]
    fn every_kernel_agrees_with_double_precision() {
        for count in [5, 16, 83] {
            let numbers = |step: f32| -> Vec<f32> {
                (0..count).map(|i| (i as f32 * step).sin() * 9.0).collect()
            };
            let (a, b) = (numbers(0.7), numbers(0.3));
            for kernel in Kernel::available() {
                let mut out = vec![0.0; count];
                let squares: f64 = a.iter().map(|x| f64::from(*x).powi(2)).sum();
                let scale = (squares / count as f64 + 1e-5).sqrt().recip();
                kernel.run(RmsNorm {
                    row: &a,
                    weight: &b,
                    eps: 1e-5,
                    out: &mut out,
                });
                let products = a.iter().zip(&b);
                let normed = products.map(|(a, b)| f64::from(*a) * scale * f64::from(*b));
                close(&out, normed, kernel);

                kernel.run(Gate {
                    gate: &a,
                    up: &b,
                    out: &mut out,
                });
                let gated = a.iter().zip(&b).map(|(gate, up)| {
                    let gate = f64::from(*gate);
                    gate / (1.0 + (-gate).exp()) * f64::from(*up)
                });
                close(&out, gated, kernel);
            }
        }
    }

    #[test]
    fn a_turn_keeps_lengths() {
        for kernel in Kernel::available() {
            let mut head = [1.0, 2.0, 3.0, 4.0];
            let (sines, cosines): (Vec<f32>, Vec<f32>) =
                [1.0f32, 0.1].iter().map(|angle| angle.sin_cos()).unzip();
            kernel.run(Heads {
                heads: &mut head,
                norm: None,
                eps: 0.0,
                cosines: &cosines,
                sines: &sines,
            });
            let first = 1.0f64.cos() - 3.0 * 1.0f64.sin();
            close(&head[..1], std::iter::once(first), kernel);
            assert!((head[0].hypot(head[2]) - 10f32.sqrt()).abs() < 1e-6);
            assert!((head[1].hypot(head[3]) - 20f32.sqrt()).abs() < 1e-6);
        }
    }
}
