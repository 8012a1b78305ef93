//! Questions to the read models, and their answers.

use crate::{
    Timestamp,
    api_keys::{Scope, SecretHash},
    id::{AccountId, ApiKeyId, QueryId},
    query::Status,
    subject::Kind,
    wire::rest::{ApiKeyItem, QueryItem, SessionItem, User},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use uuid::Uuid;

/// A question to a view, on [`crate::subject::View::subject`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request<Q> {
    /// The answer must reflect this sequence of the log.
    pub at_least: u64,
    /// After this instant nobody waits for the answer any more.
    pub deadline: Timestamp,
    /// The request that it belongs to.
    pub request_id: String,
    /// The question.
    pub question: Q,
}

/// A view's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Reply<R> {
    /// Found out.
    Found {
        /// The sequence of the log that the answer reflects.
        as_of: u64,
        /// The answer.
        result: R,
    },
    /// The store is down, or the view did not get as far as asked in time.
    Unavailable,
}

/// Questions to [`crate::subject::View::Accounts`]; the answer is `Option<User>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Accounts {
    /// One person.
    Get {
        /// Who.
        account: AccountId,
    },
}

/// The answer to [`Accounts`].
pub type AccountFound = Option<User>;

/// Questions to [`crate::subject::View::Sessions`]; the answer is a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Sessions {
    /// A person's sessions that live, newest first.
    List {
        /// Whose.
        account: AccountId,
    },
}

/// The answer to [`Sessions`].
pub type SessionsFound = Vec<SessionItem>;

/// Questions to [`crate::subject::View::Queries`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Queries {
    /// One query, if it is this person's: the answer is a page of one or none.
    Get {
        /// Whose it must be.
        owner: AccountId,
        /// Which.
        query: QueryId,
    },
    /// A person's queries, newest first.
    List {
        /// Whose.
        owner: AccountId,
        /// At most so many, 1 to 100.
        limit: u32,
        /// Only those that come after this place in the list.
        after: Option<Place>,
        /// Only those of this status.
        status: Option<Status>,
        /// Only those of this operation.
        operation: Option<String>,
    },
}

/// The answer to [`Queries`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QueryPage {
    /// The queries.
    pub items: Vec<QueryItem>,
    /// The place of the last one, if there are more.
    pub next: Option<Place>,
}

/// Questions to [`crate::subject::View::ApiKeys`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum ApiKeys {
    /// A person's keys that live, newest first.
    List {
        /// Whose.
        account: AccountId,
    },
    /// What it takes to check a key that a request came with.
    Find {
        /// The key's id.
        key: ApiKeyId,
    },
}

/// The answer to [`ApiKeys`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiKeysFound {
    /// To [`ApiKeys::List`].
    List(Vec<ApiKeyItem>),
    /// To [`ApiKeys::Find`]; nothing for a key that is unknown or revoked, or whose person is
    /// inactive.
    Key(Option<KnownKey>),
}

/// A key that lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownKey {
    /// Whose it is.
    pub account: AccountId,
    /// The hash of the whole key.
    pub secret_hash: SecretHash,
    /// What it may be used for.
    pub scopes: BTreeSet<Scope>,
    /// From when on it is worthless.
    pub expires_at: Option<Timestamp>,
}

/// Questions to [`crate::subject::View::Persons`], which are answered for an account that is being
/// erased as well.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Persons {
    /// A person's aggregates in the order of their ids.
    Aggregates {
        /// Whose.
        account: AccountId,
        /// Of which kind: the account itself is not among them.
        kind: Kind,
        /// Only those after this id.
        after: Option<Uuid>,
        /// At most so many, 1 to 1,000.
        limit: u32,
    },
    /// Everything that the log tells of a person's aggregates of one kind, in the order of their
    /// ids.
    Events {
        /// Whose.
        account: AccountId,
        /// Of which kind.
        kind: Kind,
        /// What comes after this.
        after: Option<Told>,
    },
}

/// The answer to [`Persons`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PersonFound {
    /// To [`Persons::Aggregates`].
    Aggregates(Vec<Holding>),
    /// To [`Persons::Events`].
    Events {
        /// CloudEvents, without secrets.
        events: Vec<serde_json::Value>,
        /// Where to go on, if there is more.
        next: Option<Told>,
    },
}

/// How far a list of events has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The aggregate.
    pub id: Uuid,
    /// The sequence of its last commit that was told; `None` when all were.
    pub seq: Option<u64>,
}

/// One aggregate of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Its id.
    pub id: Uuid,
    /// Whether nothing will happen to it any more.
    pub ended: bool,
    /// When it began.
    pub created_at: Timestamp,
    /// Sequence of its latest commit that the answer reflects.
    pub last_seq: u64,
}

/// A place in the list of queries: its order is by time, then by id, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// When the query there was asked.
    pub created_at: Timestamp,
    /// Its id.
    pub query: QueryId,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}", self.created_at.as_millis(), self.query)
    }
}

/// The text is no place in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this list")]
pub struct InvalidPlace;

impl std::str::FromStr for Place {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (millis, query) = text.split_once('_').ok_or(InvalidPlace)?;
        Ok(Self {
            created_at: Timestamp::from_millis(millis.parse().map_err(|_| InvalidPlace)?),
            query: query.parse().map_err(|_| InvalidPlace)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_back() {
        let place = Place {
            created_at: Timestamp::from_millis(1_741_079_700_000),
            query: QueryId::new(uuid::Uuid::from_u128(5)),
        };
        assert_eq!(place.to_string().parse(), Ok(place));
        assert_eq!("x".parse::<Place>(), Err(InvalidPlace));
    }
}
