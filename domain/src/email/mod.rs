//! The claim on an e-mail address, so that no two accounts hold the same one.
//!
//! Its id is derived from the folded address. Invariant: at most one account at a time holds it.

mod command;
mod decide;
mod event;
mod evolve;

pub use command::Command;
pub use decide::Refused;
pub use event::Event;

use crate::{Aggregate, Context, id::AccountId, subject::Kind};
use serde::{Deserialize, Serialize};

/// Who holds the address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Email {
    /// Nobody.
    #[default]
    Free,
    /// This account.
    ClaimedBy(AccountId),
}

impl Aggregate for Email {
    const KIND: Kind = Kind::Email;
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
        None
    }

    fn erased(self) -> Self {
        self
    }
}
