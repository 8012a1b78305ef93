//! Events per second from the log into PostgreSQL, beside the bare bulk insert of the same rows.
//!
//! `cargo bench -p tests --bench replay`. In each round an instance of projection-svc folds the
//! whole log into an empty database; then the rows that came of it are written into equal empty
//! tables, with equal indexes, by one `COPY` for each table from memory. Both are told as events of
//! the log per second; medians, for relaxed and for synced servers. `AMAIMA_EVENTS` and
//! `PROJECTION_LANES` change the sizes.

use amaima::stack::{self, SyncMode};
use anyhow::Context;
use futures_util::TryStreamExt;
use infra::sealing::Sealing;
use projection_svc::Config;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::time::{Duration, Instant};
use tests::{
    commits::{self, History},
    projections::Bench,
};

const ROUNDS: usize = 3;
const TABLES: [&str; 3] = ["accounts", "sessions", "queries"];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let events: usize = infra::config::parsed("AMAIMA_EVENTS", 200_000)?;
    let lanes = Config::sealing_with(Sealing::Off)?.lanes;
    say(&format!(
        "{events} events, {lanes} lanes, medians of {ROUNDS}\n\
         mode | rows | bare COPY events/s | replay events/s | ratio"
    ));
    for (name, sync) in [("relaxed", SyncMode::Relaxed), ("synced", SyncMode::Always)] {
        let stack = stack::testing_with(|options| {
            options.sync = sync;
            options.disposable = false;
        });
        let mut bench = Bench::on(stack.await?).await;
        let mut random = History::new(1);
        let commits = std::iter::repeat_with(|| random.command()).flatten();
        let last = commits::write(&bench.client, commits.take(events)).await?;
        let (mut bare, mut ours, mut rows) = (vec![], vec![], 0);
        for round in 0..ROUNDS {
            let url = bench.stack.database(&format!("round_{round}")).await?;
            bench.pool = sqlx::PgPool::connect(&url).await?;
            let config = Config {
                postgres: infra::config::Postgres::at(&url),
                lanes,
                ..bench.config()
            };
            ours.push(bench.replay(config, last).await?);
            let (took, count) = copy(&url).await?;
            bare.push(events as f64 / took.as_secs_f64());
            rows = count;
        }
        let (bare, ours) = (median(bare), median(ours));
        say(&format!(
            "{name} | {rows} | {bare:.0} | {ours:.0} | {:.2}",
            ours / bare
        ));
        bench.stack.stop().await?;
    }
    Ok(())
}

/// How long the bare bulk insert of the same rows takes, and how many they are.
async fn copy(url: &str) -> anyhow::Result<(Duration, u64)> {
    let mut connection = PgConnection::connect(url).await?;
    connection.execute("CREATE SCHEMA bare").await?;
    let mut texts = Vec::new();
    for table in TABLES {
        let create = format!("CREATE TABLE bare.{table} (LIKE rm.{table} INCLUDING ALL)");
        connection.execute(AssertSqlSafe(create)).await?;
        let out = format!("COPY rm.{table} TO STDOUT");
        let chunks = connection.copy_out_raw(&out).await?;
        let text: Vec<_> = chunks.try_collect().await?;
        texts.push((table, text.concat()));
    }
    let began = Instant::now();
    let mut rows = 0;
    for (table, text) in texts {
        let mut copy = connection
            .copy_in_raw(&format!("COPY bare.{table} FROM STDIN"))
            .await
            .context("COPY")?;
        for piece in text.chunks(1 << 20) {
            copy.send(piece).await?;
        }
        rows += copy.finish().await?;
    }
    Ok((began.elapsed(), rows))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn say(line: &str) {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").ok();
}
