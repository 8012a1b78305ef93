//! What sealing costs: the same commands and the same log with and without it, in turns.
//!
//! `cargo bench -p tests --bench sealing`. Two stacks run side by side, and rounds alternate between
//! them. Appending: commands of a hundred persons through command-svc, 64 in flight, while the
//! policies are held. Replaying: an instance of projection-svc folds the whole log into an empty
//! database. Medians, and sealed over plain as a ratio; then what the log takes on the disk.
//! `AMAIMA_COMMITS` and `AMAIMA_EVENTS` change the sizes.

use amaima::stack::{self, SyncMode, wait_for};
use async_nats::{datetime, jetstream};
use domain::{
    Actor,
    id::{AccountId, CommandId, QueryId},
    query::Submission,
    subject,
    wire::command::{Body, Reply, Request, Via},
};
use futures_util::{StreamExt, stream};
use infra::{
    bus::Commands,
    clock, config,
    lifecycle::Lifecycle,
    sealing::{Keyring, Sealing},
};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tests::{
    commits::{self, History},
    projections::Bench,
};

const ROUNDS: usize = 5;
const IN_FLIGHT: usize = 64;
const PERSONS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);

/// Servers of their own, and how they are used: sealed or not.
async fn servers(sync: SyncMode, sealed: bool) -> anyhow::Result<(Bench, Sealing)> {
    let stack = stack::testing_with(|options| {
        options.sync = sync;
        options.disposable = false;
    });
    let bench = Bench::on(stack.await?).await;
    let sealing = match sealed {
        true => bench.stack.endpoints().sealing()?,
        false => Sealing::Off,
    };
    Ok((bench, sealing))
}

/// Takes commands.
struct Writer {
    bench: Bench,
    commands: Commands,
    lifecycle: Lifecycle,
    persons: Vec<AccountId>,
}

impl Writer {
    async fn start(sync: SyncMode, sealed: bool) -> anyhow::Result<Self> {
        let (bench, sealing) = servers(sync, sealed).await?;
        let config = command_svc::Config::at(bench.stack.endpoints().nats(), sealing);
        let persons = std::iter::repeat_with(clock::fresh_id).take(PERSONS);
        let writer = Self {
            commands: Commands::new(bench.client.clone()),
            persons: persons.map(AccountId::new).collect(),
            lifecycle: Lifecycle::new(),
            bench,
        };
        let life = writer.lifecycle.clone();
        writer.lifecycle.spawn("command-svc", async move {
            if let Err(error) = command_svc::run(config, life).await {
                say(&format!("command-svc: {error}"));
            }
        });
        // Everybody has a key from here on.
        for index in 0..PERSONS {
            wait_for("command-svc", PATIENCE, || writer.submit(index))
                .await
                .map_err(anyhow::Error::msg)?;
        }
        writer.hold().await?;
        Ok(writer)
    }

    /// Policies do nothing meanwhile.
    async fn hold(&self) -> anyhow::Result<()> {
        let context = jetstream::new(self.bench.client.clone());
        let log = context.get_stream_no_info(subject::EVENTS).await?;
        let until = datetime::add_std_duration(datetime::now(), PATIENCE * 60)
            .map_err(|error| anyhow::anyhow!(error))?;
        log.pause_consumer(subject::POLICIES, until).await?;
        Ok(())
    }

    async fn submit(&self, index: usize) -> anyhow::Result<()> {
        let request = Request {
            id: CommandId::new(clock::fresh_id()),
            actor: Actor::User(self.persons[index % PERSONS]),
            request_id: "req_0123456789ab".into(),
            traceparent: None,
            deadline: clock::now().plus_millis(30_000),
            fingerprint: None,
            body: Body::SubmitQuery {
                query: QueryId::new(clock::fresh_id()),
                named: true,
                via: Via::Socket,
                submission: Submission {
                    text: "What is a projection here, and why is it kept apart?".into(),
                    operation: "general".into(),
                    file_ids: vec![],
                    context: None,
                    reference: None,
                    options: None,
                },
            },
        };
        match self.commands.send(&request).await {
            Reply::Accepted { .. } => Ok(()),
            other => anyhow::bail!("not accepted: {other:?}"),
        }
    }

