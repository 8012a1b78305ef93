//! Bringing another generation up beside the live one, and making it live.
//!
//! What is to be done stands in the database: a generation in the schema `rm_next` is built, one in
//! `rm_previous` that wants to be live again is brought up to date. Whichever instance of its
//! version has the lock does it, and another goes on from the checkpoints when that one is gone.
//! Where the live generation is of another version, one of ours is wanted, and takes its place by
//! itself; meanwhile an instance of that other version, if there is one, keeps it going.

use crate::{
    generation::{self, Meta, Slot, VERSION},
    lane::Lanes,
    owner::{self, BEAT, Ownership, Role},
    parked,
    projector::{End, Error, Projector, Source, Watch},
};
use infra::{lifecycle::Lifecycle, objects::Bucket, telemetry::chain};
use sqlx::{PgPool, postgres::PgConnectOptions};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

/// How often it is looked whether there is something to build.
const LOOK: Duration = Duration::from_millis(250);
/// So close to the end of the log a generation counts as caught up, since under load the last
/// commit is never there.
const NEAR: u64 = 2000;
/// Longest that a flip keeps the writer of the live generation waiting.
const HOLD: Duration = Duration::from_secs(2);
/// How long lanes may take to end.
const GRACE: Duration = Duration::from_secs(1);

/// What it takes.
pub(crate) struct Builder {
    /// The log.
    pub(crate) source: Source,
    /// Without a `search_path`.
    pub(crate) database: PgConnectOptions,
    /// For short questions.
    pub(crate) pool: PgPool,
    /// How many lanes there should be.
    pub(crate) lanes: usize,
    /// Where the copy of the log is.
    pub(crate) copy: Option<Bucket>,
}

impl Builder {
    /// Until the life ends.
    pub(crate) async fn run(self) {
        let stopping = self.source.lifecycle.soft();
        let mut backoff = crate::backoff();
        while !stopping.is_cancelled() {
            match self.turn().await {
                Ok(true) => backoff = crate::backoff(),
                Ok(false) => {
                    backoff = crate::backoff();
                    tokio::select! {
                        () = stopping.cancelled() => return,
                        () = tokio::time::sleep(LOOK) => {}
                    }
                }
                Err(error) => {
                    if error.is_fenced() {
                        info!(reason = chain(&error), "the build ends");
                    } else {
                        warn!(error = chain(&error), "the build pauses");
                    }
                    tokio::select! {
                        () = stopping.cancelled() => return,
                        () = backoff.wait() => {}
                    }
                }
            }
        }
    }

    /// Builds what there is to build; `false` where there is nothing, and something to tidy at most.
    async fn turn(&self) -> Result<bool, Error> {
        let database = owner::Error::Database;
        let mut connection = self.pool.acquire().await.map_err(database)?;
        let is_wanted = wanted(&mut connection).await.map_err(database)?;
        if is_wanted.is_none() {
            generation::sweep(&mut connection).await.map_err(database)?;
            return Ok(false);
        }
        drop(connection);
        let stopping = self.source.lifecycle.soft();
        let mut owner = tokio::select! {
            () = stopping.cancelled() => return Ok(true),
            owner = Ownership::acquire(Role::Build, &self.database) => owner?,
        };
        // Somebody else may have done it meanwhile.
        let done = match wanted(owner.control()).await.map_err(database)? {
            None => Ok(()),
            Some(Wanted::New) => self.begin(&mut owner).await,
            Some(Wanted::Old(slot)) => self.build(&mut owner, slot).await,
        };
        owner.release().await;
        done.map(|()| true)
    }

    /// Makes a generation of our version, in place of one of another that nobody needs.
    async fn begin(&self, owner: &mut Ownership) -> Result<(), Error> {
        let control = owner.control();
        let made = async {
            generation::drop(control, Slot::Next).await?;
            generation::create(control, Slot::Next, self.lanes, true).await
        };
        made.await.map_err(owner::Error::Database)?;
        info!(
            version = VERSION,
            "building the read models for this version"
        );
        Ok(())
    }

    async fn build(&self, owner: &mut Ownership, slot: Slot) -> Result<(), Error> {
        let Some(meta) = owner.look(slot).await? else {
            return Ok(());
        };
        let log = parked::Log(self.source.clone());
        let ours = self.source.lifecycle.child();
        let lanes = Lanes::open(owner, slot, &meta, &ours, &log).await;
        let ended = match lanes {
            Ok(lanes) => self.project(owner, slot, &meta, lanes, &ours).await,
            Err(error) => Err(error.into()),
        };
        ours.stop(GRACE).await;
        if let Some(seq) = ended? {
            info!(lanes = self.lanes, seq, "changing the number of lanes");
            generation::relay(owner.control(), slot, meta.generation, self.lanes, seq)
                .await
                .map_err(owner::Error::Database)?;
        }
        Ok(())
    }

