//! How the projections are: positions and head of the log, sampled all the time, so that a rate and
//! a standstill can be told, and the verdict over them.

use super::Desk;
use crate::generation::{self, Meta, Slot, VERSION};
use domain::{
    subject,
    wire::admin::{Generation, Health, State, Status},
};
use infra::lifecycle::Lifecycle;
use sqlx::{AssertSqlSafe, PgConnection};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// How often positions are sampled.
const EVERY: Duration = Duration::from_millis(500);
/// Samples that a rate is taken over.
const KEPT: usize = 10;
/// Longest wait for one of them.
const ANSWER: Duration = Duration::from_secs(2);

/// Signs of life of a loop.
pub(crate) struct Pulse {
    since: Instant,
    beat_ms: AtomicU64,
}

impl Pulse {
    /// Alive now.
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            beat_ms: AtomicU64::new(0),
        }
    }

    /// Alive.
    pub(crate) fn beat(&self) {
        self.beat_ms.store(self.elapsed(), Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        Duration::from_millis(
            self.elapsed()
                .saturating_sub(self.beat_ms.load(Ordering::Relaxed)),
        )
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Positions over the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    kept: VecDeque<Sample>,
    /// When the live generation last moved, or had nothing to do, and where.
    moved: Option<(Instant, u64)>,
}

#[derive(Debug)]
struct Sample {
    at: Instant,
    head: Option<u64>,
    /// `None` where the database did not answer.
    generations: Option<Vec<(Slot, Meta)>>,
}

impl Samples {
    fn add(&mut self, sample: Sample) {
        let live = sample
            .generations
            .as_ref()
            .and_then(|all| find(all, Slot::Live));
        let seq = live.map(Meta::reached);
        let moved = match (self.moved, seq, sample.head) {
            (None, seq, _) => Some((sample.at, seq.unwrap_or(0))),
            // It moved, or there was nothing to do.
            (Some((_, before)), Some(seq), _) if seq != before => Some((sample.at, seq)),
            (Some(_), Some(seq), Some(head)) if head <= seq => Some((sample.at, seq)),
            (known, _, _) => known,
        };
        self.moved = moved;
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(sample);
    }

    /// Commits per second of one generation.
    fn rate(&self, slot: Slot, generation: i64) -> f64 {
        let mut of_it = self.kept.iter().filter_map(|sample| {
            let meta = find(sample.generations.as_ref()?, slot)?;
            (meta.generation == generation).then(|| (sample.at, meta.reached()))
        });
        let (Some(first), Some(last)) = (of_it.next(), of_it.next_back()) else {
            return 0.0;
        };
        let secs = last.0.duration_since(first.0).as_secs_f64();
        last.1.saturating_sub(first.1) as f64 / secs.max(0.001)
    }
}

fn find(all: &[(Slot, Meta)], slot: Slot) -> Option<&Meta> {
    all.iter()
        .find(|(each, _)| *each == slot)
        .map(|(_, meta)| meta)
}

/// Samples until the life ends.
pub(super) async fn sample(desk: Desk, samples: Arc<Mutex<Samples>>, lifecycle: Lifecycle) {
    while !lifecycle.is_stopping() {
        let (head, generations) = tokio::join!(head(&desk), generations(&desk));
        lock(&samples).add(Sample {
            at: Instant::now(),
            head,
            generations,
        });
        tokio::select! {
            () = lifecycle.stopping() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn head(desk: &Desk) -> Option<u64> {
    let stream = timeout(ANSWER, desk.context.get_stream(subject::EVENTS)).await;
    Some(stream.ok()?.ok()?.cached_info().state.last_sequence)
}

async fn generations(desk: &Desk) -> Option<Vec<(Slot, Meta)>> {
    let look = async {
        let mut connection = desk.pool.acquire().await?;
        let mut all = Vec::new();
        for slot in Slot::ALL {
            if let Some(meta) = generation::look(&mut connection, slot).await? {
                all.push((slot, meta));
            }
        }
        Ok::<_, sqlx::Error>(all)
    };
    timeout(ANSWER, look).await.ok()?.ok()
}

/// The status at this moment.
pub(super) async fn now(desk: &Desk, samples: &Mutex<Samples>) -> Status {
    let (head, generations) = tokio::join!(head(desk), generations(desk));
    let heartbeat_age = desk.pulse.age();
    let all = generations.as_deref().unwrap_or_default();
    let counts = timeout(ANSWER, counts(desk, all)).await;
    let counts = counts.ok().and_then(Result::ok);
    let mut samples = lock(samples);
    samples.add(Sample {
        at: Instant::now(),
        head,
        generations: generations.clone(),
    });
    let described: Vec<Generation> = all
        .iter()
        .enumerate()
        .map(|(index, (slot, meta))| {
            let (parked, skipped) = counts.as_ref().map_or((0, 0), |counts| counts[index]);
            describe(
                *slot,
                meta,
                head,
                samples.rate(*slot, meta.generation),
                parked,
                skipped,
            )
        })
        .collect();
    let facts = Facts {
        head,
        live: described.iter().find(|each| each.state == State::Live),
        database_answers: generations.is_some() && counts.is_some(),
        heartbeat_age,
        still_for: samples.moved.map_or(Duration::ZERO, |(at, _)| at.elapsed()),
        stalled_after: desk.stalled_after,
    };
    let (health, reasons) = facts.verdict();
    Status {
        health,
        reasons,
        head,
        heartbeat_age_ms: u64::try_from(heartbeat_age.as_millis()).unwrap_or(u64::MAX),
        owner: format!(
            "{}/{}",
            infra::config::text("HOSTNAME", "localhost"),
            std::process::id()
        ),
        version: u32::try_from(VERSION).unwrap_or(0),
        generations: described,
    }
}

async fn counts(desk: &Desk, all: &[(Slot, Meta)]) -> Result<Vec<(u64, u64)>, sqlx::Error> {
    let mut connection = desk.pool.acquire().await?;
    let mut counts = Vec::with_capacity(all.len());
    for (slot, _) in all {
        counts.push(count(&mut connection, *slot).await?);
    }
    Ok(counts)
}

async fn count(connection: &mut PgConnection, slot: Slot) -> Result<(u64, u64), sqlx::Error> {
    let schema = slot.schema();
    let (parked, skipped): (i64, i64) = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT (SELECT count(*) FROM {schema}.parked), (SELECT count(*) FROM {schema}.skipped)"
    )))
    .fetch_one(connection)
    .await?;
    let unsigned = |count| u64::try_from(count).unwrap_or(0);
    Ok((unsigned(parked), unsigned(skipped)))
}

fn describe(
    slot: Slot,
    meta: &Meta,
    head: Option<u64>,
    rate: f64,
    parked: u64,
    skipped: u64,
) -> Generation {
    let seq = meta.reached();
    let lag = head.unwrap_or(seq).saturating_sub(seq);
    Generation {
        state: match slot {
            Slot::Live => State::Live,
            Slot::Next => State::Next,
            Slot::Previous => State::Previous,
        },
        number: u64::try_from(meta.generation).unwrap_or(0),
        version: u32::try_from(meta.version).unwrap_or(0),
        lanes: meta.positions.clone(),
        seq,
        lag,
        rate,
        eta_secs: (rate > 0.0 || lag == 0).then(|| lag as f64 / rate.max(1.0)),
        flips: meta.flip,
        parked,
        skipped,
    }
}

/// What a verdict rests on.
struct Facts<'a> {
    head: Option<u64>,
    live: Option<&'a Generation>,
    database_answers: bool,
    heartbeat_age: Duration,
    still_for: Duration,
    stalled_after: Duration,
}

