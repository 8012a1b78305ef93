//! Whatever is damaged, in the copy or in the log, is named by `verify`.

use super::{GRACE, commands, different, same, write_and_copy};
use amaima::admin::Exit;
use infra::objects::{Bucket, Store};
use serde_json::Value;
use std::fs;
use tests::{
    admin::json_of,
    archive,
    commits::{self, History},
    projections::Bench,
};

/// A log of some length, all of it copied, and nobody who writes any more; and its last sequence.
async fn copied(seed: u64, count: usize) -> (Bench, u64) {
    let bench = Bench::start().await;
    let life = bench.run(bench.copying());
    let last = write_and_copy(&bench, &mut History::new(seed), count).await;
    same(&bench, last).await;
    life.stop(GRACE).await;
    (bench, last)
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_the_copy_is_named() {
    let (bench, last) = copied(31, 20_000).await;
    let chain = same(&bench, last).await["chain"].clone();
    let archive = archive::of(&bench).await;
    let firsts = archive.segments().await.expect("segments");
    assert!(firsts.len() > 2, "{firsts:?}");
    for first in [firsts[0], firsts[1], firsts[firsts.len() - 1]] {
        let key = archive.segment_key(first);
        let file = archive::file(&bench.stack, &key);
        let named = |difference: &Value, what: &str| {
            assert_eq!(difference["what"], what, "{difference}");
            assert_eq!(difference["side"], "copy", "{difference}");
            assert_eq!(difference["seq"], first, "{difference}");
            assert_eq!(difference["object"], key.as_str(), "{difference}");
        };
        archive::flip(&file);
        named(&different(&bench).await, "damaged_segment");
        archive::flip(&file);
        same(&bench, last).await;

        let aside = file.with_extension("aside");
        fs::rename(&file, &aside).expect("moved");
        named(&different(&bench).await, "missing_segment");
        fs::rename(&aside, &file).expect("moved back");
        same(&bench, last).await;
    }
    // One that is whole, at the place of another.
    let (first, second) = (firsts[0], firsts[1]);
    let place = |first| archive::file(&bench.stack, &archive.segment_key(first));
    let aside = place(second).with_extension("aside");
    fs::rename(place(second), &aside).expect("moved");
    fs::copy(place(first), place(second)).expect("copied");
    let difference = different(&bench).await;
    assert_eq!(difference["what"], "broken_chain", "{difference}");
    assert_eq!(difference["seq"], second, "{difference}");
    fs::rename(&aside, place(second)).expect("moved back");

    let page = archive::file(&bench.stack, &archive.page_key(0));
    let text = fs::read_to_string(&page).expect("a page");
    fs::write(&page, &text[1..]).expect("written");
    let difference = different(&bench).await;
    assert_eq!(difference["what"], "damaged_page", "{difference}");
    fs::write(&page, text).expect("written");
    same(&bench, last).await;
    fs::remove_file(&page).expect("removed");
    let difference = different(&bench).await;
    assert_eq!(difference["what"], "missing_page", "{difference}");
    assert_eq!(difference["object"], archive.page_key(0), "{difference}");

    // It is mended from the log: what is damaged, what is behind it, and the manifest have to go.
    for first in &firsts[1..] {
        fs::remove_file(place(*first)).expect("removed");
    }
    let life = bench.run(bench.copying());
    archive::copied(&bench, last).await;
    assert_eq!(same(&bench, last).await["chain"], chain);
    life.stop(GRACE).await;
}

/// The server was stopped in good order: it trusts what it wrote down about its blocks, and finds
/// out when it reads that a message is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_server_lost_is_named() {
    let (bench, last) = copied(32, 2_000).await;
    let nats = bench.stack.nats();
    nats.stop().await.expect("stopped");
    archive::flip(archive::blocks(&bench.stack).last().expect("a block"));
    nats.restart().await.expect("back");
    let difference = different(&bench).await;
    println!("a flipped byte after a stop: {difference}");
    assert_eq!(difference["side"], "log", "{difference}");
    assert_eq!(difference["what"], "missing_in_log", "{difference}");
    let seq = difference["seq"].as_u64().expect("a sequence");
    assert!((1..=last).contains(&seq), "{difference}");
    let subject = difference["subject"].as_str().expect("a subject");
    assert!(subject.starts_with("ev."), "{difference}");
}

