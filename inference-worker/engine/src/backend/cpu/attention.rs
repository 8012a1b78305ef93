//! Attention of one query head over the positions cached so far.

use crate::kv::BLOCK;

/// `out = softmax(query · keys * scale) · values`.
///
/// `query` and `out` are `[head_dim]`; `pages` are the keys and values of at least one position,
/// `[positions, head_dim]` each, and of [`BLOCK`] positions in all but the last. The softmax is
/// corrected between them (Milakov and Gimelshein, 2018, <https://arxiv.org/abs/1805.02867>), so
/// that no buffer grows with the context. With AVX2 found, the same loops run on wider
/// instructions.
pub(super) fn attend<'a>(
    kernel: super::matmul::Kernel,
    query: &[f32],
    pages: impl Iterator<Item = (&'a [f32], &'a [f32])>,
    scale: f32,
    out: &mut [f32],
) {
    match kernel {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this kernel exists only where the features were found.
        super::matmul::Kernel::Avx2 => unsafe { attend_avx2(query, pages, scale, out) },
        super::matmul::Kernel::Portable => blocks(query, pages, scale, out),
    }
}

/// # Safety
/// AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn attend_avx2<'a>(
    query: &[f32],
    pages: impl Iterator<Item = (&'a [f32], &'a [f32])>,
    scale: f32,
    out: &mut [f32],
) {
    blocks(query, pages, scale, out);
}

#[inline(always)]
fn blocks<'a>(
    query: &[f32],
    pages: impl Iterator<Item = (&'a [f32], &'a [f32])>,
    scale: f32,
    out: &mut [f32],
) {
    let head_dim = query.len();
    out.fill(0.0);
    let (mut highest, mut sum) = (f32::NEG_INFINITY, 0.0);
    for (keys, values) in pages {
        let mut scores = [0.0; BLOCK];
        let scores = &mut scores[..keys.len() / head_dim];
        for (score, key) in scores.iter_mut().zip(keys.chunks_exact(head_dim)) {
            *score = dot(query, key) * scale;
        }
        let before = highest;
        highest = scores.iter().copied().fold(highest, f32::max);
        let correction = (before - highest).exp();
        sum *= correction;
        out.iter_mut().for_each(|o| *o *= correction);
        for (score, value) in scores.iter().zip(values.chunks_exact(head_dim)) {
            let weight = (score - highest).exp();
            sum += weight;
            out.iter_mut()
                .zip(value)
                .for_each(|(o, v)| *o += weight * v);
        }
    }
    out.iter_mut().for_each(|o| *o /= sum);
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut lanes = [0.0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::super::matmul::Kernel;
    use super::*;

    #[test]
    fn pages_give_the_softmax_over_all_positions() {
        let (head_dim, positions) = (12, 2 * BLOCK + 5);
        let wave = |count: usize, step: f32| -> Vec<f32> {
            (0..count).map(|i| (i as f32 * step).sin() * 2.0).collect()
        };
        let query = wave(head_dim, 0.7);
        let (keys, values) = (
            wave(positions * head_dim, 0.37),
            wave(positions * head_dim, 0.11),
        );
        let weights: Vec<f64> = keys
            .chunks_exact(head_dim)
            .map(|key| {
                let score: f64 = key
                    .iter()
                    .zip(&query)
                    .map(|(k, q)| f64::from(*k) * f64::from(*q))
                    .sum();
                (score * 0.5).exp()
            })
            .collect();
        let sum: f64 = weights.iter().sum();
        for kernel in [Kernel::detect(), Kernel::Portable] {
            let mut out = vec![0.0; head_dim];
            let pages = keys
                .chunks(BLOCK * head_dim)
                .zip(values.chunks(BLOCK * head_dim));
            attend(kernel, &query, pages, 0.5, &mut out);
            for (i, out) in out.iter().enumerate() {
                let exact: f64 = weights
                    .iter()
                    .zip(values.chunks_exact(head_dim))
                    .map(|(weight, value)| weight * f64::from(value[i]) / sum)
                    .sum();
                assert!(
                    (f64::from(*out) - exact).abs() < 1e-5,
                    "{kernel:?}: {out} {exact}"
                );
            }
        }
    }
}
