//! One commit, as it comes out of the log.

use async_nats::jetstream;
use domain::{
    account,
    commit::{Undecodable, decode, header},
    query, session,
    subject::{Aggregate, Kind},
};

/// A commit of the log and what could be read of it.
#[derive(Debug)]
pub(crate) struct Commit {
    /// Its sequence in the log.
    pub(crate) seq: u64,
    /// The aggregate's subject.
    pub(crate) subject: String,
    /// Its events, or why they cannot be read.
    pub(crate) events: Result<Events, String>,
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
    /// Of the claim on an address, which no view shows.
    Email,
}

impl Commit {
    /// Reads a message of the log.
    pub(crate) fn read(seq: u64, message: &jetstream::Message) -> Self {
        let subject = message.subject.to_string();
        let types = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(header::EVENT_TYPES))
            .map_or("of unknown types", |types| types.as_str());
        Self {
            seq,
            events: read_events(&subject, types, &message.payload),
            subject,
        }
    }
}

fn read_events(subject: &str, types: &str, payload: &[u8]) -> Result<Events, String> {
    let Some(aggregate) = Aggregate::parse(subject) else {
        return Err("the subject names no aggregate that this version knows".to_owned());
    };
    let events = match aggregate.kind {
        Kind::Account => decode(subject, payload).map(Events::Account),
        Kind::Session => decode(subject, payload).map(Events::Session),
        Kind::Query => decode(subject, payload).map(Events::Query),
        Kind::Email => Ok(Events::Email),
    };
    events.map_err(|error| unreadable(types, &error))
}

/// The place of the error and not its words, which may quote what a person wrote.
fn unreadable(types: &str, error: &Undecodable) -> String {
    format!(
        "events ({types}) cannot be read: {:?} error at line {}, column {}",
        error.source.classify(),
        error.source.line(),
        error.source.column()
    )
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
        let read = |kind| read_events(&subject(kind), "the.types", payload.as_bytes());
        assert!(matches!(read(Kind::Session), Ok(Events::Session(events)) if events.len() == 1));
        assert!(matches!(read(Kind::Email), Ok(Events::Email)));
        let reason = read(Kind::Query).unwrap_err();
        assert!(
            reason.contains("(the.types) cannot be read: Data error"),
            "{reason}"
        );
        let reason = read_events("ev.00.planet.x", "", b"[]").unwrap_err();
        assert!(reason.contains("names no aggregate"), "{reason}");
    }
}
