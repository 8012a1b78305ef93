//! Views as Parquet files, read by DuckDB and compared with what SQL says.

use super::{GRACE, analyst_url, folded, views};
use amaima::admin::Exit;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use std::path::Path;
use tests::{admin, duckdb, projections::Bench};

/// Rows of more than two row groups.
const MANY: usize = 150_000;

/// Exports, and tells the exit code and the report.
async fn export(bench: &Bench, view: &str, file: &Path, more: &[&str]) -> (Exit, Value) {
    let file = file.to_str().expect("text");
    let args = [&["--json", "export", view, "--to", file], more].concat();
    let (exit, text) = admin::on(&bench.stack, &args).await;
    (exit, serde_json::from_str(&text).expect("a document"))
}

/// How both databases write the values of a type down, and what DuckDB calls it.
fn canonical(sql_type: &str, column: &str) -> (&'static str, String, String) {
    let plain = format!("{column}::text");
    match sql_type {
        "bigint" => ("BIGINT", plain.clone(), plain),
        "integer" => ("INTEGER", plain.clone(), plain),
        "text" => ("VARCHAR", plain.clone(), plain),
        "uuid" => ("UUID", plain.clone(), plain),
        "date" => ("DATE", plain.clone(), plain),
        "boolean" => ("BOOLEAN", plain.clone(), plain),
        "double precision" => {
            let millionths = format!("round({column} * 1e6)::bigint::text");
            ("DOUBLE", millionths.clone(), millionths)
        }
        "timestamp with time zone" => (
            "TIMESTAMP WITH TIME ZONE",
            format!("(extract(epoch FROM {column}) * 1000000)::bigint::text"),
            format!("epoch_us({column})::text"),
        ),
        other => panic!("{column} is of type {other}"),
    }
}