    /// Commits per second of one round.
    async fn append(&self, count: usize) -> anyhow::Result<f64> {
        let began = Instant::now();
        let mut calls = stream::iter(0..count)
            .map(|index| self.submit(index))
            .buffer_unordered(IN_FLIGHT);
        while let Some(done) = calls.next().await {
            done?;
        }
        Ok(count as f64 / began.elapsed().as_secs_f64())
    }
}

/// Folds a log.
struct Folder {
    bench: Bench,
    sealing: Sealing,
    last: u64,
}

impl Folder {
    async fn start(sync: SyncMode, sealed: bool, events: usize) -> anyhow::Result<Self> {
        let (bench, sealing) = servers(sync, sealed).await?;
        let keys = Keyring::new(&bench.client, sealing.clone());
        let mut random = History::new(1);
        let mut parts = Vec::with_capacity(events + 2);
        while parts.len() < events {
            let command = random.command();
            parts.extend(commits::sealed(&keys, random.concerned(), command).await?);
        }
        Ok(Self {
            last: commits::write(&bench.client, parts).await?,
            bench,
            sealing,
        })
    }

    /// Events per second of one round.
    async fn replay(&mut self, round: usize) -> anyhow::Result<f64> {
        let url = self.bench.stack.database(&format!("round_{round}")).await?;
        self.bench.pool = sqlx::PgPool::connect(&url).await?;
        let config = projection_svc::Config {
            postgres: config::Postgres::at(&url),
            sealing: self.sealing.clone(),
            ..self.bench.config()
        };
        self.bench.replay(config, self.last).await
    }

    fn log_bytes(&self) -> anyhow::Result<u64> {
        let streams = self
            .bench
            .stack
            .data_dir()
            .join("nats/jetstream/$G/streams");
        bytes(&streams.join(subject::EVENTS).join("msgs"))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let commits: usize = config::parsed("AMAIMA_COMMITS", 10_000)?;
    let events: usize = config::parsed("AMAIMA_EVENTS", 200_000)?;
    say(&format!(
        "{commits} commits and {events} events a round, medians of {ROUNDS}\n\
         mode | what | plain | sealed | ratio"
    ));
    for (name, sync) in [("relaxed", SyncMode::Relaxed), ("synced", SyncMode::Always)] {
        let writers = [
            Writer::start(sync, false).await?,
            Writer::start(sync, true).await?,
        ];
        let mut rates = [vec![], vec![]];
        for _ in 0..ROUNDS {
            for (writer, rates) in writers.iter().zip(&mut rates) {
                rates.push(writer.append(commits).await?);
            }
        }
        tell(name, "append, commits/s", rates);
        for writer in writers {
            writer.lifecycle.stop(PATIENCE).await;
            writer.bench.stack.stop().await?;
        }
        let mut folders = [
            Folder::start(sync, false, events).await?,
            Folder::start(sync, true, events).await?,
        ];
        let mut rates = [vec![], vec![]];
        for round in 0..ROUNDS {
            for (folder, rates) in folders.iter_mut().zip(&mut rates) {
                rates.push(folder.replay(round).await?);
            }
        }
        tell(name, "replay, events/s", rates);
        let sizes = [folders[0].log_bytes()?, folders[1].log_bytes()?];
        tell(
            name,
            "log on the disk, bytes",
            sizes.map(|size| vec![size as f64]),
        );
        for folder in folders {
            folder.bench.stack.stop().await?;
        }
    }
    Ok(())
}

fn tell(mode: &str, what: &str, figures: [Vec<f64>; 2]) {
    let [plain, sealed] = figures.map(median);
    say(&format!(
        "{mode} | {what} | {plain:.0} | {sealed:.0} | {:.2}",
        sealed / plain
    ));
}

fn bytes(directory: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for file in std::fs::read_dir(directory)? {
        sum += file?.metadata()?.len();
    }
    Ok(sum)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn say(line: &str) {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").ok();
}
