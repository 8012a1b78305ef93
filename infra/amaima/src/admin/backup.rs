//! `amaima admin backup`: everything that another machine needs to go on.
//!
//! That is the copy of the log, the other objects, and the key that signs tokens, so that people
//! stay signed in. All else follows from the log: read models, snapshots, timers, jobs and token
//! streams are made again by the services when they start.

use super::{Connection, Error, Exit, Output, Progress, archive};
use clap::Args;
use domain::Timestamp;
use infra::{
    archive::{Archive, Hash, ROOT},
    clock,
    objects::{Directory, Store},
};
use serde::Serialize;
use std::{
    fmt, fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Instant,
};

/// The gateway's key, in the data directory and in a backup.
pub(super) const SIGNING_KEY: &str = "signing-key.pem";
/// What a backup says about itself, for people.
const SUMMARY: &str = "backup.json";

/// Where it goes.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// A directory; one that holds an older backup of the same log gets what is new
    #[arg(long)]
    to: PathBuf,
}

#[derive(Debug, Serialize)]
struct Report {
    to: PathBuf,
    epoch: String,
    made_at: Timestamp,
    /// The last sequence of the log that is in it.
    last: u64,
    /// The chain after that, as `verify` tells it.
    chain: Hash,
    /// When that was stored: what came later is not in it.
    last_at: Timestamp,
    /// Messages of the log that are not in it.
    lag_events: u64,
    /// Objects beside the copy of the log.
    objects: u64,
    /// Whether the key that signs tokens is in it.
    signing_key: bool,
    took_ms: u64,
}

pub(super) async fn run(
    data_dir: &Path,
    connection: &Connection,
    options: Options,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    let begun = Instant::now();
    let to = options.to;
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&to);
    made.map_err(Error::failed(format!("{}", to.display())))?;
    let from = archive::store(data_dir)?;
    let target = Store::Directory(Directory::new(&to));
    let log = archive::log(connection).await?.state().await;
    let log = log.map_err(Error::failed("the log's end"))?;
    let copy = Archive::new(from.clone(), archive::epoch_of(connection).await?);
    let mut progress = Progress::new("backup", log.last);
    let end = copy.copy_to(&target, |seq| progress.at(seq)).await;
    let end = end.map_err(Error::failed("the copy of the log"))?;
    progress.end();
    let end = end.ok_or_else(|| Error::Unknown("there is no copy of the log yet".to_owned()))?;
    let report = Report {
        epoch: copy.epoch().to_owned(),
        made_at: clock::now(),
        last: end.last,
        chain: end.chain,
        last_at: Timestamp::from_millis(end.last_at_nanos / 1_000_000),
        lag_events: log.last.saturating_sub(end.last),
        objects: copy_others(&from, &target).await?,
        signing_key: copy_key(&data_dir.join(SIGNING_KEY), &to.join(SIGNING_KEY))?,
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        to,
    };
    let summary = serde_json::to_vec_pretty(&report).unwrap_or_default();
    let written = target.put(SUMMARY, summary.into()).await;
    written.map_err(Error::failed(SUMMARY))?;
    output.report(&report);
    Ok(Exit::Well)
}

/// Copies all objects but the copies of logs, and what a backup says about itself.
pub(super) async fn copy_others(from: &Store, to: &Store) -> Result<u64, Error> {
    let mut count = 0;
    let mut after = String::new();
    loop {
        let listed = from.list("", &after).await;
        let listed = listed.map_err(Error::failed("the objects"))?;
        let Some(last) = listed.last() else {
            return Ok(count);
        };
        after.clone_from(&last.key);
        for object in listed {
            let key = object.key;
            if key.starts_with(ROOT) || key == SIGNING_KEY || key == SUMMARY {
                continue;
            }
            let found = from.get(&key).await;
            // Somebody may have deleted it meanwhile.
            if let Some(bytes) = found.map_err(Error::failed(key.clone()))? {
                let written = to.put(&key, bytes).await;
                written.map_err(Error::failed(key))?;
                count += 1;
            }
        }
    }
}

/// Copies the key if there is one and the target has none; answers whether the target has one.
pub(super) fn copy_key(from: &Path, to: &Path) -> Result<bool, Error> {
    if from.exists() && !to.exists() {
        let copied = fs::copy(from, to)
            .and_then(|_| fs::set_permissions(to, fs::Permissions::from_mode(0o600)));
        copied.map_err(Error::failed(format!("{}", to.display())))?;
    }
    Ok(to.exists())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: the log to {} (stored {}), chain {}",
            self.to.display(),
            self.last,
            self.last_at,
            self.chain
        )?;
        if self.lag_events > 0 {
            writeln!(f, "{} messages were not copied yet", self.lag_events)?;
        }
        writeln!(f, "{} other objects", self.objects)?;
        writeln!(
            f,
            "the keys of persons are not in it, and nothing can be read without them: `amaima admin \
             keys backup`, and the master keys"
        )?;
        let key = if self.signing_key {
            "the signing key is in it: keep it like a password"
        } else {
            "no signing key in the data directory: keep JWT_SECRET apart, or people sign in again"
        };
        writeln!(f, "{key}")
    }
}
