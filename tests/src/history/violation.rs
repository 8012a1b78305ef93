//! What can be wrong with a history.

use std::fmt;

/// Which promise is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An accepted command has no effect in the log.
    Lost,
    /// A command has its effect more than once.
    Doubled,
    /// The log holds what nobody asked for, or what was refused.
    Unasked,
    /// The effect in the log is not what was asked for.
    Altered,
    /// A sequence of the log is missing.
    Hole,
    /// A message names a predecessor that is not there.
    Gap,
    /// Two messages of an aggregate name the same predecessor.
    Fork,
    /// A message stands before one that it was written after.
    OutOfOrder,
    /// A message was written without an expectation.
    Unguarded,
    /// A message cannot be decoded.
    Unreadable,
    /// A query ended more than once, or went on after its end.
    EndedTwice,
    /// A query has no end although everything is quiet.
    NeverEnded,
    /// The read model lacks a row.
    RowMissing,
    /// The read model has a row that no event made.
    RowExtra,
    /// A row is not what the events make of it.
    RowWrong,
    /// A client was shown something older than it had been shown before.
    WentBack,
    /// A read with the token of a write did not show the write.
    Stale,
    /// A client was shown an answer that was never given.
    WrongAnswer,
}

/// One breach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Of which promise.
    pub kind: Kind,
    /// Where, and what was found.
    pub what: String,
}

impl Violation {
    /// A breach.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { kind, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}
