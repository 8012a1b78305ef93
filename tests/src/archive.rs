//! The copy of the log, as tests look at it and damage it.

use crate::{admin, projections::Bench, world::PATIENCE};
use amaima::{
    admin::Exit,
    stack::{Stack, wait_for},
};
use infra::{
    archive::Archive,
    epoch,
    objects::{Bucket, Store},
};
use projection_svc::archiver;
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How often the log is copied.
pub const EVERY: Duration = Duration::from_millis(50);

/// Has the log of these servers copied to their object store.
pub fn config(stack: &Stack) -> archiver::Config {
    archiver::Config {
        store: stack.endpoints().s3.clone(),
        every: EVERY,
    }
}

/// The copy of the log of these servers.
///
/// # Panics
/// When the log cannot be found.
pub async fn of(bench: &Bench) -> Archive {
    in_bucket(&bench.stack, &bench.client).await
}

/// The same of the log behind this connection.
///
/// # Panics
/// When the log cannot be found.
pub async fn in_bucket(stack: &Stack, client: &async_nats::Client) -> Archive {
    let store = Store::Bucket(Bucket::new(&stack.endpoints().s3));
    let epoch = epoch::of_log(client).await.expect("a log");
    Archive::new(store, epoch)
}

/// Waits until the copy has this sequence.
///
/// # Panics
/// When that does not come.
pub async fn copied(bench: &Bench, seq: u64) {
    copied_to(&of(bench).await, seq).await;
}

/// Waits until this copy has this sequence.
///
/// # Panics
/// When that does not come.
pub async fn copied_to(archive: &Archive, seq: u64) {
    let copied = wait_for("the copy", PATIENCE * 2, || async {
        match archive.tail().await {
            Ok(Some(tail)) if tail.last >= seq => Ok(()),
            Ok(tail) => Err(format!("{:?} of {seq}", tail.map(|tail| tail.last))),
            Err(error) => Err(error.to_string()),
        }
    });
    copied.await.expect("the copy goes on");
}

/// `amaima admin verify`.
pub async fn verify(stack: &Stack) -> (Exit, Value) {
    admin::json_of(stack, &["verify"]).await
}

/// Where the endpoint of these servers keeps an object.
pub fn file(stack: &Stack, key: &str) -> PathBuf {
    let bucket = &stack.endpoints().s3.bucket;
    stack.data_dir().join("s3").join(bucket).join(key)
}

/// Changes one bit in the middle of a file.
///
/// # Panics
/// When it cannot be written.
pub fn flip(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path);
    let file = file.expect("the file");
    let middle = file.metadata().expect("its length").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).expect("a byte");
    byte[0] ^= 0x40;
    file.write_all_at(&byte, middle).expect("written");
}

/// The block files of the log, the oldest first.
///
/// # Panics
/// When there are none.
pub fn blocks(stack: &Stack) -> Vec<PathBuf> {
    let messages = stack
        .data_dir()
        .join("nats/jetstream/$G/streams/EVENTS/msgs");
    let files = fs::read_dir(&messages).unwrap_or_else(|error| panic!("{messages:?}: {error}"));
    let mut blocks: Vec<(u64, PathBuf)> = files
        .filter_map(|file| {
            let path = file.ok()?.path();
            let name = path.file_name()?.to_str()?;
            let number = name.strip_suffix(".blk")?.parse().ok()?;
            Some((number, path))
        })
        .collect();
    blocks.sort_unstable();
    assert!(!blocks.is_empty(), "no blocks in {messages:?}");
    blocks.into_iter().map(|(_, path)| path).collect()
}
