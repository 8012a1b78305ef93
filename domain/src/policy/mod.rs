//! What follows from an event, or from a timer that is due: pure functions to reactions, which a
//! runner carries out at least once and, between two of its instances, in any order. Every reaction
//! is therefore safe to repeat, and safe to come late.
//!
//! One policy per file; to add one, write its `react` and list it in [`react_to_query`],
//! [`react_to_session`], [`react_to_account`] or [`react_to_api_keys`]. A policy that gives a command derives the command's id from what causes it
//! and from its own name, so that a repeat is known as one.

mod close_stream;
mod enqueue_job;
mod erase_person;
mod open_stream;
mod query_timeout;
mod revoke_api_keys;
mod revoke_tokens;

use crate::{
    Timestamp, account, api_keys,
    commit::{self, Undecodable},
    id::{AccountId, CommandId, QueryId},
    limits, query, session,
    subject::{Aggregate, Kind, Priority},
    timer::Timer,
    wire::{command::Body, job::Job, token::Terminal},
};

/// What policies are told of how this system is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a query may take, from being asked to its end, in milliseconds.
    pub query_life_millis: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            query_life_millis: limits::QUERY_LIFE_MILLIS,
        }
    }
}

/// Something that should happen outside the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Reaction {
    /// Make the first message of a query's token stream.
    OpenStream {
        /// The query.
        query: QueryId,
        /// Who may follow it.
        owner: AccountId,
        /// When it was submitted.
        at: Timestamp,
    },
    /// Give the query to the workers.
    EnqueueJob {
        /// The model that should answer; `any` for whichever is there.
        model: String,
        /// In which order.
        priority: Priority,
        /// The work.
        job: Box<Job>,
    },
    /// Tell followers, and whoever works on it, that the query has ended.
    CloseStream {
        /// The query.
        query: QueryId,
        /// How it ended.
        terminal: Box<Terminal>,
        /// When it ended.
        at: Timestamp,
    },
    /// Make a refresh id, a session or an API key worthless at every gateway.
    Revoke {
        /// The `jti`, the `sid` or the key's id.
        key: uuid::Uuid,
        /// How long tokens that name it could live, in seconds.
        ttl_secs: i64,
    },
    /// Have something done at a time, in place of an earlier time of the same timer.
    SetTimer {
        /// What.
        timer: Timer,
        /// When; at once if that is past.
        at: Timestamp,
    },
    /// Have it not done any more. A timer that is due already fires nevertheless.
    ClearTimer {
        /// What.
        timer: Timer,
    },
    /// Forget a person: everything that [`crate::stores`] lists.
    Erase {
        /// Who.
        account: AccountId,
    },
    /// Give a command in the system's own name.
    Command {
        /// Derived from the cause and the policy's name.
        id: CommandId,
        /// The event or the timer that it follows from.
        cause: String,
        /// The command.
        body: Box<Body>,
    },
}

impl Reaction {
    /// The names of all kinds of reactions.
    pub const NAMES: [&'static str; 8] = [
        "open_stream",
        "enqueue_job",
        "close_stream",
        "revoke",
        "set_timer",
        "clear_timer",
        "erase",
        "command",
    ];

    /// The name of its kind.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::OpenStream { .. } => "open_stream",
            Self::EnqueueJob { .. } => "enqueue_job",
            Self::CloseStream { .. } => "close_stream",
            Self::Revoke { .. } => "revoke",
            Self::SetTimer { .. } => "set_timer",
            Self::ClearTimer { .. } => "clear_timer",
            Self::Erase { .. } => "erase",
            Self::Command { .. } => "command",
        }
    }
}

/// What follows from a commit, found under this subject in the log.
///
/// # Errors
/// When this version of the program cannot read it: nobody can tell then what should follow.
pub fn react(
    subject: &str,
    payload: &[u8],
    settings: &Settings,
) -> Result<Vec<Reaction>, Undecodable> {
    let Some(aggregate) = Aggregate::parse(subject) else {
        return Err(Undecodable {
            subject: subject.to_owned(),
            source: serde::de::Error::custom("no kind of aggregate that is known here"),
        });
    };
    match aggregate.kind {
        Kind::Query => commit::decode(subject, payload).map(|events: Vec<query::Event>| {
            events
                .iter()
                .flat_map(|event| react_to_query(event, settings))
                .collect()
        }),
        Kind::Session => commit::decode(subject, payload)
            .map(|events: Vec<session::Event>| events.iter().flat_map(react_to_session).collect()),
        Kind::Account => commit::decode(subject, payload)
            .map(|events: Vec<account::Event>| events.iter().flat_map(react_to_account).collect()),
        Kind::ApiKeys => commit::decode(subject, payload).map(|events: Vec<api_keys::Event>| {
            events.iter().flat_map(react_to_api_keys).collect()
        }),
        // Nothing follows from its events.
        Kind::Email => Ok(vec![]),
    }
}

/// What follows from an event of a query.
pub fn react_to_query(event: &query::Event, settings: &Settings) -> Vec<Reaction> {
    [
        open_stream::react(event),
        enqueue_job::react(event),
        close_stream::react(event),
        query_timeout::react(event, settings),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What follows from an event of an account.
pub fn react_to_account(event: &account::Event) -> Vec<Reaction> {
    erase_person::react(event)
}

/// What follows from an event of a session.
pub fn react_to_session(event: &session::Event) -> Vec<Reaction> {
    revoke_tokens::react(event)
}

/// What follows from an event of a person's API keys.
pub fn react_to_api_keys(event: &api_keys::Event) -> Vec<Reaction> {
    revoke_api_keys::react(event)
}

/// What follows from a timer that is due.
pub fn react_to_timer(timer: Timer, settings: &Settings) -> Vec<Reaction> {
    match timer {
        Timer::QueryLife(query) => vec![query_timeout::due(query, settings)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Actor;
    use uuid::Uuid;

    fn subject(kind: Kind) -> String {
        Aggregate::new(kind, Uuid::from_u128(1)).subject()
    }

    #[test]
    fn what_cannot_be_read_is_told_and_never_passed_over() {
        let settings = Settings::default();
        for subject in [
            subject(Kind::Query),
            subject(Kind::Session),
            "ev.00.garden.7".into(),
        ] {
            let error = react(&subject, br#"[{"type":"query.dreamt.v9"}]"#, &settings).unwrap_err();
            assert!(error.to_string().contains(&subject), "{error}");
        }
        // Whatever they say, nothing follows from it.
        assert_eq!(react(&subject(Kind::Email), b"?", &settings).unwrap(), []);
    }

    #[test]
    fn commands_of_policies_may_be_given_by_the_system() {
        let timer = Timer::QueryLife(QueryId::new(Uuid::from_u128(1)));
        for reaction in react_to_timer(timer, &Settings::default()) {
            let Reaction::Command { body, .. } = reaction else {
                panic!("{reaction:?}")
            };
            assert!(crate::authority::roles(body.name()).contains(&Actor::System.role()));
        }
    }
}
