//! Names on the bus: every stream, subject and bucket, and how they are read back.

use crate::id::{AccountId, QueryId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The log.
pub const EVENTS: &str = "EVENTS";
/// Work for inference workers.
pub const JOBS: &str = "JOBS";
/// What followers of a query are told, replayable for a day.
pub const TOKENS: &str = "TOKENS";
/// Timers, set and due: [`crate::timer`].
pub const TIMERS: &str = "TIMERS";
/// The keys of persons.
pub const KEYS: &str = "KEYS";
/// Everything in [`KEYS`].
pub const ALL_KEYS: &str = "key.*";
/// Where changes of [`KEYS`] are told, as they are stored.
pub const KEY_CHANGES: &str = "changed.key.*";
/// Where command-svc is asked for the key of one query: [`crate::wire::query_key`].
pub const QUERY_KEY: &str = "ask.query_key";
/// Everything in [`EVENTS`].
pub const ALL_EVENTS: &str = "ev.>";
/// Everything in [`JOBS`].
pub const ALL_JOBS: &str = "job.>";
/// Everything in [`TOKENS`].
pub const ALL_TOKENS: &str = "tok.*";
/// Everything in [`TIMERS`].
pub const ALL_TIMERS: [&str; 2] = ["timer.set.*.*", "timer.due.*.*"];
/// The timers that are due.
pub const DUE_TIMERS: &str = "timer.due.>";
/// The durable consumer of [`EVENTS`] whose commits policies react to.
pub const POLICIES: &str = "policies";
/// Key-value bucket of commits whose reactions could not be carried out.
pub const PARKED_POLICIES: &str = "parked_policies";
/// Where an operator has a parked commit tried again or dropped.
pub const PARKED_POLICIES_ORDERS: &str = "adm.policies.parked";
/// Key-value bucket of revoked refresh ids and sessions.
pub const REVOKED: &str = "blacklisted_tokens";
/// Key-value bucket of each user's latest submissions, for duplicates and claims.
pub const SUBMISSIONS: &str = "submissions";
/// Key-value bucket of aggregates as they were at some commit.
pub const SNAPSHOTS: &str = "snapshots";
/// Key-value bucket of the inference workers that take jobs: [`crate::wire::worker`].
pub const WORKERS: &str = "workers";
/// Where operators ask whoever owns the projections.
pub const ADMIN_PROJECTIONS: &str = "adm.projections";
/// Where the history of an aggregate is asked for that may not be in the log any more.
pub const PURGED: &str = "log.purged";
/// Number of parts that the subjects of the log are spread over; fixed for ever.
pub const PARTS: u64 = 64;

/// The kinds of aggregates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// [`crate::account`]
    Account,
    /// [`crate::email`]
    Email,
    /// [`crate::session`]
    Session,
    /// [`crate::query`]
    Query,
    /// [`crate::api_keys`]
    ApiKeys,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Account,
        Self::Email,
        Self::Session,
        Self::Query,
        Self::ApiKeys,
    ];

    /// Its token in subjects.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Email => "email",
            Self::Session => "session",
            Self::Query => "query",
            Self::ApiKeys => "api_keys",
        }
    }
}

/// The identity of one aggregate, which is also its subject in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Aggregate {
    /// Its kind.
    pub kind: Kind,
    /// Its id.
    pub id: Uuid,
}

impl Aggregate {
    /// Names an aggregate.
    pub const fn new(kind: Kind, id: Uuid) -> Self {
        Self { kind, id }
    }

    /// The part that its events lie in, below [`PARTS`]: FNV-1a over the id's bytes.
    pub fn part(&self) -> u64 {
        let hash = self
            .id
            .as_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        hash % PARTS
    }

    /// `ev.<part>.<kind>.<id>`
    pub fn subject(&self) -> String {
        format!(
            "ev.{:02x}.{}.{}",
            self.part(),
            self.kind.as_str(),
            self.id.hyphenated()
        )
    }

