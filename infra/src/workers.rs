//! Which inference workers there are and what they can take: each says so in a bucket again and
//! again, and whoever routes queries or lists models keeps the latest word of each.

use crate::{bucket::Followed, lifecycle::Lifecycle};
use async_nats::{
    Client,
    jetstream::{self, kv},
};
use domain::{
    subject,
    wire::worker::{GONE_MILLIS, Registration},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

/// The bucket could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the list of workers cannot be read or written")]
pub struct Error(#[source] Box<dyn std::error::Error + Send + Sync>);

/// Says what a worker can take. Nobody believes it any more after [`GONE_MILLIS`].
///
/// # Errors
/// When the bucket cannot be written now.
pub async fn register(client: &Client, registration: &Registration) -> Result<(), Error> {
    let value = serde_json::to_vec(registration).map_err(|error| Error(error.into()))?;
    bucket(client)
        .await?
        .put(&subject::token(&registration.worker), value.into())
        .await
        .map_err(|error| Error(error.into()))?;
    Ok(())
}

/// Takes a worker off the list.
///
/// # Errors
/// When the bucket cannot be written now.
pub async fn leave(client: &Client, worker: &str) -> Result<(), Error> {
    let left = bucket(client).await?.delete(&subject::token(worker)).await;
    left.map_err(|error| Error(error.into()))
}

async fn bucket(client: &Client) -> Result<kv::Store, Error> {
    let context = jetstream::new(client.clone());
    let bucket = context.get_key_value(subject::WORKERS).await;
    bucket.map_err(|error| Error(error.into()))
}

/// What this process knows of the workers.
#[derive(Clone, Debug)]
pub struct Workers {
    known: Arc<RwLock<BTreeMap<String, (Registration, Instant)>>>,
    bucket: Followed,
}

impl Workers {
    /// Begins to watch. What the bucket holds is known once [`Self::synced`] completes.
    pub fn watch(client: &Client, lifecycle: &Lifecycle) -> Self {
        let known = Arc::new(RwLock::new(BTreeMap::new()));
        let copy = known.clone();
        let take = move |entry| note(&copy, entry);
        Self {
            known,
            bucket: Followed::begin(client, lifecycle, subject::WORKERS, "workers", take),
        }
    }

    /// Those that have given a sign lately, by name.
    pub fn present(&self) -> Vec<Registration> {
        let gone = Duration::from_millis(GONE_MILLIS);
        let known = self.known.read();
        let known = known.iter().flat_map(|known| known.values());
        let present = known.filter(|(_, heard)| heard.elapsed() < gone);
        present.map(|(worker, _)| worker.clone()).collect()
    }

    /// Completes when everything that the bucket held at the start is known.
    pub async fn synced(&self) {
        self.bucket.synced().await;
    }
}

fn note(known: &RwLock<BTreeMap<String, (Registration, Instant)>>, entry: kv::Entry) {
    let Ok(mut known) = known.write() else { return };
    match (entry.operation, serde_json::from_slice(&entry.value)) {
        (kv::Operation::Put, Ok(registration)) => {
            known.insert(entry.key, (registration, Instant::now()));
        }
        // One of another version is as good as none.
        _ => {
            known.remove(&entry.key);
        }
    }
}
