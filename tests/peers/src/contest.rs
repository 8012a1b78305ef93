//! One run of one contestant: a short warm-up, the commands, the wait for the last row, an audit
//! of what is stored, and a rebuild of the rows with a second audit.

use crate::{
    settings::Settings,
    work::{EVENTS, Step, Task},
};
use anyhow::Context;
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// A way to do the work.
pub trait Contestant: Send + Sync + 'static {
    /// Gives one command and returns when it is durably accepted, with the number of conflicts
    /// that were met on the way.
    fn give(&self, task: &Task, step: Step) -> impl Future<Output = anyhow::Result<u64>> + Send;

    /// How many rows say `completed` now.
    fn completed(&self) -> impl Future<Output = anyhow::Result<u64>> + Send;

    /// What the log holds.
    fn stored(&self) -> impl Future<Output = anyhow::Result<Stored>> + Send;

    /// What the projection holds.
    fn rows(&self) -> impl Future<Output = anyhow::Result<Rows>> + Send;

    /// Makes the projection again from the stored events: how long it took until `expected` rows
    /// were completed. From then on [`Contestant::completed`] and [`Contestant::rows`] are about
    /// the new one.
    fn rebuild(&mut self, expected: u64) -> impl Future<Output = anyhow::Result<Duration>> + Send;

    /// Ends everything that runs, and gives its connections back.
    fn stop(self) -> impl Future<Output = ()> + Send;
}

/// What a log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Events.
    pub events: u64,
    /// Aggregates that have events.
    pub aggregates: u64,
    /// Aggregates that have not exactly three.
    pub uneven: u64,
}

/// What a projection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Rows.
    pub all: u64,
    /// Rows that are completed and have both texts and all times.
    pub whole: u64,
}

/// The figures of one run.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Commands accepted in a second.
    pub commands: f64,
    /// Half of the commands took at most so many milliseconds.
    pub p50: f64,
    /// 99 of 100 did.
    pub p99: f64,
    /// Events in a second from the first command until the last row is there, if it came.
    pub projected: Option<f64>,
    /// Events in a second while the projection is made again.
    pub replayed: Option<f64>,
    /// Conflicts per thousand commands.
    pub conflicts: f64,
    /// What was lost, doubled or wrong.
    pub faults: Vec<String>,
}

/// A projection that has not moved for so long has lost something.
const STANDSTILL: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(10);

/// Waits until so many rows are completed.
///
/// # Errors
/// When they do not become more any longer.
pub async fn wait_for_rows(contestant: &impl Contestant, expected: u64) -> anyhow::Result<()> {
    let mut most = 0;
    let mut moved = Instant::now();
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let rows = contestant.completed().await;
        match &rows {
            Ok(rows) if *rows >= expected => return Ok(()),
            Ok(rows) if *rows > most => (most, moved) = (*rows, Instant::now()),
            Ok(_) | Err(_) => {}
        }
        if moved.elapsed() > STANDSTILL {
            rows.context("the rows cannot be counted")?;
            anyhow::bail!("it stands still at {most} of {expected} rows");
        }
    }
}

