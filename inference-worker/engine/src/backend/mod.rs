//! Where the arithmetic happens.

pub mod cpu;

use crate::error::Error;

/// A sequence that a backend holds state for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sequence(pub u64);

/// A device with a model on it. Object-safe, owned and called by the scheduler's one thread.
///
/// The same ids give bit-equal logits however they are split into chunks and whatever other
/// sequences do in between; resuming an interrupted generation relies on it.
pub trait Backend: Send {
    /// Opens an empty sequence and reserves room for `positions` ids, so that it cannot run out
    /// of memory midway.
    ///
    /// # Errors
    /// [`Error::Backend`] when there is no room.
    fn open(&mut self, positions: usize) -> Result<Sequence, Error>;

    /// Appends `ids` to a sequence. With `logits`, writes the scores of the id that follows the
    /// last one there, resized to the vocabulary; natural-log scale, not normalised.
    ///
    /// # Errors
    /// [`Error::Backend`] for an unknown sequence, ids outside the vocabulary, or more ids than
    /// reserved; the sequence is then as before.
    fn extend(
        &mut self,
        sequence: Sequence,
        ids: &[u32],
        logits: Option<&mut Vec<f32>>,
    ) -> Result<(), Error>;

    /// Frees a sequence; an unknown one is ignored.
    fn close(&mut self, sequence: Sequence);
}
