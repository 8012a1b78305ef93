//! `projection-svc/ANALYTICS.md` says what is true. With `INSTA_UPDATE=always` its tables are
//! written anew.

use super::{GRACE, analyst, folded};
use sqlx::{AssertSqlSafe, Column, PgConnection, Row, TypeInfo, ValueRef, postgres::PgRow};
use std::path::Path;

#[tokio::test(flavor = "multi_thread")]
async fn the_ten_questions_have_the_answers_that_the_page_shows() {
    let (bench, life, _) = folded(usize::MAX).await;
    let mut mia = analyst(&bench, "mia").await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../projection-svc/ANALYTICS.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let answered = answered(&page, "UTC", &mut mia).await;
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        std::fs::write(&path, &answered).expect("written");
    } else {
        for (written, true_one) in page.lines().zip(answered.lines()) {
            assert_eq!(written, true_one, "ANALYTICS.md is not what the views say");
        }
        assert_eq!(page, answered);
    }
    for zone in ["Asia/Tokyo", "America/New_York"] {
        let elsewhere = self::answered(&page, zone, &mut mia).await;
        assert_eq!(elsewhere, answered, "{zone} has other days");
    }
    life.stop(GRACE).await;
}

/// The page with what its questions are answered now.
async fn answered(page: &str, zone: &str, connection: &mut PgConnection) -> String {
    sqlx::query(AssertSqlSafe(format!("SET TimeZone = '{zone}'")))
        .execute(&mut *connection)
        .await
        .expect("a time zone");
    let mut parts = page.split("```sql\n");
    let mut answered = parts.next().unwrap_or_default().to_owned();
    let mut questions = 0;
    for part in parts {
        let (statement, rest) = part.split_once("```\n").expect("the block ends");
        let rows = sqlx::raw_sql(AssertSqlSafe(statement))
            .fetch_all(&mut *connection)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
        let is_old = |line: &&str| line.is_empty() || line.starts_with('|');
        let text: Vec<&str> = rest.lines().skip_while(is_old).collect();
        let gap = if text.is_empty() { "" } else { "\n" };
        answered.push_str(&format!("```sql\n{statement}```\n\n{}{gap}", table(&rows)));
        for line in text {
            answered.push_str(line);
            answered.push('\n');
        }
        questions += 1;
    }
    assert_eq!(questions, 10);
    answered
}

fn table(rows: &[PgRow]) -> String {
    let columns = rows.first().expect("a question has an answer").columns();
    let column = |index: usize| {
        let cells = rows.iter().map(|row| cell(row, index));
        let is_number =
            ["INT4", "INT8", "NUMERIC", "INTERVAL"].contains(&columns[index].type_info().name());
        let all: Vec<String> = std::iter::once(columns[index].name().to_owned())
            .chain(cells)
            .collect();
        let width = all.iter().map(String::len).max().unwrap_or(0).max(4);
        let mut lines: Vec<String> = all
            .iter()
            .map(|cell| match is_number {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            })
            .collect();
        let dashes = "-".repeat(width - 1);
        let rule = if is_number {
            format!("{dashes}:")
        } else {
            format!("{dashes}-")
        };
        lines.insert(1, rule);
        lines
    };
    let columns: Vec<Vec<String>> = (0..columns.len()).map(column).collect();
    (0..rows.len() + 2)
        .map(|line| {
            let cells: Vec<&str> = columns.iter().map(|column| &*column[line]).collect();
            format!("| {} |\n", cells.join(" | "))
        })
        .collect()
}

/// The value as PostgreSQL writes it.
fn cell(row: &PgRow, index: usize) -> String {
    let value = row.try_get_raw(index).expect("a column");
    match value.is_null() {
        true => "-".to_owned(),
        false => value.as_str().expect("text").to_owned(),
    }
}