/// Runs it once.
///
/// # Errors
/// When a command of the warm-up fails; everything else is a fault among the figures.
pub async fn run(contestant: impl Contestant, settings: &Settings) -> anyhow::Result<Figures> {
    let (work, warm_up) = (settings.aggregates, settings.in_flight);
    let everything = work + warm_up;
    let contestant = Arc::new(contestant);
    let warm = drive(&contestant, work..everything, settings.in_flight).await?;
    anyhow::ensure!(warm.failures.is_empty(), "{}", warm.failures.join("; "));
    let mut faults = Vec::new();
    if let Err(error) = wait_for_rows(&*contestant, warm_up).await {
        faults.push(format!("projection of the warm-up: {error:#}"));
    }

    let began = Instant::now();
    let mut driven = drive(&contestant, 0..work, settings.in_flight).await?;
    let commanded = began.elapsed();
    faults.append(&mut driven.failures);
    let projected = match wait_for_rows(&*contestant, everything).await {
        Ok(()) => Some(driven.times.len() as f64 / began.elapsed().as_secs_f64()),
        Err(error) => {
            faults.push(format!("projection: {error:#}"));
            None
        }
    };
    audit_log(&*contestant, everything, &mut faults).await;
    audit_rows(&*contestant, everything, "rows", &mut faults).await;

    let mut contestant = Arc::into_inner(contestant).context("a caller is still at work")?;
    let replayed = match contestant.rebuild(everything).await {
        Ok(took) => {
            audit_rows(&contestant, everything, "rebuilt rows", &mut faults).await;
            Some((everything * EVENTS) as f64 / took.as_secs_f64())
        }
        Err(error) => {
            faults.push(format!("rebuild: {error:#}"));
            None
        }
    };
    contestant.stop().await;

    driven.times.sort_unstable();
    let commands = driven.times.len() as f64;
    Ok(Figures {
        commands: commands / commanded.as_secs_f64(),
        p50: quantile(&driven.times, 50),
        p99: quantile(&driven.times, 99),
        projected,
        replayed,
        conflicts: driven.conflicts as f64 * 1e3 / commands.max(1.0),
        faults,
    })
}

/// What came of some commands.
struct Driven {
    /// How long each accepted command took.
    times: Vec<Duration>,
    conflicts: u64,
    failures: Vec<String>,
}

/// Gives all commands of the queries of these numbers. Each caller takes one query, gives it its
/// three commands one after the other, and takes the next.
async fn drive<C: Contestant>(
    contestant: &Arc<C>,
    numbers: Range<u64>,
    callers: u64,
) -> anyhow::Result<Driven> {
    let next = Arc::new(AtomicU64::new(numbers.start));
    let mut working = JoinSet::new();
    for _ in 0..callers {
        let (contestant, next, end) = (contestant.clone(), next.clone(), numbers.end);
        working.spawn(async move {
            let mut driven = Driven {
                times: Vec::new(),
                conflicts: 0,
                failures: Vec::new(),
            };
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    return driven;
                }
                let task = Task::new(number);
                for step in Step::ALL {
                    let began = Instant::now();
                    match contestant.give(&task, step).await {
                        Ok(conflicts) => {
                            driven.times.push(began.elapsed());
                            driven.conflicts += conflicts;
                        }
                        Err(error) => {
                            driven.failures.push(format!("{step:?}: {error:#}"));
                            break;
                        }
                    }
                }
            }
        });
    }
    let mut all = Driven {
        times: Vec::new(),
        conflicts: 0,
        failures: Vec::new(),
    };
    while let Some(driven) = working.join_next().await {
        let driven = driven?;
        all.times.extend(driven.times);
        all.conflicts += driven.conflicts;
        all.failures.extend(driven.failures);
    }
    Ok(all)
}

async fn audit_log(contestant: &impl Contestant, expected: u64, faults: &mut Vec<String>) {
    let wanted = Stored {
        events: expected * EVENTS,
        aggregates: expected,
        uneven: 0,
    };
    match contestant.stored().await {
        Ok(stored) if stored == wanted => {}
        Ok(stored) => faults.push(format!("the log has {stored:?} and should have {wanted:?}")),
        Err(error) => faults.push(format!("the log cannot be counted: {error:#}")),
    }
}

async fn audit_rows(
    contestant: &impl Contestant,
    expected: u64,
    what: &str,
    faults: &mut Vec<String>,
) {
    let wanted = Rows {
        all: expected,
        whole: expected,
    };
    match contestant.rows().await {
        Ok(rows) if rows == wanted => {}
        Ok(rows) => faults.push(format!("{what}: {rows:?}, but it should be {wanted:?}")),
        Err(error) => faults.push(format!("{what} cannot be counted: {error:#}")),
    }
}

/// In milliseconds, of sorted times.
fn quantile(sorted: &[Duration], percent: usize) -> f64 {
    let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted
        .get(place)
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
