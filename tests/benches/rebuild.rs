//! A full rebuild of the read models while queries are asked at a fixed rate.
//!
//! `cargo bench -p tests --bench rebuild`. `AMAIMA_EVENTS` (a million) is the length of the log,
//! `AMAIMA_RATE` (200) the questions per second. Told are the rate of the rebuild and how long
//! questions took before and during it; every question must be answered.

use amaima::stack::{self, SyncMode};
use domain::{
    id::AccountId,
    wire::{
        admin::{Projections, Reply, State, Status},
        view,
    },
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use infra::sealing::Sealing;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tests::{
    commits::{self, History},
    projections::Bench,
};
use tokio::time::MissedTickBehavior;

/// How long questions are timed before the rebuild.
const BEFORE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let events: usize = infra::config::parsed("AMAIMA_EVENTS", 1_000_000)?;
    let rate: u32 = infra::config::parsed("AMAIMA_RATE", 200)?;
    let stack = stack::testing_with(|options| {
        options.sync = SyncMode::Always;
        options.disposable = false;
    });
    let bench = Arc::new(Bench::on(stack.await?).await);
    let mut random = History::new(1);
    let commits = std::iter::repeat_with(|| random.command()).flatten();
    let last = commits::write(&bench.client, commits.take(events)).await?;
    let life = bench.run(projection_svc::Config {
        stalled_after: Duration::from_secs(60),
        lanes: projection_svc::Config::sealing_with(Sealing::Off)?.lanes,
        ..bench.config()
    });
    bench.reached(last).await;
    let people: Vec<AccountId> = (0..64).map(|_| random.person()).collect();

    let before = ask(&bench, &people, last, rate, async {
        tokio::time::sleep(BEFORE).await;
        Ok(())
    });
    let (before, ()) = before.await?;
    let (during, took) = ask(&bench, &people, last, rate, rebuild(&bench)).await?;
    say(&format!(
        "rebuild: {events} events in {:.1} s, {:.0}/s, indexes and flip included",
        took.as_secs_f64(),
        events as f64 / took.as_secs_f64()
    ));
    say("questions | count | failed | p50 ms | p99 ms");
    for (name, asked) in [("before", before), ("during", during)] {
        say(&format!(
            "{name} | {} | {} | {:.2} | {:.2}",
            asked.times.len(),
            asked.failed,
            percentile(&asked.times, 50),
            percentile(&asked.times, 99)
        ));
        anyhow::ensure!(asked.failed == 0, "questions failed");
    }
    life.stop(Duration::from_secs(10)).await;
    Ok(())
}

/// A rebuild with its flip, from the order to the new live generation.
async fn rebuild(bench: &Bench) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let reply = bench.ordered(&Projections::Rebuild { flip: true }).await;
    anyhow::ensure!(reply == Reply::Begun, "{reply:?}");
    bench
        .status_when("the flip", |status: &Status| {
            let live = |each: &&domain::wire::admin::Generation| each.state == State::Live;
            status
                .generations
                .iter()
                .find(live)
                .is_some_and(|live| live.number == 2)
        })
        .await;
    Ok(began.elapsed())
}

struct Asked {
    times: Vec<Duration>,
    failed: usize,
}

/// Asks at this rate, whatever the answers take, until `work` is done.
async fn ask<T>(
    bench: &Bench,
    people: &[AccountId],
    at_least: u64,
    rate: u32,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(Asked, T)> {
    let mut asked = Asked {
        times: Vec::new(),
        failed: 0,
    };
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut asking = FuturesUnordered::new();
    let mut next = people.iter().cycle();
    tokio::pin!(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done?,
            due = tick.tick() => {
                let Some(person) = next.next() else { continue };
                asking.push(async move {
                    let reply = bench.queries(*person, at_least).await;
                    // From when it was due, so that a stall counts for all that it holds up.
                    (due.elapsed(), matches!(reply, view::Reply::Found { .. }))
                });
            }
            Some((took, found)) = asking.next() => {
                asked.times.push(took);
                asked.failed += usize::from(!found);
            }
        }
    };
    while let Some((took, found)) = asking.next().await {
        asked.times.push(took);
        asked.failed += usize::from(!found);
    }
    asked.times.sort_unstable();
    Ok((asked, done))
}

fn percentile(times: &[Duration], percent: usize) -> f64 {
    let index = times.len() * percent / 100;
    times
        .get(index)
        .map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

fn say(line: &str) {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").ok();
}