impl Facts<'_> {
    fn verdict(&self) -> (Health, Vec<String>) {
        let mut ill = Vec::new();
        let mut degraded = Vec::new();
        if !self.database_answers {
            ill.push("the database does not answer".to_owned());
        }
        if self.heartbeat_age > self.stalled_after {
            ill.push(format!(
                "no sign of life from the projection for {:.1} s",
                self.heartbeat_age.as_secs_f64()
            ));
        }
        match (self.head, self.live) {
            (None, _) => ill.push("the log does not answer".to_owned()),
            (Some(_), None) if self.database_answers => {
                ill.push("there is no live generation".to_owned());
            }
            (Some(head), Some(live)) if head < live.seq => ill.push(format!(
                "the log ends at {head}, before the checkpoint {}",
                live.seq
            )),
            (Some(_), Some(live)) if live.lag > 0 && self.still_for > self.stalled_after => {
                ill.push(format!(
                    "stands still at {} for {:.1} s while the log goes on",
                    live.seq,
                    self.still_for.as_secs_f64()
                ));
            }
            _ => {}
        }
        if let Some(live) = self.live
            && live.parked > 0
        {
            degraded.push(format!("{} commits are parked", live.parked));
        }
        let health = match (ill.is_empty(), degraded.is_empty()) {
            (false, _) => Health::Ill,
            (true, false) => Health::Degraded,
            (true, true) => Health::Healthy,
        };
        ill.extend(degraded);
        (health, ill)
    }
}

