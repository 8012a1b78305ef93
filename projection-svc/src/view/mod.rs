//! The read models. A view's file holds its rows, what events do to them, and its questions.
//!
//! To add a view: its file, its table in a migration, its place in [`Batch`] and in
//! [`crate::questions`], its name in [`domain::subject::View`].

pub(crate) mod accounts;
pub(crate) mod api_keys;
mod fold;
pub(crate) mod persons;
pub(crate) mod queries;
pub(crate) mod sessions;

use crate::{commit::Events, seal::Seal};
use domain::text::storable;
use fold::Contradiction;
use infra::sealing::keyring::{self, Keyring};
use sqlx::{PgConnection, PgPool};

/// The rows could not be changed as the events say.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The events contradict the rows.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// The database does not take them.
    #[error("the rows cannot be written")]
    Write(#[from] sqlx::Error),
}

impl Error {
    /// Whether the events themselves are at fault, so that trying again is of no use: classes 22
    /// (data exception), 23 (integrity) and 54 (program limit) of PostgreSQL's error codes.
    pub(crate) fn is_poison(&self) -> bool {
        match self {
            Self::Contradiction(_) => true,
            Self::Write(error) => error
                .as_database_error()
                .and_then(|error| error.code())
                .is_some_and(|code| {
                    ["22", "23", "54"]
                        .iter()
                        .any(|class| code.starts_with(class))
                }),
        }
    }
}

/// Where questions are answered from. Clones share it.
#[derive(Clone)]
pub(crate) struct Store {
    /// The live generation.
    pub(crate) pool: PgPool,
    /// The keys of persons.
    pub(crate) keys: Keyring,
    /// For what the log alone has.
    pub(crate) client: async_nats::Client,
    /// Whether queries may have left that ([`infra::purged`]).
    pub(crate) is_bounded: bool,
}

/// A question cannot be answered now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// The rows cannot be read.
    #[error("the rows cannot be read")]
    Rows(#[from] sqlx::Error),
    /// The person's key cannot be had.
    #[error(transparent)]
    Keys(#[from] keyring::Error),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] infra::direct_get::Error),
    /// What has left the log cannot be read.
    #[error(transparent)]
    Purged(#[from] infra::purged::Error),
}

/// What a batch of commits does to all views.
#[derive(Debug)]
pub(crate) struct Batch {
    accounts: accounts::Changes,
    sessions: sessions::Changes,
    queries: queries::Changes,
    api_keys: api_keys::Changes,
    persons: persons::Changes,
}

impl Batch {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            accounts: accounts::changes(),
            sessions: sessions::changes(),
            queries: queries::changes(),
            api_keys: api_keys::changes(),
            persons: persons::Changes::default(),
        }
    }

    /// Folds the events of one commit in, whose rows are sealed so.
    pub(crate) fn apply(
        &mut self,
        events: &Events,
        seq: u64,
        seal: &Seal,
    ) -> Result<(), Contradiction> {
        match events {
            Events::Account(events) => events.iter().try_for_each(|event| {
                self.persons.apply(event, seq);
                accounts::apply(&mut self.accounts, event, seq, seal)
            }),
            Events::Session(events) => events
                .iter()
                .try_for_each(|event| sessions::apply(&mut self.sessions, event, seq, seal)),
            Events::Query(events) => events
                .iter()
                .try_for_each(|event| queries::apply(&mut self.queries, event, seq, seal)),
            Events::ApiKeys(events) => events
                .iter()
                .try_for_each(|event| api_keys::apply(&mut self.api_keys, event, seq, seal)),
            Events::Email | Events::Erased => Ok(()),
        }
    }

    /// Writes the rows, within the caller's transaction.
    pub(crate) async fn write(&self, connection: &mut PgConnection) -> Result<(), Error> {
        accounts::write(&self.accounts, connection).await?;
        sessions::write(&self.sessions, connection).await?;
        queries::write(&self.queries, connection).await?;
        api_keys::write(&self.api_keys, connection).await?;
        // What the batch has written before about persons who are erased in it goes as well.
        Ok(self.persons.write(connection).await?)
    }
}

/// A text for a row that owns it.
fn stored(text: &str) -> String {
    storable(text).into_owned()
}

/// A count as a `bigint` holds it.
pub(crate) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A column holds what the program never writes there.
fn unreadable(column: &str, text: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("{column} holds {text:?}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_no_bigint_holds_is_the_largest() {
        assert_eq!(signed(u64::MAX), i64::MAX);
    }

    #[test]
    fn a_lost_connection_is_no_poison() {
        assert!(!Error::Write(sqlx::Error::PoolTimedOut).is_poison());
        let mut batch = Batch::new();
        let event = domain::account::Event::Registered {
            account: domain::id::AccountId::new(uuid::Uuid::nil()),
            email: "mia@example.com".into(),
            name: "Mia".into(),
            password_hash: "$argon2id$".into(),
            tier: domain::account::Tier::Free,
            at: domain::Timestamp::from_millis(0),
        };
        let twice = Events::Account(vec![event.clone(), event]);
        let error = batch.apply(&twice, 1, &Seal::Plain).unwrap_err();
        assert!(Error::Contradiction(error).is_poison());
    }
}
