//! Generations of the read models: each is a schema with its rows, its checkpoints and its parked
//! commits, and is folded from the log on its own; beside it a schema with its analysts' views.
//!
//! Statements name tables without a schema and find them by the connection's `search_path`. A flip
//! renames schemas: it takes no lock on a table or a view, a query that has begun ends on the tables
//! that it began with, and the next one, prepared or not, is planned again for the new ones. For the
//! same reason a flip drops nothing: a generation that is no longer needed is retired under a name
//! of its own, and goes when nobody's query holds it any more.
//!
//! A writer that was flipped out finds a checkpoint of another generation and stops. Its `UPDATE`
//! of the checkpoint must therefore be the last statement of its transaction: what it wrote before
//! into tables of whatever generation stands or falls with that.

use crate::{analysts, view::signed};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, postgres::PgRow};

/// Version of the views: of their tables and of what they make of events. Raise it with every
/// change of either; an instance serves and writes generations of its own version only, and builds
/// one where the live one is of another.
pub(crate) const VERSION: i32 = 5;

const TABLES: &str = include_str!("../schema/generation.sql");
const INDEXES: &str = include_str!("../schema/indexes.sql");

/// Longest wait for a lock that a reader's query may hold. Whoever waits for one holds up the
/// queries that come after, so that it rather gives way and tries again.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '300ms'";

const KEEP_SKIPPED: &str =
    "INSERT INTO skipped (seq, subject, command, reason, parked_at, who, why, skipped_at)
     SELECT seq, subject, command, reason, parked_at, who, why, skipped_at FROM rm.skipped";

/// What a generation is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Slot {
    /// Answers questions.
    Live,
    /// Is being built.
    Next,
    /// Was live before, and can be again.
    Previous,
}

impl Slot {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Live, Self::Next, Self::Previous];

    /// Its schema.
    pub(crate) const fn schema(self) -> &'static str {
        match self {
            Self::Live => "rm",
            Self::Next => "rm_next",
            Self::Previous => "rm_previous",
        }
    }

    /// The schema of its analysts' views.
    pub(crate) const fn analytics(self) -> &'static str {
        match self {
            Self::Live => "analytics",
            Self::Next => "analytics_next",
            Self::Previous => "analytics_previous",
        }
    }
}

/// What stands in a generation about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Its number.
    pub(crate) generation: i64,
    /// Version of its views.
    pub(crate) version: i32,
    /// Whether the readers' indexes are there.
    pub(crate) indexed: bool,
    /// Whether it shall become live once it has caught up.
    pub(crate) flip: bool,
    /// Whether it is folded from the copy of the log, as far as that goes.
    pub(crate) from_copy: bool,
    /// Sequence of each lane.
    pub(crate) positions: Vec<u64>,
}

impl Meta {
    /// What all lanes have.
    pub(crate) fn reached(&self) -> u64 {
        self.positions.iter().copied().min().unwrap_or(0)
    }

    /// What some lane has.
    pub(crate) fn furthest(&self) -> u64 {
        self.positions.iter().copied().max().unwrap_or(0)
    }
}

/// Reads what a generation says of itself; `None` where there is none.
pub(crate) async fn look(
    connection: &mut PgConnection,
    slot: Slot,
) -> Result<Option<Meta>, sqlx::Error> {
    let schema = slot.schema();
    let there: bool = sqlx::query_scalar("SELECT to_regclass($1 || '.meta') IS NOT NULL")
        .bind(schema)
        .fetch_one(&mut *connection)
        .await?;
    if !there {
        return Ok(None);
    }
    let row = sqlx::query(AssertSqlSafe(format!(
        "SELECT generation, version, indexed, flip, from_copy,
                (SELECT array_agg(seq ORDER BY lane) FROM {schema}.checkpoint) AS positions
         FROM {schema}.meta"
    )))
    .fetch_optional(connection)
    .await;
    match row {
        Ok(row) => row.as_ref().map(meta).transpose(),
        // It was flipped away between the two questions.
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn meta(row: &PgRow) -> Result<Meta, sqlx::Error> {
    let positions: Option<Vec<i64>> = row.try_get("positions")?;
    Ok(Meta {
        generation: row.try_get("generation")?,
        version: row.try_get("version")?,
        indexed: row.try_get("indexed")?,
        flip: row.try_get("flip")?,
        from_copy: row.try_get("from_copy")?,
        positions: positions
            .unwrap_or_default()
            .into_iter()
            .map(|seq| u64::try_from(seq).unwrap_or(0))
            .collect(),
    })
}

/// Whether the tables that a statement names are not there (any more).
pub(crate) fn is_gone(error: &sqlx::Error) -> bool {
    has_code(error, &["42P01", "3F000"])
}

/// Whether a lock was not to be had: another session's query holds it.
pub(crate) fn is_locked(error: &sqlx::Error) -> bool {
    has_code(error, &["55P03", "40P01"])
}

fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| codes.contains(&code.as_ref()))
}

