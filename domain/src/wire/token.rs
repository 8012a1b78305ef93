//! The token stream of a query: the messages of the subject [`crate::subject::tokens`].
//!
//! Message 1 says `queued` and names the owner; then come chunks; the last one is the terminal.
//! `seq` is dense, 1, 2, 3, …, and equal to the `seq` of contract §6. Writers append with the
//! expected last sequence of the subject, so that two of them can never interleave.

use crate::{
    Timestamp,
    id::{AccountId, QueryId},
    query::{Answer, Status},
    wire::{
        error::Code,
        socket::{QueryUpdate, Verification},
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One message of the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// Its number, from 1, without gaps.
    pub seq: u32,
    /// When it was made.
    pub at: Timestamp,
    /// What it says.
    pub body: Body,
    /// On the last message: the sequence in the log that a read must reflect to show the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_seq: Option<u64>,
}

/// What a message of the stream says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Body {
    /// The query waits for a worker.
    Queued {
        /// Who may follow.
        owner: AccountId,
    },
    /// A piece of the answer.
    Chunk(Chunk),
    /// The end.
    Terminal(Terminal),
}

/// A piece of the answer: the text for clients, and what a next worker needs to go on after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Chunk {
    /// The text; joined with nothing between, chunks give the answer.
    pub text: String,
    /// The tokens that were generated since the chunk before.
    pub ids: Vec<u32>,
    /// Sum of the natural logarithms of their probabilities.
    pub logprob: f64,
    /// Time spent on inference since the chunk before, in milliseconds.
    pub compute_ms: u64,
    /// The model that said it, which alone can go on after it; with the first chunk that a worker
    /// writes, and the same from there on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The tokens one by one, where their probabilities were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<Token>,
}

/// One token of an answer and how likely it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// What it stands for, alone; a token that is a part of a character has no text of its own.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// The likeliest tokens in its place, likeliest first, as many as were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<Alternative>,
}

/// A token that could have been.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Alternative {
    /// What it stands for, alone.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f64,
}

/// How a query ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Terminal {
    /// With an answer.
    Completed {
        /// The answer.
        answer: Answer,
    },
    /// Without one.
    Failed {
        /// What the client is told.
        code: Code,
        /// In words.
        message: String,
    },
    /// Given up.
    Cancelled,
}

impl Message {
    /// The `data` of the `query_update` that tells a client of this message.
    pub fn update(&self, query: QueryId) -> QueryUpdate {
        let mut update = QueryUpdate::new(query);
        match &self.body {
            Body::Queued { .. } => update.status = Some(Status::Queued),
            Body::Chunk(chunk) => {
                update.status = Some(Status::Streaming);
                update.chunk = Some(chunk.text.clone());
            }
            Body::Terminal(terminal) => {
                update.complete = Some(true);
                match terminal {
                    Terminal::Completed { answer } => {
                        update.status = Some(Status::Completed);
                        update.response_text = Some(answer.response_text.clone());
                        update.verification = answer
                            .confidence
                            .map(|confidence| Verification { confidence });
                    }
                    Terminal::Failed { .. } => update.status = Some(Status::Failed),
                    Terminal::Cancelled => update.status = Some(Status::Cancelled),
                }
            }
        }
        update
    }

    /// Whether nothing follows.
    pub const fn is_terminal(&self) -> bool {
        matches!(self.body, Body::Terminal(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whoever writes a stream compares what it has said with what is stored, to the last bit.
        #[test]
        fn a_chunk_is_read_as_it_was_written(logprob in -1e4..=0.0f64) {
            let body = Body::Chunk(Chunk {
                text: "Sun".into(),
                ids: vec![4],
                logprob,
                compute_ms: 1,
                model: None,
                tokens: vec![],
            });
            let json = serde_json::to_string(&body).unwrap();
            prop_assert_eq!(serde_json::from_str::<Body>(&json).unwrap(), body);
        }
    }

    #[test]
    fn every_kind_round_trips_and_becomes_the_contracts_update() {
        let query = QueryId::new(uuid::Uuid::from_u128(9));
        let owner = AccountId::new(uuid::Uuid::from_u128(1));
        let answer = Answer {
            response_text: "Sunlight is scattered".into(),
            model_used: "m".into(),
            confidence: Some(0.95),
            latency_ms: 7,
            finish_reason: "stop".into(),
            usage: crate::query::Usage::default(),
            chunks: 1,
        };
        let bodies = [
            Body::Queued { owner },
            Body::Chunk(Chunk {
                text: "Sun".into(),
                ids: vec![4],
                logprob: -0.5,
                compute_ms: 1,
                model: None,
                tokens: vec![],
            }),
            Body::Terminal(Terminal::Completed { answer }),
            Body::Terminal(Terminal::Failed {
                code: Code::QueryModelError,
                message: "m".into(),
            }),
            Body::Terminal(Terminal::Cancelled),
        ];
        let updates: Vec<_> = bodies
            .into_iter()
            .zip(1..)
            .map(|(body, seq)| {
                let message = Message {
                    seq,
                    at: Timestamp::from_millis(0),
                    body,
                    log_seq: None,
                };
                let json = serde_json::to_string(&message).unwrap();
                assert_eq!(serde_json::from_str::<Message>(&json).unwrap(), message);
                message.update(query)
            })
            .collect();
        insta::assert_json_snapshot!(updates);
    }
}
