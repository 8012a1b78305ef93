//! `amaima admin verify`: the log against its copy.

use super::{Connection, Error, Exit, Output, Progress, archive};
use clap::Args;
use infra::archive::{
    Archive, LogError,
    verify::{Against, Outcome, verify},
};
use serde::Serialize;
use std::{fmt, path::Path};

/// Of this subject.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  log and copy are the same, as far as the copy goes
  1  they differ: the first difference is named
  2  they cannot be compared now, and usage errors";

/// What is compared.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// From this sequence on
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Up to this sequence [default: the end of the copy]
    #[arg(long)]
    to: Option<u64>,
    /// The copy of another log, which is checked alone: an epoch that `archive` lists
    #[arg(long)]
    epoch: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    epoch: String,
    /// Whether the copy was compared with the log, and not only with itself.
    compared: bool,
    /// How many messages of the log come after the copy's end; null where that was not asked.
    not_copied: Option<u64>,
    #[serde(flatten)]
    outcome: Outcome,
}

pub(super) async fn run(
    data_dir: &Path,
    connection: &Connection,
    options: Options,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    let store = archive::store(data_dir)?;
    let log = archive::log(connection).await?;
    let (archive, compared) = match options.epoch {
        Some(epoch) => (Archive::named(store, epoch), false),
        None => match log.state().await {
            // A log that is gone is compared with the latest copy.
            Err(LogError::Absent) => {
                let epochs = infra::archive::epochs(&store).await;
                let latest = epochs.map_err(Error::failed("the copies"))?.pop();
                let latest = latest.ok_or_else(|| {
                    Error::Unknown("there is neither a log nor a copy of one".to_owned())
                })?;
                (Archive::named(store, latest), true)
            }
            _ => (
                Archive::new(store, archive::epoch_of(connection).await?),
                true,
            ),
        },
    };
    // For the bar alone: a manifest that cannot be read is found below.
    let tail = archive.tail().await.ok().flatten();
    let end = tail.map_or(0, |tail| tail.last);
    let to = options.to.unwrap_or(u64::MAX);
    let first = options.from.max(1);
    let mut progress = Progress::new("verify", (end.min(to) + 1).saturating_sub(first));
    let against = if compared {
        Against::Log(&log)
    } else {
        Against::Nothing
    };
    let outcome = verify(&archive, against, (first, to), |seq| {
        progress.at((seq + 1).saturating_sub(first));
    })
    .await
    .map_err(Error::failed("the comparison"))?;
    progress.end();
    let not_copied = if compared && options.to.is_none() {
        let state = log.state().await.ok();
        state.map(|state| state.last.saturating_sub(outcome.last))
    } else {
        None
    };
    let report = Report {
        epoch: archive.epoch().to_owned(),
        compared,
        not_copied,
        outcome,
    };
    let exit = Exit::well_if(report.outcome.difference.is_none());
    output.report(&report);
    Ok(exit)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = &self.outcome;
        if let Some(difference) = &outcome.difference {
            writeln!(
                f,
                "DIFFERENT from {} on: {}",
                difference.seq, difference.detail
            )?;
            if let Some(subject) = &difference.subject {
                writeln!(f, "aggregate: {subject}")?;
            }
            write!(f, "before that: ")?;
        }
        let how = if self.compared {
            "the same in log and copy"
        } else {
            "whole in the copy"
        };
        writeln!(
            f,
            "{} messages, sequences {} to {}, {} segments of epoch {}: {how}",
            outcome.messages, outcome.first, outcome.last, outcome.segments, self.epoch
        )?;
        if outcome.purged > 0 {
            writeln!(
                f,
                "{} of them were purged from the log, as the ledger says: the copy alone has them",
                outcome.purged
            )?;
        }
        if let Some(not_copied @ 1..) = self.not_copied {
            writeln!(
                f,
                "{not_copied} later messages of the log are not copied yet"
            )?;
        }
        writeln!(f, "chain at {}: {}", outcome.last, outcome.chain)
    }
}
