//! The projections: how far they are, building them anew, what they have set aside.
//!
//! Answered by the instance that owns the live generation, on `adm.projections`; long work goes on
//! without us, and `status` or `--watch` follows it.

use super::{Connection, Error, Exit, Output, Progress, Table};
use clap::{Args, Subcommand, ValueEnum};
use domain::{
    subject,
    wire::admin::{Generation, Health, Parked, Projections, Reply, State, Status},
};
use serde::Serialize;
use std::{
    fmt,
    time::{Duration, Instant},
};

/// Longest wait for an answer: an order about parked commits is done before it is answered.
const ANSWER: Duration = Duration::from_secs(130);
/// How long the live generation may be without an owner before that is an answer.
const CHANGE: Duration = Duration::from_secs(5);
/// How often a rebuild that is watched is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Looks in a row that may fail, since the owner may change while a rebuild is watched.
const PATIENCE: u32 = 60;

/// What is asked or ordered.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(subcommand)]
    order: Option<Order>,
}

/// What a generation is folded from.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum From {
    #[default]
    Log,
    Copy,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Generations, lanes, lag, rate, parked commits and health [default]
    Status,
    /// Build another generation beside the live one
    Rebuild {
        /// What it is folded from: the log, or its copy as far as that goes
        #[arg(long, value_enum, default_value_t)]
        from: From,
        /// Make it live as soon as it has caught up
        #[arg(long)]
        flip: bool,
        /// Stay until it has caught up, or with --flip until it is live
        #[arg(long)]
        watch: bool,
    },
    /// Delete the generation that is being built, or give up a rollback
    Abandon,
    /// Make the generation that was built live, as soon as it has caught up
    Flip,
    /// Bring the previous generation up to date and make it live again
    Rollback,
    /// Commits that could not be projected, with those that wait for them
    Parked {
        /// Those after this sequence
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Project parked commits after all: those of one aggregate, or all
    Retry {
        /// The aggregate's subject, as `parked` shows it
        subject: Option<String>,
    },
    /// Leave one parked commit out for good; it is written down who decided that and why
    Skip {
        /// Its sequence
        seq: u64,
        /// For what reason
        #[arg(long)]
        why: String,
        /// Who decides
        #[arg(long, env = "USER")]
        who: String,
    },
}

pub(super) async fn run(
    connection: &Connection,
    options: Options,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    let order = match options.order.unwrap_or(Order::Status) {
        Order::Status => Projections::Status,
        Order::Rebuild { from, flip, watch } => {
            let order = match from {
                From::Log => Projections::Rebuild { flip },
                From::Copy => Projections::RebuildFromCopy { flip },
            };
            let exit = told(ask(connection, order).await?, output)?;
            if watch && exit == Exit::Well {
                self::watch(connection, flip).await?;
                let status = ask(connection, Projections::Status).await?;
                return told(status, output);
            }
            return Ok(exit);
        }
        Order::Abandon => Projections::Abandon,
        Order::Flip => Projections::Flip,
        Order::Rollback => Projections::Rollback,
        Order::Parked { after, limit } => Projections::Parked { after, limit },
        Order::Retry { subject } => Projections::Retry { subject },
        Order::Skip { seq, why, who } => Projections::Skip { seq, who, why },
    };
    told(ask(connection, order).await?, output)
}

/// Asks whoever owns the live generation. For a moment nobody does, while it changes hands: then
/// nobody has heard the order either, and it is given again.
async fn ask(connection: &Connection, order: Projections) -> Result<Reply, Error> {
    let payload: bytes::Bytes = serde_json::to_vec(&order)
        .map_err(Error::failed("the order"))?
        .into();
    let began = Instant::now();
    loop {
        let request = async_nats::Request::new()
            .payload(payload.clone())
            .timeout(Some(ANSWER));
        let answer = connection
            .client
            .send_request(subject::ADMIN_PROJECTIONS, request)
            .await;
        match answer {
            Ok(answer) => {
                return serde_json::from_slice(&answer.payload)
                    .map_err(Error::failed("a readable answer"));
            }
            Err(error)
                if error.kind() == async_nats::RequestErrorKind::NoResponders
                    && began.elapsed() < CHANGE =>
            {
                tokio::time::sleep(LOOK / 5).await;
            }
            Err(error) => {
                return Err(Error::failed("an answer of whoever owns the projections")(
                    error,
                ));
            }
        }
    }
}

/// Writes the answer, and what it means for monitors.
fn told(reply: Reply, output: &mut Output<'_>) -> Result<Exit, Error> {
    match reply {
        Reply::Status(status) => {
            let exit = match status.health {
                Health::Healthy => Exit::Well,
                Health::Degraded => Exit::Degraded,
                Health::Ill => Exit::Ill,
            };
            output.report(&StatusReport(status));
            Ok(exit)
        }
        Reply::Begun => {
            output.report(&Begun { begun: true });
            Ok(Exit::Well)
        }
        Reply::Parked { commits, total } => {
            output.report(&ParkedReport { total, commits });
            Ok(Exit::well_if(total == 0))
        }
        Reply::Retried {
            projected,
            left,
            failed,
        } => {
            output.report(&Retried {
                projected,
                left,
                failed,
            });
            Ok(Exit::well_if(left == 0))
        }
        Reply::Refused { reason } | Reply::Unavailable { reason } => Err(Error::Unknown(reason)),
    }
}

