use super::super::{Error, connection::without_secrets};
use crate::stack;
use infra::config;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, postgres::PgRow};
use std::path::Path;

/// Whose rights a view is read with, whoever has logged in.
const ANALYST: &str = "amaima_analyst";
/// How often it is begun anew when the live generation changes while a view is being opened.
const ATTEMPTS: usize = 5;

/// What shall be read.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) since: Option<&'a str>,
    pub(super) until: Option<&'a str>,
}

/// A view, open as the cursor `rows` of a transaction with one snapshot.
#[derive(Debug)]
pub(super) struct View {
    pub(super) columns: Vec<Column>,
    /// Number of the read models that it shows.
    pub(super) generation: i64,
    /// All rows reflect the log up to here.
    pub(super) last_seq: i64,
}

/// A column as the database's catalogue describes it.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// The name as SQL writes it.
    quoted: String,
    /// The type as SQL writes it.
    pub(super) sql_type: String,
}

/// Connects to the given database, or else to that of the stack that runs on the data directory.
pub(super) async fn connect(data_dir: &Path, url: Option<&str>) -> Result<PgConnection, Error> {
    let url = match url.filter(|url| !url.is_empty()) {
        Some(url) => config::Secret::new(url),
        None => stack::running_database(data_dir)?.ok_or_else(|| Error::NoDatabase {
            data_dir: data_dir.to_owned(),
        })?,
    };
    let unreachable = |source| Error::DatabaseUnreachable {
        address: without_secrets(url.expose().split('?').next().unwrap_or_default()),
        source,
    };
    let postgres = config::Postgres::at(url.expose());
    let options = infra::postgres::options(&postgres, "amaima-admin")
        .map_err(|error| unreachable(error.into()))?;
    PgConnection::connect_with(&options)
        .await
        .map_err(|error| unreachable(error.into()))
}

/// Opens the view. Names are looked up statement by statement, and a flip in between would mix two
/// generations: the first and the last look have to see the same one.
pub(super) async fn open(
    connection: &mut PgConnection,
    wanted: &Wanted<'_>,
) -> Result<View, Error> {
    for _ in 0..ATTEMPTS {
        begin(connection).await?;
        let (generation, last_seq) = position(connection).await?;
        let (view, columns) = look_up(connection, wanted.name).await?;
        declare(connection, wanted, &view, &columns).await?;
        if position(connection).await?.0 == generation {
            return Ok(View {
                columns,
                generation,
                last_seq,
            });
        }
        execute(connection, "ROLLBACK", "the end of a transaction").await?;
    }
    Err(Error::Unknown(
        "the live generation of the read models keeps changing; try again".into(),
    ))
}

async fn begin(connection: &mut PgConnection) -> Result<(), Error> {
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
    execute(connection, begin, "a transaction").await?;
    let rights = format!("the rights of the role {ANALYST}");
    execute(connection, &format!("SET LOCAL ROLE {ANALYST}"), &rights).await?;
    // All rows are going to be fetched.
    let setting = "SET LOCAL cursor_tuple_fraction = 1";
    execute(connection, setting, "a setting").await
}

async fn position(connection: &mut PgConnection) -> Result<(i64, i64), Error> {
    sqlx::query_as("SELECT generation, last_seq FROM analytics.rm_checkpoint")
        .fetch_one(connection)
        .await
        .map_err(Error::failed("how far the views are"))
}

/// What the catalogue says of a view: its name as SQL writes it, and its columns. A name that it
/// does not know goes no further.
async fn look_up(
    connection: &mut PgConnection,
    name: &str,
) -> Result<(String, Vec<Column>), Error> {
    let rows = sqlx::query(
        "SELECT attname::text, quote_ident(attname), format_type(atttypid, NULL),
                quote_ident(relname)
         FROM pg_class
         JOIN pg_namespace ON pg_namespace.oid = relnamespace
         JOIN pg_attribute ON attrelid = pg_class.oid
         WHERE nspname = 'analytics' AND relname = $1 AND relkind = 'v'
           AND attnum > 0 AND NOT attisdropped
         ORDER BY attnum",
    )
    .bind(name)
    .fetch_all(&mut *connection)
    .await
    .map_err(Error::failed("the view's columns"))?;
    let Some(first) = rows.first() else {
        let views: Vec<String> = sqlx::query_scalar(
            "SELECT viewname::text FROM pg_views WHERE schemaname = 'analytics' ORDER BY 1",
        )
        .fetch_all(connection)
        .await
        .map_err(Error::failed("the list of views"))?;
        return Err(Error::Unknown(format!(
            "analytics has no view {name:?}; there are {}",
            views.join(", ")
        )));
    };
    let column = |row: &PgRow| {
        Ok::<_, sqlx::Error>(Column {
            name: row.try_get(0)?,
            quoted: row.try_get(1)?,
            sql_type: row.try_get(2)?,
        })
    };
    let read = || {
        Ok((
            first.try_get(3)?,
            rows.iter().map(column).collect::<Result<_, _>>()?,
        ))
    };
    read().map_err(Error::failed::<sqlx::Error>("the view's columns"))
}

async fn declare(
    connection: &mut PgConnection,
    wanted: &Wanted<'_>,
    view: &str,
    columns: &[Column],
) -> Result<(), Error> {
    let has = |name: &str| columns.iter().any(|column| column.name == name);
    let (column, convert) = match (has("day"), has("created_at")) {
        (true, _) => ("day", ""),
        (false, true) => ("created_at", "::timestamp AT TIME ZONE 'UTC'"),
        (false, false) => ("", ""),
    };
    let bounds = [(">=", wanted.since), ("<", wanted.until)];
    let given: Vec<_> = bounds
        .into_iter()
        .filter_map(|(sign, day)| Some((sign, day?)))
        .collect();
    if column.is_empty() && !given.is_empty() {
        return Err(Error::Unknown(format!(
            "{} has neither a day nor a created_at: it is exported whole, without --since and --until",
            wanted.name
        )));
    }
    // Names come from the catalogue, days are digits and dashes (`super::day`).
    let conditions: Vec<String> = given
        .iter()
        .map(|(sign, day)| format!("{column} {sign} date '{day}'{convert}"))
        .collect();
    let quoted: Vec<&str> = columns.iter().map(|column| &*column.quoted).collect();
    let statement = format!(
        "DECLARE rows NO SCROLL CURSOR FOR SELECT {} FROM analytics.{view}{}{}",
        quoted.join(", "),
        if given.is_empty() { "" } else { " WHERE " },
        conditions.join(" AND ")
    );
    execute(connection, &statement, "the view's rows").await
}

async fn execute(connection: &mut PgConnection, statement: &str, what: &str) -> Result<(), Error> {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await
        .map_err(Error::failed(what))?;
    Ok(())
}
