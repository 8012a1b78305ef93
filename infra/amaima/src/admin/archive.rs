//! `amaima admin archive`: the copy of the log.

use super::{Connection, Error, Exit, Output};
use crate::stack;
use domain::{Timestamp, wire::consistency::Epoch};
use infra::{
    archive::{self, Archive, Entry, Log, LogState, Record},
    clock, config, epoch,
    objects::{Bucket, Store},
};
use serde::Serialize;
use std::{fmt, path::Path};

/// A copy that lags behind by more than this is not kept up.
const LATE_SECS: f64 = 60.0;

/// How the copy is.
#[derive(Debug, Serialize)]
struct Report {
    place: String,
    epoch: String,
    /// Where the log begins and ends.
    log: Range,
    /// Where the copy ends; `None` where there is none.
    copied_to: Option<u64>,
    /// When that was written.
    written_at: Option<Timestamp>,
    /// Messages that are in the log alone.
    lag_events: u64,
    /// Age of the oldest of them: what a loss of the log would cost now.
    lag_seconds: f64,
    /// Whether the last segment has sequences that the log had lost before they were copied.
    has_gaps: bool,
    /// Aggregates that have left the log, and their messages; they are in the copy alone.
    purged_aggregates: u64,
    purged_messages: u64,
    /// Copies of logs that were before this one, the oldest first.
    other_epochs: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Range {
    first: u64,
    last: u64,
}

pub(super) async fn run(
    data_dir: &Path,
    connection: &Connection,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    let store = store(data_dir)?;
    let epoch = epoch_of(connection).await?;
    let log = log(connection).await?;
    let state = log.state().await.map_err(Error::failed("the log's end"))?;
    let archive = Archive::new(store.clone(), epoch);
    let tail = archive
        .tail()
        .await
        .map_err(Error::failed("the manifest"))?;
    let epochs = archive::epochs(&store).await;
    let mut other_epochs = epochs.map_err(Error::failed("the copies"))?;
    other_epochs.retain(|other| other != archive.epoch());
    let ledger = archive.ledger_end().await;
    let ledger = ledger.map_err(Error::failed("the ledger of what was purged"))?;
    let oldest = oldest(&log, state, tail.as_ref()).await?;
    let copied_to = tail.as_ref().map(|tail| tail.last);
    let report = Report {
        place: store.describe(),
        epoch: epoch.to_string(),
        log: Range {
            first: state.first,
            last: state.last,
        },
        copied_to,
        written_at: tail.as_ref().map(|tail| tail.written_at),
        lag_events: state
            .last
            .saturating_sub(copied_to.unwrap_or(state.first - 1)),
        lag_seconds: oldest.map_or(0.0, |at| clock::now().millis_since(at) as f64 / 1000.0),
        has_gaps: tail.is_some_and(|tail| tail.missing > 0),
        purged_aggregates: ledger.as_ref().map_or(0, |page| page.aggregates),
        purged_messages: ledger.as_ref().map_or(0, |page| page.messages),
        other_epochs,
    };
    let exit = report.exit();
    output.report(&report);
    Ok(exit)
}

/// When the server stored the first message that is not copied yet.
async fn oldest(
    log: &Log,
    state: LogState,
    tail: Option<&Entry>,
) -> Result<Option<Timestamp>, Error> {
    let next = tail.map_or(state.first, |tail| tail.last + 1);
    if next > state.last {
        return Ok(None);
    }
    let records = log.read(next).await;
    let records = records.map_err(Error::failed("the first message that is not copied"))?;
    Ok(records.iter().find_map(|record| match record {
        Record::Message(message) => Some(Timestamp::from_millis(message.at_nanos / 1_000_000)),
        Record::Gap { .. } => None,
    }))
}

/// Where the copy is: what the environment names, or the endpoint of the running stack.
pub(super) fn store(data_dir: &Path) -> Result<Store, Error> {
    let given = config::ObjectStore::from_env()?;
    let found = match given {
        Some(given) => Some(given),
        None => stack::running_s3(data_dir)?,
    };
    let found = found.ok_or(Error::NoObjects)?;
    Ok(Store::Bucket(Bucket::new(&found)))
}

pub(super) async fn log(connection: &Connection) -> Result<Log, Error> {
    let log = Log::new(&connection.client).await;
    log.map_err(Error::failed("the log"))
}

pub(super) async fn epoch_of(connection: &Connection) -> Result<Epoch, Error> {
    let epoch = epoch::of_log(&connection.client).await;
    epoch.map_err(Error::failed("the log's epoch"))
}

impl Report {
    fn exit(&self) -> Exit {
        if self.copied_to.is_none() && self.log.last >= self.log.first {
            return Exit::Ill;
        }
        Exit::well_if(self.lag_seconds <= LATE_SECS && !self.has_gaps && !self.is_ahead())
    }

    /// The log was cut off after it was copied.
    fn is_ahead(&self) -> bool {
        self.copied_to.is_some_and(|last| last > self.log.last)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "copy at {}, epoch {}", self.place, self.epoch)?;
        let copied = self
            .copied_to
            .map_or("nowhere".to_owned(), |last| last.to_string());
        writeln!(
            f,
            "log from {} to {}, copied to {copied}: {} messages and {:.1} s behind",
            self.log.first, self.log.last, self.lag_events, self.lag_seconds
        )?;
        if self.is_ahead() {
            writeln!(f, "THE LOG ENDS BEFORE ITS COPY: it has lost messages")?;
        }
        if self.has_gaps {
            writeln!(f, "the log had lost messages before they were copied")?;
        }
        if self.purged_aggregates > 0 {
            writeln!(
                f,
                "{} queries with {} messages have left the log: the copy alone has them",
                self.purged_aggregates, self.purged_messages
            )?;
        }
        for epoch in &self.other_epochs {
            writeln!(f, "there is a copy of another log, epoch {epoch}")?;
        }
        Ok(())
    }
}
