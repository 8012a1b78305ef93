//! What operators ask and order, answered by the owner of the live generation as an endpoint of the
//! NATS micro service `projection-admin`. Long work is written down in the database, where
//! [`crate::builder`] finds it; orders about parked commits go to the projection's own loop.

mod status;

pub(crate) use status::Pulse;

use crate::{
    generation::{self, Slot, VERSION},
    parked::{self, Action, Order},
};
use async_nats::{
    Client, jetstream,
    service::{Request, ServiceExt, endpoint::Endpoint},
};
use domain::{
    subject,
    wire::admin::{Projections, Reply},
};
use futures_util::StreamExt;
use infra::{lifecycle::Lifecycle, objects::Bucket, telemetry::chain};
use sqlx::{Connection, PgPool};
use status::Samples;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{info, warn};

/// Most orders in work at a time; above that the answer is `Unavailable` at once.
const IN_WORK: usize = 16;
/// Longest work of one order.
const ANSWER: Duration = Duration::from_secs(120);

/// What answering takes.
#[derive(Clone)]
pub(crate) struct Desk {
    /// For requests and for the head of the log.
    pub(crate) client: Client,
    /// For the head of the log.
    pub(crate) context: jetstream::Context,
    /// With the live generation in its `search_path`.
    pub(crate) pool: PgPool,
    /// Lanes of a generation that is made.
    pub(crate) lanes: usize,
    /// Without a move for this long the projection is ill.
    pub(crate) stalled_after: Duration,
    /// Where the copy of the log is.
    pub(crate) copy: Option<Bucket>,
    /// Signs of life of the projection's loop.
    pub(crate) pulse: Arc<Pulse>,
    /// To the projection's loop.
    pub(crate) orders: mpsc::Sender<Order>,
}

impl Desk {
    /// Answers until this part of the life ends, which is when the ownership does.
    pub(crate) async fn serve(self, lifecycle: Lifecycle) {
        if let Err(error) = self.attend(&lifecycle).await {
            warn!(%error, "operators get no answers");
        }
    }

    async fn attend(&self, lifecycle: &Lifecycle) -> Result<(), async_nats::Error> {
        let service = self
            .client
            .service_builder()
            .description("Projections, for operators")
            .queue_group("projection-admin")
            .start("projection-admin", env!("CARGO_PKG_VERSION"))
            .await?;
        let endpoint = service.endpoint(subject::ADMIN_PROJECTIONS).await?;
        let samples = Arc::new(Mutex::new(Samples::default()));
        lifecycle.spawn(
            "samples",
            status::sample(self.clone(), samples.clone(), lifecycle.clone()),
        );
        self.client.flush().await?;
        info!("answering operators");
        self.answer_all(endpoint, &samples, lifecycle).await;
        service.stop().await
    }

    async fn answer_all(
        &self,
        mut endpoint: Endpoint,
        samples: &Arc<Mutex<Samples>>,
        lifecycle: &Lifecycle,
    ) {
        let permits = Arc::new(Semaphore::new(IN_WORK));
        loop {
            let request = tokio::select! {
                () = lifecycle.stopping() => return,
                request = endpoint.next() => request,
            };
            let Some(request) = request else { return };
            let permit = permits.clone().try_acquire_owned();
            let (desk, samples) = (self.clone(), samples.clone());
            lifecycle.spawn("order", async move {
                let reply = match &permit {
                    Ok(_) => desk.answer(&request, &samples).await,
                    Err(_) => busy(),
                };
                let payload = serde_json::to_vec(&reply).unwrap_or_default();
                if let Err(error) = request.respond(Ok(payload.into())).await {
                    warn!(%error, "an answer cannot be sent");
                }
            });
        }
    }