fn lock(samples: &Mutex<Samples>) -> MutexGuard<'_, Samples> {
    samples.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(seq: u64) -> Meta {
        Meta {
            generation: 1,
            version: VERSION,
            indexed: true,
            flip: false,
            from_copy: false,
            positions: vec![seq, seq + 5],
        }
    }

    fn sample(at: Instant, head: u64, seq: u64) -> Sample {
        Sample {
            at,
            head: Some(head),
            generations: Some(vec![(Slot::Live, meta(seq))]),
        }
    }

    #[test]
    fn a_rate_is_taken_over_the_last_samples() {
        let start = Instant::now();
        let mut samples = Samples::default();
        for second in 0..20 {
            let at = start + Duration::from_secs(second);
            samples.add(sample(at, 1000, second * 50));
        }
        assert_eq!(samples.kept.len(), KEPT);
        assert!((samples.rate(Slot::Live, 1) - 50.0).abs() < 0.1);
        assert_eq!(samples.rate(Slot::Live, 2), 0.0);
        assert_eq!(samples.rate(Slot::Next, 1), 0.0);
    }

    #[test]
    fn what_stands_still_with_work_to_do_is_ill() {
        let start = Instant::now();
        let mut samples = Samples::default();
        let at = |second| start + Duration::from_secs(second);
        samples.add(sample(at(0), 10, 10));
        // Nothing to do is no standstill.
        samples.add(sample(at(100), 10, 10));
        assert_eq!(samples.moved, Some((at(100), 10)));
        samples.add(sample(at(101), 11, 10));
        samples.add(sample(at(150), 900, 10));
        assert_eq!(samples.moved, Some((at(100), 10)));
        let live = describe(Slot::Live, &meta(10), Some(900), 0.0, 0, 0);
        assert_eq!((live.lag, live.eta_secs), (890, None));
        let mut facts = Facts {
            head: Some(900),
            live: Some(&live),
            database_answers: true,
            heartbeat_age: Duration::from_millis(5),
            still_for: Duration::from_secs(50),
            stalled_after: Duration::from_secs(10),
        };
        let (health, reasons) = facts.verdict();
        assert_eq!(health, Health::Ill);
        assert!(reasons[0].contains("stands still at 10"), "{reasons:?}");
        facts.still_for = Duration::from_secs(1);
        assert_eq!(facts.verdict().0, Health::Healthy);
        facts.heartbeat_age = Duration::from_secs(11);
        assert_eq!(facts.verdict().0, Health::Ill);
        facts.heartbeat_age = Duration::ZERO;
        facts.head = None;
        assert_eq!(facts.verdict().0, Health::Ill);
    }

    #[test]
    fn parked_commits_degrade() {
        let live = describe(Slot::Live, &meta(10), Some(10), 0.0, 3, 0);
        assert_eq!(live.eta_secs, Some(0.0));
        let facts = Facts {
            head: Some(10),
            live: Some(&live),
            database_answers: true,
            heartbeat_age: Duration::ZERO,
            still_for: Duration::from_secs(100),
            stalled_after: Duration::from_secs(10),
        };
        assert_eq!(facts.verdict().0, Health::Degraded);
    }
}
