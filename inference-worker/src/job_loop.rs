//! Pulls jobs, as many as there is room for, and keeps the server informed while they are worked
//! on: a job whose worker falls silent goes to another one.

use crate::answer::{Ended, Worker};
use async_nats::jetstream::{
    self, AckKind, Message,
    consumer::{AckPolicy, PullConsumer, pull},
};
use domain::subject;
use futures_util::StreamExt;
use infra::{jobs::Waiting, lifecycle::Lifecycle, retry::Backoff, telemetry};
use std::{num::NonZeroUsize, sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tracing::{debug, error, info, warn};

/// After so long without a sign of life a job goes to another worker.
const ACK_WAIT: Duration = Duration::from_secs(4);
/// Signs of life come this often.
const PROGRESS: Duration = Duration::from_secs(1);
/// How long one pull waits at the server. A server that restarts forgets it, so that this is also
/// how long a job may wait after that.
const PULL: Duration = Duration::from_secs(2);
/// The server's answer that there was nothing may take so much longer.
const PULL_SLACK: Duration = Duration::from_millis(500);

/// Works until the lifecycle stops it, then finishes what is in hand.
pub(crate) async fn run(
    context: &jetstream::Context,
    worker: Worker,
    concurrency: NonZeroUsize,
    lifecycle: &Lifecycle,
) {
    let room = Arc::new(Semaphore::new(concurrency.get()));
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        tokio::select! {
            ended = pull_jobs(context, &worker, &room, lifecycle) => if let Err(error) = ended {
                warn!(%error, "the queue of jobs is out of reach");
            },
            () = lifecycle.stopping() => break,
        }
        backoff.wait().await;
    }
    info!(
        in_hand = concurrency.get() - room.available_permits(),
        "no more jobs are taken"
    );
    let all = u32::try_from(concurrency.get()).unwrap_or(u32::MAX);
    tokio::select! {
        _ = room.acquire_many(all) => {}
        () = lifecycle.hard().cancelled_owned() => {}
    }
}

async fn pull_jobs(
    context: &jetstream::Context,
    worker: &Worker,
    room: &Arc<Semaphore>,
    lifecycle: &Lifecycle,
) -> Result<(), async_nats::Error> {
    let config = pull::Config {
        durable_name: Some("workers".into()),
        description: Some("Inference workers".into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: 10_000,
        ..pull::Config::default()
    };
    let consumer: PullConsumer = context
        .create_consumer_on_stream(config, subject::JOBS)
        .await?;
    loop {
        // A job is pulled only when there is room, so that it never waits inside a worker.
        let place = room.clone().acquire_owned().await?;
        let mut pulled = consumer
            .batch()
            .max_messages(1)
            .expires(PULL)
            .messages()
            .await?;
        let Ok(pulled) = tokio::time::timeout(PULL + PULL_SLACK, pulled.next()).await else {
            continue;
        };
        let Some(message) = pulled.transpose()? else {
            continue;
        };
        let worker = worker.clone();
        lifecycle.spawn("job", async move {
            work(&worker, message).await;
            drop(place);
        });
    }
}

async fn work(worker: &Worker, message: Message) {
    let headers = message.headers.as_ref();
    let waiting = match Waiting::read(&message.subject, headers, &message.payload) {
        Ok(waiting) => waiting,
        Err(error) => {
            let reason = telemetry::chain(&error);
            error!(reason, subject = %message.subject, "a job cannot be read");
            return give_up(&message).await;
        }
    };
    let query = waiting.query();
    let delivery = message.info().map_or(1, |info| info.delivered);
    let mut signs = tokio::time::interval(PROGRESS);
    let working = worker.answer(waiting, delivery);
    tokio::pin!(working);
    let ended = loop {
        tokio::select! {
            ended = &mut working => break ended,
            _ = signs.tick() => {
                if let Err(error) = message.ack_with(AckKind::Progress).await {
                    debug!(query.id = %query, %error, "a sign of life did not get out");
                }
            }
        }
    };
    let told = match ended {
        Ended::Done => message.double_ack().await,
        Ended::Later(pause) => message.ack_with(AckKind::Nak(Some(pause))).await,
        Ended::Unreadable => return give_up(&message).await,
        // Another worker has it: whatever we said could take the job from it.
        Ended::Lost => return,
    };
    if let Err(error) = told {
        debug!(query.id = %query, %error, "the end of a job did not get out");
    }
}

/// Every worker would find the same; the log of events still has the query.
async fn give_up(message: &Message) {
    message.ack_with(AckKind::Term).await.ok();
}
