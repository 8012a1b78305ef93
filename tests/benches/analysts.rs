//! What the ten questions of `projection-svc/ANALYTICS.md` cost on a year of queries, and an export.
//!
//! `cargo bench -p tests --bench analysts`. `AMAIMA_ROWS` (a million) is the number of queries: the
//! four weeks of `tests::usage`, folded from the log and then copied inside the database, each copy
//! with other people or other weeks and with texts as long as real ones. Each question is asked
//! twice, and the second answer is timed.

use amaima::{admin::Exit, stack};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::{
    io::Write,
    time::{Duration, Instant},
};
use tests::{commits, projections::Bench, usage};

/// Copies take turns with the months of a year; what is divided by this makes other people.
const COPY: &str = "
    INSERT INTO rm.queries
        (query_id, owner, query, operation, file_ids, reference, status, worker, model, attempts,
         response_text, model_used, confidence, latency_ms, finish_reason, prompt_tokens,
         completion_tokens, error_code, error_message, created_at, started_at, completed_at,
         last_seq)
    SELECT md5(query_id::text || copy)::uuid, md5(owner::text || copy / 13)::uuid, query, operation,
           file_ids, reference, status, worker, model, attempts,
           (SELECT string_agg(md5(query_id::text || copy || line), ' ')
            FROM generate_series(1, 28) AS line),
           model_used, confidence, latency_ms, finish_reason, prompt_tokens, completion_tokens,
           error_code, error_message,
           created_at + copy % 13 * interval '28 days',
           started_at + copy % 13 * interval '28 days',
           completed_at + copy % 13 * interval '28 days',
           last_seq
    FROM rm.queries, generate_series(1, $1) AS copy
    ORDER BY copy % 13, created_at";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let rows: i64 = infra::config::parsed("AMAIMA_ROWS", 1_000_000)?;
    let bench = Bench::on(stack::testing().await?).await;
    let last = commits::write(&bench.client, usage::commits()).await?;
    let life = bench.run(bench.config());
    bench.reached(last).await;
    life.stop(Duration::from_secs(10)).await;

    let url = &bench.stack.endpoints().database_url;
    let mut database = PgConnection::connect(url).await?;
    let four_weeks: i64 = sqlx::query_scalar("SELECT count(*) FROM rm.queries")
        .fetch_one(&mut database)
        .await?;
    sqlx::query(COPY)
        .bind(i32::try_from(rows / four_weeks)?)
        .execute(&mut database)
        .await?;
    database.execute("VACUUM ANALYZE rm.queries").await?;
    let (count, users, size): (i64, i64, String) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT owner), pg_size_pretty(pg_table_size('rm.queries'))
         FROM rm.queries",
    )
    .fetch_one(&mut database)
    .await?;
    say(&format!(
        "{count} queries of {users} users, {size}\nquestion | ms"
    ));
    database.execute("SET ROLE amaima_analyst").await?;
    let page = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../projection-svc/ANALYTICS.md"
    );
    let page = std::fs::read_to_string(page)?;
    let questions = page.split("\n### ").skip(1).filter_map(|each| {
        let (title, rest) = each.split_once('\n')?;
        let (_, statement) = rest.split_once("```sql\n")?;
        Some((title, statement.split_once("```")?.0))
    });
    let one_day = "SELECT * FROM analytics.rm_usage_daily WHERE day = '2025-06-02'";
    let one_week = "SELECT * FROM analytics.rm_queries
                    WHERE created_at >= '2025-06-02Z' AND created_at < '2025-06-09Z'";
    let more = [
        ("the usage of one day", one_day),
        ("the queries of one week", one_week),
    ];
    for (title, statement) in questions.chain(more) {
        let mut took = Duration::ZERO;
        for _ in 0..2 {
            let began = Instant::now();
            sqlx::raw_sql(AssertSqlSafe(statement))
                .fetch_all(&mut database)
                .await?;
            took = began.elapsed();
        }
        say(&format!("{title} | {}", took.as_millis()));
    }
    export(&bench).await
}

async fn export(bench: &Bench) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory
        .path()
        .join("queries.parquet")
        .display()
        .to_string();
    let (exit, report) = tests::admin::on(
        &bench.stack,
        &["--json", "export", "rm_queries", "--to", &file],
    )
    .await;
    anyhow::ensure!(exit == Exit::Well, "{report}");
    say(&report);
    Ok(())
}

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}
