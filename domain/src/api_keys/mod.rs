//! The API keys of one person: what programs sign in with on the person's behalf.
//!
//! Invariants: there are at most [`limits::API_KEYS`](crate::limits::API_KEYS) that live, so all
//! keys of a person are one aggregate, named by the account; a key's secret is shown once and known
//! here only as its hash; a revoked key stays revoked.

mod command;
mod decide;
mod event;
mod evolve;
mod scope;
mod secret;

pub use command::Command;
pub use decide::Refused;
pub use event::Event;
pub use scope::Scope;
pub use secret::SecretHash;

use crate::{
    Aggregate, Context, Timestamp,
    id::{AccountId, ApiKeyId},
    subject::Kind,
};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The state that decisions about a person's keys start from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiKeys {
    /// The person has never had one.
    #[default]
    Absent,
    /// The person has or had some.
    Held(Held),
    /// Of a person who was forgotten.
    Erased,
}

/// The keys of a person who has or had some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Whose they are.
    pub account: AccountId,
    /// Those that were not revoked, oldest first; expired ones go when the next one is made.
    pub live: Vec<Live>,
    /// The latest revoked ones, oldest first.
    pub revoked: VecDeque<ApiKeyId>,
}

/// A key that was not revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The key's id.
    pub key: ApiKeyId,
    /// The hash of the whole key.
    pub secret_hash: SecretHash,
    /// From when on it is worthless.
    pub expires_at: Option<Timestamp>,
}

impl Live {
    /// Whether it is worthless by now.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

impl Aggregate for ApiKeys {
    const KIND: Kind = Kind::ApiKeys;
    const SHAPE: u32 = 1;
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
            Self::Held(held) => Some(held.account),
            Self::Absent | Self::Erased => None,
        }
    }

    fn erased(self) -> Self {
        Self::Erased
    }
}
