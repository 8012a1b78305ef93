//! The read models, row by row.

use serde_json::{Map, Value};
use sqlx::PgPool;
use std::collections::BTreeMap;
use uuid::Uuid;

/// One row: its columns. Points in time are milliseconds.
pub type Row = Map<String, Value>;

/// The rows of one table, by their ids.
pub type Table = BTreeMap<Uuid, Row>;

/// Every table that is checked, by its name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows(pub BTreeMap<&'static str, Table>);

/// Accounts.
pub const ACCOUNTS: &str = "accounts";
/// Device sessions.
pub const SESSIONS: &str = "sessions";
/// Queries.
pub const QUERIES: &str = "queries";

/// The name of a table, its key, and its columns that are points in time.
const TABLES: [(&str, &str, &[&str]); 3] = [
    (ACCOUNTS, "account_id", &["created_at"]),
    (
        SESSIONS,
        "session_id",
        &["created_at", "last_seen_at", "revoked_at"],
    ),
    (
        QUERIES,
        "query_id",
        &["created_at", "started_at", "completed_at"],
    ),
];

/// Reads all rows, as of one moment.
///
/// # Errors
/// When the database does not answer.
pub async fn read(pool: &PgPool) -> Result<Rows, sqlx::Error> {
    let mut rows = Rows::default();
    let mut moment = pool.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .execute(&mut *moment)
        .await?;
    for (name, key, times) in TABLES {
        let millis: Vec<String> = times
            .iter()
            .map(|column| format!("'{column}', (extract(epoch FROM {column}) * 1000)::bigint"))
            .collect();
        let statement = format!(
            "SELECT {key}, to_jsonb(t) || jsonb_build_object({}) FROM rm.{name} AS t",
            millis.join(", ")
        );
        let found: Vec<(Uuid, Value)> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
            .fetch_all(&mut *moment)
            .await?;
        let table = found.into_iter().filter_map(|(id, row)| match row {
            Value::Object(row) => Some((id, row)),
            _ => None,
        });
        rows.0.insert(name, table.collect());
    }
    moment.commit().await?;
    Ok(rows)
}
