//! A person's account.
//!
//! Invariants: it is registered once; its address is claimed by [`crate::email`] in the same
//! atomic append; the password is known here only as an argon2id PHC string.

mod command;
mod decide;
mod event;
mod evolve;

pub use command::Command;
pub use decide::Refused;
pub use event::{Event, Tier};

use crate::{Aggregate, Context, Timestamp, id::AccountId, subject::Kind};
use serde::{Deserialize, Serialize};

/// The state that decisions about an account start from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Account {
    /// Nobody has registered under this id.
    #[default]
    Absent,
    /// A person who may sign in.
    Active(Profile),
}

/// What is known of a registered person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The account's id.
    pub id: AccountId,
    /// Address as the person wrote it.
    pub email: String,
    /// Display name.
    pub name: String,
    /// argon2id PHC string.
    pub password_hash: String,
    /// Subscription.
    pub tier: Tier,
    /// When the account was registered.
    pub created_at: Timestamp,
}

impl Aggregate for Account {
    const KIND: Kind = Kind::Account;
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
}
