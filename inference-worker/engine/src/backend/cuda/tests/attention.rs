use super::super::kernels::{ATTENTION, SPLIT, WARPS_THREADS};
use super::super::plan;
use super::rotate::{SHAPES, key_place, value_place};
use super::*;
use crate::kv::BLOCK;

/// Groups of 1, 7 and 16 heads beside those of the other tests.
const MORE: [Shape; 1] = [Shape {
    head_dim: 128,
    q_heads: 16,
    kv_heads: 1,
    qk_norm: false,
}];

/// Sequences and their keys and values, in shuffled blocks of memory whose unwritten places are
/// poisoned.
struct Memory {
    shape: Shape,
    keys: Vec<u16>,
    values: Vec<u16>,
    /// Of all sequences, one after the other.
    blocks: Vec<usize>,
    tables: Vec<usize>,
    /// `[sequence][position][kv]`
    known: Vec<[Vec<f64>; 2]>,
}

impl Memory {
    fn new(random: &mut RandomNumbers, shape: Shape, lengths: &[usize]) -> Self {
        let needed: Vec<usize> = lengths.iter().map(|l| l.div_ceil(BLOCK)).collect();
        let all: usize = needed.iter().sum::<usize>() + 2;
        let poisoned = vec![u16::MAX; all * BLOCK * shape.kv()];
        let mut memory = Self {
            shape,
            keys: poisoned.clone(),
            values: poisoned,
            blocks: random.order(all),
            tables: Vec::new(),
            known: Vec::new(),
        };
        let mut table = 0;
        for (length, needed) in lengths.iter().zip(needed) {
            let both = [(); 2].map(|()| random.halves(length * shape.kv(), 1.0));
            memory.remember(table, &both);
            memory.known.push(both.map(|halves| widened(&halves)));
            memory.tables.push(table);
            table += needed;
        }
        memory
    }

    fn remember(&mut self, table: usize, [keys, values]: &[Vec<u16>; 2]) {
        let (shape, dim) = (self.shape, self.shape.head_dim);
        for (at, (key, value)) in keys.iter().zip(values).enumerate() {
            let (position, head, component) = (at / shape.kv(), at % shape.kv() / dim, at % dim);
            let block = self.blocks[table + position / BLOCK];
            let start = (block * shape.kv_heads + head) * BLOCK * dim;
            let within = position % BLOCK;
            self.keys[start + key_place(shape, within, component)] = *key;
            self.values[start + value_place(within, component)] = *value;
        }
    }

    /// What the query of `head` sees of the first `positions` of a sequence.
    fn expected(&self, sequence: usize, head: usize, query: &[f64], positions: usize) -> Vec<f64> {
        let dim = self.shape.head_dim;
        let [keys, values] = &self.known[sequence];
        let place = |position| position * self.shape.kv() + head / self.shape.group() * dim;
        let scores: Vec<f64> = (0..positions)
            .map(|position| {
                let key = &keys[place(position)..][..dim];
                query.iter().zip(key).map(|(q, k)| q * k).sum()
            })
            .collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp2()).collect();
        let total: f64 = weights.iter().sum();
        let mut out = vec![0.0; dim];
        for (position, weight) in weights.iter().enumerate() {
            for (out, value) in out.iter_mut().zip(&values[place(position)..]) {
                *out += weight / total * value;
            }
        }
        out
    }
}

/// Weights are rounded to bf16 before they meet the values, which are about 1.
const CLOSE: (f64, f64) = (BF16, 2.0 * BF16);

#[test]
fn one_query_sees_all_positions_in_parts() {
    for shape in SHAPES.into_iter().chain(MORE) {
        check_decode(shape);
    }
}

