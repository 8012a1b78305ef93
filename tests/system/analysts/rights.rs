use super::{GRACE, analyst, folded, views};
use domain::wire::admin::{Projections, Reply, State};
use sqlx::AssertSqlSafe;
use tests::usage::WORDS;

/// Columns of text, and what they may hold: names that programs give, and never a person's words.
const TEXTS: [&str; 8] = [
    "cancelled_by",
    "complexity",
    "error_code",
    "model",
    "operation",
    "rule",
    "status",
    "tier",
];
/// Types that hold no text.
const NUMBERS: [&str; 7] = [
    "bigint",
    "boolean",
    "date",
    "double precision",
    "integer",
    "timestamp with time zone",
    "uuid",
];

#[tokio::test(flavor = "multi_thread")]
async fn analysts_read_every_view_of_the_live_generation_and_nothing_else() {
    let (bench, life, _) = folded(2000).await;
    // One generation of each kind: live, previous and next.
    for (flip, number) in [(true, 2), (false, 3)] {
        let reply = bench.ordered(&Projections::Rebuild { flip }).await;
        assert_eq!(reply, Reply::Begun);
        let state = if flip { State::Live } else { State::Next };
        bench
            .status_when("the generation", |status| {
                let mut all = status.generations.iter();
                all.any(|each| each.state == state && each.number == number)
            })
            .await;
    }
    let relations: Vec<(String, String)> = sqlx::query_as(
        "SELECT nspname::text, relname::text FROM pg_class
         JOIN pg_namespace ON pg_namespace.oid = relnamespace
         WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname !~ '^pg_'
           AND nspname <> 'information_schema'",
    )
    .fetch_all(&bench.pool)
    .await
    .expect("relations");
    let mut mia = analyst(&bench, "mia").await;
    let mut readable = vec![];
    for (schema, relation) in &relations {
        let read = format!("SELECT count(*) FROM \"{schema}\".\"{relation}\"");
        if sqlx::query(AssertSqlSafe(read))
            .execute(&mut mia)
            .await
            .is_ok()
        {
            readable.push(format!("{schema}.{relation}"));
        }
    }
    let writable: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_class
         JOIN pg_namespace ON pg_namespace.oid = relnamespace
         WHERE nspname <> 'pg_catalog'
           AND has_table_privilege('mia', pg_class.oid,
                                   'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES')",
    )
    .fetch_one(&bench.pool)
    .await
    .expect("a count");
    assert_eq!(writable, 0, "nothing is for writing");
    readable.sort();
    let all: Vec<String> = views(&bench.pool).await;
    let all: Vec<String> = all.iter().map(|view| format!("analytics.{view}")).collect();
    assert_eq!(readable, all);
    let schemas: Vec<&str> = relations
        .iter()
        .map(|(schema, _)| schema.as_str())
        .collect();
    for other in [
        "rm",
        "rm_next",
        "rm_previous",
        "analytics_next",
        "analytics_previous",
    ] {
        assert!(
            schemas.contains(&other),
            "{other} is not there to be refused"
        );
    }
    let made = sqlx::query("CREATE TABLE public.notes ()")
        .execute(&mut mia)
        .await;
    assert!(made.is_err(), "nothing is made");
    life.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_view_holds_anybodys_words_and_each_says_what_it_is() {
    let (bench, life, last) = folded(3000).await;
    // What is looked for is there to be found.
    for word in WORDS {
        let found: bool = sqlx::query_scalar(
            // Cells of persons' words are bytes, which are written in hexadecimal digits.
            "SELECT EXISTS (SELECT FROM rm.queries AS row WHERE row::text ~ word)
                 OR EXISTS (SELECT FROM rm.accounts AS row WHERE row::text ~ word)
                 OR EXISTS (SELECT FROM rm.sessions AS row WHERE row::text ~ word)
             FROM (SELECT $1 || '|' || encode(convert_to($1, 'UTF8'), 'hex') AS word) AS wanted",
        )
        .bind(word)
        .fetch_one(&bench.pool)
        .await
        .expect("a look");
        assert!(found, "{word} is nowhere");
    }
    let views = views(&bench.pool).await;
    assert!(views.len() > 5, "{views:?}");
    for view in views {
        let columns: Vec<(String, String, bool)> = sqlx::query_as(
            "SELECT attname::text, format_type(atttypid, NULL),
                    obj_description(attrelid) IS NOT NULL
                        AND col_description(attrelid, attnum) IS NOT NULL
             FROM pg_attribute WHERE attrelid = ('analytics.' || $1)::regclass AND attnum > 0
             ORDER BY attnum",
        )
        .bind(&view)
        .fetch_all(&bench.pool)
        .await
        .expect("columns");
        for (column, is_of, is_described) in &columns {
            assert!(is_described, "{view}.{column} has no comment");
            let is_allowed =
                NUMBERS.contains(&&**is_of) || (is_of == "text" && TEXTS.contains(&&**column));
            assert!(
                is_allowed,
                "{view}.{column} may hold somebody's words: it is {is_of}"
            );
        }
        for word in WORDS {
            let rows: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
                "SELECT count(*) FROM analytics.{view} AS row WHERE strpos(row::text, $1) > 0"
            )))
            .bind(word)
            .fetch_one(&bench.pool)
            .await
            .expect("a look");
            assert_eq!(rows, 0, "{word} is in {view}");
        }
        let (rows, known, newest): (i64, i64, i64) = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT count(*), count(last_seq) FILTER (WHERE last_seq > 0), max(last_seq)
             FROM analytics.{view}"
        )))
        .fetch_one(&bench.pool)
        .await
        .expect("every row has its sequence");
        assert!(rows > 0 && rows == known, "{view}: {known} of {rows}");
        assert!(
            u64::try_from(newest).is_ok_and(|newest| newest <= last),
            "{view}: {newest}"
        );
    }
    life.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn days_are_cut_in_utc_whatever_the_session_says() {
    let (bench, life, _) = folded(4000).await;
    let mut mia = analyst(&bench, "mia").await;
    let mut seen = vec![];
    for zone in ["UTC", "Asia/Tokyo", "America/New_York"] {
        sqlx::query(AssertSqlSafe(format!("SET TimeZone = '{zone}'")))
            .execute(&mut mia)
            .await
            .expect("set");
        let days: Vec<(String, i64)> = sqlx::query_as(
            "SELECT day::text, sum(asked)::bigint FROM analytics.rm_usage_daily
             GROUP BY day ORDER BY day",
        )
        .fetch_all(&mut mia)
        .await
        .expect("days");
        seen.push(days);
        // The control: what somebody gets who cuts days in the session's time zone.
        let naive: Vec<(String, i64)> = sqlx::query_as(
            "SELECT created_at::date::text, count(*) FROM analytics.rm_queries GROUP BY 1 ORDER BY 1",
        )
        .fetch_all(&mut mia)
        .await
        .expect("days");
        assert_eq!(naive == seen[0], zone == "UTC", "{zone}");
    }
    assert!(seen[0].len() > 2);
    assert!(seen.iter().all(|days| *days == seen[0]), "{seen:?}");
    life.stop(GRACE).await;
}
