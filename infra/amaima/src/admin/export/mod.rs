//! `amaima admin export`: one of the analysts' views as a Parquet file.
//!
//! [`view`] reads it with an analyst's rights in one snapshot, [`file`] writes a row group at a time,
//! so that memory is bounded whatever the view's size is.

mod column;
mod file;
mod view;

use super::{Error, Exit, Output, Progress};
use clap::Args;
use domain::Timestamp;
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
    time::Instant,
};

/// Which view, where to, and how much of it.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// A view of the schema analytics, as `rm_queries`
    view: String,
    /// The file; one that is there is replaced once the export is whole
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// From this UTC day on, as 2025-03-01: by `day`, or else by `created_at`
    #[arg(long, value_name = "DAY", value_parser = day)]
    since: Option<String>,
    /// Before this UTC day
    #[arg(long, value_name = "DAY", value_parser = day)]
    until: Option<String>,
    /// The database, as `postgres://user:password@host/database`, with the login of an analyst or
    /// of the owner; without it that of the running `amaima up` of the data directory
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    view: String,
    file: PathBuf,
    rows: u64,
    row_groups: usize,
    bytes: u64,
    /// Number of the read models that were exported.
    generation: i64,
    /// The rows reflect the log up to here.
    last_seq: i64,
    took_ms: u128,
}

pub(super) async fn run(
    data_dir: &Path,
    options: Options,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    let began = Instant::now();
    let mut connection = view::connect(data_dir, options.database_url.as_deref()).await?;
    let wanted = view::Wanted {
        name: &options.view,
        since: options.since.as_deref(),
        until: options.until.as_deref(),
    };
    let view = view::open(&mut connection, &wanted).await?;
    let mut file = file::Writer::create(&options.to, &view, metadata(&wanted, &view))?;
    let mut progress = Progress::open_ended(format!("export of {}", options.view));
    while file.fetch_group(&mut connection, &mut progress).await? {}
    progress.end();
    let (rows, row_groups, bytes) = file.finish()?;
    output.report(&Report {
        view: options.view,
        file: options.to,
        rows,
        row_groups,
        bytes,
        generation: view.generation,
        last_seq: view.last_seq,
        took_ms: began.elapsed().as_millis(),
    });
    Ok(Exit::Well)
}

/// What the file says about itself.
fn metadata(wanted: &view::Wanted<'_>, view: &view::View) -> Vec<(&'static str, String)> {
    let mut metadata = vec![
        ("amaima.view", wanted.name.to_owned()),
        ("amaima.exported_at", infra::clock::now().to_string()),
        ("amaima.generation", view.generation.to_string()),
        ("amaima.last_seq", view.last_seq.to_string()),
    ];
    for (key, day) in [
        ("amaima.since", wanted.since),
        ("amaima.until", wanted.until),
    ] {
        metadata.extend(day.map(|day| (key, day.to_owned())));
    }
    metadata
}

/// A day as `2025-03-01`.
fn day(text: &str) -> Result<String, String> {
    match Timestamp::parse(&format!("{text}T00:00:00Z")) {
        Ok(_) if text.len() == 10 && text.bytes().all(is_of_a_day) => Ok(text.to_owned()),
        _ => Err("a day is written as 2025-03-01".into()),
    }
}

fn is_of_a_day(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'-'
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} rows as of sequence {}, {} bytes in {}",
            self.view,
            self.rows,
            self.last_seq,
            self.bytes,
            self.file.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_days() {
        assert_eq!(day("2024-02-29"), Ok("2024-02-29".to_owned()));
        for wrong in [
            "2025-02-29",
            "2025-3-1",
            "20250301",
            "2025-03-01T00:00",
            "yesterday",
        ] {
            assert!(day(wrong).is_err(), "{wrong}");
        }
    }
}
