//! A person's account.
//!
//! Invariants: it is registered once; its address is claimed by [`crate::email`] in the same
//! atomic append; the password is known here only as an argon2id PHC string; who is erased stays
//! erased, and the address is given up in the same atomic append.

mod command;
mod decide;
mod event;
mod evolve;

pub use command::Command;
pub use decide::Refused;
pub use event::{Event, Tier};

use crate::{
    Aggregate, Context, Timestamp,
    id::{AccountId, EmailId},
    subject::Kind,
};
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
    /// A person who is being forgotten.
    Erasing {
        /// The claim on the address, which is to be given up.
        email: EmailId,
        /// Since when.
        since: Timestamp,
    },
    /// A person who was forgotten.
    Erased,
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

    fn person(&self, events: &[Event]) -> Option<AccountId> {
        // To be read for ever: they say who must stay forgotten.
        let is_about_erasure = |event: &Event| match event {
            Event::Registered { .. } => false,
            Event::ErasureRequested { .. } | Event::Erased { .. } => true,
        };
        match self {
            Self::Active(profile) if !events.iter().any(is_about_erasure) => Some(profile.id),
            Self::Active(_) | Self::Absent | Self::Erasing { .. } | Self::Erased => None,
        }
    }

    fn erased(self) -> Self {
        match self {
            Self::Absent | Self::Active(_) => Self::Erased,
            Self::Erasing { .. } | Self::Erased => self,
        }
    }
}
