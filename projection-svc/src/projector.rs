//! The loop that keeps one generation going: read, cut, write, repeat, and between two chunks what
//! must not happen during one.

use crate::{
    chunk::Buffer,
    lane::{Lanes, Written},
    log::{self, read_ahead},
    owner::{self, BEAT, Ownership, Role},
    parked, write,
};
use async_nats::{Client, jetstream};
use futures_util::future::{BoxFuture, FutureExt};
use infra::{lifecycle::Lifecycle, objects::Bucket, sealing::Keyring};
use std::time::Instant;
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tracing::{debug, error, info};

/// The log's place and the life of whoever reads it.
#[derive(Clone)]
pub(crate) struct Source {
    /// For the log.
    pub(crate) client: Client,
    /// For the log.
    pub(crate) context: jetstream::Context,
    /// The keys of persons.
    pub(crate) keys: Keyring,
    /// Of the process.
    pub(crate) lifecycle: Lifecycle,
    /// The copy of the log, if that is to be read as far as it goes.
    pub(crate) copy: Option<Bucket>,
    /// Where the copy of the log is, if there is one: what has left the log is read there.
    pub(crate) archive: Option<Bucket>,
}

/// It cannot go on as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The log has to be opened again.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// The ownership is lost.
    #[error(transparent)]
    Owner(#[from] owner::Error),
    /// The rows cannot be written.
    #[error(transparent)]
    Write(#[from] write::Error),
}

impl Error {
    /// Whether the generation has become another's, or is gone.
    pub(crate) fn is_fenced(&self) -> bool {
        let database = match self {
            Self::Write(write::Error::Fenced { .. }) => return true,
            Self::Write(
                write::Error::Checkpoint(error)
                | write::Error::Rows(crate::view::Error::Write(error)),
            )
            | Self::Owner(owner::Error::Database(error)) => error,
            Self::Owner(owner::Error::Gone) => return true,
            Self::Write(_) | Self::Owner(_) | Self::Log(_) => return false,
        };
        crate::generation::is_gone(database)
    }
}

/// Why it stopped without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The life ends.
    Stopped,
    /// All lanes are level and there should be another number of them.
    Relay,
    /// Whoever watches wanted it.
    Wanted,
}

/// Looks on, and says when to stop.
pub(crate) trait Watch: Send {
    /// All lanes have reached this; so many commits of the log are not in the rows.
    fn reached(&mut self, seq: u64, behind: u64);
    /// Another turn of the loop: it lives.
    fn alive(&mut self) {}
    /// Said regularly over the control connection.
    fn beat(
        &mut self,
        owner: &mut Ownership,
    ) -> impl Future<Output = Result<(), owner::Error>> + Send {
        owner.beat()
    }
    /// Something that has to happen between two chunks, at the same point in the log.
    fn between(
        &mut self,
        _owner: &mut Ownership,
        _behind: u64,
    ) -> impl Future<Output = Result<(), owner::Error>> + Send {
        std::future::ready(Ok(()))
    }
    /// Whether the loop should end between two chunks, given what all lanes have reached and how
    /// many commits of the log they do not have.
    fn wants_end(&self, _reached: u64, _behind: u64) -> bool {
        false
    }
}

/// What the loop works with.
pub(crate) struct Projector<'a, W> {
    /// Live or building.
    pub(crate) role: Role,
    /// Where the log is.
    pub(crate) source: &'a Source,
    /// The right to write.
    pub(crate) owner: &'a mut Ownership,
    /// The writers.
    pub(crate) lanes: &'a mut Lanes,
    /// How many there should be.
    pub(crate) wanted_lanes: usize,
    /// What people want done about parked commits.
    pub(crate) orders: &'a mut mpsc::Receiver<parked::Order>,
    /// Looks on.
    pub(crate) watch: &'a mut W,
}

type Work = BoxFuture<'static, Result<Option<Written>, write::Error>>;

