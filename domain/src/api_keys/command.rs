use super::{Scope, SecretHash};
use crate::{
    Timestamp,
    id::{AccountId, ApiKeyId},
};
use std::collections::BTreeSet;

/// Orders to the keys of a person.
#[derive(Clone, Debug)]
pub enum Command {
    /// Make a key.
    Create {
        /// Whose.
        account: AccountId,
        /// Its id.
        key: ApiKeyId,
        /// What the person calls it.
        name: String,
        /// The hash of the whole key.
        secret_hash: SecretHash,
        /// What it may be used for.
        scopes: BTreeSet<Scope>,
        /// From when on it is worthless.
        expires_at: Option<Timestamp>,
    },
    /// Make a key worthless.
    Revoke {
        /// Which.
        key: ApiKeyId,
    },
}
