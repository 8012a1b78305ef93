//! Frames of the query socket (contract §6). Clients decode some of them strictly: keys are exact.

use crate::{Timestamp, id::QueryId, query::Status, wire::error::Code};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A frame from the server: `{"type","data","seq","timestamp"}`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ServerFrame {
    /// The frame's type and data.
    #[serde(flatten)]
    pub body: ServerBody,
    /// Number of an update within its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u32>,
    /// When it was made.
    pub timestamp: Timestamp,
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum ServerBody {
    /// The first frame.
    ConnectionEstablished {
        /// Who is connected.
        #[serde(rename = "userId")]
        user_id: String,
    },
    /// News of a query.
    QueryUpdate(QueryUpdate),
    /// News of the system, for sockets that subscribed to it.
    SystemStatus {
        /// `operational`, `degraded` or `down`.
        status: &'static str,
        /// Which part.
        component: String,
        /// In words.
        message: String,
    },
    /// A subscription stands.
    SubscriptionConfirmed(Topic),
    /// A subscription is gone.
    SubscriptionRemoved(Topic),
    /// Answer to the client's heartbeat.
    Heartbeat,
    /// Asks whether the client lives.
    Ping,
    /// Something did not work; the socket stays open.
    Error {
        /// In words.
        message: String,
        /// The stable code.
        code: Code,
        /// The query concerned.
        #[serde(rename = "queryId", skip_serializing_if = "Option::is_none")]
        query_id: Option<String>,
    },
}

/// What a subscription is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Topic {
    /// A query.
    Query {
        /// Its id, as the client wrote it.
        #[serde(rename = "queryId")]
        query_id: String,
    },
    /// The system as a whole.
    Channel {
        /// Always `system`.
        channel: &'static str,
    },
}

/// `data` of a `query_update`. A client decodes it strictly: no further keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct QueryUpdate {
    /// The query.
    pub query_id: QueryId,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// The next piece of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<String>,
    /// True on the last update, and only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<bool>,
    /// The whole answer, on the last update of a completed query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_text: Option<String>,
    /// How certain the model was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
}

/// See [`QueryUpdate::verification`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verification {
    /// 0 to 1.
    pub confidence: f64,
}

impl QueryUpdate {
    /// An update that says nothing yet.
    pub const fn new(query_id: QueryId) -> Self {
        Self {
            query_id,
            status: None,
            chunk: None,
            complete: None,
            response_text: None,
            verification: None,
        }
    }
}

/// A frame from a client. Unknown keys are ignored.
#[derive(Clone, Debug, PartialEq, JsonSchema)]
#[schemars(tag = "type", rename_all = "snake_case")]
pub enum ClientFrame {
    /// Ask.
    SubmitQuery(SubmitQuery),
    /// Follow a query.
    SubscribeQuery {
        /// Its id, as the client wrote it.
        #[schemars(rename = "queryId")]
        query_id: String,
        /// The last `seq` that the client has seen.
        #[schemars(rename = "fromSeq", default)]
        from_seq: u32,
    },
    /// Follow it no longer.
    UnsubscribeQuery {
        /// Its id, as the client wrote it.
        #[schemars(rename = "queryId")]
        query_id: String,
    },
    /// Follow the state of the system.
    SubscribeSystem,
    /// Follow it no longer.
    UnsubscribeSystem,
    /// Answers a ping.
    Pong,
    /// Shows that the client lives.
    Heartbeat,
}

/// `submit_query`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
pub struct SubmitQuery {
    /// The question.
    #[serde(default)]
    #[schemars(required)]
    pub query: Option<String>,
    /// The operation.
    #[serde(default)]
    pub operation: Option<String>,
    /// The client's own id.
    #[serde(default, rename = "queryId", alias = "query_id")]
    pub query_id: Option<String>,
    /// Files that belong to the question.
    #[serde(default)]
    pub file_ids: Option<Vec<String>>,
    /// Kept as it is.
    #[serde(default, alias = "metadata")]
    pub context: Option<serde_json::Value>,
}

/// Why a client's frame is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not a JSON object.
    #[error("Message is not valid JSON")]
    NotJson,
    /// The type is missing or unknown.
    #[error("Unknown message type")]
    UnknownType,
    /// A field is absent or of the wrong type.
    #[error("{field}: {rule}")]
    Field {
        /// Its name.
        field: &'static str,
        /// The rule that it breaks.
        rule: String,
    },
}

impl Malformed {
    /// The code that the client is told.
    pub const fn code(&self) -> Code {
        match self {
            Self::NotJson => Code::ValidationInvalidFormat,
            Self::UnknownType => Code::BadRequest,
            Self::Field { .. } => Code::ValidationError,
        }
    }
}