    async fn answer(&self, request: &Request, samples: &Mutex<Samples>) -> Reply {
        let order: Projections = match serde_json::from_slice(&request.message.payload) {
            Ok(order) => order,
            Err(error) => return refused(format!("the order cannot be read: {error}")),
        };
        if order != Projections::Status {
            info!(?order, "an operator orders");
        }
        let done = tokio::time::timeout(ANSWER, self.carry_out(order, samples)).await;
        match done {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) if generation::is_locked(&error) => Reply::Unavailable {
                reason: "a query holds what has to be changed; try again".to_owned(),
            },
            Ok(Err(error)) => Reply::Unavailable {
                reason: chain(&error),
            },
            Err(_) => Reply::Unavailable {
                reason: format!("it takes longer than {} s", ANSWER.as_secs()),
            },
        }
    }

    async fn carry_out(
        &self,
        order: Projections,
        samples: &Mutex<Samples>,
    ) -> Result<Reply, sqlx::Error> {
        match order {
            // Must answer when the database does not.
            Projections::Status => Ok(Reply::Status(status::now(self, samples).await)),
            Projections::Rebuild { flip } => self.rebuild(flip, false).await,
            Projections::RebuildFromCopy { .. } if self.copy.is_none() => Ok(refused(
                "the instance that owns the projections has no S3_ENDPOINT, and so no copy"
                    .to_owned(),
            )),
            Projections::RebuildFromCopy { flip } => self.rebuild(flip, true).await,
            Projections::Abandon => self.abandon().await,
            Projections::Flip => self.want(Slot::Next, "no generation is being built").await,
            Projections::Rollback => {
                self.want(Slot::Previous, "there is no previous generation")
                    .await
            }
            Projections::Parked { after, limit } => {
                let mut connection = self.pool.acquire().await?;
                let (commits, total) = parked::list(&mut connection, after, limit).await?;
                Ok(Reply::Parked { commits, total })
            }
            Projections::Retry { subject } => Ok(self.order(Action::Retry { subject }).await),
            Projections::Skip { who, why, .. }
                if who.trim().is_empty() || why.trim().is_empty() =>
            {
                Ok(refused(
                    "a commit is skipped by somebody and for a reason".to_owned(),
                ))
            }
            Projections::Skip { seq, who, why } => {
                Ok(self.order(Action::Skip { seq, who, why }).await)
            }
        }
    }

    async fn rebuild(&self, flip: bool, from_copy: bool) -> Result<Reply, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        if generation::look(&mut connection, Slot::Next)
            .await?
            .is_some()
        {
            return Ok(refused("a generation is being built already".to_owned()));
        }
        // Where it comes from is said before anybody builds it: both at once.
        let mut transaction = connection.begin().await?;
        generation::create(&mut transaction, Slot::Next, self.lanes, flip).await?;
        if from_copy {
            generation::from_copy(&mut transaction, Slot::Next).await?;
        }
        transaction.commit().await?;
        Ok(Reply::Begun)
    }

    async fn abandon(&self) -> Result<Reply, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        if generation::look(&mut connection, Slot::Next)
            .await?
            .is_some()
        {
            generation::drop(&mut connection, Slot::Next).await?;
            return Ok(Reply::Begun);
        }
        let previous = generation::look(&mut connection, Slot::Previous).await?;
        if previous.is_some_and(|previous| previous.flip) {
            generation::want(&mut connection, Slot::Previous, false).await?;
            return Ok(Reply::Begun);
        }
        Ok(refused("nothing is being built".to_owned()))
    }

    /// Asks for a generation to become live.
    async fn want(&self, slot: Slot, missing: &str) -> Result<Reply, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        let Some(meta) = generation::look(&mut connection, slot).await? else {
            return Ok(refused(missing.to_owned()));
        };
        if meta.version != VERSION {
            return Ok(refused(format!(
                "generation {} is of version {}, and this program is of version {VERSION}: start the \
                 program of that version, which makes it live by itself",
                meta.generation, meta.version
            )));
        }
        generation::want(&mut connection, slot, true).await?;
        Ok(Reply::Begun)
    }

    async fn order(&self, action: Action) -> Reply {
        let (reply, answer) = oneshot::channel();
        match self.orders.try_send(Order { action, reply }) {
            Ok(()) => answer.await.unwrap_or_else(|_| Reply::Unavailable {
                reason: "the projection has changed hands; try again".to_owned(),
            }),
            Err(_) => busy(),
        }
    }
}

fn refused(reason: String) -> Reply {
    Reply::Refused { reason }
}

fn busy() -> Reply {
    Reply::Unavailable {
        reason: "too many orders at a time; try again".to_owned(),
    }
}
