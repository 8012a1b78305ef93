//! One question and its answer.
//!
//! Invariants: it is submitted once and ends exactly once (completed, failed or cancelled); only
//! its owner or the system cancels it, only a worker starts it, and a worker or a policy ends it. The tokens of the answer are not part
//! of its history (see [`crate::wire::token`]); the completing event holds the whole text.

mod command;
mod decide;
mod event;
mod evolve;
pub mod options;
mod route;
mod upcast;

pub use command::Command;
pub use decide::Refused;
pub use event::{Answer, CancelledBy, Event, Submission, Usage};
pub use options::Options;
pub use route::{Complexity, Route};

use crate::{Aggregate, Context, id::AccountId, subject::Kind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state that decisions about a query start from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// Nobody has asked under this id.
    #[default]
    Absent,
    /// Asked.
    Asked {
        /// Who asked.
        owner: AccountId,
        /// How far it is.
        status: Status,
        /// How many times a worker has begun.
        attempts: u32,
    },
    /// Asked by a person who was forgotten.
    Erased,
}

/// How far a query is, as the wire writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for a worker.
    Queued,
    /// A worker has it.
    Processing,
    /// Chunks of the answer arrive.
    Streaming,
    /// Answered.
    Completed,
    /// Ended without an answer.
    Failed,
    /// Given up by its owner or the system.
    Cancelled,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Processing,
        Self::Streaming,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// As the wire writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Processing => "processing",
            Self::Streaming => "streaming",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads what the wire writes.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether nothing follows.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

impl Aggregate for Query {
    const KIND: Kind = Kind::Query;
    const SHAPE: u32 = 2;
    type Event = Event;
    type Command = Command;
    type Refused = Refused;

    fn decide(&self, command: Command, cx: &Context) -> Result<Vec<Event>, Refused> {
        decide::decide(self, command, cx)
    }

    fn evolve(self, event: &Event) -> Self {
        evolve::evolve(self, event)
    }

    fn person(&self, _: &[Event]) -> Option<AccountId> {
        match self {
            Self::Asked { owner, .. } => Some(*owner),
            Self::Absent | Self::Erased => None,
        }
    }

    fn erased(self) -> Self {
        Self::Erased
    }
}
