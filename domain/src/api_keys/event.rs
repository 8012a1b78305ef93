use super::{Scope, SecretHash};
use crate::{
    Recorded, Timestamp,
    id::{AccountId, ApiKeyId},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What happened to the keys of a person. The names are the storage format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    /// A key was made.
    #[serde(rename = "api_keys.created.v1")]
    Created {
        /// Whose it is.
        account: AccountId,
        /// The key.
        key: ApiKeyId,
        /// What the person calls it.
        name: String,
        /// The hash of the whole key.
        secret_hash: SecretHash,
        /// What it may be used for.
        scopes: BTreeSet<Scope>,
        /// From when on it is worthless.
        expires_at: Option<Timestamp>,
        /// When.
        at: Timestamp,
    },
    /// A key was made worthless.
    #[serde(rename = "api_keys.revoked.v1")]
    Revoked {
        /// Whose it was.
        account: AccountId,
        /// The key.
        key: ApiKeyId,
        /// When.
        at: Timestamp,
    },
}

impl Recorded for Event {}