/// Makes an empty generation. The live one gets its indexes at once.
pub(crate) async fn create(
    connection: &mut PgConnection,
    slot: Slot,
    lanes: usize,
    flip: bool,
) -> Result<(), sqlx::Error> {
    let schema = slot.schema();
    let mut transaction = connection.begin().await?;
    transaction
        .execute(AssertSqlSafe(format!(
            "CREATE SCHEMA {schema}; SET LOCAL search_path = {schema}"
        )))
        .await?;
    transaction.execute(sqlx::raw_sql(TABLES)).await?;
    sqlx::query(
        "INSERT INTO meta (generation, version, flip)
         VALUES (nextval('projection.generation'), $1, $2)",
    )
    .bind(VERSION)
    .bind(flip)
    .execute(&mut *transaction)
    .await?;
    lay_out(&mut transaction, lanes, 0).await?;
    if slot == Slot::Live {
        transaction.execute(sqlx::raw_sql(INDEXES)).await?;
        sqlx::query("UPDATE meta SET indexed = true")
            .execute(&mut *transaction)
            .await?;
    } else {
        // What somebody decided to leave out is left out again, if it still cannot be projected.
        let there: bool = sqlx::query_scalar("SELECT to_regclass('rm.skipped') IS NOT NULL")
            .fetch_one(&mut *transaction)
            .await?;
        if there {
            transaction.execute(KEEP_SKIPPED).await?;
        }
    }
    analysts::create_views(&mut transaction, slot).await?;
    transaction.commit().await
}

/// Writes a checkpoint for each lane.
async fn lay_out(connection: &mut PgConnection, lanes: usize, seq: u64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO checkpoint (lane, generation, seq)
         SELECT lane, (SELECT generation FROM meta), $2 FROM generate_series(0, $1 - 1) AS lane",
    )
    .bind(i32::try_from(lanes).unwrap_or(i32::MAX))
    .bind(signed(seq))
    .execute(connection)
    .await?;
    Ok(())
}

/// Changes the number of lanes of a generation whose lanes are all at `seq`. Nothing happens where
/// they are not, which the next look tells.
pub(crate) async fn relay(
    connection: &mut PgConnection,
    slot: Slot,
    generation: i64,
    lanes: usize,
    seq: u64,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    enter(&mut transaction, slot).await?;
    let level: bool = sqlx::query_scalar(
        "SELECT bool_and(seq = $1 AND generation = $2)
         FROM (SELECT seq, generation FROM checkpoint FOR UPDATE) AS rows",
    )
    .bind(signed(seq))
    .bind(generation)
    .fetch_one(&mut *transaction)
    .await?;
    if level {
        transaction.execute("DELETE FROM checkpoint").await?;
        lay_out(&mut transaction, lanes, seq).await?;
    }
    transaction.commit().await
}

/// Makes the indexes that only readers need, over a connection that has the generation in its
/// `search_path`.
pub(crate) async fn index(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    transaction
        .execute("SET LOCAL maintenance_work_mem = '256MB'")
        .await?;
    transaction.execute(sqlx::raw_sql(INDEXES)).await?;
    transaction
        .execute("ANALYZE accounts, sessions, queries, api_keys")
        .await?;
    sqlx::query("UPDATE meta SET indexed = true")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

/// Asks for a generation to become live once it has caught up, or takes that back.
pub(crate) async fn want(
    connection: &mut PgConnection,
    slot: Slot,
    flip: bool,
) -> Result<(), sqlx::Error> {
    let schema = slot.schema();
    sqlx::query(AssertSqlSafe(format!("UPDATE {schema}.meta SET flip = $1")))
        .bind(flip)
        .execute(connection)
        .await?;
    Ok(())
}

/// Has a generation folded from the copy of the log, as far as that goes.
pub(crate) async fn from_copy(
    connection: &mut PgConnection,
    slot: Slot,
) -> Result<(), sqlx::Error> {
    let schema = slot.schema();
    let update = format!("UPDATE {schema}.meta SET from_copy = true");
    connection.execute(AssertSqlSafe(update)).await?;
    Ok(())
}

/// Deletes a generation.
pub(crate) async fn drop(connection: &mut PgConnection, slot: Slot) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    quietly(&mut transaction).await?;
    remove(&mut transaction, slot.analytics()).await?;
    remove(&mut transaction, slot.schema()).await?;
    transaction.commit().await
}

