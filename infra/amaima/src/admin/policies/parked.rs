use super::super::{Connection, Error, Exit, Output, Progress, Table};
use clap::Args;
use domain::{
    subject,
    wire::parked::{Order, Outcome, Parked},
};
use futures_util::TryStreamExt;
use serde::Serialize;
use std::fmt;

/// Most parked commits that are shown at once.
const SHOWN: usize = 100;

/// Which commits are tried again.
#[derive(Debug, Args)]
pub(super) struct Retry {
    /// Their sequences in the log
    #[arg(required_unless_present = "all", value_name = "SEQ")]
    sequences: Vec<u64>,
    /// All that are parked
    #[arg(long, conflicts_with = "sequences")]
    all: bool,
}

/// Which commit is let go.
#[derive(Debug, Args)]
pub(super) struct Skip {
    /// Its sequence in the log
    seq: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    orders: Vec<Obeyed>,
}

#[derive(Debug, Serialize)]
struct Obeyed {
    seq: u64,
    #[serde(flatten)]
    outcome: Outcome,
}

/// How many are parked, and the first of them.
pub(super) async fn list(connection: &Connection) -> Result<(usize, Vec<Parked>), Error> {
    let what = "the bucket of parked commits, which command-svc makes when it starts,";
    let bucket = connection
        .context
        .get_key_value(subject::PARKED_POLICIES)
        .await
        .map_err(Error::failed(what))?;
    let keys = bucket.keys().await.map_err(Error::failed(what))?;
    let keys: Vec<String> = keys.try_collect().await.map_err(Error::failed(what))?;
    let mut sequences: Vec<u64> = keys.iter().filter_map(|key| key.parse().ok()).collect();
    sequences.sort_unstable();
    let mut parked = Vec::new();
    for seq in sequences.iter().take(SHOWN) {
        let value = bucket.get(seq.to_string()).await;
        // It may have been released meanwhile.
        if let Some(value) = value.map_err(Error::failed(what))? {
            parked.push(serde_json::from_slice(&value).map_err(Error::failed(what))?);
        }
    }
    Ok((sequences.len(), parked))
}

pub(super) async fn retry(
    connection: &Connection,
    options: &Retry,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    let mut orders = Vec::new();
    if options.all {
        // Each pass takes the first of those that are left; what stays parked is not tried twice.
        let (count, _) = list(connection).await?;
        let mut progress = Progress::new("retry", count as u64);
        loop {
            let (_, parked) = list(connection).await?;
            let fresh: Vec<u64> = parked
                .iter()
                .map(|parked| parked.seq)
                .filter(|seq| !orders.iter().any(|obeyed: &Obeyed| obeyed.seq == *seq))
                .collect();
            if fresh.is_empty() {
                break;
            }
            for seq in fresh {
                orders.push(give(connection, Order::Retry { seq }, seq).await?);
                progress.at(orders.len() as u64);
            }
        }
        progress.end();
    } else {
        for seq in options.sequences.iter().copied() {
            orders.push(give(connection, Order::Retry { seq }, seq).await?);
        }
    }
    Ok(told(orders, output))
}

pub(super) async fn skip(
    connection: &Connection,
    options: Skip,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    let seq = options.seq;
    let obeyed = give(connection, Order::Skip { seq }, seq).await?;
    Ok(told(vec![obeyed], output))
}

fn told(orders: Vec<Obeyed>, output: &mut Output<'_>) -> Exit {
    let well = orders
        .iter()
        .all(|obeyed| matches!(obeyed.outcome, Outcome::Done | Outcome::Skipped));
    output.report(&Report { orders });
    Exit::well_if(well)
}

async fn give(connection: &Connection, order: Order, seq: u64) -> Result<Obeyed, Error> {
    let what = "an answer from command-svc, which must run for this,";
    let payload = serde_json::to_vec(&order).map_err(Error::failed(what))?;
    let answer = connection
        .client
        .request(subject::PARKED_POLICIES_ORDERS, payload.into())
        .await
        .map_err(Error::failed(what))?;
    let outcome = serde_json::from_slice(&answer.payload).map_err(Error::failed(what))?;
    Ok(Obeyed { seq, outcome })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.orders.is_empty() {
            return writeln!(f, "nothing is parked");
        }
        let mut table = Table::new(&["seq", "outcome"]);
        for obeyed in &self.orders {
            let outcome = match &obeyed.outcome {
                Outcome::Done => "done".to_owned(),
                Outcome::Skipped => "let go".to_owned(),
                Outcome::NotParked => "was not parked".to_owned(),
                Outcome::StillParked { reason } => format!("stays parked: {reason}"),
                Outcome::Unavailable { reason } => format!("not possible now: {reason}"),
            };
            table.row([obeyed.seq.to_string(), outcome]);
        }
        write!(f, "{table}")
    }
}