    /// Reads a subject of the log back; `None` for anything else.
    pub fn parse(subject: &str) -> Option<Self> {
        let mut tokens = subject.split('.');
        let ("ev", part) = (tokens.next()?, tokens.next()?) else {
            return None;
        };
        let kind = tokens.next()?;
        let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
        let aggregate = Self {
            kind,
            id: Uuid::try_parse(tokens.next()?).ok()?,
        };
        (tokens.next().is_none() && part == format!("{:02x}", aggregate.part()))
            .then_some(aggregate)
    }
}

/// Where a person's key is stored.
pub fn key(person: AccountId) -> String {
    format!("key.{person}")
}

/// Where a query's token stream is stored.
pub fn tokens(query: QueryId) -> String {
    format!("tok.{query}")
}

/// Where a query's stored token messages are published again, for live followers.
pub fn live(query: QueryId) -> String {
    format!("live.{query}")
}

/// Where whoever works on a query hears that it should stop.
pub fn cancel(query: QueryId) -> String {
    format!("cancel.{query}")
}

/// Instead of a model's id, for jobs that any model may answer.
pub const ANY_MODEL: &str = "any";

/// Where a job for `model` waits. Characters that a subject token may not hold become `-`.
pub fn job(model: &str, priority: Priority) -> String {
    format!("job.{}.{}", token(model), priority.as_str())
}

/// The durable consumer of [`JOBS`] that hands out what waits at [`job`].
pub fn job_consumer(model: &str, priority: Priority) -> String {
    format!("{}-{}", token(model), priority.as_str())
}

/// A name as a token of a subject, or a key: other characters than these may hold become `-`.
pub fn token(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .collect()
}

/// The order in which jobs deserve a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Somebody's safety depends on it.
    Crisis,
    /// Somebody waits at the other end.
    Interactive,
    /// A step of something longer.
    Workflow,
    /// Nobody waits for it.
    Sync,
}

impl Priority {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Crisis, Self::Interactive, Self::Workflow, Self::Sync];

    /// Its token in subjects.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Crisis => "crisis",
            Self::Interactive => "interactive",
            Self::Workflow => "workflow",
            Self::Sync => "sync",
        }
    }
}

/// Where commands for aggregates of `kind` are sent.
pub fn command(kind: Kind) -> String {
    format!("cmd.{}", kind.as_str())
}

/// The read models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// People, without their secrets.
    Accounts,
    /// Device sessions.
    Sessions,
    /// Queries and their answers.
    Queries,
    /// API keys.
    ApiKeys,
    /// What there is about a person, for those who export or erase it.
    Persons,
}

impl View {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Accounts,
        Self::Sessions,
        Self::Queries,
        Self::ApiKeys,
        Self::Persons,
    ];

    /// Its token in subjects.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accounts => "accounts",
            Self::Sessions => "sessions",
            Self::Queries => "queries",
            Self::ApiKeys => "api_keys",
            Self::Persons => "persons",
        }
    }

    /// `qry.<view>`
    pub fn subject(self) -> String {
        format!("qry.{}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_subject_parses_back(id in any::<u128>(), kind in 0..Kind::ALL.len()) {
            let aggregate = Aggregate::new(Kind::ALL[kind], Uuid::from_u128(id));
            prop_assert_eq!(Aggregate::parse(&aggregate.subject()), Some(aggregate));
        }
    }

    #[test]
    fn the_part_of_an_id_never_changes() {
        let id = Uuid::from_u128(0x3f2c_0000_0000_4000_8000_0000_0000_0001);
        let subject = Aggregate::new(Kind::Query, id).subject();
        assert_eq!(subject, "ev.29.query.3f2c0000-0000-4000-8000-000000000001");
        assert_eq!(
            Aggregate::parse("ev.00.query.3f2c0000-0000-4000-8000-000000000001"),
            None
        );
        assert_eq!(Aggregate::parse(&format!("{subject}.more")), None);
        assert_eq!(Aggregate::parse("tok.1"), None);
    }

    #[test]
    fn a_job_subject_has_three_tokens() {
        assert_eq!(
            job("org/model 8.1", Priority::Interactive),
            "job.org-model-8-1.interactive"
        );
        assert_eq!(
            job_consumer("org/model 8.1", Priority::Crisis),
            "org-model-8-1-crisis"
        );
    }
}