/// Begins a flip: whoever writes the live generation waits with its checkpoint from here on, until
/// the flip ends one way or the other. Answers with the sequence that the candidate has to reach,
/// so that no read goes back.
pub(crate) async fn begin_flip(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    connection.execute("BEGIN").await?;
    quietly(connection).await?;
    if look(connection, Slot::Live).await?.is_none() {
        return Ok(0);
    }
    connection
        .execute("SELECT FROM rm.checkpoint FOR UPDATE")
        .await?;
    let live = look(connection, Slot::Live).await?;
    Ok(live.map_or(0, |live| live.furthest()))
}

/// Gives a flip up.
pub(crate) async fn abort_flip(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute("ROLLBACK").await?;
    Ok(())
}

/// Makes the candidate the live generation and the live one the previous one.
pub(crate) async fn finish_flip(
    connection: &mut PgConnection,
    slot: Slot,
) -> Result<(), sqlx::Error> {
    match slot {
        Slot::Previous => {
            rename(connection, "rm", "rm_former").await?;
            rename(connection, "rm_previous", "rm").await?;
            rename(connection, "rm_former", "rm_previous").await?;
            rename(connection, "analytics", "analytics_former").await?;
            rename(connection, "analytics_previous", "analytics").await?;
            rename(connection, "analytics_former", "analytics_previous").await?;
        }
        Slot::Next | Slot::Live => {
            retire(connection).await?;
            rename(connection, "rm", "rm_previous").await?;
            rename(connection, "rm_next", "rm").await?;
            rename(connection, "analytics", "analytics_previous").await?;
            rename(connection, "analytics_next", "analytics").await?;
        }
    }
    enter(connection, Slot::Live).await?;
    connection.execute("UPDATE meta SET flip = false").await?;
    analysts::admit(connection).await?;
    connection.execute("COMMIT").await?;
    Ok(())
}

/// Takes the names away from the previous generation, if there is one.
async fn retire(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let Some(previous) = look(connection, Slot::Previous).await? else {
        return Ok(());
    };
    let number = previous.generation;
    rename(connection, "rm_previous", &format!("rm_retired_{number}")).await?;
    // A generation of version 1 had no views of its own beside the live one.
    let has_views: bool =
        sqlx::query_scalar("SELECT to_regnamespace('analytics_previous') IS NOT NULL")
            .fetch_one(&mut *connection)
            .await?;
    if has_views {
        let retired = format!("analytics_retired_{number}");
        rename(connection, "analytics_previous", &retired).await?;
    }
    Ok(())
}

/// Deletes retired generations, as far as no query holds them any more.
pub(crate) async fn sweep(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let retired: Vec<String> = sqlx::query_scalar(
        "SELECT nspname::text FROM pg_namespace
         WHERE nspname ~ '^(analytics|rm)_retired_[0-9]+$' ORDER BY nspname",
    )
    .fetch_all(&mut *connection)
    .await?;
    for schema in retired {
        let mut transaction = connection.begin().await?;
        quietly(&mut transaction).await?;
        match remove(&mut transaction, &schema).await {
            Ok(()) => transaction.commit().await?,
            Err(error) if is_locked(&error) => transaction.rollback().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn quietly(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute(LOCK_TIMEOUT).await?;
    connection
        .execute("SET LOCAL client_min_messages = warning")
        .await?;
    Ok(())
}

async fn enter(connection: &mut PgConnection, slot: Slot) -> Result<(), sqlx::Error> {
    let schema = slot.schema();
    connection
        .execute(AssertSqlSafe(format!("SET LOCAL search_path = {schema}")))
        .await?;
    Ok(())
}

async fn remove(connection: &mut PgConnection, schema: &str) -> Result<(), sqlx::Error> {
    connection
        .execute(AssertSqlSafe(format!(
            "DROP SCHEMA IF EXISTS {schema} CASCADE"
        )))
        .await?;
    Ok(())
}

async fn rename(connection: &mut PgConnection, from: &str, to: &str) -> Result<(), sqlx::Error> {
    connection
        .execute(AssertSqlSafe(format!("ALTER SCHEMA {from} RENAME TO {to}")))
        .await?;
    Ok(())
}
