//! Attention of a few queries over the positions cached so far.
//!
//! Queries that read the same keys and values are computed together: the heads of a group, and the
//! ids of a prompt. What comes out for one does not depend on the others.

use std::cell::RefCell;

use super::kv_memory::{KvMemory, Pages};
use super::lanes::{LANES, Lanes, Work, exp};
use crate::kv::BLOCK;

/// Queries in a task.
pub(super) const TOGETHER: usize = 4;

/// Registers of each query's sums.
const WIDTH: usize = 2;

const _: () = assert!(BLOCK == LANES, "the scores of a block fill the lanes");

thread_local! {
    /// The scores of a task's queries; as many numbers as the longest context has positions, for
    /// each.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// One query.
pub(super) struct Query<'a> {
    /// `[head_dim]`.
    pub(super) numbers: &'a [f32],
    /// Positions that it sees.
    pub(super) positions: usize,
    /// `[head_dim]`.
    pub(super) out: &'a mut [f32],
}

/// `out = softmax(query · keys * scale) · values` for each query.
pub(super) struct Attention<'a, 'q> {
    pub(super) memory: &'a KvMemory,
    pub(super) pages: Pages<'a>,
    pub(super) scale: f32,
    /// At most [`TOGETHER`], each of at least one position.
    pub(super) queries: &'a mut [Query<'q>],
}

impl Work for Attention<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        // Taken out, since a closure would not be compiled for the kernel.
        let mut scores = SCORES.take();
        let (memory, pages, scale) = (self.memory, self.pages, self.scale);
        for queries in self.queries.chunks_mut(L::QUERIES) {
            match queries.len() {
                4 => attend::<L, 4>(memory, pages, scale, queries, &mut scores),
                3 => attend::<L, 3>(memory, pages, scale, queries, &mut scores),
                2 => attend::<L, 2>(memory, pages, scale, queries, &mut scores),
                _ => attend::<L, 1>(memory, pages, scale, queries, &mut scores),
            }
        }
        SCORES.set(scores);
    }
}

