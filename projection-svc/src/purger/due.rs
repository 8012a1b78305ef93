//! Which queries may leave the log: those that ended long enough ago, of which nothing that works
//! on the log needs a commit any more.

use super::Error;
use crate::{
    generation::{self, Slot},
    instant::Instant,
    owner,
};
use async_nats::jetstream;
use domain::{
    Timestamp,
    subject::{self, Aggregate, Kind},
    wire::parked::Parked,
};
use futures_util::TryStreamExt;
use infra::{clock, purged};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use std::collections::HashSet;
use uuid::Uuid;

/// Rows that one statement looks at.
const ROWS: i64 = 5_000;

/// A query that ended long ago.
pub(super) struct Due {
    pub(super) subject: String,
    /// The sequence of its last commit.
    pub(super) last_seq: u64,
}

/// Whether there is a live generation to find anything in: there is none before the first start.
pub(super) async fn has_read_model(pool: &PgPool) -> Result<bool, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let live = generation::look(&mut connection, Slot::Live).await?;
    Ok(live.is_some())
}

/// The right to purge, until it is dropped; `None` where another instance has it.
pub(super) async fn lock(pool: &PgPool) -> Result<Option<PgConnection>, sqlx::Error> {
    // It must not go back to the pool with the lock.
    let mut connection = pool.acquire().await?.detach();
    let ours = owner::try_purge(&mut connection).await?;
    Ok(ours.then_some(connection))
}

/// Queries with ids after this one that ended before this instant and have not left yet, and the id
/// to go on from, if there are more rows.
pub(super) async fn find(
    pool: &PgPool,
    after: Uuid,
    before: Timestamp,
) -> Result<(Vec<Due>, Option<Uuid>), sqlx::Error> {
    let rows: Vec<(Uuid, i64, bool)> = sqlx::query_as(
        "SELECT query_id, last_seq, coalesce(completed_at < $2, false) AND NOT EXISTS (
                    SELECT FROM projection.purged WHERE purged.query_id = page.query_id)
         FROM (SELECT query_id, last_seq, completed_at FROM queries
               WHERE query_id > $1 ORDER BY query_id LIMIT $3) AS page
         ORDER BY query_id",
    )
    .bind(after)
    .bind(Instant(before))
    .bind(ROWS)
    .fetch_all(pool)
    .await?;
    let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows == ROWS);
    let next = rows.last().filter(|_| is_full).map(|(id, ..)| *id);
    let now = clock::now();
    let due = rows
        .into_iter()
        .filter(|(id, _, is_due)| *is_due && purged::may_leave(*id, now))
        .map(|(id, last_seq, _)| Due {
            subject: Aggregate::new(Kind::Query, id).subject(),
            last_seq: u64::try_from(last_seq).unwrap_or(u64::MAX),
        });
    Ok((due.collect(), next))
}

/// What still needs the log.
pub(super) struct Floor {
    /// From this sequence on, somebody may.
    seq: u64,
    /// Aggregates with commits that somebody has to decide about.
    parked: HashSet<String>,
}

impl Floor {
    /// What it is now, where the copy ends at `copied`. Its own last message stays: by it the
    /// archiver knows the log again.
    pub(super) async fn of(
        pool: &PgPool,
        context: &jetstream::Context,
        copied: u64,
    ) -> Result<Self, Error> {
        let mut floor = Self {
            seq: copied.min(policies(context).await? + 1),
            parked: parked_policies(context).await?,
        };
        let mut connection = pool.acquire().await?;
        for slot in [Slot::Live, Slot::Next] {
            let Some(meta) = generation::look(&mut connection, slot).await? else {
                continue;
            };
            floor.seq = floor.seq.min(meta.reached() + 1);
            let schema = slot.schema();
            let parked: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
                "SELECT DISTINCT subject FROM {schema}.parked"
            )))
            .fetch_all(&mut *connection)
            .await?;
            floor.parked.extend(parked);
        }
        Ok(floor)
    }

    pub(super) fn admits(&self, due: &Due) -> bool {
        due.last_seq < self.seq && !self.parked.contains(&due.subject)
    }
}

/// Up to where the policies have acknowledged everything.
async fn policies(context: &jetstream::Context) -> Result<u64, Error> {
    let needs = |error: async_nats::Error| Error::Needs(error);
    let stream = context.get_stream_no_info(subject::EVENTS).await;
    let stream = stream.map_err(|error| needs(error.into()))?;
    let info = stream.consumer_info(subject::POLICIES).await;
    let info = info.map_err(|error| needs(error.into()))?;
    Ok(info.ack_floor.stream_sequence)
}

async fn parked_policies(context: &jetstream::Context) -> Result<HashSet<String>, Error> {
    let needs = |error: async_nats::Error| Error::Needs(error);
    let bucket = context.get_key_value(subject::PARKED_POLICIES).await;
    let bucket = bucket.map_err(|error| needs(error.into()))?;
    let keys = bucket.keys().await.map_err(|error| needs(error.into()))?;
    let keys: Vec<String> = keys
        .try_collect()
        .await
        .map_err(|error| needs(error.into()))?;
    let mut parked = HashSet::new();
    for key in keys {
        let value = bucket.get(key).await.map_err(|error| needs(error.into()))?;
        if let Some(value) = value {
            let value: Parked =
                serde_json::from_slice(&value).map_err(|error| needs(error.into()))?;
            parked.insert(value.subject);
        }
    }
    Ok(parked)
}
