//! Commits that the policy runner has set aside, and what an operator has it do with them.

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// A commit whose reactions could not be carried out, and would not be by trying again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// Its sequence in the log.
    pub seq: u64,
    /// Its subject.
    pub subject: String,
    /// Why, in words.
    pub reason: String,
    /// When it was tried last.
    pub at: Timestamp,
    /// How often it was tried.
    pub tries: u32,
}

/// What an operator orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Try its reactions again.
    Retry {
        /// The commit's sequence.
        seq: u64,
    },
    /// Let it go: its reactions will never happen.
    Skip {
        /// The commit's sequence.
        seq: u64,
    },
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The reactions have happened; it is not parked any more.
    Done,
    /// It was let go.
    Skipped,
    /// It stays parked.
    StillParked {
        /// Why.
        reason: String,
    },
    /// It was not parked.
    NotParked,
    /// It could not be tried just now, and stays parked.
    Unavailable {
        /// Why.
        reason: String,
    },
}
