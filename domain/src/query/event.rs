use super::{Options, Route, upcast};
use crate::{
    Recorded, Timestamp,
    id::{AccountId, QueryId},
    upcast::Upcast,
    wire::error::Code,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happened to a query. The names are the storage format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    /// Somebody asked.
    #[serde(rename = "query.submitted.v1")]
    Submitted {
        /// The query.
        query: QueryId,
        /// Who asked.
        owner: AccountId,
        /// What.
        #[serde(flatten)]
        submission: Submission,
        /// Which model it was given to; absent where any was to answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        route: Option<Route>,
        /// When.
        at: Timestamp,
    },
    /// A worker took it.
    #[serde(rename = "query.started.v1")]
    Started {
        /// The query.
        query: QueryId,
        /// The worker's name.
        worker: String,
        /// The model that answers.
        model: String,
        /// 1 for the first worker, 2 for the next that went on with it.
        attempt: u32,
        /// When.
        at: Timestamp,
    },
    /// The answer is whole.
    #[serde(rename = "query.completed.v1")]
    Completed {
        /// The query.
        query: QueryId,
        /// The answer.
        #[serde(flatten)]
        answer: Answer,
        /// When.
        at: Timestamp,
    },
    /// There will be no answer.
    #[serde(rename = "query.failed.v1")]
    Failed {
        /// The query.
        query: QueryId,
        /// What the client is told.
        code: Code,
        /// In words that may be shown to the client.
        message: String,
        /// When.
        at: Timestamp,
    },
    /// No answer was wanted any more.
    #[serde(rename = "query.cancelled.v2")]
    Cancelled {
        /// The query.
        query: QueryId,
        /// Who gave it up.
        by: CancelledBy,
        /// When.
        at: Timestamp,
    },
}

impl Recorded for Event {
    const UPCASTS: &'static [Upcast] = upcast::ALL;
}

/// Who gave a query up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CancelledBy {
    /// Who had asked.
    Owner,
    /// Nobody who could still want the answer: an operator, or the erasure of its owner.
    System,
}

impl CancelledBy {
    /// As it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::System => "system",
        }
    }
}

/// What was asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Submission {
    /// The question, trimmed.
    pub text: String,
    /// `general`, `analysis`, or another operation that is routed like `general`.
    pub operation: String,
    /// Files whose contents belong to the question.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file_ids: Vec<String>,
    /// What the client sent beside it, kept as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<serde_json::Value>,
    /// The client's own name for the query, when that is no UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// How the answer is wanted, where the client says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Box<Options>>,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// The whole text, equal to the chunks joined.
    pub response_text: String,
    /// The model that produced it.
    pub model_used: String,
    /// Geometric mean probability of the generated tokens, 0 to 1; the model's certainty about its
    /// words, not the truth of them. Absent where a provider gives no probabilities.
    pub confidence: Option<f64>,
    /// Time spent on inference, in milliseconds, over all attempts.
    pub latency_ms: u64,
    /// Why the model stopped: `stop` or `length`.
    pub finish_reason: String,
    /// What it cost.
    pub usage: Usage,
    /// In how many chunks it was streamed.
    pub chunks: u32,
}

/// Tokens that a query cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
}