/// Compares a file with its view, column by column.
async fn compare(bench: &Bench, view: &str, file: &Path) {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute
         WHERE attrelid = ('analytics.' || $1)::regclass AND attnum > 0 ORDER BY attnum",
    )
    .bind(view)
    .fetch_all(&bench.pool)
    .await
    .expect("columns");
    let described = duckdb::ask("DESCRIBE SELECT * FROM $FILE", file).await;
    let described: Vec<(Value, Value)> = described
        .expect("DuckDB reads it")
        .into_iter()
        .map(|row| (row["column_name"].clone(), row["column_type"].clone()))
        .collect();
    let expected: Vec<(Value, Value)> = columns
        .iter()
        .map(|(name, sql_type)| (json!(name), json!(canonical(sql_type, name).0)))
        .collect();
    assert_eq!(described, expected, "{view}");
    for (name, sql_type) in &columns {
        let (_, ours, theirs) = canonical(sql_type, name);
        let (rows, known, hash): (i64, i64, Option<String>) =
            sqlx::query_as(AssertSqlSafe(format!(
                "SELECT count(*), count({name}),
                        md5(string_agg({ours}, ',' ORDER BY {ours} COLLATE \"C\"))
                 FROM analytics.{view}"
            )))
            .fetch_one(&bench.pool)
            .await
            .expect("sums");
        let sums = format!(
            "SELECT count(*) AS rows, count({name}) AS known,
                    md5(string_agg({theirs}, ',' ORDER BY {theirs})) AS hash
             FROM $FILE"
        );
        let found = duckdb::ask(&sums, file).await.expect("sums").remove(0);
        let expected = json!({ "rows": rows, "known": known, "hash": hash });
        assert_eq!(found, expected, "{view}.{name}");
        assert!(rows > 0, "{view} is empty");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_reads_in_each_exported_view_what_sql_reads() {
    let (bench, life, last) = folded(6000).await;
    let directory = tempfile::tempdir().expect("a directory");
    let mia = analyst_url(&bench, "mia").await;
    let views = views(&bench.pool).await;
    for view in &views {
        let file = directory.path().join(format!("{view}.parquet"));
        let (exit, report) = export(&bench, view, &file, &["--database-url", &mia]).await;
        assert_eq!(exit, Exit::Well, "{report}");
        assert_eq!(report["last_seq"], last, "{report}");
        let bytes = std::fs::metadata(&file).expect("a file").len();
        assert_eq!(report["bytes"], bytes);
        // What a moment ago was true is so still: nothing is written meanwhile.
        compare(&bench, view, &file).await;
        let about = duckdb::ask(
            "SELECT decode(key) AS key, decode(value) AS value
             FROM parquet_kv_metadata($FILE) ORDER BY 1",
            &file,
        );
        let about = about.await.expect("metadata");
        let says = |key: &str, value: &Value| {
            about
                .iter()
                .any(|each| each["key"] == key && each["value"] == *value)
        };
        assert!(says("amaima.view", &json!(view)), "{about:?}");
        assert!(
            says("amaima.last_seq", &json!(last.to_string())),
            "{about:?}"
        );
    }
    println!(
        "{} views of {last} commits, as DuckDB reads them",
        views.len()
    );

    // Part of a view, by the owner of the running stack.
    let part = directory.path().join("part.parquet");
    let days = ["--since", "2025-03-04", "--until", "2025-03-06"];
    for (view, column) in [("rm_usage_daily", "day"), ("rm_queries", "created_at")] {
        let (exit, report) = export(&bench, view, &part, &days).await;
        assert_eq!(exit, Exit::Well, "{report}");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT count(*) FROM analytics.{view}
             WHERE {column} >= '2025-03-04Z' AND {column} < '2025-03-06Z'"
        )))
        .fetch_one(&bench.pool)
        .await
        .expect("a count");
        assert!(rows > 0);
        assert_eq!(report["rows"], rows, "{view}");
    }
    life.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_goes_by_row_groups_and_fails_without_a_trace() {
    let (bench, life, _) = folded(1000).await;
    sqlx::query(
        "INSERT INTO rm.queries
             (query_id, owner, query, operation, file_ids, status, attempts, created_at, last_seq)
         SELECT gen_random_uuid(), owner, query, operation, file_ids, 'queued', 0,
                created_at + number * interval '1 second', last_seq
         FROM (SELECT * FROM rm.queries LIMIT 1) AS one, generate_series(1, $1) AS number",
    )
    .bind(i64::try_from(MANY).expect("small"))
    .execute(&bench.pool)
    .await
    .expect("many rows");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("queries.parquet");
    let (exit, report) = export(&bench, "rm_queries", &file, &[]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    let rows = report["rows"].as_u64().expect("a number");
    assert!(rows > MANY as u64, "{report}");
    let groups =
        "SELECT count(DISTINCT row_group_id) AS groups, max(row_group_num_rows) AS largest,
                         any_value(compression) AS compression
                  FROM parquet_metadata($FILE)";
    let groups = duckdb::ask(groups, &file).await.expect("metadata");
    let expected = json!({ "groups": 3, "largest": 65_536, "compression": "ZSTD" });
    assert_eq!(groups, [expected]);
    compare(&bench, "rm_queries", &file).await;
    println!("{report}");

    // The last row is one that Parquet cannot hold: what was there stays, and nothing else does.
    let whole = std::fs::read(&file).expect("a file");
    sqlx::query(
        "INSERT INTO rm.queries
             (query_id, owner, query, operation, file_ids, status, attempts, created_at, last_seq)
         SELECT gen_random_uuid(), owner, query, operation, file_ids, 'queued', 0, 'infinity', 1
         FROM rm.queries LIMIT 1",
    )
    .execute(&bench.pool)
    .await
    .expect("a row");
    let (exit, report) = export(&bench, "rm_queries", &file, &[]).await;
    assert_eq!(exit, Exit::Ill);
    let error = report["error"].as_str().unwrap_or_default();
    assert!(error.contains("created_at has a value"), "{report}");
    assert_eq!(std::fs::read(&file).expect("a file"), whole);
    assert_eq!(
        std::fs::read_dir(directory.path())
            .expect("a directory")
            .count(),
        1
    );

    for (view, more, reason) in [
        ("queries", [].as_slice(), "rm_accounts_meta, rm_checkpoint"),
        ("rm_queries; DROP SCHEMA rm", &[], "no view"),
        ("rm_checkpoint", &["--since", "2025-03-01"], "neither a day"),
        (
            "rm_queries",
            &["--database-url", "postgres://u:geheim@127.0.0.1:1/x"],
            "127.0.0.1:1",
        ),
    ] {
        let (exit, report) = export(&bench, view, &file, more).await;
        let error = report["error"].as_str().unwrap_or_default();
        assert!(
            exit == Exit::Ill && error.contains(reason),
            "{view}: {report}"
        );
        assert!(!error.contains("geheim"), "{report}");
    }
    let nowhere = directory.path().join("missing").join("queries.parquet");
    let (exit, report) = export(&bench, "rm_queries", &nowhere, &[]).await;
    assert!(
        exit == Exit::Ill && report["error"].to_string().contains("missing"),
        "{report}"
    );
    life.stop(GRACE).await;
}