fn check_decode(shape: Shape) {
    let mut random = RandomNumbers::fresh();
    let lengths = [1, 15, 16, 17, SPLIT - 1, SPLIT, SPLIT + 1, 300];
    let memory = Memory::new(&mut random, shape, &lengths);
    let (runs, dim, q) = (lengths.len() + 1, shape.head_dim, shape.q());
    // The last run only fills a bucket.
    let all_lengths: Vec<usize> = lengths.into_iter().chain([0]).collect();
    let tables: Vec<usize> = memory.tables.iter().copied().chain([0]).collect();
    let rows = random.order(runs);
    let queries = random.halves(runs * q, 0.3);
    let parts = all_lengths.iter().map(|length| length.div_ceil(SPLIT));
    let mut firsts: Vec<usize> = Vec::new();
    let all_parts = parts.fold(0, |first, parts| {
        firsts.push(first);
        first + parts
    });
    let places = all_parts * shape.q_heads;
    let launch = |kernel, grid, threads, arguments| Launch {
        source: ATTENTION,
        shape,
        kernel,
        grid,
        threads,
        arguments,
    };
    let first = launch(
        "attend_decode",
        [shape.kv_heads, runs, 300usize.div_ceil(SPLIT) + 1],
        WARPS_THREADS,
        vec![
            poison(places * dim * 4),
            poison(places * 2 * 4),
            halves(&queries),
            halves(&memory.keys),
            halves(&memory.values),
            ints(&rows),
            ints(&all_lengths),
            ints(&tables),
            ints(&firsts),
            ints(&memory.blocks),
        ],
    );
    let mut expected = vec![f64::NAN; runs * q];
    let wide = widened(&queries);
    for (run, length) in lengths.into_iter().enumerate() {
        for head in 0..shape.q_heads {
            let start = rows[run] * q + head * dim;
            let out = memory.expected(run, head, &wide[start..][..dim], length);
            expected[start..][..dim].copy_from_slice(&out);
        }
    }
    first.check(|buffers| {
        let second = launch(
            "combine",
            [shape.q_heads, runs, 1],
            dim as u32,
            vec![
                poison(runs * q * 2),
                Argument::Buffer(buffers[0].clone()),
                Argument::Buffer(buffers[1].clone()),
                ints(&rows),
                ints(&all_lengths),
                ints(&firsts),
            ],
        );
        second.check(|buffers| {
            let found = widened(&as_halves(&buffers[0]));
            assert_written(&found, &expected, shape);
        });
    });
}

/// What is not expected was not written.
fn assert_written(found: &[f64], expected: &[f64], shape: Shape) {
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = (found - expected).abs() <= CLOSE.0 * expected.abs() + CLOSE.1;
        assert!(
            close || found.is_nan() && expected.is_nan(),
            "{shape:?}: number {at} is {found}, expected {expected}"
        );
    }
}

#[test]
fn queries_of_a_prompt_see_what_is_before_them() {
    for shape in SHAPES.into_iter().chain(MORE) {
        check_prompt(shape);
    }
}

fn check_prompt(shape: Shape) {
    let mut random = RandomNumbers::fresh();
    // Of each run: positions that are there, and ids.
    let runs = [(0, 2), (0, 33), (16, 16), (45, 20), (130, 3)];
    let lengths = runs.map(|(from, ids)| from + ids);
    let memory = Memory::new(&mut random, shape, &lengths);
    let (dim, q) = (shape.head_dim, shape.q());
    let rows: usize = runs.iter().map(|(_, ids)| ids).sum();
    // A row before and one behind belong to others.
    let queries = random.halves((rows + 2) * q, 0.3);
    let wide = widened(&queries);
    let mut expected = vec![f64::NAN; (rows + 2) * q];
    let (mut tiles, mut first) = (Vec::new(), 1);
    for (run, (from, ids)) in runs.into_iter().enumerate() {
        for at in 0..ids {
            for head in 0..shape.q_heads {
                let start = (first + at) * q + head * dim;
                let out = memory.expected(run, head, &wide[start..][..dim], from + at + 1);
                expected[start..][..dim].copy_from_slice(&out);
            }
        }
        for queries in plan::tiles(shape, ids) {
            tiles.extend([memory.tables[run], first, from, queries.start, queries.end]);
        }
        first += ids;
    }
    Launch {
        source: ATTENTION,
        shape,
        kernel: "attend_prompt",
        grid: [tiles.len() / 5, shape.kv_heads, 1],
        threads: WARPS_THREADS,
        arguments: vec![
            poison((rows + 2) * q * 2),
            halves(&queries),
            halves(&memory.keys),
            halves(&memory.values),
            ints(&tiles),
            ints(&memory.blocks),
        ],
    }
    .check(|buffers| {
        let found = widened(&as_halves(&buffers[0]));
        assert_written(&found, &expected, shape);
    });
}