/// Shows how a rebuild goes on, until it has caught up, or has become live.
async fn watch(connection: &Connection, flip: bool) -> Result<(), Error> {
    let mut progress: Option<(u64, Progress)> = None;
    let mut misses = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let status = match ask(connection, Projections::Status).await {
            Ok(Reply::Status(status)) => status,
            Ok(_) | Err(_) if misses < PATIENCE => {
                misses += 1;
                continue;
            }
            Ok(other) => return Err(Error::Unknown(format!("{other:?}"))),
            Err(error) => return Err(error),
        };
        misses = 0;
        let next = status
            .generations
            .iter()
            .find(|each| each.state == State::Next);
        let Some(next) = next else {
            // It is live, or somebody has abandoned it.
            let live = status
                .generations
                .iter()
                .find(|each| each.state == State::Live);
            let Some((number, progress)) = progress else {
                return Ok(());
            };
            progress.end();
            return match live {
                Some(live) if live.number == number => Ok(()),
                _ => Err(Error::Unknown("the rebuild was abandoned".to_owned())),
            };
        };
        let head = status.head.unwrap_or(next.seq);
        let (_, bar) =
            progress.get_or_insert_with(|| (next.number, Progress::new("rebuild", head)));
        bar.at(next.seq);
        if !flip && next.lag == 0 {
            if let Some((_, bar)) = progress {
                bar.end();
            }
            return Ok(());
        }
    }
}

#[derive(Debug, Serialize)]
struct Begun {
    begun: bool,
}

impl fmt::Display for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it begins; `amaima admin projections status` tells how it goes on"
        )
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct StatusReport(Status);

impl fmt::Display for StatusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = &self.0;
        let health = match status.health {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
            Health::Ill => "ill",
        };
        writeln!(f, "{health}: {}", or_all_well(&status.reasons))?;
        let head = status
            .head
            .map_or("unknown".to_owned(), |head| head.to_string());
        writeln!(
            f,
            "log at {head}, owner {}, sign of life {} ms ago\n",
            status.owner, status.heartbeat_age_ms
        )?;
        let mut table = Table::new(&[
            "generation",
            "number",
            "version",
            "lanes",
            "seq",
            "lag",
            "per s",
            "eta s",
            "parked",
            "skipped",
            "flips",
        ]);
        for each in &status.generations {
            table.row(cells(each));
        }
        write!(f, "{table}")
    }
}

fn or_all_well(reasons: &[String]) -> String {
    if reasons.is_empty() {
        "all is well".to_owned()
    } else {
        reasons.join("; ")
    }
}

fn cells(each: &Generation) -> [String; 11] {
    let state = match each.state {
        State::Live => "live",
        State::Next => "next",
        State::Previous => "previous",
    };
    [
        state.to_owned(),
        each.number.to_string(),
        each.version.to_string(),
        each.lanes.len().to_string(),
        each.seq.to_string(),
        each.lag.to_string(),
        format!("{:.0}", each.rate),
        each.eta_secs
            .map_or("-".to_owned(), |secs| format!("{secs:.0}")),
        each.parked.to_string(),
        each.skipped.to_string(),
        if each.flips { "yes" } else { "no" }.to_owned(),
    ]
}

#[derive(Debug, Serialize)]
struct ParkedReport {
    total: u64,
    commits: Vec<Parked>,
}

impl fmt::Display for ParkedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} parked", self.total)?;
        write!(f, "{}", table(&self.commits))
    }
}

fn table(commits: &[Parked]) -> Table {
    let mut table = Table::new(&["seq", "since", "subject", "reason"]);
    for each in commits {
        table.row([
            each.seq.to_string(),
            each.at.to_string(),
            each.subject.clone(),
            each.reason.clone(),
        ]);
    }
    table
}

#[derive(Debug, Serialize)]
struct Retried {
    projected: u64,
    left: u64,
    failed: Vec<Parked>,
}

impl fmt::Display for Retried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} projected, {} still parked",
            self.projected, self.left
        )?;
        if !self.failed.is_empty() {
            write!(f, "failed again:\n{}", table(&self.failed))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_verdict_and_a_table() {
        let report = StatusReport(Status {
            health: Health::Degraded,
            reasons: vec!["2 commits are parked".into()],
            head: Some(100),
            heartbeat_age_ms: 4,
            owner: "host/1".into(),
            version: 1,
            generations: vec![Generation {
                state: State::Live,
                number: 1,
                version: 1,
                lanes: vec![100, 100],
                seq: 100,
                lag: 0,
                rate: 12.4,
                eta_secs: Some(0.0),
                flips: false,
                parked: 2,
                skipped: 0,
            }],
        });
        let text = report.to_string();
        assert!(text.starts_with("degraded: 2 commits are parked\nlog at 100, owner host/1"));
        assert!(
            text.contains("live             1        1      2  100"),
            "{text}"
        );
    }
}
