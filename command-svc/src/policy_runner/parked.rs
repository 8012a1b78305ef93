//! Commits that are set aside with the reason why their reactions cannot be carried out.
//!
//! They lie in a bucket of bounded size. While it is full, further ones are not acknowledged: they
//! wait in the log's consumer, and nothing is lost. Every start tries all of them once, since a
//! newer version may read what an older one could not; `amaima admin policies` lists them, and has
//! one tried again or dropped.

use super::{Problem, Runner};
use async_nats::{
    Client,
    jetstream::{self, context::KeyValueError, kv},
};
use domain::{
    subject,
    wire::parked::{Order, Outcome, Parked},
};
use futures_util::{StreamExt, TryStreamExt};
use infra::{clock, lifecycle::Lifecycle};
use std::time::Duration;
use tracing::{error, info, warn};

/// Longest reason that is kept, in bytes.
const REASON_BYTES: usize = 500;

/// How long the bucket remembers that a commit was released.
const MARKER: Duration = Duration::from_secs(60);

/// The bucket could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the parked commits cannot be read or written")]
pub struct Error(#[source] async_nats::Error);

fn failed<E: Into<async_nats::Error>>(error: E) -> Error {
    Error(error.into())
}

/// The bucket of parked commits.
#[derive(Clone, Debug)]
pub struct Parking {
    bucket: kv::Store,
}

impl Parking {
    /// Opens the bucket, which [`infra::jetstream::prepare`] has made.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn open(context: &jetstream::Context) -> Result<Self, KeyValueError> {
        Ok(Self {
            bucket: context.get_key_value(subject::PARKED_POLICIES).await?,
        })
    }

    /// Sets a commit aside, or notes that it was tried once more.
    ///
    /// # Errors
    /// When the bucket cannot be written, or is full.
    pub async fn park(&self, seq: u64, subject: &str, reason: &str) -> Result<(), Error> {
        let tries = self.get(seq).await?.map_or(0, |parked| parked.tries);
        let mut reason = reason.to_owned();
        reason.truncate(reason.floor_char_boundary(REASON_BYTES));
        let parked = Parked {
            seq,
            subject: subject.to_owned(),
            reason,
            at: clock::now(),
            tries: tries + 1,
        };
        let value = serde_json::to_vec(&parked).map_err(failed)?;
        let put = self.bucket.put(seq.to_string(), value.into());
        put.await.map_err(failed)?;
        error!(
            subject,
            seq,
            reason = parked.reason,
            "a commit is parked: its reactions cannot be carried out"
        );
        Ok(())
    }

    async fn get(&self, seq: u64) -> Result<Option<Parked>, Error> {
        let value = self.bucket.get(seq.to_string()).await.map_err(failed)?;
        let parked = value.map(|value| serde_json::from_slice(&value));
        parked.transpose().map_err(failed)
    }

    async fn release(&self, seq: u64) -> Result<(), Error> {
        let purged = self.bucket.purge_with_ttl(seq.to_string(), MARKER);
        purged.await.map_err(failed)
    }

    async fn sequences(&self) -> Result<Vec<u64>, Error> {
        let keys = self.bucket.keys().await.map_err(failed)?;
        let keys: Vec<String> = keys.try_collect().await.map_err(failed)?;
        let mut sequences: Vec<u64> = keys.iter().filter_map(|key| key.parse().ok()).collect();
        sequences.sort_unstable();
        Ok(sequences)
    }
}

impl Runner {
    /// Tries what is parked once, then takes orders about it. It belongs to the lifecycle.
    ///
    /// # Errors
    /// When orders cannot be taken.
    pub async fn watch_parked(
        &self,
        client: &Client,
        life: &Lifecycle,
    ) -> Result<(), async_nats::SubscribeError> {
        let mut orders = client
            .queue_subscribe(subject::PARKED_POLICIES_ORDERS, "command-svc".to_owned())
            .await?;
        let (runner, client, stopping) = (self.clone(), client.clone(), life.clone());
        life.spawn("parked", async move {
            if let Err(error) = runner.retry_all().await {
                warn!(%error, "what is parked was not tried again");
            }
            loop {
                let order = tokio::select! {
                    order = orders.next() => order,
                    () = stopping.stopping() => return,
                };
                let Some(message) = order else { return };
                let outcome = match serde_json::from_slice(&message.payload) {
                    Ok(order) => runner.obey(order).await,
                    Err(error) => Outcome::Unavailable {
                        reason: format!("the order cannot be read: {error}"),
                    },
                };
                let answer = serde_json::to_vec(&outcome).unwrap_or_default();
                if let Some(reply) = message.reply
                    && let Err(error) = client.publish(reply, answer.into()).await
                {
                    warn!(%error, "an answer did not get out");
                }
            }
        });
        Ok(())
    }

    async fn retry_all(&self) -> Result<(), Error> {
        for seq in self.parked.sequences().await? {
            if self.life.is_stopping() {
                return Ok(());
            }
            let outcome = self.obey(Order::Retry { seq }).await;
            info!(seq, ?outcome, "a parked commit was tried again");
        }
        Ok(())
    }

    async fn obey(&self, order: Order) -> Outcome {
        self.try_to_obey(order)
            .await
            .unwrap_or_else(|error| Outcome::Unavailable {
                reason: infra::telemetry::chain(&error),
            })
    }

    async fn try_to_obey(&self, order: Order) -> Result<Outcome, Error> {
        let (Order::Retry { seq } | Order::Skip { seq }) = order;
        let Some(parked) = self.parked.get(seq).await? else {
            return Ok(Outcome::NotParked);
        };
        if let Order::Skip { .. } = order {
            self.parked.release(seq).await?;
            warn!(subject = parked.subject, seq, "a parked commit was let go");
            return Ok(Outcome::Skipped);
        }
        Ok(match self.try_once(seq).await {
            Ok(()) => {
                self.parked.release(seq).await?;
                Outcome::Done
            }
            Err(Problem::Never(reason)) => {
                self.parked.park(seq, &parked.subject, &reason).await?;
                Outcome::StillParked { reason }
            }
            Err(Problem::Later(reason)) => Outcome::Unavailable { reason },
        })
    }
}