    /// Until it is live or the life ends; or until the number of lanes has to change, at the
    /// sequence that it answers.
    async fn project(
        &self,
        owner: &mut Ownership,
        slot: Slot,
        meta: &Meta,
        mut lanes: Lanes,
        ours: &Lifecycle,
    ) -> Result<Option<u64>, Error> {
        info!(
            generation = meta.generation,
            schema = slot.schema(),
            seq = lanes.reached(),
            "building"
        );
        // Nobody orders anything here; the sender is kept so that waiting for it is waiting.
        let (_sender, mut orders) = mpsc::channel(1);
        let mut source = self.source.clone();
        source.lifecycle = ours.clone();
        source.copy = self.copy.clone().filter(|_| meta.from_copy);
        let mut watch = Site {
            slot,
            generation: meta.generation,
            indexed: meta.indexed,
            flip: meta.flip,
            until: None,
            not_before: Instant::now(),
        };
        loop {
            let mut projector = Projector {
                role: Role::Build,
                source: &source,
                owner,
                lanes: &mut lanes,
                wanted_lanes: self.lanes,
                orders: &mut orders,
                watch: &mut watch,
            };
            match projector.run().await? {
                End::Stopped => return Ok(None),
                End::Relay => return Ok(Some(lanes.reached())),
                End::Wanted => {}
            }
            let reached = lanes.reached();
            let Some((target, _)) = watch.until.take() else {
                let began = Instant::now();
                keep_beating(owner, &mut watch, lanes.index()).await?;
                watch.indexed = true;
                info!(took_ms = began.elapsed().as_millis(), "made the indexes");
                continue;
            };
            if reached < target {
                let given_up = generation::abort_flip(owner.control()).await;
                given_up.map_err(owner::Error::Database)?;
                warn!(reached, target, "the flip took too long and is tried again");
            } else if self.finish(owner, slot).await? {
                info!(generation = meta.generation, seq = reached, "now live");
                return Ok(None);
            }
            watch.not_before = Instant::now() + LOOK;
        }
    }

    /// The end of a flip; `false` where somebody's query holds something that it needs.
    async fn finish(&self, owner: &mut Ownership, slot: Slot) -> Result<bool, Error> {
        match generation::finish_flip(owner.control(), slot).await {
            Ok(()) => Ok(true),
            Err(error) => Ok(give_way(owner, &error).await.map(|()| false)?),
        }
    }
}

/// Ends the transaction of a flip that failed. Locks come free, everything else is an error.
async fn give_way(owner: &mut Ownership, error: &sqlx::Error) -> Result<(), owner::Error> {
    generation::abort_flip(owner.control()).await?;
    let cause = chain(error);
    if generation::is_locked(error) {
        debug!(cause, "the flip gives way to a query and is tried again");
        return Ok(());
    }
    warn!(error = cause, "the flip fails and is tried again");
    Ok(())
}

/// Waits for something long without losing the lease.
async fn keep_beating(
    owner: &mut Ownership,
    watch: &mut Site,
    work: impl Future<Output = Result<(), crate::write::Error>>,
) -> Result<(), Error> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done?),
            () = tokio::time::sleep(BEAT) => watch.beat(owner).await?,
        }
    }
}

/// What is to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// One that is there.
    Old(Slot),
    /// One that has to be made, since the live one is of another version.
    New,
}

async fn wanted(connection: &mut sqlx::PgConnection) -> Result<Option<Wanted>, sqlx::Error> {
    let live = generation::look(connection, Slot::Live).await?;
    let next = generation::look(connection, Slot::Next).await?;
    let previous = generation::look(connection, Slot::Previous).await?;
    let is_ours = |meta: &Option<Meta>| meta.as_ref().is_some_and(|meta| meta.version == VERSION);
    let foreign = live.is_some() && !is_ours(&live);
    if is_ours(&previous) {
        if previous.is_some_and(|previous| previous.flip) {
            return Ok(Some(Wanted::Old(Slot::Previous)));
        }
        if foreign {
            // The program went back a version: what it left is brought up to date.
            generation::want(connection, Slot::Previous, true).await?;
            return Ok(Some(Wanted::Old(Slot::Previous)));
        }
    }
    if is_ours(&next) {
        if foreign && !next.is_some_and(|next| next.flip) {
            generation::want(connection, Slot::Next, true).await?;
        }
        return Ok(Some(Wanted::Old(Slot::Next)));
    }
    Ok(foreign.then_some(Wanted::New))
}

/// How the builder watches its generation.
struct Site {
    slot: Slot,
    generation: i64,
    indexed: bool,
    flip: bool,
    /// While a flip is under way: the sequence to reach, and when it is given up.
    until: Option<(u64, Instant)>,
    /// When a flip may be begun again.
    not_before: Instant,
}

impl Watch for Site {
    fn reached(&mut self, _seq: u64, _behind: u64) {}

    fn wants_end(&self, reached: u64, behind: u64) -> bool {
        match self.until {
            Some((target, deadline)) => reached >= target || Instant::now() > deadline,
            None => behind <= NEAR && !self.indexed,
        }
    }

    /// Begins a flip without leaving the loop: the writer of the live generation waits meanwhile,
    /// so that the way from here to the end should be short.
    async fn between(&mut self, owner: &mut Ownership, behind: u64) -> Result<(), owner::Error> {
        let is_due = self.flip && self.indexed && behind <= NEAR && self.until.is_none();
        if !is_due || Instant::now() < self.not_before {
            return Ok(());
        }
        self.not_before = Instant::now() + LOOK;
        match generation::begin_flip(owner.control()).await {
            Ok(target) => self.until = Some((target, Instant::now() + HOLD)),
            Err(error) => give_way(owner, &error).await?,
        }
        Ok(())
    }

    async fn beat(&mut self, owner: &mut Ownership) -> Result<(), owner::Error> {
        let meta = owner.look(self.slot).await?;
        let Some(meta) = meta.filter(|meta| meta.generation == self.generation) else {
            return Err(owner::Error::Gone);
        };
        self.flip = meta.flip;
        if self.slot == Slot::Previous && !self.flip {
            return Err(owner::Error::Gone);
        }
        Ok(())
    }
}
