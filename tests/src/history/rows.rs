//! The read models, row by row.

use anyhow::Context;
use domain::id::AccountId;
use infra::sealing::Keyring;
use projection_svc::seal::Opener;
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

/// A table: its key, whose its rows are, its columns that are points in time, and those that are
/// sealed, by their full names.
struct Shape {
    name: &'static str,
    key: &'static str,
    person: &'static str,
    times: &'static [&'static str],
    sealed: &'static [&'static str],
}

const TABLES: [Shape; 3] = [
    Shape {
        name: ACCOUNTS,
        key: "account_id",
        person: "account_id",
        times: &["created_at"],
        sealed: &["accounts.email", "accounts.name"],
    },
    Shape {
        name: SESSIONS,
        key: "session_id",
        person: "account_id",
        times: &["created_at", "last_seen_at", "revoked_at"],
        sealed: &["sessions.device_id", "sessions.device_name"],
    },
    Shape {
        name: QUERIES,
        key: "query_id",
        person: "owner",
        times: &["created_at", "started_at", "completed_at"],
        sealed: &[
            "queries.query",
            "queries.reference",
            "queries.response_text",
            "queries.error_message",
        ],
    },
];

/// Reads all rows, as of one moment, and opens what is sealed in them.
///
/// # Errors
/// When the database does not answer, or a cell cannot be opened.
pub async fn read(pool: &PgPool, keys: &Keyring) -> anyhow::Result<Rows> {
    let mut rows = Rows::default();
    let mut moment = pool.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .execute(&mut *moment)
        .await?;
    for shape in TABLES {
        let Shape { name, key, .. } = shape;
        let millis: Vec<String> = shape
            .times
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
        let mut table = Table::new();
        for (id, row) in found {
            if let Value::Object(row) = row {
                table.insert(id, open(row, id, &shape, keys).await?);
            }
        }
        rows.0.insert(name, table);
    }
    moment.commit().await?;
    Ok(rows)
}

async fn open(mut row: Row, id: Uuid, shape: &Shape, keys: &Keyring) -> anyhow::Result<Row> {
    let person = row.get(shape.person).and_then(Value::as_str);
    let person: AccountId = person.context("a person")?.parse()?;
    let opener = Opener::of(keys, person).await?.context("not erased")?;
    for column in shape.sealed {
        let (_, name) = column.split_once('.').context("a full name")?;
        if let Some(Value::String(cell)) = row.get_mut(name) {
            *cell = opener.text(column, id, &bytes(cell)?)?;
        }
    }
    Ok(row)
}

/// A `bytea` as PostgreSQL writes it in JSON: `\\x` and hexadecimal digits.
fn bytes(text: &str) -> anyhow::Result<Vec<u8>> {
    let digits = text.strip_prefix("\\x").context("a bytea")?;
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2).unwrap_or_default(), 16);
    (0..digits.len())
        .step_by(2)
        .map(|at| Ok(byte(at)?))
        .collect()
}
