//! The loop that keeps a projection going: own it, read on from the checkpoint, write, repeat. A
//! lost log is opened again; a lost database means to own the projection again.

use crate::{
    log::{self, Log},
    owner::{self, Owner},
};
use async_nats::{Client, jetstream};
use infra::telemetry::chain;
use sqlx::postgres::PgConnectOptions;
use std::time::{Duration, Instant};
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// How often an owner without work looks after both of its connections.
const LOOK: Duration = Duration::from_millis(500);

/// One projection: its name, which is also its checkpoint's, and its connections. There is one, of
/// the whole log; a second one would read other parts of it.
pub(crate) struct Lane {
    /// Name of the checkpoint.
    pub(crate) projection: &'static str,
    /// For the log.
    pub(crate) client: Client,
    /// For the log.
    pub(crate) context: jetstream::Context,
    /// For the rows.
    pub(crate) database: PgConnectOptions,
    /// Tells which sequence the rows reflect.
    pub(crate) report: watch::Sender<u64>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Log(#[from] log::Error),
    #[error(transparent)]
    Owner(#[from] owner::Error),
}

impl Lane {
    /// Projects until `stop`, finishing the batch in hand.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut backoff = crate::backoff();
        loop {
            let acquired = tokio::select! {
                () = stop.cancelled() => return,
                acquired = Owner::acquire(self.projection, &self.database, self.report.clone()) => {
                    acquired
                }
            };
            let lost = match acquired {
                Ok(mut owner) => match self.project(&mut owner, &stop).await {
                    Ok(()) => return owner.release().await,
                    Err(error) => {
                        backoff = crate::backoff();
                        error
                    }
                },
                Err(error) => error,
            };
            warn!(
                error = chain(&lost),
                projection = self.projection,
                "the projection pauses until the database is back"
            );
            tokio::select! {
                () = stop.cancelled() => return,
                () = backoff.wait() => {}
            }
        }
    }

    /// Projects until `stop`, or until the ownership is lost.
    async fn project(
        &self,
        owner: &mut Owner,
        stop: &CancellationToken,
    ) -> Result<(), owner::Error> {
        let mut backoff = crate::backoff();
        loop {
            let before = owner.checkpoint();
            let lost = match self.follow(owner, stop).await {
                Ok(()) => return Ok(()),
                Err(Error::Owner(error)) => return Err(error),
                Err(Error::Log(error)) => error,
            };
            if owner.checkpoint() != before {
                backoff = crate::backoff();
            }
            let cause = chain(&lost);
            if lost.is_grave() {
                error!(
                    error = cause,
                    projection = self.projection,
                    "the log is read again"
                );
            } else {
                warn!(
                    error = cause,
                    projection = self.projection,
                    "the log is read again"
                );
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = backoff.wait() => {}
            }
            owner.ping().await?;
        }
    }

    /// Projects until `stop`, or until log or ownership is lost.
    async fn follow(&self, owner: &mut Owner, stop: &CancellationToken) -> Result<(), Error> {
        let mut log = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            log = Log::open(&self.client, &self.context, owner.checkpoint()) => log?,
        };
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (begun, first) = (Instant::now(), owner.checkpoint());
        let mut caught_up = log.behind() == 0;
        info!(
            projection = self.projection,
            seq = first,
            behind = log.behind(),
            "projecting"
        );
        loop {
            let commits = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                commits = log.next() => commits?,
                _ = look.tick() => {
                    owner.ping().await?;
                    if log.is_stale() {
                        return Err(log::Error::Ended.into());
                    }
                    continue;
                }
            };
            let started = Instant::now();
            owner.apply(&commits).await?;
            debug!(
                projection = self.projection,
                seq = owner.checkpoint(),
                commits = commits.len(),
                behind = log.behind(),
                took_ms = millis(started),
                "projected a batch"
            );
            if !caught_up && log.behind() == 0 {
                caught_up = true;
                info!(
                    projection = self.projection,
                    seq = owner.checkpoint(),
                    commits = owner.checkpoint() - first,
                    took_ms = millis(begun),
                    "caught up with the log"
                );
            }
        }
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
