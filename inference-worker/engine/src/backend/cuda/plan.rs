//! What a step tells the device: which row has which id and position, where keys and values go, and
//! which blocks each run reads. One array of integers with fixed places, so that a recorded graph
//! finds them where they were when it was recorded.

use std::ops::Range;

use super::kernels::{SPLIT, Shape, TILE_ROWS};
use crate::backend::Run;
use crate::error::Error;
use crate::kv::BLOCK;

/// How many there may be in a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Ids of all runs.
    pub(super) rows: usize,
    /// Runs that want scores.
    pub(super) wanted: usize,
    /// Blocks of all runs; those that several share count for each.
    pub(super) blocks: usize,
    /// Tiles of prompts.
    pub(super) tiles: usize,
    /// Parts of the positions that runs with one id see.
    pub(super) parts: usize,
}

impl Limits {
    /// For `rows` ids of at most as many runs with `blocks_of_run` blocks each.
    pub(super) fn new(shape: Shape, rows: usize, runs: usize, blocks_of_run: usize) -> Self {
        Self {
            rows,
            wanted: runs,
            blocks: runs * blocks_of_run,
            // Each run has at most one tile that is not full.
            tiles: (rows * shape.group()).div_ceil(TILE_ROWS) + runs,
            parts: runs * (blocks_of_run * BLOCK).div_ceil(SPLIT),
        }
    }
}

/// Numbers of a tile: `struct Tile` in attention.cu.
const TILE: usize = 5;

/// Where the integers lie.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// Of each row.
    Ids,
    Positions,
    Places,
    /// Rows whose scores are wanted.
    Wanted,
    /// Of each run with one id: its row, its positions, the beginning of its blocks and of the
    /// parts in which its positions are seen.
    Rows,
    Lengths,
    Tables,
    Firsts,
    /// Of each run that wants scores, as the bits of an f32.
    Temperatures,
    Tiles,
    Blocks,
}

/// One step.
#[derive(Debug, Default)]
pub(super) struct Plan {
    numbers: Vec<i32>,
    /// Rows that are computed, those that only fill a bucket included.
    pub(super) rows: usize,
    /// Scores that are computed.
    pub(super) wanted: usize,
    /// Runs with one id.
    pub(super) singles: usize,
    /// The most positions that one of them has.
    pub(super) longest: usize,
    parts: usize,
    pub(super) tiles: usize,
    /// Whether each run has one id and wants scores.
    pub(super) decoding: bool,
}

impl Part {
    /// Where it begins, in numbers.
    pub(super) fn start(self, limits: &Limits) -> usize {
        match self {
            Self::Ids => 0,
            Self::Positions => limits.rows,
            Self::Places => 2 * limits.rows,
            Self::Wanted => 3 * limits.rows,
            Self::Rows => 4 * limits.rows,
            Self::Lengths => 5 * limits.rows,
            Self::Tables => 6 * limits.rows,
            Self::Firsts => 7 * limits.rows,
            Self::Temperatures => 8 * limits.rows,
            Self::Tiles => 9 * limits.rows,
            Self::Blocks => 9 * limits.rows + TILE * limits.tiles,
        }
    }

    /// Numbers of all parts.
    pub(super) fn all(limits: &Limits) -> usize {
        Self::Blocks.start(limits) + limits.blocks
    }
}

