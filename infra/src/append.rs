//! Appending to a stream with the expected last sequence of the subject. There is no other append.

use async_nats::{Client, HeaderMap, Request, RequestErrorKind, header};
use bytes::Bytes;
use serde::Deserialize;
use std::time::Duration;

/// How long to wait for the server's answer to one append.
const ANSWER: Duration = Duration::from_secs(5);

/// The message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the stream.
    pub seq: u64,
    /// How many messages of a batch were stored, this being the last one; zero for a plain append.
    pub batch: u64,
}

/// Why a message was not stored, or perhaps was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The subject's last sequence is not the expected one, or another write to it, perhaps of the
    /// same message, is in flight.
    #[error("{subject} is not at sequence {expected}")]
    Conflict {
        /// The subject.
        subject: String,
        /// What was expected.
        expected: u64,
    },
    /// No answer: the message may or may not be stored.
    #[error("no answer to the append to {subject}")]
    NoAnswer {
        /// The subject.
        subject: String,
        /// What the client library says.
        source: async_nats::RequestError,
    },
    /// It was never sent, so it is not stored.
    #[error("{subject} was not appended to: {reason}")]
    NotSent {
        /// The subject.
        subject: String,
        /// Why.
        reason: NotSent,
    },
    /// The server answered that it cannot store.
    #[error("the server refuses the append to {subject}: {description} ({code})")]
    Rejected {
        /// The subject.
        subject: String,
        /// The server's own error code.
        code: u64,
        /// In its words.
        description: String,
    },
    /// The server's answer is not one.
    #[error("unreadable answer to the append to {subject}")]
    Unreadable {
        /// The subject.
        subject: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Why something was not even tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// Too many wait already.
    #[error("too many appends wait already")]
    Overloaded,
    /// Nobody waits for it any more.
    #[error("its deadline has passed")]
    TooLate,
    /// Several parts go to one subject, or there are none or too many.
    #[error("its parts cannot be appended together")]
    Malformed,
    /// It cannot be sealed.
    #[error("the operating system gives no random numbers")]
    NotSealed,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    count: u64,
    error: Option<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Wrong last sequence: another message came first.
const WRONG_LAST_SEQUENCE: u64 = 10_071;
/// The same while that other message is in flight on a replicated stream; the client library does
/// not map this one.
const WRONG_LAST_SEQUENCE_IN_FLIGHT: u64 = 10_164;

/// A message of the same id is in flight on a replicated stream.
const DUPLICATE_IN_FLIGHT: u64 = 10_158;

/// Appends one message to `subject` if the last message there has the sequence `expected`, zero
/// meaning that there is none.
///
/// # Errors
/// See [`Error`]; after [`Error::NoAnswer`] look whether the message is there before trying again.
pub async fn append(
    client: &Client,
    subject: &str,
    expected: u64,
    mut headers: HeaderMap,
    payload: Bytes,
) -> Result<Stored, Error> {
    headers.insert(
        header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
        expected.to_string(),
    );
    answered(client, subject, expected, headers, &payload).await
}

/// A message that waits to be appended.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its subject.
    pub subject: String,
    /// Sequence of the last message on that subject, zero if there is none.
    pub expected: u64,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its payload.
    pub payload: Bytes,
}

/// Appends all parts or none (atomic batch publish, nats-server 2.12 and newer). The answer names
/// the last part's sequence; the others lie directly before it. No two parts may have the same
/// subject: the server would hold both against the same last sequence and store both.
///
/// All parts go out at once. The server offers to acknowledge the first one as well, for senders
/// that want to know early; it answers only to what asks for it, and a part that gets lost on the
/// way makes it refuse the whole at the end.
///
/// # Errors
/// See [`Error`]. A conflict on any part refuses them all, and which one it was is not said: the
/// error names the last part.
pub async fn append_batch<'a>(
    client: &Client,
    batch: &str,
    parts: impl ExactSizeIterator<Item = &'a Part>,
) -> Result<Stored, Error> {
    let count = parts.len();
    for (index, part) in parts.enumerate() {
        let mut headers = part.headers.clone();
        headers.insert(
            header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
            part.expected.to_string(),
        );
        headers.insert(header::NATS_BATCH_ID, batch);
        headers.insert(header::NATS_BATCH_SEQUENCE, (index + 1).to_string());
        if index + 1 == count {
            headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
            return answered(client, &part.subject, part.expected, headers, &part.payload).await;
        }
        client
            .publish_with_headers(part.subject.clone(), headers, part.payload.clone())
            .await
            .map_err(|source| Error::Rejected {
                subject: part.subject.clone(),
                code: 0,
                description: source.to_string(),
            })?;
    }
    Err(Error::NotSent {
        subject: String::new(),
        reason: NotSent::Malformed,
    })
}

async fn answered(
    client: &Client,
    subject: &str,
    expected: u64,
    headers: HeaderMap,
    payload: &Bytes,
) -> Result<Stored, Error> {
    let request = Request::new()
        .headers(headers)
        .payload(payload.clone())
        .timeout(Some(ANSWER));
    let message = client
        .send_request(subject.to_owned(), request)
        .await
        .map_err(|source| match source.kind() {
            // The client has not even sent it.
            RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
                Error::Rejected {
                    subject: subject.to_owned(),
                    code: 0,
                    description: source.to_string(),
                }
            }
            _ => Error::NoAnswer {
                subject: subject.to_owned(),
                source,
            },
        })?;
    read_answer(subject, expected, &message.payload)
}

fn read_answer(subject: &str, expected: u64, payload: &[u8]) -> Result<Stored, Error> {
    let answer: Answer = serde_json::from_slice(payload).map_err(|source| Error::Unreadable {
        subject: subject.to_owned(),
        source,
    })?;
    match answer.error {
        None => Ok(Stored {
            seq: answer.seq,
            batch: answer.count,
        }),
        Some(error)
            if matches!(
                error.err_code,
                WRONG_LAST_SEQUENCE | WRONG_LAST_SEQUENCE_IN_FLIGHT | DUPLICATE_IN_FLIGHT
            ) =>
        {
            Err(Error::Conflict {
                subject: subject.to_owned(),
                expected,
            })
        }
        Some(error) => Err(Error::Rejected {
            subject: subject.to_owned(),
            code: error.err_code,
            description: error.description,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_write_in_flight_causes_is_a_conflict() {
        for code in [10_071, 10_164, 10_158] {
            let json = format!(r#"{{"error":{{"code":400,"err_code":{code},"description":"x"}}}}"#);
            assert!(matches!(
                read_answer("s", 4, json.as_bytes()),
                Err(Error::Conflict { .. })
            ));
        }
        let stored = read_answer(
            "s",
            0,
            br#"{"stream":"EVENTS","seq":7,"batch":"b","count":3}"#,
        );
        assert_eq!(stored.unwrap(), Stored { seq: 7, batch: 3 });
        let full = br#"{"error":{"code":503,"err_code":10023,"description":"insufficient"}}"#;
        assert!(matches!(
            read_answer("s", 0, full),
            Err(Error::Rejected { code: 10_023, .. })
        ));
    }
}
