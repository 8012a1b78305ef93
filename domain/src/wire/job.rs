//! What a worker is asked to do.

use crate::{
    Timestamp,
    id::{AccountId, QueryId},
};
use serde::{Deserialize, Serialize};

/// One query that needs an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The query.
    pub query: QueryId,
    /// Who asked.
    pub owner: AccountId,
    /// The question, with the contents of its files.
    pub text: String,
    /// The operation.
    pub operation: String,
    /// When it was asked.
    pub submitted_at: Timestamp,
}
