//! The copy of the log: it follows, it is the same, and whatever is damaged is named.

mod corruption;
mod following;
mod rebuild;

use amaima::admin::Exit;
use infra::append::Part;
use serde_json::Value;
use std::time::Duration;
use tests::{
    archive,
    commits::{self, History},
    projections::Bench,
};

const GRACE: Duration = Duration::from_secs(10);

fn commands(history: &mut History, count: usize) -> Vec<Part> {
    (0..count).flat_map(|_| history.command()).collect()
}

/// Writes so many commands and waits until they are copied; the last sequence.
async fn write_and_copy(bench: &Bench, history: &mut History, count: usize) -> u64 {
    let last = commits::write(&bench.client, commands(history, count)).await;
    let last = last.expect("written");
    archive::copied(bench, last).await;
    last
}

/// Log and copy are the same up to `last`.
async fn same(bench: &Bench, last: u64) -> Value {
    let (exit, report) = archive::verify(&bench.stack).await;
    assert_eq!(exit, Exit::Well, "{report}");
    assert_eq!(report["first"], 1, "{report}");
    assert_eq!(report["last"], last, "{report}");
    assert_eq!(report["messages"], last, "{report}");
    report
}

/// The first difference.
async fn different(bench: &Bench) -> Value {
    let (exit, report) = archive::verify(&bench.stack).await;
    assert_eq!(exit, Exit::Degraded, "{report}");
    report["difference"].clone()
}
