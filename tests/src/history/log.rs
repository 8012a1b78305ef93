//! The log as a reader finds it, decoded.

use domain::{Aggregate, account, api_keys, commit, email, query, session, subject};
use infra::{
    direct_get,
    sealing::{
        Opened,
        keyring::{self, Keyring},
    },
};

/// One message.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Its sequence in the stream.
    pub seq: u64,
    /// Its aggregate.
    pub aggregate: subject::Aggregate,
    /// The sequence that its writer expected of the aggregate; `None` if it was written without.
    pub expected: Option<u64>,
    /// The command that it came from.
    pub command: String,
    /// What happened.
    pub events: Events,
}

/// The events of one decision.
#[derive(Clone, Debug, PartialEq)]
pub enum Events {
    /// Of an account.
    Account(Vec<account::Event>),
    /// Of an address.
    Email(Vec<email::Event>),
    /// Of a session.
    Session(Vec<session::Event>),
    /// Of a query.
    Query(Vec<query::Event>),
    /// Of the API keys of a person.
    ApiKeys(Vec<api_keys::Event>),
    /// Of a person who was erased.
    Erased,
    /// What this program does not understand, with the reason.
    Unreadable(String),
}

impl Commit {
    /// Reads a message; `None` for a subject that is no aggregate's.
    pub fn read(
        subject: &str,
        message: &direct_get::Stored,
        opened: Result<Opened, keyring::Error>,
    ) -> Option<Self> {
        let aggregate = subject::Aggregate::parse(subject)?;
        let header = |name: &str| {
            message
                .headers
                .get(name)
                .map(|value| value.as_str().to_owned())
        };
        let expected = header(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE.as_ref());
        Some(Self {
            seq: message.seq,
            aggregate,
            expected: expected.and_then(|text| text.parse().ok()),
            command: header(commit::header::COMMAND_ID).unwrap_or_default(),
            events: match opened {
                Ok(Opened::Text(payload)) => Events::read(aggregate.kind, subject, &payload),
                Ok(Opened::Erased) => Events::Erased,
                Err(error) => Events::Unreadable(error.to_string()),
            },
        })
    }

    /// The events, if they are a query's.
    pub fn of_query(&self) -> &[query::Event] {
        match &self.events {
            Events::Query(events) => events,
            _ => &[],
        }
    }

    /// The events, if they are a session's.
    pub fn of_session(&self) -> &[session::Event] {
        match &self.events {
            Events::Session(events) => events,
            _ => &[],
        }
    }
}

impl Events {
    fn read(kind: subject::Kind, subject: &str, payload: &[u8]) -> Self {
        fn decoded<A: Aggregate>(
            subject: &str,
            payload: &[u8],
            wrap: fn(Vec<A::Event>) -> Events,
        ) -> Events {
            match commit::decode(subject, payload) {
                Ok(events) => wrap(events),
                Err(error) => Events::Unreadable(error.source.to_string()),
            }
        }
        match kind {
            subject::Kind::Account => {
                decoded::<account::Account>(subject, payload, Events::Account)
            }
            subject::Kind::Email => decoded::<email::Email>(subject, payload, Events::Email),
            subject::Kind::Session => {
                decoded::<session::Session>(subject, payload, Events::Session)
            }
            subject::Kind::Query => decoded::<query::Query>(subject, payload, Events::Query),
            subject::Kind::ApiKeys => {
                decoded::<api_keys::ApiKeys>(subject, payload, Events::ApiKeys)
            }
        }
    }
}

/// The whole log, in order.
///
/// # Errors
/// When it cannot be read just now.
pub async fn read(
    client: &async_nats::Client,
    keys: &Keyring,
) -> Result<Vec<Commit>, direct_get::Error> {
    let all = direct_get::subject(client, subject::EVENTS, subject::ALL_EVENTS, 1).await?;
    let subject_of = |message: &direct_get::Stored| {
        let name = message
            .headers
            .get(async_nats::header::NATS_SUBJECT.as_ref());
        name.map(|name| name.as_str().to_owned())
            .unwrap_or_default()
    };
    let mut commits = Vec::with_capacity(all.len());
    for each in &all {
        let subject = subject_of(each);
        let opened = keys.open(&subject, Some(&each.headers), &each.payload);
        commits.extend(Commit::read(&subject, each, opened.await));
    }
    Ok(commits)
}
