//! Buckets that a process follows, for a copy of them in memory.

use crate::{lifecycle::Lifecycle, retry::Backoff};
use async_nats::{
    Client,
    jetstream::{self, kv},
};
use futures_util::StreamExt;
use std::time::Duration;
use tokio::sync::watch;
use tracing::warn;

/// A bucket that is followed for as long as the process lives.
#[derive(Clone, Debug)]
pub(crate) struct Followed {
    synced: watch::Receiver<bool>,
}

impl Followed {
    /// Begins to hand every entry on, those that are there already first. `list` names what is kept
    /// of them.
    pub(crate) fn begin(
        client: &Client,
        lifecycle: &Lifecycle,
        bucket: &'static str,
        list: &'static str,
        take: impl Fn(kv::Entry) + Send + Sync + 'static,
    ) -> Self {
        let (report, synced) = watch::channel(false);
        let context = jetstream::new(client.clone());
        lifecycle.spawn(list, async move {
            let fresh = || Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
            let mut backoff = fresh();
            loop {
                match follow(&context, bucket, &take, &report).await {
                    Ok(()) => backoff = fresh(),
                    Err(error) => warn!(%error, "the list of {list} is not up to date"),
                }
                backoff.wait().await;
            }
        });
        Self { synced }
    }

    /// Whether everything that the bucket held at the start was handed on.
    pub(crate) fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Completes when everything that the bucket held at the start was handed on.
    pub(crate) async fn synced(&self) {
        // An error means that the follower is gone with the process.
        self.synced.clone().wait_for(|synced| *synced).await.ok();
    }
}

async fn follow(
    context: &jetstream::Context,
    bucket: &str,
    take: &(impl Fn(kv::Entry) + Sync),
    report: &watch::Sender<bool>,
) -> Result<(), async_nats::Error> {
    let bucket = context.get_key_value(bucket).await?;
    if bucket.status().await?.values() == 0 {
        report.send_replace(true);
    }
    let mut entries = bucket.watch_with_history(">").await?;
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        let delta = entry.delta;
        take(entry);
        if delta == 0 {
            report.send_replace(true);
        }
    }
    Ok(())
}
