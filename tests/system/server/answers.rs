//! Publishing as bare as the server has it, with every detail of its answer.

use async_nats::{Client, HeaderMap, Request, header};
use infra::direct_get;
use serde_json::Value;
use std::time::Duration;

/// Wrong last sequence.
pub const WRONG: u64 = 10_071;
/// Wrong last sequence, against a message that is in flight.
pub const WRONG_IN_FLIGHT: u64 = 10_164;
/// A message of the same id is in flight.
pub const DUPLICATE_IN_FLIGHT: u64 = 10_158;

/// What the server says to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Stored at this sequence.
    Stored(u64),
    /// Known already, at this sequence.
    Duplicate(u64),
    /// The message of a batch is taken note of.
    Noted,
    /// Not stored, with its own code.
    Refused(u64),
}

/// Headers of a message.
#[derive(Clone, Debug, Default)]
pub struct Headers(HeaderMap);

impl Headers {
    /// `Nats-Expected-Last-Subject-Sequence`
    pub fn expecting(seq: u64) -> Self {
        Self::default().with(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE.as_ref(), seq)
    }

    /// `Nats-Msg-Id`
    pub fn id(self, id: &str) -> Self {
        self.with(header::NATS_MESSAGE_ID.as_ref(), id)
    }

    /// Any header.
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.0.insert(name, value.to_string());
        self
    }

    /// For the client library.
    pub fn map(self) -> HeaderMap {
        self.0
    }
}

/// Publishes and waits for the answer.
pub async fn put(client: &Client, subject: &str, headers: Headers, payload: &str) -> Answer {
    let request = Request::new()
        .headers(headers.map())
        .payload(payload.to_owned().into())
        .timeout(Some(Duration::from_secs(20)));
    let reply = client.send_request(subject.to_owned(), request).await;
    read(&reply.expect("an answer").payload)
}

/// Reads an answer of the server.
pub fn read(payload: &[u8]) -> Answer {
    if payload.is_empty() {
        return Answer::Noted;
    }
    let answer: Value = serde_json::from_slice(payload).expect("JSON");
    if let Some(error) = answer.get("error") {
        return Answer::Refused(error["err_code"].as_u64().expect("a code"));
    }
    let seq = answer["seq"].as_u64().expect("a sequence");
    if answer["duplicate"] == true {
        Answer::Duplicate(seq)
    } else {
        Answer::Stored(seq)
    }
}

/// The sequence of a message that must have been stored.
pub async fn stored(client: &Client, subject: &str, headers: Headers, payload: &str) -> u64 {
    match put(client, subject, headers, payload).await {
        Answer::Stored(seq) => seq,
        other => panic!("{subject}: {other:?}"),
    }
}

/// Sequences and payloads of a subject of the log.
pub async fn history(client: &Client, subject: &str) -> Vec<(u64, String)> {
    let messages = direct_get::subject(client, domain::subject::EVENTS, subject, 1).await;
    let text = |message: &direct_get::Stored| String::from_utf8_lossy(&message.payload).into();
    messages
        .expect("the log can be read")
        .iter()
        .map(|message| (message.seq, text(message)))
        .collect()
}