#[inline(always)]
fn attend<L: Lanes, const QUERIES: usize>(
    memory: &KvMemory,
    pages: Pages<'_>,
    scale: f32,
    queries: &mut [Query<'_>],
    scores: &mut Vec<f32>,
) {
    if QUERIES > L::QUERIES {
        return;
    }
    let longest = queries.iter().map(|q| q.positions).max().unwrap_or(0);
    let blocks = longest.div_ceil(BLOCK);
    scores.resize(QUERIES * blocks * BLOCK, 0.0);
    for block in 0..blocks {
        let keys = memory.keys(pages, block);
        let found = score::<L, QUERIES>(keys, queries);
        for (at, found) in found.into_iter().enumerate() {
            let to = &mut scores[(at * blocks + block) * BLOCK..].as_chunks_mut().0[0];
            found.mul(L::splat(scale)).store(to);
        }
    }
    let mut sums = [0.0; QUERIES];
    for ((scores, query), sum) in scores
        .chunks_exact_mut(blocks * BLOCK)
        .zip(&*queries)
        .zip(&mut sums)
    {
        let seen = query.positions.next_multiple_of(BLOCK);
        scores[query.positions..seen].fill(f32::NEG_INFINITY);
        *sum = softmax::<L>(scores[..seen].as_chunks_mut().0);
    }
    let head_dim = queries[0].out.len();
    for first in (0..head_dim).step_by(WIDTH * LANES) {
        let found = combine::<L, QUERIES>(memory, pages, first, queries, scores);
        for ((query, found), sum) in queries.iter_mut().zip(found).zip(sums) {
            for (out, found) in query.out[first..].chunks_mut(LANES).zip(found) {
                let mut numbers = [0.0; LANES];
                found.div(L::splat(sum)).store(&mut numbers);
                out.copy_from_slice(&numbers[..out.len()]);
            }
        }
    }
}

/// Each query times the sixteen keys of a block, which lie component by component. Even and odd
/// components are added apart, and then together.
#[inline(always)]
fn score<L: Lanes, const QUERIES: usize>(
    keys: &[[f32; BLOCK]],
    queries: &[Query<'_>],
) -> [L; QUERIES] {
    let mut even = [L::splat(0.0); QUERIES];
    let mut odd = [L::splat(0.0); QUERIES];
    let mut numbers = [&[][..]; QUERIES];
    for (numbers, query) in numbers.iter_mut().zip(queries) {
        *numbers = &query.numbers[..keys.len()];
    }
    for (pair, [first, second]) in keys.as_chunks().0.iter().enumerate() {
        let (first, second) = (L::load(first), L::load(second));
        for at in 0..QUERIES {
            let numbers = &numbers[at][2 * pair..][..2];
            even[at] = first.mul_add(L::splat(numbers[0]), even[at]);
            odd[at] = second.mul_add(L::splat(numbers[1]), odd[at]);
        }
    }
    for at in 0..QUERIES {
        even[at] = even[at].add(odd[at]);
    }
    even
}

/// Turns scores into weights, the largest 1, and adds them up.
#[inline(always)]
fn softmax<L: Lanes>(scores: &mut [[f32; BLOCK]]) -> f32 {
    let mut highest = L::splat(f32::NEG_INFINITY);
    for block in &*scores {
        highest = highest.max(L::load(block));
    }
    let offset = L::splat(-highest.highest());
    let mut sum = L::splat(0.0);
    for block in scores {
        let weights = exp(L::load(block).add(offset));
        sum = sum.add(weights);
        weights.store(block);
    }
    sum.sum()
}

/// The weighted values from component `first` on.
#[inline(always)]
fn combine<L: Lanes, const QUERIES: usize>(
    memory: &KvMemory,
    pages: Pages<'_>,
    first: usize,
    queries: &[Query<'_>],
    weights: &[f32],
) -> [[L; WIDTH]; QUERIES] {
    let each = weights.len() / QUERIES;
    let mut of_each = [&[][..]; QUERIES];
    for ((of_each, query), weights) in of_each.iter_mut().zip(queries).zip(weights.chunks(each)) {
        *of_each = &weights[..query.positions];
    }
    let weights = of_each;
    let common = queries.iter().map(|q| q.positions).min().unwrap_or(0);
    let mut sums = [[L::splat(0.0); WIDTH]; QUERIES];
    for block in 0..common.div_ceil(BLOCK) {
        let values = memory.values(pages, block, first);
        let start = block * BLOCK;
        for within in 0..BLOCK.min(common - start) {
            for (part, value) in values.at(within).iter().enumerate().take(WIDTH) {
                let value = L::load(value);
                for at in 0..QUERIES {
                    let weight = L::splat(weights[at][start + within]);
                    sums[at][part] = value.mul_add(weight, sums[at][part]);
                }
            }
        }
    }
    // What only some of them see.
    for at in 0..QUERIES {
        for (position, weight) in weights[at].iter().enumerate().skip(common) {
            let values = memory.values(pages, position / BLOCK, first);
            let weight = L::splat(*weight);
            for (part, value) in values.at(position % BLOCK).iter().enumerate().take(WIDTH) {
                sums[at][part] = L::load(value).mul_add(weight, sums[at][part]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Kernel;
    use super::*;
    use crate::kv::Block;

    /// Repeatable, within two of zero.
    fn wave(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin() * 2.0).collect()
    }

    fn exact(query: &[f32], keys: &[f32], values: &[f32], scale: f64) -> Vec<f64> {
        let head_dim = query.len();
        let weights: Vec<f64> = keys
            .chunks_exact(head_dim)
            .map(|key| {
                let products = key.iter().zip(query);
                let score: f64 = products.map(|(k, q)| f64::from(*k) * f64::from(*q)).sum();
                (score * scale).exp()
            })
            .collect();
        let sum: f64 = weights.iter().sum();
        let component = |i: usize| {
            let values = values.chunks_exact(head_dim);
            let products = weights.iter().zip(values);
            products.map(|(w, v)| w * f64::from(v[i]) / sum).sum()
        };
        (0..head_dim).map(component).collect()
    }

    #[test]
    fn every_kernel_gives_the_softmax_over_all_positions_alone_and_together() {
        for head_dim in [12, 64, 80] {
            let (positions, heads, head) = (2 * BLOCK + 5, 2, 1);
            let blocks = [Block(3), Block(0), Block(2)];
            let keys = wave(positions * head_dim, 0.37);
            let values = wave(positions * head_dim, 0.11);
            let mut memory = KvMemory::of_shape(1, heads, head_dim, 4).expect("memory");
            for position in 0..positions {
                let of_all_heads = |numbers: &[f32]| {
                    [
                        &vec![f32::NAN; head_dim],
                        &numbers[position * head_dim..][..head_dim],
                    ]
                    .concat()
                };
                let (keys, values) = (of_all_heads(&keys), of_all_heads(&values));
                memory.write(0, &blocks, position, &keys, &values);
            }
            let queries: Vec<Vec<f32>> = (0..4)
                .map(|at| wave(head_dim, 0.7 + at as f32 * 0.1))
                .collect();
            let seen = [positions, 1, 17, positions - 1];
            for kernel in Kernel::available() {
                let attend = |group: &[usize]| -> Vec<Vec<f32>> {
                    let mut outs = vec![vec![0.0; head_dim]; group.len()];
                    let mut all: Vec<Query<'_>> = group
                        .iter()
                        .zip(&mut outs)
                        .map(|(at, out)| Query {
                            numbers: &queries[*at],
                            positions: seen[*at],
                            out,
                        })
                        .collect();
                    kernel.run(Attention {
                        memory: &memory,
                        pages: Pages {
                            layer: 0,
                            head,
                            blocks: &blocks,
                        },
                        scale: 0.5,
                        queries: &mut all,
                    });
                    drop(all);
                    outs
                };
                let together = attend(&[0, 1, 2, 3]);
                for at in 0..4 {
                    assert!(attend(&[at])[0] == together[at], "{kernel:?} {at}");
                    let length = seen[at] * head_dim;
                    let exact = exact(&queries[at], &keys[..length], &values[..length], 0.5);
                    for (out, exact) in together[at].iter().zip(exact) {
                        let error = (f64::from(*out) - exact).abs();
                        assert!(error < 1e-5, "{kernel:?} {head_dim} {at}: {out} {exact}");
                    }
                }
            }
        }
    }
}