impl Plan {
    /// Fills the plan with the runs. Where each has one id and wants scores, rows are added up to
    /// the next of `buckets`.
    ///
    /// # Errors
    /// [`Error::Backend`] when there are more than the limits allow.
    pub(super) fn set(
        &mut self,
        limits: &Limits,
        shape: Shape,
        runs: &[Run<'_>],
        buckets: &[usize],
    ) -> Result<(), Error> {
        let rows: usize = runs.iter().map(|run| run.ids.len()).sum();
        let decoding = runs.iter().all(|run| run.ids.len() == 1 && run.logits);
        let bucket = buckets.iter().copied().find(|bucket| *bucket >= rows);
        let filled = bucket.filter(|_| decoding).unwrap_or(rows);
        let wanted = match decoding {
            true => filled,
            false => runs.iter().filter(|run| run.logits).count(),
        };
        let blocks: usize = runs.iter().map(|run| needed(run)).sum();
        for (what, count, limit) in [
            ("ids", filled, limits.rows),
            ("scores", wanted, limits.wanted),
            ("blocks", blocks, limits.blocks),
        ] {
            if count > limit {
                let reason = format!("a step of {count} {what}, at most {limit} are expected");
                return Err(Error::Backend(reason));
            }
        }
        self.numbers.clear();
        self.numbers.resize(Part::Blocks.start(limits), 0);
        (self.rows, self.wanted, self.singles) = (filled, 0, 0);
        (self.tiles, self.longest, self.parts) = (0, 0, 0);
        self.decoding = decoding;
        let mut row = 0;
        for run in runs {
            self.add(limits, shape, run, row);
            row += run.ids.len();
        }
        // They compute something that nobody reads, from position 0, and write nothing.
        for filler in rows..filled {
            self.put(limits, Part::Places, filler, -1);
            self.put(limits, Part::Wanted, filler, filler as i32);
            self.put(limits, Part::Rows, filler, filler as i32);
        }
        if decoding {
            (self.wanted, self.singles) = (filled, filled);
        }
        Ok(())
    }

    /// Says how the scores that are wanted will be summarised.
    pub(super) fn set_temperatures(&mut self, limits: &Limits, temperatures: &[f32]) {
        for (at, temperature) in temperatures.iter().take(limits.rows).enumerate() {
            let bits = temperature.to_bits().cast_signed();
            self.put(limits, Part::Temperatures, at, bits);
        }
    }

    /// What is copied to the device.
    pub(super) fn numbers(&self) -> &[i32] {
        &self.numbers
    }

    fn put(&mut self, limits: &Limits, part: Part, at: usize, number: i32) {
        self.numbers[part.start(limits) + at] = number;
    }

    fn add(&mut self, limits: &Limits, shape: Shape, run: &Run<'_>, first: usize) {
        let table = self.numbers.len() - Part::Blocks.start(limits);
        let blocks = run.blocks[..needed(run)].iter();
        self.numbers.extend(blocks.map(|block| block.0 as i32));
        for (at, id) in run.ids.iter().enumerate() {
            let position = run.from + at;
            let block = run.blocks[position / BLOCK].0 as usize;
            let place = block * BLOCK + position % BLOCK;
            self.put(limits, Part::Ids, first + at, *id as i32);
            self.put(limits, Part::Positions, first + at, position as i32);
            self.put(limits, Part::Places, first + at, place as i32);
        }
        if run.logits {
            let last = first + run.ids.len() - 1;
            self.put(limits, Part::Wanted, self.wanted, last as i32);
            self.wanted += 1;
        }
        if run.ids.len() == 1 {
            let length = run.from + 1;
            self.put(limits, Part::Rows, self.singles, first as i32);
            self.put(limits, Part::Lengths, self.singles, length as i32);
            self.put(limits, Part::Tables, self.singles, table as i32);
            self.put(limits, Part::Firsts, self.singles, self.parts as i32);
            self.singles += 1;
            self.parts += length.div_ceil(SPLIT);
            self.longest = self.longest.max(length);
            return;
        }
        for queries in tiles(shape, run.ids.len()) {
            let tile = [table, first, run.from, queries.start, queries.end];
            for (at, number) in tile.into_iter().enumerate() {
                self.put(limits, Part::Tiles, self.tiles * TILE + at, number as i32);
            }
            self.tiles += 1;
        }
    }
}

/// Blocks that a run reads or writes.
fn needed(run: &Run<'_>) -> usize {
    (run.from + run.ids.len()).div_ceil(BLOCK)
}

/// Queries, of all heads of a group, that a block of threads takes.
pub(super) fn tiles(shape: Shape, ids: usize) -> impl Iterator<Item = Range<usize>> {
    let queries = ids * shape.group();
    (0..queries)
        .step_by(TILE_ROWS)
        .map(move |start| start..queries.min(start + TILE_ROWS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Block;

    const SHAPE: Shape = Shape {
        head_dim: 64,
        q_heads: 8,
        kv_heads: 2,
        qk_norm: false,
    };

    fn plan(runs: &[Run<'_>]) -> (Limits, Plan) {
        let limits = Limits::new(SHAPE, 64, 8, 4);
        let mut plan = Plan::default();
        let set = plan.set(&limits, SHAPE, runs, &[1, 2, 4, 8, 16]);
        assert!(set.is_ok(), "{set:?}");
        (limits, plan)
    }

    fn part(limits: &Limits, plan: &Plan, part: Part, count: usize) -> Vec<i32> {
        plan.numbers()[part.start(limits)..][..count].to_vec()
    }

    fn run<'a>(blocks: &'a [Block], from: usize, ids: &'a [u32], logits: bool) -> Run<'a> {
        Run {
            blocks,
            from,
            ids,
            logits,
        }
    }

    #[test]
    fn single_ids_fill_a_bucket_with_rows_that_write_nothing() {
        let (a, b, c) = ([Block(7), Block(3)], [Block(0)], [Block(5)]);
        let (limits, plan) = plan(&[
            run(&a, 17, &[40], true),
            run(&b, 0, &[41], true),
            run(&c, 15, &[42], true),
        ]);
        assert_eq!((plan.rows, plan.wanted, plan.singles), (4, 4, 4));
        assert_eq!((plan.tiles, plan.longest), (0, 18));
        let of = |which| part(&limits, &plan, which, 4);
        assert_eq!(of(Part::Ids), [40, 41, 42, 0]);
        assert_eq!(of(Part::Positions), [17, 0, 15, 0]);
        assert_eq!(of(Part::Places), [3 * 16 + 1, 0, 5 * 16 + 15, -1]);
        assert_eq!(of(Part::Wanted), [0, 1, 2, 3]);
        assert_eq!(of(Part::Rows), [0, 1, 2, 3]);
        assert_eq!(of(Part::Lengths), [18, 1, 16, 0]);
        assert_eq!(of(Part::Tables), [0, 2, 3, 0]);
        assert_eq!(of(Part::Blocks), [7, 3, 0, 5]);
    }

    #[test]
    fn prompts_become_tiles_beside_single_ids() {
        let (a, b) = ([Block(1)], [Block(4), Block(2)]);
        let ids: Vec<u32> = (0..20).collect();
        let (limits, plan) = plan(&[run(&a, 3, &[9], false), run(&b, 5, &ids, true)]);
        assert_eq!((plan.rows, plan.wanted, plan.singles), (21, 1, 1));
        assert_eq!(part(&limits, &plan, Part::Wanted, 1), [20]);
        assert_eq!(
            part(&limits, &plan, Part::Tiles, 10),
            [1, 1, 5, 0, 64, 1, 1, 5, 64, 80]
        );
        assert_eq!(part(&limits, &plan, Part::Blocks, 3), [1, 4, 2]);
    }

    #[test]
    fn more_than_the_limits_is_refused() {
        let limits = Limits::new(SHAPE, 4, 2, 1);
        let blocks = [Block(0), Block(1), Block(2)];
        let ids: Vec<u32> = (0..5).collect();
        let mut plan = Plan::default();
        for run in [run(&blocks, 0, &ids, true), run(&blocks, 40, &[1], true)] {
            let refused = plan.set(&limits, SHAPE, &[run], &[1, 2]);
            assert!(matches!(refused, Err(Error::Backend(_))), "{refused:?}");
        }
    }
}