/// The server was killed: it reads its last block anew, cuts it off at the damage, and gives the
/// same sequences away once more.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_the_server_cut_off_is_named_also_when_it_has_grown_again() {
    let (bench, last) = copied(33, 2_000).await;
    let nats = bench.stack.nats();
    nats.kill().await.expect("killed");
    archive::flip(archive::blocks(&bench.stack).last().expect("a block"));
    nats.restart().await.expect("back");
    let cut = different(&bench).await;
    println!("a flipped byte after a kill: {cut}");
    assert_eq!(cut["side"], "log", "{cut}");
    assert_eq!(cut["what"], "log_ends_early", "{cut}");
    let seq = cut["seq"].as_u64().expect("a sequence");
    assert!((2..last).contains(&seq), "{cut}");
    let (exit, report) = archive::verify(&bench.stack).await;
    assert_eq!(exit, Exit::Degraded);
    assert_eq!(report["last"], seq - 1, "{report}");

    // The archiver does not go on behind another end than it knows: nothing is mixed.
    let life = bench.run(bench.copying());
    let mut random = History::new(34);
    let other = commits::write(&bench.client, commands(&mut random, 3_000)).await;
    assert!(other.expect("written") > last);
    let difference = different(&bench).await;
    assert_eq!(difference["what"], "differs", "{difference}");
    assert_eq!(difference["seq"], seq, "{difference}");
    bench.reached(last).await;
    life.stop(GRACE).await;
    let tail = archive::of(&bench).await.tail().await.expect("a tail");
    assert_eq!(tail.expect("one").last, last);
}

/// A block that is full is compressed. One flipped byte in it, and a server that was killed does
/// not bring the stream up at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_the_server_does_not_find_any_more_is_named() {
    let (bench, last) = copied(35, 30_000).await;
    let nats = bench.stack.nats();
    nats.kill().await.expect("killed");
    let blocks = archive::blocks(&bench.stack);
    assert!(blocks.len() > 1, "{blocks:?}");
    archive::flip(&blocks[0]);
    nats.restart().await.expect("back");
    let difference = different(&bench).await;
    println!("a flipped byte in a full block after a kill: {difference}");
    assert_eq!(difference["side"], "log", "{difference}");
    assert_eq!(difference["what"], "log_absent", "{difference}");
    assert_eq!(difference["seq"], 1, "{difference}");
    // The copy alone is whole.
    let store = Store::Bucket(Bucket::new(&bench.stack.endpoints().s3));
    let epochs = infra::archive::epochs(&store).await.expect("epochs");
    let (exit, report) = json_of(&bench.stack, &["verify", "--epoch", &epochs[0]]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    assert_eq!(report["last"], last, "{report}");

    // No service begins a new log, which would take the place of what is left of the old one.
    let nats_config = bench.config().nats;
    let refused = infra::jetstream::prepare(&bench.client, &nats_config).await;
    assert!(
        matches!(refused, Err(infra::jetstream::Error::LogLost { .. })),
        "{:?}",
        refused.err()
    );
    // Restored in its place it has the same sequences, and the projection goes on where it was.
    let rows = bench.hash("rm").await;
    let (exit, report) = json_of(&bench.stack, &["restore"]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    assert_eq!(report["messages"], last, "{report}");
    println!("{last} messages restored in {} ms", report["took_ms"]);
    let life = bench.run(bench.copying());
    let mut random = History::new(36);
    let more = write_and_copy(&bench, &mut random, 100).await;
    assert!(more > last);
    same(&bench, more).await;
    bench.reached(more).await;
    assert_ne!(bench.hash("rm").await, rows);
    let (exit, report) = json_of(&bench.stack, &["restore"]).await;
    assert_eq!(exit, Exit::Ill, "{report}");
    life.stop(GRACE).await;
}
