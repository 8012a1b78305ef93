//! A device session: one login on one device, kept alive by rotating refresh tokens.
//!
//! Invariants: exactly one refresh id is current; rotating is a compare-and-set on it, so that of
//! two parallel uses one wins; a superseded id that comes back later than
//! [`limits::REFRESH_REUSE_GRACE_MILLIS`](crate::limits::REFRESH_REUSE_GRACE_MILLIS) after its
//! rotation ends the session (RFC 9700, section 4.14.2); an ended session stays ended.

mod command;
mod decide;
mod event;
mod evolve;

pub use command::Command;
pub use decide::Refused;
pub use event::{Event, Reason};

use crate::{
    Aggregate, Context, Timestamp,
    id::{AccountId, RefreshId, SessionId},
    subject::Kind,
};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The state that decisions about a session start from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Session {
    /// Nobody has signed in under this id.
    #[default]
    Absent,
    /// Signed in.
    Open(Open),
    /// Ended, by logout or by the reuse of a superseded token.
    Revoked {
        /// Whose it was.
        account: AccountId,
    },
    /// Of a person who was forgotten.
    Erased,
}

/// A session that lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The session's id.
    pub session: SessionId,
    /// Whose it is.
    pub account: AccountId,
    /// The refresh id that may rotate next.
    pub current: RefreshId,
    /// How often it has rotated.
    pub generation: u64,
    /// The latest superseded ids and when each was superseded, oldest first.
    pub superseded: VecDeque<(RefreshId, Timestamp)>,
}

impl Aggregate for Session {
    const KIND: Kind = Kind::Session;
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
            Self::Open(open) => Some(open.account),
            Self::Revoked { account } => Some(*account),
            Self::Absent | Self::Erased => None,
        }
    }

    fn erased(self) -> Self {
        Self::Erased
    }
}