impl<W: Watch> Projector<'_, W> {
    /// Projects until the life ends, or there is reason to begin anew. A log that is lost is
    /// opened again.
    pub(crate) async fn run(&mut self) -> Result<End, Error> {
        let mut backoff = crate::backoff();
        loop {
            let before = self.lanes.reached();
            let lost = match self.follow().await {
                Err(Error::Log(lost)) => lost,
                ended => return ended,
            };
            if self.lanes.reached() != before {
                backoff = crate::backoff();
            }
            let (cause, role) = (infra::telemetry::chain(&lost), self.role.name());
            if lost.is_grave() {
                error!(error = cause, role, "the log is read again");
            } else {
                tracing::warn!(error = cause, role, "the log is read again");
            }
            let stopping = self.source.lifecycle.soft();
            tokio::select! {
                () = stopping.cancelled() => return Ok(End::Stopped),
                () = backoff.wait() => {}
            }
            self.watch.beat(self.owner).await?;
        }
    }

    async fn follow(&mut self) -> Result<End, Error> {
        let lifecycle = &self.source.lifecycle;
        let first = self.lanes.reached();
        let mut slices = read_ahead(self.source, first);
        let stopping = lifecycle.soft();
        let mut buffer = Buffer::default();
        let mut work: Option<Work> = None;
        let mut lost = None;
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut progress = Progress::new(self.role, first);
        info!(
            role = self.role.name(),
            seq = first,
            lanes = self.lanes.len(),
            "projecting"
        );
        loop {
            self.watch.alive();
            if work.is_none() {
                if stopping.is_cancelled() {
                    return Ok(End::Stopped);
                }
                // Only now: what was being written when the log was lost had to come to its end.
                if let Some(lost) = lost {
                    return Err(Error::Log(lost));
                }
                if self.lanes.are_level() {
                    if self.lanes.len() != self.wanted_lanes {
                        return Ok(End::Relay);
                    }
                    if let Ok(order) = self.orders.try_recv() {
                        work = Some(self.settle(order));
                        continue;
                    }
                }
                if progress.is_known {
                    self.watch.between(self.owner, buffer.behind()).await?;
                    let reached = self.lanes.reached();
                    if self.watch.wants_end(reached, buffer.behind()) {
                        return Ok(End::Wanted);
                    }
                }
                if let Some(chunk) = buffer.cut() {
                    work = Some(self.lanes.write(chunk).map(|done| done.map(Some)).boxed());
                }
            }
            let may_settle = work.is_none() && self.lanes.are_level();
            tokio::select! {
                () = stopping.cancelled(), if work.is_none() => return Ok(End::Stopped),
                done = async { work.as_mut().expect("guarded").await }, if work.is_some() => {
                    work = None;
                    if let Some(written) = done? {
                        self.lanes.wrote(&written);
                        let (reached, behind) = (self.lanes.reached(), buffer.behind());
                        self.watch.reached(reached, behind);
                        progress.wrote(&written, reached, behind);
                    }
                }
                slice = slices.recv(), if lost.is_none() && buffer.has_room() => {
                    match slice.unwrap_or(Err(log::Error::Ended)) {
                        Ok(slice) => {
                            buffer.push(slice);
                            progress.is_known = true;
                        }
                        Err(error) => lost = Some(error),
                    }
                }
                order = self.orders.recv(), if may_settle => {
                    if let Some(order) = order {
                        work = Some(self.settle(order));
                    }
                }
                _ = beat.tick() => self.watch.beat(self.owner).await?,
            }
        }
    }

    fn settle(&self, order: parked::Order) -> Work {
        self.lanes
            .settle(order)
            .map(|done| done.map(|()| None))
            .boxed()
    }
}

/// What the log of the process is told.
struct Progress {
    role: Role,
    began: Instant,
    first: u64,
    caught_up: bool,
    /// Whether the log has said how many commits are to come.
    is_known: bool,
}

impl Progress {
    fn new(role: Role, first: u64) -> Self {
        Self {
            role,
            began: Instant::now(),
            first,
            caught_up: false,
            is_known: false,
        }
    }

    fn wrote(&mut self, written: &Written, reached: u64, behind: u64) {
        debug!(
            role = self.role.name(),
            seq = reached,
            commits = written.commits,
            parked = written.parked,
            behind,
            "projected a chunk"
        );
        if !self.caught_up && behind == 0 {
            self.caught_up = true;
            info!(
                role = self.role.name(),
                seq = reached,
                commits = reached.saturating_sub(self.first),
                took_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
                "caught up with the log"
            );
        }
    }
}
