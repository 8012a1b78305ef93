//! Takes jobs, as many as there is room for, and keeps the server informed while they are worked
//! on: a job whose worker falls silent goes to another one.

use crate::{
    answer::{Delivered, Ended, Worker},
    lanes::{Lane, Lanes},
    models::{Models, Place},
};
use async_nats::jetstream::{self, AckKind, Message};
use domain::subject::Priority;
use infra::{jobs::Waiting, lifecycle::Lifecycle, retry::Backoff, telemetry};
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// Signs of life come this often.
const PROGRESS: Duration = Duration::from_secs(1);
/// How long handing answers over to other workers may take.
const HAND_OVER: Duration = Duration::from_secs(5);

/// Works until the lifecycle stops it. Then what is in hand is finished if that takes no longer than
/// `drain`, and handed over to other workers otherwise.
pub(crate) async fn run(
    context: &jetstream::Context,
    worker: Worker,
    drain: Duration,
    lifecycle: &Lifecycle,
) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    while !lifecycle.is_stopping() {
        if let Err(error) = take_jobs(context, &worker, lifecycle).await {
            warn!(%error, "the queue of jobs is out of reach");
            tokio::select! {
                () = backoff.wait() => {}
                () = lifecycle.stopping() => {}
            }
        }
    }
    let models = worker.models();
    info!(in_hand = models.in_hand(), "no more jobs are taken");
    if tokio::time::timeout(drain, idle(models, lifecycle))
        .await
        .is_err()
    {
        info!(in_hand = models.in_hand(), "handing answers over");
        worker.hand_over();
        tokio::time::timeout(HAND_OVER, idle(models, lifecycle))
            .await
            .ok();
    }
}

/// Completes when no job is in hand, or all are to be dropped.
async fn idle(models: &Models, lifecycle: &Lifecycle) {
    let none = async {
        while models.in_hand() > 0 {
            models.changed().await;
        }
    };
    tokio::select! {
        () = none => {}
        () = lifecycle.hard().cancelled_owned() => {}
    }
}

async fn take_jobs(
    context: &jetstream::Context,
    worker: &Worker,
    lifecycle: &Lifecycle,
) -> Result<(), async_nats::Error> {
    let models = worker.models();
    let mut lanes = Lanes::prepare(context, models).await?;
    while !lifecycle.is_stopping() {
        let with_room = models.with_room();
        // Another model with room opens other lanes.
        let other_room = async {
            while models.with_room().len() == with_room.len() {
                models.changed().await;
            }
        };
        let interrupted = async {
            tokio::select! {
                () = other_room => {}
                () = lifecycle.stopping() => {}
            }
        };
        if with_room.is_empty() {
            interrupted.await;
            continue;
        }
        let open = |lane: &Lane| lane.answered_by(&with_room).is_some();
        let (job, pull) = lanes.pull(open, interrupted).await?;
        let take = |message: Message| {
            let (worker, with_room) = (worker.clone(), models.with_room());
            let lane = lanes.of(&message);
            let by = lane.and_then(|lane| Some((lane.priority(), lane.answered_by(&with_room)?)));
            let place = by.map(|(priority, model)| (priority, models.take(model)));
            lifecycle.spawn("job", async move {
                match place {
                    Some((priority, place)) => work(&worker, message, priority, place).await,
                    // It came together with one that took the room.
                    None => give_back(&message).await,
                }
            });
        };
        if let Some(job) = job {
            take(job);
        }
        for job in pull.end().await? {
            take(job);
        }
    }
    Ok(())
}

async fn work(worker: &Worker, message: Message, priority: Priority, mut place: Place) {
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
    let delivered = Delivered {
        waiting,
        delivery: message.info().map_or(1, |info| info.delivered),
        priority,
    };
    let mut signs = tokio::time::interval(PROGRESS);
    let working = worker.answer(delivered, &mut place);
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
        Ended::HandedOver => message.ack_with(AckKind::Nak(None)).await,
        Ended::Later(pause) => message.ack_with(AckKind::Nak(Some(pause))).await,
        Ended::Unreadable => return give_up(&message).await,
        // Another worker has it: whatever we said could take the job from it.
        Ended::Lost => return,
    };
    if let Err(error) = told {
        debug!(query.id = %query, %error, "the end of a job did not get out");
    }
}

/// Another worker may have it at once.
async fn give_back(message: &Message) {
    message.ack_with(AckKind::Nak(None)).await.ok();
}

/// Every worker would find the same; the log of events still has the query.
async fn give_up(message: &Message) {
    message.ack_with(AckKind::Term).await.ok();
}
