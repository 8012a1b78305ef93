//! Revoked refresh ids, sessions and API keys: written once, known to every gateway at once.
//!
//! A gateway watches the bucket and keeps what is in it, so that a request costs no look-up.

use crate::{bucket::Followed, clock, lifecycle::Lifecycle};
use async_nats::{
    Client, HeaderMap, header,
    jetstream::{self, kv},
};
use domain::{limits, subject};
use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};
use uuid::Uuid;

/// The bucket could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the revocation cannot be stored")]
pub struct Error(#[source] Box<dyn std::error::Error + Send + Sync>);

/// Makes `key` (a `jti` or `sid`) worthless for `ttl_secs`. Safe to repeat.
///
/// # Errors
/// When the bucket cannot be written now.
pub async fn revoke(client: &Client, key: Uuid, ttl_secs: i64) -> Result<(), Error> {
    let mut headers = HeaderMap::new();
    headers.insert(header::NATS_MESSAGE_TTL, ttl_secs.max(1).to_string());
    let subject = format!("$KV.{}.{}", subject::REVOKED, key.hyphenated());
    let context = jetstream::new(client.clone());
    let stored = context
        .publish_with_headers(subject, headers, clock::now().to_string().into())
        .await
        .map_err(|error| Error(error.into()))?;
    stored.await.map_err(|error| Error(error.into()))?;
    Ok(())
}

/// What a gateway knows of the bucket.
#[derive(Clone, Debug)]
pub struct Revocations {
    known: Arc<RwLock<HashMap<Uuid, i64>>>,
    bucket: Followed,
}

impl Revocations {
    /// Begins to watch. Entries that the bucket has are known once [`Self::synced`] completes.
    pub fn watch(client: &Client, lifecycle: &Lifecycle) -> Self {
        let known = Arc::new(RwLock::new(HashMap::new()));
        let copy = known.clone();
        let take = move |entry: kv::Entry| {
            if let Ok(key) = entry.key.parse() {
                remember(&copy, key);
            }
        };
        Self {
            known,
            bucket: Followed::begin(client, lifecycle, subject::REVOKED, "revocations", take),
        }
    }

    /// Whether tokens that name this `jti` or `sid` are worthless.
    pub fn is_revoked(&self, key: Uuid) -> bool {
        self.known
            .read()
            .is_ok_and(|known| known.contains_key(&key))
    }

    /// Lets this process know at once what it has just caused itself.
    pub fn mark(&self, key: Uuid) {
        remember(&self.known, key);
    }

    /// Whether everything that the bucket held at the start is known.
    pub fn is_synced(&self) -> bool {
        self.bucket.is_synced()
    }

    /// Completes when everything that the bucket held at the start is known.
    pub async fn synced(&self) {
        self.bucket.synced().await;
    }
}

/// Keeps a key for as long as the longest token lives, and drops those that have outlived that.
fn remember(known: &RwLock<HashMap<Uuid, i64>>, key: Uuid) {
    let now = clock::now().as_secs();
    let Ok(mut known) = known.write() else { return };
    if known.len() % 1024 == 1023 {
        known.retain(|_, until| *until > now);
    }
    known.insert(key, now + limits::REFRESH_TOKEN_SECS);
}
