//! What an answer looks like, whole and in pieces.

use domain::{
    Timestamp,
    id::QueryId,
    query::{Answer, Submission, Usage},
    wire::token::{Alternative, Token},
};
use serde::Serialize;

/// What is known of an answer before it begins.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// The model that was asked for.
    pub(super) model: String,
    /// When, in seconds.
    pub(super) created: i64,
    pub(super) with_logprobs: bool,
}

/// The whole answer.
#[derive(Debug, Serialize)]
pub(crate) struct Completion {
    id: String,
    object: &'static str,
    created: i64,
    model: String,
    choices: [Choice; 1],
    usage: Cost,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: u32,
    message: Said,
    logprobs: Option<Logprobs>,
    finish_reason: &'static str,
}

#[derive(Debug, Serialize)]
struct Said {
    role: &'static str,
    content: String,
    /// A model that declines says so in its content.
    refusal: Option<String>,
}

/// A piece of an answer.
#[derive(Debug, Serialize)]
pub(crate) struct Chunk {
    id: String,
    object: &'static str,
    created: i64,
    model: String,
    choices: Vec<Piece>,
    /// Where it was asked for: nothing but on the last piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Cost>>,
}

/// What a piece adds.
#[derive(Debug, Default, Serialize)]
pub(super) struct Piece {
    index: u32,
    delta: Delta,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Cost {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
}

#[derive(Debug, Serialize)]
struct Logprobs {
    content: Vec<Likely>,
    refusal: Option<Vec<Likely>>,
}

#[derive(Debug, Serialize)]
struct Likely {
    #[serde(flatten)]
    token: Word,
    top_logprobs: Vec<Word>,
}

/// A token: its text, which is only for reading where it is a part of a character, and its bytes.
#[derive(Debug, Serialize)]
struct Word {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

impl Head {
    pub(super) fn of(submission: &Submission, now: Timestamp) -> Self {
        let options = submission.options.as_deref();
        Self {
            model: options
                .and_then(|options| options.model.clone())
                .unwrap_or_default(),
            created: now.as_secs(),
            with_logprobs: options.is_some_and(|options| options.logprobs.is_some()),
        }
    }

    pub(super) fn completion(
        self,
        query: QueryId,
        answer: &Answer,
        tokens: &[Token],
    ) -> Completion {
        Completion {
            id: id(query),
            object: "chat.completion",
            created: self.created,
            model: answer.model_used.clone(),
            choices: [Choice {
                index: 0,
                message: Said {
                    role: "assistant",
                    content: answer.response_text.clone(),
                    refusal: None,
                },
                logprobs: self.with_logprobs.then(|| Logprobs::of(tokens)),
                finish_reason: finish_reason(answer),
            }],
            usage: answer.usage.into(),
        }
    }

    /// A piece of the answer; `with_usage` where the client wants to see it at the end.
    pub(super) fn chunk(&self, query: QueryId, piece: Piece, with_usage: bool) -> Chunk {
        Chunk {
            id: id(query),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model.clone(),
            choices: vec![piece],
            usage: with_usage.then_some(None),
        }
    }

    /// What the answer cost, behind its last piece.
    pub(super) fn cost(&self, query: QueryId, answer: &Answer) -> Chunk {
        Chunk {
            choices: vec![],
            usage: Some(Some(answer.usage.into())),
            ..self.chunk(query, Piece::default(), true)
        }
    }

    /// Some text.
    pub(super) fn text(&self, content: String, tokens: Option<&[Token]>) -> Piece {
        Piece {
            delta: Delta {
                role: None,
                content: Some(content),
            },
            logprobs: tokens.filter(|_| self.with_logprobs).map(Logprobs::of),
            ..Piece::default()
        }
    }
}

impl Piece {
    /// The first one: who speaks.
    pub(super) fn first() -> Self {
        Self {
            delta: Delta {
                role: Some("assistant"),
                content: Some(String::new()),
            },
            ..Self::default()
        }
    }

    /// The last one: why there is no more.
    pub(super) fn last(answer: &Answer) -> Self {
        Self {
            finish_reason: Some(finish_reason(answer)),
            ..Self::default()
        }
    }
}

fn id(query: QueryId) -> String {
    format!("chatcmpl-{query}")
}

/// The dialect has no word for an answer that was cut by anything but its length.
fn finish_reason(answer: &Answer) -> &'static str {
    match answer.finish_reason.as_str() {
        "stop" => "stop",
        _ => "length",
    }
}

impl From<Usage> for Cost {
    fn from(usage: Usage) -> Self {
        let Usage {
            prompt_tokens,
            completion_tokens,
        } = usage;
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
        }
    }
}

impl Logprobs {
    fn of(tokens: &[Token]) -> Self {
        Self {
            content: tokens.iter().map(Likely::from).collect(),
            refusal: None,
        }
    }
}

impl From<&Token> for Likely {
    fn from(token: &Token) -> Self {
        Self {
            token: Word::of(&token.bytes, token.logprob),
            top_logprobs: token.top.iter().map(Word::from).collect(),
        }
    }
}

impl From<&Alternative> for Word {
    fn from(other: &Alternative) -> Self {
        Self::of(&other.bytes, other.logprob)
    }
}

impl Word {
    fn of(bytes: &[u8], logprob: f64) -> Self {
        Self {
            token: String::from_utf8_lossy(bytes).into_owned(),
            logprob,
            bytes: bytes.to_vec(),
        }
    }
}

#[cfg(test)]
fn example_answer() -> (Head, Answer, [Token; 1]) {
    let head = Head {
        model: "m".into(),
        created: 7,
        with_logprobs: true,
    };
    let answer = Answer {
        response_text: "Sun é".into(),
        model_used: "m".into(),
        confidence: Some(0.5),
        latency_ms: 3,
        finish_reason: "stop".into(),
        usage: Usage {
            prompt_tokens: 5,
            completion_tokens: 3,
        },
        chunks: 2,
    };
    let token = Token {
        bytes: vec![0xc3],
        logprob: -0.5,
        top: vec![Alternative {
            bytes: b"Sun".into(),
            logprob: -0.25,
        }],
    };
    (head, answer, [token])
}

/// An answer to show.
#[cfg(test)]
pub(crate) fn example() -> Completion {
    let (head, answer, tokens) = example_answer();
    head.completion(QueryId::new(uuid::Uuid::from_u128(1)), &answer, &tokens)
}

/// A piece to show.
#[cfg(test)]
pub(crate) fn example_chunk() -> Chunk {
    let (head, answer, _) = example_answer();
    head.cost(QueryId::new(uuid::Uuid::from_u128(1)), &answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_openais_form() {
        let (head, mut answer, tokens) = example_answer();
        let query = QueryId::new(uuid::Uuid::from_u128(1));
        answer.finish_reason = "length".into();
        let pieces = [
            head.chunk(query, Piece::first(), false),
            head.chunk(query, head.text("Sun".into(), Some(&tokens)), true),
            head.chunk(query, Piece::last(&answer), true),
            head.cost(query, &answer),
        ];
        insta::assert_json_snapshot!((example(), pieces));
        let without = Head {
            with_logprobs: false,
            ..head
        };
        let plain = without.completion(query, &answer, &tokens);
        assert!(plain.choices[0].logprobs.is_none());
    }
}
