//! What the contestants' databases have in common.

use crate::contest::{Rows, Stored};
use anyhow::Context;
use sqlx::{PgPool, Row, postgres::PgPoolOptions};

/// A pool of at most so many connections.
///
/// # Errors
/// When the server does not answer.
pub async fn pool(url: &str, connections: u32) -> anyhow::Result<PgPool> {
    let options = PgPoolOptions::new().max_connections(connections);
    options.connect(url).await.context("PostgreSQL")
}

/// Runs statements that have no parameters.
///
/// # Errors
/// When the server refuses one.
pub async fn execute(pool: &PgPool, statements: &str) -> anyhow::Result<()> {
    sqlx::raw_sql(statements)
        .execute(pool)
        .await
        .with_context(|| statements.to_owned())?;
    Ok(())
}

/// The first column of the only row, which is a number that is not negative.
///
/// # Errors
/// When the server refuses the query.
pub async fn count(pool: &PgPool, query: &str) -> anyhow::Result<u64> {
    let count: i64 = sqlx::query_scalar(query).fetch_one(pool).await?;
    Ok(u64::try_from(count)?)
}

/// Counts the rows of a projection; the query tells all of them and the whole ones.
///
/// # Errors
/// When the server refuses the query.
pub async fn rows(pool: &PgPool, query: &str) -> anyhow::Result<Rows> {
    let row = sqlx::query(query).fetch_one(pool).await?;
    Ok(Rows {
        all: u64::try_from(row.try_get::<i64, _>(0)?)?,
        whole: u64::try_from(row.try_get::<i64, _>(1)?)?,
    })
}

/// Counts the events of a table by the column that names their aggregate.
///
/// # Errors
/// When the server refuses the query.
pub async fn stored(pool: &PgPool, table: &str, aggregate: &str) -> anyhow::Result<Stored> {
    let query = format!(
        "SELECT COALESCE(sum(events), 0)::bigint, count(*), count(*) FILTER (WHERE events <> 3)
         FROM (SELECT count(*) AS events FROM {table} GROUP BY {aggregate}) AS each"
    );
    let row = sqlx::query(&query).fetch_one(pool).await?;
    Ok(Stored {
        events: u64::try_from(row.try_get::<i64, _>(0)?)?,
        aggregates: u64::try_from(row.try_get::<i64, _>(1)?)?,
        uneven: u64::try_from(row.try_get::<i64, _>(2)?)?,
    })
}
