//! One commit, as it comes out of the log.

use crate::seal::Seal;
use async_nats::{HeaderMap, header as nats_header};
use domain::{
    account, api_keys,
    commit::{Undecodable, decode, header},
    id::AccountId,
    query, session,
    subject::{Aggregate, Kind},
};
use infra::sealing::{
    Opened,
    keyring::{self, Found, Keyring, open_with},
    sealed_for,
};
use std::collections::HashMap;
use uuid::Uuid;

/// A commit of the log and what could be read of it.
#[derive(Debug)]
pub(crate) struct Commit {
    /// Its sequence in the log.
    pub(crate) seq: u64,
    /// The aggregate's subject.
    pub(crate) subject: String,
    /// The command that it came from.
    pub(crate) command: Option<Uuid>,
    /// Which lane it belongs to, modulo the number of lanes. What commands usually write together
    /// (an address, its account, a session) has the same, so that lanes rarely need each other.
    pub(crate) part: u64,
    /// Whether the message is inside an atomic batch, so that another one follows for certain.
    pub(crate) goes_on: bool,
    /// Size of the payload.
    pub(crate) bytes: usize,
    /// Its events, or why they cannot be read.
    pub(crate) events: Result<Events, String>,
    /// What the rows that it makes are sealed with.
    pub(crate) seal: Seal,
}

/// The events of one commit: all of one aggregate.
#[derive(Debug)]
pub(crate) enum Events {
    /// Of an account.
    Account(Vec<account::Event>),
    /// Of a device session.
    Session(Vec<session::Event>),
    /// Of a query.
    Query(Vec<query::Event>),
    /// Of the API keys of a person.
    ApiKeys(Vec<api_keys::Event>),
    /// Of the claim on an address, which no view shows.
    Email,
    /// Of a person who was erased: nobody knows what they said.
    Erased,
}

/// A message of the log, before it is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<'a> {
    /// Its sequence in the log.
    pub(crate) seq: u64,
    /// The aggregate's subject.
    pub(crate) subject: &'a str,
    /// Its headers.
    pub(crate) headers: Option<&'a HeaderMap>,
    /// Its payload.
    pub(crate) payload: &'a [u8],
}

/// Opens and reads messages that follow each other in the log.
///
/// # Errors
/// When the keys of persons cannot be had now.
pub(crate) async fn read_all(
    keys: &Keyring,
    messages: &[Raw<'_>],
) -> Result<Vec<Commit>, keyring::Error> {
    let persons: Vec<AccountId> = messages
        .iter()
        .filter_map(|message| sealed_for(message.headers).ok().flatten())
        .collect();
    let mut found = keys.find_all(&persons).await?;
    let mut commits = Vec::with_capacity(messages.len());
    for message in messages {
        let commit = Commit::open(message, &found)?;
        // What is said about the person after that is not heard, wherever it comes from.
        for person in commit.erased() {
            keys.forget(person);
            found.insert(person, Found::Erased);
        }
        commits.push(commit);
    }
    Ok(commits)
}

impl Commit {
    /// Opens a message of the log, and reads it.
    fn open(message: &Raw<'_>, keys: &HashMap<AccountId, Found>) -> Result<Self, keyring::Error> {
        let Raw {
            seq,
            subject,
            headers,
            payload,
        } = *message;
        let person = match sealed_for(headers) {
            Ok(None) => return Ok(Self::read(seq, subject, headers, payload)),
            Ok(Some(person)) => person,
            Err(unknown) => {
                let reason = Err(unknown.to_string());
                return Ok(Self::of(seq, subject, headers, payload.len(), reason));
            }
        };
        let found = keys.get(&person).unwrap_or(&Found::Absent);
        Ok(match open_with(found, person, subject, headers, payload) {
            Ok(Opened::Text(text)) => {
                let mut commit = Self::read(seq, subject, headers, &text);
                if let Found::Key(key) = found {
                    commit.seal = Seal::With(key.clone());
                }
                commit
            }
            Ok(Opened::Erased) => {
                Self::of(seq, subject, headers, payload.len(), Ok(Events::Erased))
            }
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                let reason = Err(infra::telemetry::chain(&error));
                Self::of(seq, subject, headers, payload.len(), reason)
            }
        })
    }

    /// Reads a message of the log that is not sealed.
    fn read(seq: u64, subject: &str, headers: Option<&HeaderMap>, payload: &[u8]) -> Self {
        let types = headers.and_then(|headers| headers.get(header::EVENT_TYPES));
        let types = types.map_or("of unknown types", |types| types.as_str());
        let events = read_events(Aggregate::parse(subject), subject, types, payload);
        Self::of(seq, subject, headers, payload.len(), events)
    }

    /// The persons whom it says to be erased.
    pub(crate) fn erased(&self) -> impl Iterator<Item = AccountId> {
        let events = match &self.events {
            Ok(Events::Account(events)) => events.as_slice(),
            Ok(
                Events::Session(_)
                | Events::Query(_)
                | Events::ApiKeys(_)
                | Events::Email
                | Events::Erased,
            )
            | Err(_) => &[],
        };
        events.iter().filter_map(|event| match event {
            account::Event::Erased { account, .. } => Some(*account),
            account::Event::Registered { .. } | account::Event::ErasureRequested { .. } => None,
        })
    }

    fn of(
        seq: u64,
        subject: &str,
        headers: Option<&HeaderMap>,
        bytes: usize,
        events: Result<Events, String>,
    ) -> Self {
        let text = |name: &str| headers?.get(name).map(|value| value.as_str());
        let aggregate = Aggregate::parse(subject);
        Self {
            seq,
            command: text(header::COMMAND_ID).and_then(|id| Uuid::try_parse(id).ok()),
            part: aggregate.as_ref().map_or(0, part),
            goes_on: text(nats_header::NATS_BATCH_ID.as_ref()).is_some()
                && text(nats_header::NATS_BATCH_COMMIT.as_ref()).is_none(),
            bytes,
            events,
            subject: subject.to_owned(),
            seal: Seal::Plain,
        }
    }
}

