//! Frames of a query, encoded once and shared by every socket.

use axum::extract::ws::Utf8Bytes;
use domain::{
    id::QueryId,
    query::{Answer, Status, Usage},
    wire::{
        error::Code,
        rest::QueryItem,
        socket::{ServerBody, ServerFrame},
        token::{Body, Message, Terminal, Token},
    },
};
use std::{ops::Range, sync::Arc};

const BEFORE_DATA: &str = r#"{"type":"query_update","data":"#;

/// One message of a query's stream, as clients get it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) seq: u32,
    /// The `query_update` frame.
    pub(crate) frame: Utf8Bytes,
    /// The `error` frame that goes before it, where the query failed.
    pub(crate) error: Option<Utf8Bytes>,
    /// The tokens one by one, where their probabilities were asked for.
    pub(crate) tokens: Option<Arc<[Token]>>,
    data: Range<usize>,
}

impl Entry {
    pub(crate) fn of(query: QueryId, message: &Message) -> Self {
        let data = serde_json::to_string(&message.update(query)).unwrap_or_default();
        let frame = format!(
            r#"{BEFORE_DATA}{data},"seq":{},"timestamp":"{}"}}"#,
            message.seq, message.at
        );
        let error = match &message.body {
            Body::Terminal(Terminal::Failed {
                code,
                message: words,
            }) => {
                let body = ServerBody::Error {
                    message: words.clone(),
                    code: *code,
                    query_id: Some(query.to_string()),
                };
                Some(encode(&ServerFrame {
                    body,
                    seq: None,
                    timestamp: message.at,
                }))
            }
            Body::Terminal(Terminal::Completed { .. } | Terminal::Cancelled)
            | Body::Queued { .. }
            | Body::Chunk(_) => None,
        };
        let tokens = match &message.body {
            Body::Chunk(chunk) if !chunk.tokens.is_empty() => Some(chunk.tokens.as_slice().into()),
            Body::Chunk(_) | Body::Queued { .. } | Body::Terminal(_) => None,
        };
        Self {
            seq: message.seq,
            frame: frame.into(),
            error,
            tokens,
            data: BEFORE_DATA.len()..BEFORE_DATA.len() + data.len(),
        }
    }

    /// The last update of a query whose stream has expired, from the read model. How many came
    /// before is not known any more; for a client that has seen `from_seq`, it is the next.
    pub(crate) fn ending(item: &QueryItem, from_seq: u32) -> Self {
        let message = Message {
            seq: from_seq.saturating_add(1),
            at: item.completed_at.unwrap_or(item.created_at),
            body: Body::Terminal(terminal_of(item)),
            log_seq: None,
        };
        Self::of(item.query_id, &message)
    }

    /// The `data` of the update alone, as JSON.
    pub(crate) fn data(&self) -> &str {
        self.frame.as_str().get(self.data.clone()).unwrap_or("{}")
    }
}

/// How a query ended whose stream has expired, from the read model.
pub(crate) fn terminal_of(item: &QueryItem) -> Terminal {
    match item.status {
        Status::Completed => Terminal::Completed {
            answer: Answer {
                response_text: item.response_text.clone().unwrap_or_default(),
                model_used: item.model_used.clone().unwrap_or_default(),
                confidence: item.confidence,
                latency_ms: item.latency_ms.unwrap_or_default(),
                finish_reason: "stop".into(),
                usage: Usage::default(),
                chunks: 0,
            },
        },
        Status::Cancelled => Terminal::Cancelled,
        Status::Failed | Status::Queued | Status::Processing | Status::Streaming => {
            Terminal::Failed {
                code: Code::QueryProcessingError,
                message: "The query failed".into(),
            }
        }
    }
}

/// Encodes a frame for one socket.
pub(crate) fn encode(frame: &ServerFrame) -> Utf8Bytes {
    serde_json::to_string(frame).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{Timestamp, wire::token::Chunk};

    #[test]
    fn a_frame_is_what_the_wire_type_writes() {
        let query = QueryId::new(uuid::Uuid::from_u128(9));
        let message = Message {
            seq: 3,
            at: Timestamp::from_millis(7),
            body: Body::Chunk(Chunk {
                text: "a \"quoted\"\nline 𝄞".into(),
                ids: vec![1],
                logprob: 0.0,
                compute_ms: 1,
                model: None,
                tokens: vec![],
            }),
            log_seq: None,
        };
        let entry = Entry::of(query, &message);
        let expected = ServerFrame {
            body: ServerBody::QueryUpdate(message.update(query)),
            seq: Some(3),
            timestamp: message.at,
        };
        assert_eq!(entry.frame, encode(&expected));
        let data = serde_json::to_string(&message.update(query)).unwrap();
        assert_eq!(entry.data(), data);
        assert!(entry.error.is_none());
    }

    #[test]
    fn a_failure_has_an_error_frame_before_it() {
        let message = Message {
            seq: 2,
            at: Timestamp::from_millis(7),
            body: Body::Terminal(Terminal::Failed {
                code: Code::QueryModelError,
                message: "The model failed".into(),
            }),
            log_seq: None,
        };
        let entry = Entry::of(QueryId::new(uuid::Uuid::nil()), &message);
        let error = entry.error.unwrap();
        assert!(error.as_str().contains("QUERY_MODEL_ERROR"));
        assert!(entry.frame.as_str().contains(r#""complete":true"#));
        assert!(!entry.frame.as_str().contains("QUERY_MODEL_ERROR"));
    }
}
