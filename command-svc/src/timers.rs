//! Timers: messages that nats-server puts on another subject of the same stream when they are due
//! (message schedules, nats-server 2.12 and newer).
//!
//! A timer that is set again moves, one whose time is past fires at once, and none fires early.
//! They outlive a restart of the server, and what came due meanwhile fires after it. The stream
//! has work-queue retention, so that a due timer stays until it is acknowledged. `tests/system`
//! pins all of this down. If the stream is lost, so are the timers in it: a query that was asked
//! before then ends by its worker or by its owner only.

use crate::{
    deliveries::{self, Settled, Source},
    policy_runner::{Cause, Problem, Runner},
};
use async_nats::{
    HeaderMap, header,
    jetstream::{self, Message},
};
use domain::{Timestamp, policy, subject, timer::Timer};
use infra::{lifecycle::Lifecycle, retry::Backoff};
use std::time::Duration;
use tracing::{error, warn};

/// When a due timer that nobody understands is looked at again: a newer version may.
const UNKNOWN: Duration = Duration::from_secs(60);

/// A timer could not be set or cleared.
#[derive(Debug, thiserror::Error)]
#[error("the timer {subject} cannot be {action}")]
pub struct Error {
    /// Its subject.
    subject: String,
    /// What was tried.
    action: &'static str,
    /// Why it failed.
    source: async_nats::Error,
}

/// Sets and clears timers.
#[derive(Clone, Debug)]
pub struct Timers {
    context: jetstream::Context,
}

impl Timers {
    /// The timers of the stream that [`infra::jetstream::prepare`] has made.
    pub fn new(context: &jetstream::Context) -> Self {
        Self {
            context: context.clone(),
        }
    }

    /// Sets a timer, or moves it.
    ///
    /// # Errors
    /// When the server has not stored it; setting it again is safe.
    pub async fn set(&self, timer: Timer, at: Timestamp) -> Result<(), Error> {
        let subject = timer.set_subject();
        let failed = |source| Error {
            subject: subject.clone(),
            action: "set",
            source,
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_SCHEDULE, format!("@at {at}"));
        headers.insert(header::NATS_SCHEDULE_TARGET, timer.due_subject());
        let payload = serde_json::to_vec(&timer).map_err(|error| failed(error.into()))?;
        let stored = self
            .context
            .publish_with_headers(subject.clone(), headers, payload.into())
            .await
            .map_err(|error| failed(error.into()))?;
        stored.await.map_err(|error| failed(error.into()))?;
        Ok(())
    }

    /// Clears a timer, if it is set.
    ///
    /// # Errors
    /// When the server has not done it; clearing it again is safe.
    pub async fn clear(&self, timer: Timer) -> Result<(), Error> {
        let subject = timer.set_subject();
        let failed = |source| Error {
            subject: subject.clone(),
            action: "cleared",
            source,
        };
        let stream = self
            .context
            .get_stream_no_info(subject::TIMERS)
            .await
            .map_err(|error| failed(error.into()))?;
        let purge = stream.purge().filter(subject.clone());
        purge.await.map_err(|error| failed(error.into()))?;
        Ok(())
    }
}

/// Has what is due done; it belongs to the lifecycle.
pub fn start(
    context: &jetstream::Context,
    runner: &Runner,
    settings: policy::Settings,
    life: &Lifecycle,
) {
    let source = Source {
        stream: subject::TIMERS,
        durable: "timers",
        description: "Does what timers that are due call for",
        filter: subject::DUE_TIMERS,
    };
    let (context, runner, each) = (context.clone(), runner.clone(), life.clone());
    life.spawn("timers", async move {
        let stopping = each.clone();
        deliveries::run(context, source, each, move |message| {
            let (runner, life) = (runner.clone(), stopping.clone());
            async move { settle(&runner, &settings, &message, &life).await }
        })
        .await;
    });
}

async fn settle(
    runner: &Runner,
    settings: &policy::Settings,
    message: &Message,
    life: &Lifecycle,
) -> Settled {
    let Some(timer) = Timer::parse_due(&message.subject) else {
        error!(subject = %message.subject, "a timer is due that this version does not know");
        return Settled::Again(UNKNOWN);
    };
    for reaction in policy::react_to_timer(timer, settings) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        while let Err(Problem::Later(reason) | Problem::Never(reason)) =
            runner.carry_out(&reaction, Cause::default()).await
        {
            warn!(subject = %message.subject, reason, "a due timer is tried again");
            tokio::select! {
                () = backoff.wait() => {}
                () = life.stopping() => return Settled::Again(Duration::ZERO),
            }
        }
    }
    Settled::Done
}
