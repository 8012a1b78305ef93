use super::{
    super::{Connection, Error, Exit, Output, Table, streams::timestamp},
    parked,
};
use async_nats::jetstream::{
    consumer::{Info, PullConsumer, pull},
    stream::Stream,
};
use domain::{Timestamp, subject, wire::parked::Parked};
use serde::Serialize;
use std::{fmt, time::Duration};

/// A commit whose reactions have not happened after so long is a sign of trouble.
const SLOW: Duration = Duration::from_secs(15);

#[derive(Debug, Serialize)]
struct Report {
    /// Last sequence of the log.
    head_seq: u64,
    policies: Consumer,
    /// The first commit whose reactions have not all happened.
    oldest_unacknowledged: Option<Oldest>,
    timers: Timers,
    parked_count: usize,
    /// The first hundred of them.
    parked: Vec<Parked>,
}

#[derive(Debug, Serialize)]
struct Consumer {
    delivered_seq: u64,
    acknowledged_seq: u64,
    /// Commits that no instance has yet.
    pending: u64,
    /// Commits that an instance has.
    ack_pending: usize,
    redelivered: usize,
    /// Pulls that wait at the server: instances of command-svc that would take more.
    waiting_pulls: usize,
}

#[derive(Debug, Serialize)]
struct Oldest {
    seq: u64,
    at: Option<Timestamp>,
    age_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Timers {
    /// Wait for their time.
    set: u64,
    /// Are due, and what they call for is not done.
    due: u64,
    redelivered: usize,
}

pub(super) async fn run(connection: &Connection, output: &mut Output<'_>) -> Result<Exit, Error> {
    let events = connection
        .context
        .get_stream(subject::EVENTS)
        .await
        .map_err(Error::failed("stream EVENTS"))?;
    let timers = connection
        .context
        .get_stream(subject::TIMERS)
        .await
        .map_err(Error::failed("stream TIMERS"))?;
    let head_seq = events.cached_info().state.last_sequence;
    let policies = consumer(&events, "policies").await?;
    let due = consumer(&timers, "timers").await?;
    let acknowledged_seq = policies.ack_floor.stream_sequence;
    let oldest_unacknowledged = if acknowledged_seq < head_seq {
        Some(oldest(&events, acknowledged_seq + 1).await)
    } else {
        None
    };
    let waiting = due.num_pending + due.num_ack_pending as u64;
    let (parked_count, parked) = parked::list(connection).await?;
    let report = Report {
        head_seq,
        policies: Consumer {
            delivered_seq: policies.delivered.stream_sequence,
            acknowledged_seq,
            pending: policies.num_pending,
            ack_pending: policies.num_ack_pending,
            redelivered: policies.num_redelivered,
            waiting_pulls: policies.num_waiting,
        },
        oldest_unacknowledged,
        timers: Timers {
            set: timers.cached_info().state.messages.saturating_sub(waiting),
            due: waiting,
            redelivered: due.num_redelivered,
        },
        parked_count,
        parked,
    };
    output.report(&report);
    Ok(report.exit())
}

async fn consumer(stream: &Stream, name: &str) -> Result<Info, Error> {
    let consumer: Result<PullConsumer, _> = stream.get_consumer::<pull::Config>(name).await;
    let consumer = consumer.map_err(Error::failed(format!(
        "the consumer {name}, which command-svc makes when it starts,"
    )))?;
    Ok(consumer.cached_info().clone())
}

async fn oldest(events: &Stream, seq: u64) -> Oldest {
    let found = events.direct_get(seq).await.ok();
    let at = found.map(|message| timestamp(message.time));
    Oldest {
        seq,
        at,
        age_ms: at.map(|at| infra::clock::now().millis_since(at)),
    }
}

impl Report {
    fn exit(&self) -> Exit {
        let slow = self.oldest_unacknowledged.as_ref().is_some_and(|oldest| {
            oldest
                .age_ms
                .is_none_or(|age| age > SLOW.as_millis() as u64)
        });
        if slow && self.policies.waiting_pulls == 0 && self.policies.ack_pending == 0 {
            // Nobody has them, and nobody asks for them.
            return Exit::Ill;
        }
        Exit::well_if(!slow && self.parked_count == 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&[
            "policies",
            "head",
            "delivered",
            "done up to",
            "pending",
            "in hand",
            "redelivered",
            "pulls",
        ]);
        table.row([
            String::new(),
            self.head_seq.to_string(),
            self.policies.delivered_seq.to_string(),
            self.policies.acknowledged_seq.to_string(),
            self.policies.pending.to_string(),
            self.policies.ack_pending.to_string(),
            self.policies.redelivered.to_string(),
            self.policies.waiting_pulls.to_string(),
        ]);
        writeln!(f, "{table}")?;
        if let Some(oldest) = &self.oldest_unacknowledged {
            let age = oldest
                .age_ms
                .map_or("unknown".into(), |age| format!("{age} ms"));
            writeln!(
                f,
                "oldest that is not done: sequence {}, age {age}",
                oldest.seq
            )?;
        }
        writeln!(
            f,
            "timers: {} set, {} due",
            self.timers.set, self.timers.due
        )?;
        if self.parked_count == 0 {
            return writeln!(f, "parked: none");
        }
        let mut parked = Table::new(&["parked", "subject", "tried at", "tries", "reason"]);
        for each in &self.parked {
            parked.row([
                each.seq.to_string(),
                each.subject.clone(),
                each.at.to_string(),
                each.tries.to_string(),
                each.reason.clone(),
            ]);
        }
        write!(f, "\n{parked}\n{} parked in all; ", self.parked_count)?;
        writeln!(
            f,
            "once their reason is mended: amaima admin policies retry --all"
        )
    }
}
