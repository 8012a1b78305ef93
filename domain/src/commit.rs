//! One decision in the log: a batch of CloudEvents 1.0 in JSON, written as one message.
//!
//! Several events of one decision are atomic because they are one message, whatever the server.
//! What the message's headers hold beside it is named here too.

use crate::{Aggregate, Recorded, Timestamp, id::CommandId, subject, upcast};
use schemars::JsonSchema;
use serde::Serialize;

/// Headers of a message in the log, beside the server's own.
pub mod header {
    /// Types of the events in it, separated by commas.
    pub const EVENT_TYPES: &str = "Amaima-Event-Types";
    /// Who gave the command, as JSON of [`crate::Actor`].
    pub const ACTOR: &str = "Amaima-Actor";
    /// The command's id, by which a repeat finds what the first one stored.
    pub const COMMAND_ID: &str = "Amaima-Command-Id";
    /// What the command belongs to: the request that began it all.
    pub const CORRELATION_ID: &str = "Amaima-Correlation-Id";
    /// What caused the command: a request id or an event id.
    pub const CAUSATION_ID: &str = "Amaima-Causation-Id";
    /// What the command said, as [`crate::Fingerprint`]: where it came with an idempotency key.
    pub const FINGERPRINT: &str = "Amaima-Fingerprint";
    /// That the payload is sealed, how, and with whose key: `<version> <account>`.
    pub const SEALED: &str = "Amaima-Sealed";
    /// Version of this layout.
    pub const SCHEMA: &str = "Amaima-Schema";
    /// W3C Trace Context.
    pub const TRACEPARENT: &str = "traceparent";
    /// The request's id.
    pub const REQUEST_ID: &str = "X-Request-ID";
}

/// Version of the layout, for [`header::SCHEMA`].
pub const SCHEMA: &str = "1";

#[derive(Serialize, JsonSchema)]
pub(crate) struct CloudEvent<'a, E> {
    /// The version of CloudEvents.
    specversion: &'static str,
    /// `<command id>.<index>`, the same however often the command is tried.
    id: String,
    /// What wrote it.
    source: &'static str,
    /// `<kind>/<id>` of the aggregate.
    subject: &'a str,
    /// When the command was decided.
    time: Timestamp,
    /// What `data` is.
    datacontenttype: &'static str,
    #[serde(flatten)]
    event: &'a E,
}

/// A commit, ready to be written.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The aggregate.
    pub aggregate: subject::Aggregate,
    /// The JSON array.
    pub payload: Vec<u8>,
    /// For [`header::EVENT_TYPES`].
    pub types: String,
}

/// The payload of a commit is not what this version of the program can read.
#[derive(Debug, thiserror::Error)]
#[error("the commit on {subject} cannot be read")]
pub struct Undecodable {
    /// Where it was found.
    pub subject: String,
    /// What is wrong with it.
    pub source: serde_json::Error,
}

/// Writes the events of one decision. Event ids are `<command id>.<index>`, so that a retry writes
/// the same ones.
///
/// # Errors
/// When an event cannot be written as JSON, such as a number that is not finite.
pub fn encode<A: Aggregate>(
    id: uuid::Uuid,
    command: CommandId,
    now: Timestamp,
    events: &[A::Event],
) -> Result<Encoded, serde_json::Error> {
    let aggregate = A::named(id);
    let subject = format!("{}/{}", aggregate.kind.as_str(), aggregate.id.hyphenated());
    let mut payload = vec![b'['];
    let mut types = String::new();
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            payload.push(b',');
            types.push(',');
        }
        let begin = payload.len();
        let event = CloudEvent {
            specversion: "1.0",
            id: format!("{command}.{index}"),
            source: "amaima/command-svc",
            subject: &subject,
            time: now,
            datacontenttype: "application/json",
            event,
        };
        serde_json::to_writer(&mut payload, &event)?;
        types.push_str(type_of(&payload[begin..]));
    }
    payload.push(b']');
    Ok(Encoded {
        aggregate,
        payload,
        types,
    })
}

/// The type of an event that was just written. Nothing before it in [`CloudEvent`] holds a quote,
/// so the first text that looks like the attribute is it.
fn type_of(json: &[u8]) -> &str {
    const KEY: &[u8] = b"\"type\":\"";
    let begin = json.windows(KEY.len()).position(|text| text == KEY);
    let rest = begin.map_or(&[][..], |begin| &json[begin + KEY.len()..]);
    let end = rest.iter().position(|byte| *byte == b'"');
    std::str::from_utf8(&rest[..end.unwrap_or(0)]).unwrap_or_default()
}

/// Reads the events of one decision back, old ones at their latest versions.
///
/// # Errors
/// When the payload is no JSON array of events of this type.
pub fn decode<E: Recorded>(subject: &str, payload: &[u8]) -> Result<Vec<E>, Undecodable> {
    let events = serde_json::from_slice(payload);
    let events = events.or_else(|error| {
        let events = upcast::up_to_date(payload, E::UPCASTS).ok_or(error)?;
        serde_json::from_value(events)
    });
    events.map_err(|source| Undecodable {
        subject: subject.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        account::Account,
        id::{AccountId, EmailId},
        query::{self, Query},
    };

    #[test]
    fn a_commit_is_a_batch_of_cloud_events() {
        let command = CommandId::new(uuid::Uuid::from_u128(7));
        let event = crate::account::Event::Registered {
            account: AccountId::new(uuid::Uuid::from_u128(1)),
            email: "mia@example.com".into(),
            name: "Mia".into(),
            password_hash: "$argon2id$".into(),
            tier: crate::account::Tier::Free,
            at: Timestamp::from_millis(1_741_079_700_000),
        };
        let id = uuid::Uuid::from_u128(1);
        let now = Timestamp::from_millis(1_741_079_700_000);
        let commit = encode::<Account>(id, command, now, std::slice::from_ref(&event)).unwrap();
        assert_eq!(commit.types, "account.registered.v1");
        // Whether objects keep their order depends on what else is built.
        insta::with_settings!({sort_maps => true}, {
            insta::assert_json_snapshot!(
                serde_json::from_slice::<serde_json::Value>(&commit.payload).unwrap()
            );
        });
        let back: Vec<crate::account::Event> = decode("x", &commit.payload).unwrap();
        assert_eq!(back, [event]);
        assert!(decode::<crate::account::Event>("x", b"[{\"type\":\"account.gone.v9\"}]").is_err());
    }

    #[test]
    fn flattened_events_come_back_whole() {
        let event = query::Event::Completed {
            query: crate::id::QueryId::new(uuid::Uuid::from_u128(3)),
            answer: query::Answer {
                response_text: "a\u{1f600}b".into(),
                model_used: "m".into(),
                confidence: Some(0.25),
                latency_ms: 4,
                finish_reason: "stop".into(),
                usage: query::Usage {
                    prompt_tokens: 1,
                    completion_tokens: 2,
                },
                chunks: 1,
            },
            at: Timestamp::from_millis(5),
        };
        let commit = encode::<Query>(
            EmailId::of("x").uuid(),
            CommandId::new(uuid::Uuid::nil()),
            Timestamp::from_millis(5),
            &[event.clone(), event.clone()],
        )
        .unwrap();
        assert_eq!(commit.types, "query.completed.v1,query.completed.v1");
        assert_eq!(
            decode::<query::Event>("x", &commit.payload).unwrap(),
            [event.clone(), event]
        );
    }
}
