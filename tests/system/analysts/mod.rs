//! Analysts read the projections with SQL, and take them away as files.

mod export;
mod flips;
mod live;
mod page;
mod rights;

use infra::lifecycle::Lifecycle;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use std::time::Duration;
use tests::{commits, projections::Bench, usage};

const GRACE: Duration = Duration::from_secs(10);

/// Servers, an instance that has folded the first of the four weeks' commits, and the sequence of
/// the last one.
async fn folded(count: usize) -> (Bench, Lifecycle, u64) {
    let bench = Bench::start().await;
    let commits = usage::commits().into_iter().take(count);
    let last = commits::write(&bench.client, commits).await;
    let last = last.expect("written");
    let life = bench.run(bench.config());
    bench.reached(last).await;
    (bench, life, last)
}

/// The URL of a login that is a member of `amaima_analyst`.
async fn analyst_url(bench: &Bench, name: &str) -> String {
    sqlx::raw_sql(AssertSqlSafe(format!(
        "CREATE ROLE {name} LOGIN PASSWORD 'secret' IN ROLE amaima_analyst"
    )))
    .execute(&bench.pool)
    .await
    .expect("a login");
    let url = &bench.stack.endpoints().database_url;
    let (_, address) = url.split_once('@').expect("an address");
    format!("postgres://{name}:secret@{address}")
}

/// A connection with such a login.
async fn analyst(bench: &Bench, name: &str) -> PgConnection {
    let url = analyst_url(bench, name).await;
    PgConnection::connect(&url).await.expect("let in")
}

/// The names of the views.
async fn views(pool: &PgPool) -> Vec<String> {
    let views = "SELECT viewname::text FROM pg_views WHERE schemaname = 'analytics' ORDER BY 1";
    sqlx::query_scalar(views)
        .fetch_all(pool)
        .await
        .expect("views")
}
