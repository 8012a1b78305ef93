//! Keeping the live generation going: own it, project, answer operators, and begin anew after every
//! loss and every flip.

use crate::{
    admin::{self, Pulse},
    generation::{self, Slot, VERSION},
    lane::Lanes,
    owner::{self, Ownership, Role},
    parked,
    position::Position,
    projector::{End, Error, Projector, Source, Watch},
};
use infra::{objects::Bucket, telemetry::chain};
use sqlx::{PgPool, postgres::PgConnectOptions};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tracing::{info, warn};

/// Orders of operators that wait for their turn; more are told that it is busy.
const ORDERS: usize = 8;
/// How long the admin endpoint may take to end when the ownership does.
const GRACE: Duration = Duration::from_secs(1);

/// What it takes.
pub(crate) struct Live {
    /// The log.
    pub(crate) source: Source,
    /// Without a `search_path`.
    pub(crate) database: PgConnectOptions,
    /// For short questions.
    pub(crate) pool: PgPool,
    /// How many lanes there should be.
    pub(crate) lanes: usize,
    /// Without a move for this long, while there is something to do, the projection is ill.
    pub(crate) stalled_after: Duration,
    /// Where the copy of the log is.
    pub(crate) copy: Option<Bucket>,
    /// Is told how far the rows are.
    pub(crate) position: Position,
}

impl Live {
    /// Until the life ends.
    pub(crate) async fn run(self) {
        let stopping = self.source.lifecycle.soft();
        let mut backoff = crate::backoff();
        loop {
            match self.own().await {
                Ok(()) if stopping.is_cancelled() => return,
                Ok(()) => backoff = crate::backoff(),
                Err(error) if error.is_fenced() => {
                    info!(reason = chain(&error), "the live generation has changed");
                    backoff = crate::backoff();
                }
                Err(error) => {
                    warn!(
                        error = chain(&error),
                        "the projection pauses until the database is back"
                    );
                    tokio::select! {
                        () = stopping.cancelled() => return,
                        () = backoff.wait() => {}
                    }
                }
            }
        }
    }

    /// One ownership, from its beginning to its end.
    async fn own(&self) -> Result<(), Error> {
        let stopping = self.source.lifecycle.soft();
        let mut owner = tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            owner = Ownership::acquire(Role::Live, &self.database) => owner?,
        };
        let live = generation::look(owner.control(), Slot::Live).await;
        let live = match live.map_err(owner::Error::Database)? {
            Some(live) => live,
            None => {
                info!(
                    version = VERSION,
                    lanes = self.lanes,
                    "making the read models"
                );
                generation::create(owner.control(), Slot::Live, self.lanes, false)
                    .await
                    .map_err(owner::Error::Database)?;
                owner.release().await;
                return Ok(());
            }
        };
        if live.version != VERSION {
            // Whoever builds makes one of ours live; until then there is nothing to do here.
            owner.release().await;
            info!(
                live = live.version,
                ours = VERSION,
                "the live generation is of another version"
            );
            let mut position = self.position.subscribe();
            tokio::select! {
                () = stopping.cancelled() => {}
                _ = position.wait_for(Option::is_some) => {}
            }
            return Ok(());
        }
        let log = parked::Log(self.source.clone());
        let ours = self.source.lifecycle.child();
        let lanes = Lanes::open(&mut owner, Slot::Live, &live, &ours, &log).await;
        let ended = match lanes {
            Ok(lanes) => {
                self.project(&mut owner, lanes, live.generation, &ours)
                    .await
            }
            Err(error) => Err(error.into()),
        };
        ours.stop(GRACE).await;
        let end = ended?;
        if let End::Relay = end {
            let seq = self.position.subscribe().borrow().unwrap_or(0);
            info!(lanes = self.lanes, seq, "changing the number of lanes");
            generation::relay(
                owner.control(),
                Slot::Live,
                live.generation,
                self.lanes,
                seq,
            )
            .await
            .map_err(owner::Error::Database)?;
        }
        owner.release().await;
        Ok(())
    }

    async fn project(
        &self,
        owner: &mut Ownership,
        mut lanes: Lanes,
        generation: i64,
        ours: &infra::lifecycle::Lifecycle,
    ) -> Result<End, Error> {
        info!(
            generation,
            seq = lanes.reached(),
            "owning the live generation"
        );
        let _owning = self.position.own();
        self.position.set(Some(lanes.reached()));
        let (sender, mut orders) = mpsc::channel(ORDERS);
        let pulse = Arc::new(Pulse::new());
        let desk = admin::Desk {
            client: self.source.client.clone(),
            context: self.source.context.clone(),
            pool: self.pool.clone(),
            lanes: self.lanes,
            stalled_after: self.stalled_after,
            copy: self.copy.clone(),
            pulse: pulse.clone(),
            orders: sender,
        };
        ours.spawn("admin", desk.serve(ours.clone()));
        let mut watch = Owner {
            generation,
            position: &self.position,
            pulse,
        };
        let mut source = self.source.clone();
        source.lifecycle = ours.clone();
        let mut projector = Projector {
            role: Role::Live,
            source: &source,
            owner,
            lanes: &mut lanes,
            wanted_lanes: self.lanes,
            orders: &mut orders,
            watch: &mut watch,
        };
        projector.run().await
    }
}

struct Owner<'a> {
    generation: i64,
    position: &'a Position,
    pulse: Arc<Pulse>,
}

impl Watch for Owner<'_> {
    fn reached(&mut self, seq: u64, _behind: u64) {
        self.position.set(Some(seq));
    }

    fn alive(&mut self) {
        self.pulse.beat();
    }

    /// An idle owner would not find out otherwise that it was flipped out.
    async fn beat(&mut self, owner: &mut Ownership) -> Result<(), owner::Error> {
        match owner.look(Slot::Live).await? {
            Some(live) if live.generation == self.generation => Ok(()),
            Some(_) | None => Err(owner::Error::Gone),
        }
    }
}