impl ClientFrame {
    /// Reads a text frame.
    ///
    /// # Errors
    /// What is wrong with it; the socket stays open.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|_| Malformed::NotJson)?;
        let object = value.as_object().ok_or(Malformed::NotJson)?;
        let r#type = object
            .get("type")
            .and_then(|v| v.as_str())
            .ok_or(Malformed::UnknownType)?;
        match r#type {
            "submit_query" => Ok(Self::SubmitQuery(serde_json::from_value(value).map_err(
                |error| Malformed::Field {
                    field: "submit_query",
                    rule: error.to_string(),
                },
            )?)),
            "subscribe_query" => Ok(Self::SubscribeQuery {
                query_id: query_id(object)?,
                from_seq: from_seq(object)?,
            }),
            "unsubscribe_query" => Ok(Self::UnsubscribeQuery {
                query_id: query_id(object)?,
            }),
            "subscribe_system" => Ok(Self::SubscribeSystem),
            "unsubscribe_system" => Ok(Self::UnsubscribeSystem),
            "pong" => Ok(Self::Pong),
            // One client sends the qualified name of its class as the type.
            other if other == "heartbeat" || other.ends_with("Heartbeat") => Ok(Self::Heartbeat),
            _ => Err(Malformed::UnknownType),
        }
    }
}

type Object = serde_json::Map<String, serde_json::Value>;

fn query_id(object: &Object) -> Result<String, Malformed> {
    let found = object.get("queryId").and_then(|value| value.as_str());
    let rule = || Malformed::Field {
        field: "queryId",
        rule: "Field is required".into(),
    };
    found
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
        .ok_or_else(rule)
}

fn from_seq(object: &Object) -> Result<u32, Malformed> {
    match object.get("fromSeq") {
        None | Some(serde_json::Value::Null) => Ok(0),
        Some(value) => value
            .as_u64()
            .and_then(|seq| u32::try_from(seq).ok())
            .ok_or_else(|| Malformed::Field {
                field: "fromSeq",
                rule: "Must be a number, 0 or greater".into(),
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn server_frames_are_the_contracts() {
        let query = QueryId::new(uuid::Uuid::from_u128(9));
        let topic = Topic::Query {
            query_id: query.to_string(),
        };
        let mut update = QueryUpdate::new(query);
        update.status = Some(Status::Streaming);
        update.chunk = Some(" is scattered".into());
        let bodies = [
            (
                ServerBody::ConnectionEstablished {
                    user_id: "3f2c".into(),
                },
                None,
            ),
            (ServerBody::QueryUpdate(update), Some(3)),
            (ServerBody::SubscriptionConfirmed(topic.clone()), None),
            (ServerBody::SubscriptionRemoved(topic), None),
            (
                ServerBody::SubscriptionConfirmed(Topic::Channel { channel: "system" }),
                None,
            ),
            (
                ServerBody::SystemStatus {
                    status: "degraded",
                    component: "postgres".into(),
                    message: "Reads are unavailable".into(),
                },
                None,
            ),
            (ServerBody::Heartbeat, None),
            (ServerBody::Ping, None),
            (
                ServerBody::Error {
                    message: "Query not found".into(),
                    code: Code::NotFound,
                    query_id: Some("x".into()),
                },
                None,
            ),
        ];
        let frames: Vec<ServerFrame> = bodies
            .into_iter()
            .map(|(body, seq)| ServerFrame {
                body,
                seq,
                timestamp: Timestamp::from_millis(0),
            })
            .collect();
        insta::assert_json_snapshot!(frames);
    }

    #[test]
    fn client_frames_are_read_leniently() {
        let frame = ClientFrame::parse(
            r#"{"type":"submit_query","query":"Why?","operation":"general","new":1,"timestamp":"t"}"#,
        );
        let Ok(ClientFrame::SubmitQuery(submit)) = frame else {
            panic!("{frame:?}")
        };
        assert_eq!(submit.query.as_deref(), Some("Why?"));
        assert_eq!(
            ClientFrame::parse(r#"{"type":"subscribe_query","queryId":"a","fromSeq":2}"#),
            Ok(ClientFrame::SubscribeQuery {
                query_id: "a".into(),
                from_seq: 2
            })
        );
        let qualified = r#"{"type":"com.amaima.net.WebSocketMessage.Heartbeat"}"#;
        assert_eq!(ClientFrame::parse(qualified), Ok(ClientFrame::Heartbeat));
        assert_eq!(ClientFrame::parse("{"), Err(Malformed::NotJson));
        assert_eq!(ClientFrame::parse("[1]"), Err(Malformed::NotJson));
        assert_eq!(
            ClientFrame::parse(r#"{"type":"dance"}"#),
            Err(Malformed::UnknownType)
        );
        assert!(matches!(
            ClientFrame::parse(r#"{"type":"subscribe_query","queryId":"a","fromSeq":-1}"#),
            Err(Malformed::Field {
                field: "fromSeq",
                ..
            })
        ));
    }

    /// The description of frames and the parser are two things.
    #[test]
    fn every_described_frame_is_read() {
        let frames = crate::schema::by_type(&crate::schema::read::<ClientFrame>());
        assert_eq!(frames.len(), 7, "{frames:?}");
        for (name, schema) in frames {
            let frame = serde_json::json!({ "type": name, "query": "Why?", "queryId": "a" });
            assert!(ClientFrame::parse(&frame.to_string()).is_ok(), "{name}");
            for field in schema["required"].as_array().unwrap() {
                assert!(
                    frame.get(field.as_str().unwrap()).is_some(),
                    "{name}: {field}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}") {
            let _ = ClientFrame::parse(&text);
        }
    }
}
