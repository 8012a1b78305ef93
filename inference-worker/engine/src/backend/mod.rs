//! Where the arithmetic happens.

pub mod cpu;
pub mod cuda;

use crate::error::Error;
use crate::kv::{BLOCK, Block};

/// What a step computes of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Where the keys and values of the sequence lie, block after block of
    /// [`BLOCK`](crate::kv::BLOCK) positions; at least as many as its positions need.
    pub blocks: &'a [Block],
    /// Positions that lie there already.
    pub from: usize,
    /// The ids that follow them, at least one.
    pub ids: &'a [u32],
    /// Whether the scores of the id that follows the last one are wanted.
    pub logits: bool,
}

/// A device with a model on it. Object-safe, owned and called by the scheduler's one thread.
///
/// How equal the logits of the same ids are differs. On the CPU they are bit-equal however the ids
/// are split into runs, whatever other sequences share their steps, and wherever their blocks lie.
/// On CUDA they are bit-equal for the same split among at most 16 ids in a step, all of single-id
/// runs; a step with more ids is computed in another order of sums, and they agree within the
/// rounding of bf16. So a generation that is interrupted and resumed, or that shares a prefix, goes
/// on bit-equally on the CPU. On CUDA it goes on from the very ids that were shown, which are given
/// to it and never chosen again: what follows is another draw from the same distribution, as exact
/// as any, and nothing that was shown is contradicted.
pub trait Backend: Send {
    /// Blocks that its memory holds.
    fn blocks(&self) -> u32;

    /// Computes several sequences together, so that the weights are read once for all of them. No
    /// block is written by one run and used by another. `logits` is resized to `[runs that want
    /// them, vocabulary]`: natural-log scale, not normalised, in the order of the runs.
    ///
    /// # Errors
    /// [`Error::Backend`] for runs without ids, ids outside the vocabulary, or more ids than their
    /// blocks hold. What lies before each `from` is then as before, and the runs can be tried again
    /// in other company. [`Error::Device`] when nothing can be computed any more.
    fn step(&mut self, runs: &[Run<'_>], logits: &mut Vec<f32>) -> Result<(), Error>;

    /// The same backend, where scores are better left on its device.
    fn summarising(&mut self) -> Option<&mut dyn Summarising> {
        None
    }
}

/// A backend whose scores lie far away: it says what most choices need to know of them.
pub trait Summarising {
    /// As [`Backend::step`], for which `temperatures` has one above 0 for each run that wants
    /// scores. `summaries` gets one for each of them.
    ///
    /// # Errors
    /// As [`Backend::step`].
    fn step(
        &mut self,
        runs: &[Run<'_>],
        temperatures: &[f32],
        summaries: &mut Vec<Summary>,
    ) -> Result<(), Error>;

    /// All scores of the latest step's run number `row` among those that wanted them.
    ///
    /// # Errors
    /// [`Error::Device`].
    fn scores(&mut self, row: usize, scores: &mut Vec<f32>) -> Result<(), Error>;
}

/// What most choices need to know of the scores.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// The highest ones in falling order, the lower id first among equals.
    pub best: Vec<(u32, f32)>,
    /// Whether those are all that are possible.
    pub complete: bool,
    /// The sum of exp(score - highest) over all.
    pub sum: f64,
    /// The sum of exp((score - highest) / temperature) over all.
    pub tempered: f64,
    /// How many are not numbers.
    pub strange: usize,
}

/// Refuses a run that the memory or the vocabulary has no place for.
fn check(run: &Run<'_>, vocabulary: usize, held: u32) -> Result<(), Error> {
    let (count, from) = (run.ids.len(), run.from);
    if count == 0 {
        return Err(Error::Backend("a run without ids".into()));
    }
    if let Some(id) = run.ids.iter().find(|id| **id as usize >= vocabulary) {
        return Err(Error::Backend(format!(
            "id {id} is outside the vocabulary {vocabulary}"
        )));
    }
    let room = run.blocks.len() * BLOCK;
    if from.saturating_add(count) > room {
        return Err(Error::Backend(format!(
            "{count} ids do not fit after {from} in {room} positions"
        )));
    }
    if let Some(block) = run.blocks.iter().find(|block| block.0 >= held) {
        return Err(Error::Backend(format!("block {} of {held}", block.0)));
    }
    Ok(())
}