fn part(aggregate: &Aggregate) -> u64 {
    match aggregate.kind {
        Kind::Account | Kind::Email | Kind::Session => 0,
        Kind::Query | Kind::ApiKeys => aggregate.part(),
    }
}

fn read_events(
    aggregate: Option<Aggregate>,
    subject: &str,
    types: &str,
    payload: &[u8],
) -> Result<Events, String> {
    let Some(aggregate) = aggregate else {
        return Err("the subject names no aggregate that this version knows".to_owned());
    };
    let events = match aggregate.kind {
        Kind::Account => decode(subject, payload).map(Events::Account),
        Kind::Session => decode(subject, payload).map(Events::Session),
        Kind::Query => decode(subject, payload).map(Events::Query),
        Kind::ApiKeys => decode(subject, payload).map(Events::ApiKeys),
        Kind::Email => Ok(Events::Email),
    };
    events.map_err(|error| unreadable(types, &error))
}

/// The place of the error and not its words, which may quote what a person wrote.
fn unreadable(types: &str, error: &Undecodable) -> String {
    let place = match error.source.line() {
        // Without a place: what the upcasts made of it is at fault.
        0 => "after its upcasts".to_owned(),
        line => format!("at line {line}, column {}", error.source.column()),
    };
    let kind = error.source.classify();
    format!("events ({types}) cannot be read: {kind:?} error {place}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::id::SessionId;
    use uuid::Uuid;

    #[test]
    fn the_subject_tells_what_the_events_are() {
        let id = Uuid::from_u128(4);
        let session = SessionId::new(id);
        let payload = format!(
            r#"[{{"type":"session.refreshed.v1","data":{{"session":"{session}",
                "superseded":"{session}","refresh":"{session}","generation":1,
                "at":"2025-03-04T09:15:00.000Z"}}}}]"#
        );
        let subject = |kind| Aggregate::new(kind, id).subject();
        let events = |subject: &str, payload: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::EVENT_TYPES, "the.types");
            Commit::read(1, subject, Some(&headers), payload.as_bytes()).events
        };
        let read = |kind| events(&subject(kind), &payload);
        assert!(matches!(read(Kind::Session), Ok(Events::Session(events)) if events.len() == 1));
        assert!(matches!(read(Kind::Email), Ok(Events::Email)));
        let reason = read(Kind::Query).unwrap_err();
        assert!(
            reason.contains("(the.types) cannot be read: Data error"),
            "{reason}"
        );
        let old = r#"[{"type":"query.cancelled.v1","data":{"query":"Mia's","at":7}}]"#;
        let reason = events(&subject(Kind::Query), old).unwrap_err();
        assert!(reason.ends_with("Data error after its upcasts"), "{reason}");
        let reason = events("ev.00.planet.x", "[]").unwrap_err();
        assert!(reason.contains("names no aggregate"), "{reason}");
    }

    #[test]
    fn a_batch_goes_on_until_its_commit() {
        let subject = Aggregate::new(Kind::Query, Uuid::from_u128(4)).subject();
        let mut headers = HeaderMap::new();
        let goes_on = |headers: &HeaderMap| Commit::read(1, &subject, Some(headers), b"[]").goes_on;
        assert!(!goes_on(&headers));
        headers.insert(nats_header::NATS_BATCH_ID, "b");
        assert!(goes_on(&headers));
        headers.insert(nats_header::NATS_BATCH_COMMIT, "1");
        assert!(!goes_on(&headers));
    }
}
