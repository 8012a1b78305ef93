//! Bodies of REST responses that services hand to the gateway (contract §3 and §5).

use crate::{
    Timestamp,
    account::Tier,
    api_keys::Scope,
    id::{AccountId, ApiKeyId, QueryId, SessionId},
    query::{Route, Status},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A person, as clients see one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The account.
    pub id: AccountId,
    /// Address as written.
    pub email: String,
    /// Display name.
    pub name: String,
    /// Whether the person may sign in.
    pub is_active: bool,
    /// Subscription.
    pub subscription_tier: Tier,
    /// When the person registered.
    pub created_at: Timestamp,
}

/// A device session, as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionItem {
    /// The session.
    pub session_id: SessionId,
    /// The device's own id.
    pub device_id: Option<String>,
    /// The device's name.
    pub device_name: Option<String>,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When it was opened or last refreshed.
    pub last_seen_at: Timestamp,
}

/// An API key, as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyItem {
    /// The key's id, which is not the key.
    pub id: ApiKeyId,
    /// What the person calls it.
    pub name: String,
    /// What it may be used for.
    pub scopes: BTreeSet<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is worthless.
    pub expires_at: Option<Timestamp>,
}

/// A query, as its owner sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryItem {
    /// The query.
    pub query_id: QueryId,
    /// The question.
    pub query: String,
    /// The operation.
    pub operation: String,
    /// How far it is.
    pub status: Status,
    /// The answer, when there is one.
    pub response_text: Option<String>,
    /// The model that answered.
    pub model_used: Option<String>,
    /// The model's certainty about its words, 0 to 1.
    pub confidence: Option<f64>,
    /// Time spent on inference, in milliseconds.
    pub latency_ms: Option<u64>,
    /// Files that belong to the question; `null` without any.
    pub file_references: Option<Vec<FileReference>>,
    /// Which model it was given to and why; `null` for queries from before there were rules.
    #[serde(default)]
    pub route: Option<Route>,
    /// When it was asked.
    pub created_at: Timestamp,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
}

/// A file that belongs to a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReference {
    /// The file.
    pub file_id: String,
    /// Its name.
    pub filename: String,
}
