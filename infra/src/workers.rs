//! Which inference workers there are and what they can take: each says so in a bucket again and
//! again, and whoever routes queries or lists models keeps the latest word of each.

use crate::{lifecycle::Lifecycle, retry::Backoff};
use async_nats::{
    Client,
    jetstream::{self, kv},
};
use domain::{
    subject,
    wire::worker::{GONE_MILLIS, Registration},
};
use futures_util::StreamExt;
use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tracing::warn;

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
        .put(&key(&registration.worker), value.into())
        .await
        .map_err(|error| Error(error.into()))?;
    Ok(())
}

/// Takes a worker off the list.
///
/// # Errors
/// When the bucket cannot be written now.
pub async fn leave(client: &Client, worker: &str) -> Result<(), Error> {
    let left = bucket(client).await?.delete(&key(worker)).await;
    left.map_err(|error| Error(error.into()))
}

async fn bucket(client: &Client) -> Result<kv::Store, Error> {
    let context = jetstream::new(client.clone());
    let bucket = context.get_key_value(subject::WORKERS).await;
    bucket.map_err(|error| Error(error.into()))
}

/// A name as a key: other characters than keys may hold become `-`.
fn key(worker: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    worker
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .collect()
}

/// What this process knows of the workers.
#[derive(Clone, Debug)]
pub struct Workers {
    known: Arc<RwLock<BTreeMap<String, (Registration, Instant)>>>,
    synced: watch::Receiver<bool>,
}

impl Workers {
    /// Begins to watch. What the bucket holds is known once [`Self::synced`] completes.
    pub fn watch(client: &Client, lifecycle: &Lifecycle) -> Self {
        let (report, synced) = watch::channel(false);
        let this = Self {
            known: Arc::default(),
            synced,
        };
        let (known, context) = (this.known.clone(), jetstream::new(client.clone()));
        lifecycle.spawn("workers", async move {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
            loop {
                if let Err(error) = follow(&context, &known, &report).await {
                    warn!(%error, "the list of workers is not up to date");
                }
                backoff.wait().await;
            }
        });
        this
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
        // An error means that the watcher is gone with the process.
        self.synced.clone().wait_for(|synced| *synced).await.ok();
    }
}

async fn follow(
    context: &jetstream::Context,
    known: &RwLock<BTreeMap<String, (Registration, Instant)>>,
    report: &watch::Sender<bool>,
) -> Result<(), async_nats::Error> {
    let bucket = context.get_key_value(subject::WORKERS).await?;
    if bucket.status().await?.values() == 0 {
        report.send_replace(true);
    }
    let mut entries = bucket.watch_with_history(">").await?;
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        if let Ok(mut known) = known.write() {
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
        if entry.delta == 0 {
            report.send_replace(true);
        }
    }
    Ok(())
}
