//! What a worker is asked to do.

use crate::{
    Timestamp,
    id::{AccountId, QueryId},
    query::Options,
};
use serde::{Deserialize, Serialize};

/// One query that needs an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The query.
    pub query: QueryId,
    /// Who asked.
    pub owner: AccountId,
    /// The question, with the contents of its files.
    pub text: String,
    /// The operation.
    pub operation: String,
    /// How the answer is wanted, where the client says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Box<Options>>,
    /// When it was asked.
    pub submitted_at: Timestamp,
}
