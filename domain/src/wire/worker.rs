//! What inference workers say of themselves, in the bucket [`crate::subject::WORKERS`].

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// A worker that takes jobs says so again after this long, and whenever a model comes or goes.
pub const HEARTBEAT_MILLIS: u64 = 2_000;
/// Without a sign for this long a worker counts as gone.
pub const GONE_MILLIS: u64 = 10_000;

/// One worker and what it can take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its name, unique among those that run; also its key.
    pub worker: String,
    /// The models that it answers with.
    pub models: Vec<Model>,
    /// Whether it finishes what it has and takes nothing more.
    pub draining: bool,
    /// When it said so, by its own clock.
    pub at: Timestamp,
}

/// A model of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// As in answers' `model_used`.
    pub id: String,
    /// Who computes: `engine`, or the provider's name.
    pub provider: String,
    /// Since when it answers.
    pub loaded_at: Timestamp,
    /// Tokens of a prompt and its answer together at most, where that is known.
    pub context: Option<u32>,
    /// What it can do.
    pub abilities: Abilities,
    /// Queries that it answers side by side at most.
    pub places: u32,
    /// Of those, free ones.
    pub free_places: u32,
    /// Tokens of prompts and answers that there is room for now, where that is known.
    pub free_tokens: Option<u64>,
}

/// What not every model can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// Tells the probabilities of its tokens.
    pub logprobs: bool,
    /// Keeps to a JSON Schema or a regular expression.
    pub format: bool,
    /// Goes on with an answer that another worker began.
    pub resume: bool,
    /// Is the demo model or a simulation, and says so.
    pub demo: bool,
}
