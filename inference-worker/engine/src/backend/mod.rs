//! Where the arithmetic happens.

pub mod cpu;

use crate::error::Error;
use crate::kv::Block;

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
/// The same ids give bit-equal logits however they are split into runs, whatever other sequences
/// share their steps, and wherever their blocks lie. Resuming an interrupted generation and sharing
/// prefixes rely on it.
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
    /// in other company.
    fn step(&mut self, runs: &[Run<'_>], logits: &mut Vec<f32>) -> Result<(), Error>;
}
