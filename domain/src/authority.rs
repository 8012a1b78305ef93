//! Who may give which command: the first gate, before an aggregate looks at ownership.

use crate::id::AccountId;
use serde::{Deserialize, Serialize};

/// Who gives a command.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "role", content = "name", rename_all = "snake_case")]
pub enum Actor {
    /// Somebody who has not signed in.
    Anonymous,
    /// A signed-in person.
    User(AccountId),
    /// An inference worker, by its name.
    Worker(String),
    /// A policy: what has to follow from what has happened.
    System,
}

/// The role part of an [`Actor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// See [`Actor::Anonymous`].
    Anonymous,
    /// See [`Actor::User`].
    User,
    /// See [`Actor::Worker`].
    Worker,
    /// See [`Actor::System`].
    System,
}

impl Actor {
    /// The role that the actor acts in.
    pub const fn role(&self) -> Role {
        match self {
            Self::Anonymous => Role::Anonymous,
            Self::User(_) => Role::User,
            Self::Worker(_) => Role::Worker,
            Self::System => Role::System,
        }
    }
}

/// The roles that may give the command of this name (see [`crate::wire::command::Body::name`]).
/// A name that is not in the table may be given by nobody.
pub fn roles(command: &str) -> &'static [Role] {
    TABLE
        .iter()
        .find(|(name, _)| *name == command)
        .map_or(&[], |(_, roles)| roles)
}

const TABLE: &[(&str, &[Role])] = &[
    ("register", &[Role::Anonymous]),
    ("login", &[Role::Anonymous]),
    ("refresh", &[Role::Anonymous]),
    ("logout", &[Role::User]),
    ("erase_account", &[Role::User, Role::System]),
    ("finish_erasure", &[Role::System]),
    ("create_api_key", &[Role::User]),
    ("revoke_api_key", &[Role::User]),
    ("submit_query", &[Role::User]),
    ("cancel_query", &[Role::User, Role::System]),
    ("start_query", &[Role::Worker]),
    ("complete_query", &[Role::Worker]),
    ("fail_query", &[Role::Worker, Role::System]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::command::Body;

    #[test]
    fn every_command_stands_in_the_table_once() {
        let mut known: Vec<&str> = Body::NAMES.to_vec();
        let mut listed: Vec<&str> = TABLE.iter().map(|(name, _)| *name).collect();
        known.sort_unstable();
        listed.sort_unstable();
        assert_eq!(known, listed);
    }

    #[test]
    fn an_unknown_command_is_nobodys() {
        assert!(roles("drop_everything").is_empty());
    }
}
