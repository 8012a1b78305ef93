//! The copy follows the log: through kills of the archiver, losses of the object store, and with
//! two archivers at once.

use super::{GRACE, commands, same, write_and_copy};
use amaima::admin::Exit;
use domain::{Aggregate, query::Query};
use infra::{
    append,
    archive::{self as copy, Error, Log, Writer},
    epoch,
    objects::Bucket,
};
use std::time::Instant;
use tests::{
    admin::json_of,
    archive,
    commits::{self, History},
    projections::Bench,
};
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn many_and_few_messages_are_copied_as_they_are() {
    let bench = Bench::start().await;
    let life = bench.run(bench.copying());
    let mut random = History::new(21);
    let begun = Instant::now();
    let last = write_and_copy(&bench, &mut random, 30_000).await;
    let took = begun.elapsed().as_secs_f64();
    same(&bench, last).await;
    let archive = archive::of(&bench).await;
    let many = archive.segments().await.expect("segments").len();
    // One at a time: each is copied at once, into the segment that is open.
    for _ in 0..20 {
        write_and_copy(&bench, &mut random, 1).await;
    }
    let last = archive.tail().await.expect("a tail").expect("one").last;
    let report = same(&bench, last).await;
    let segments = archive.segments().await.expect("segments").len();
    assert!(segments <= many + 1, "{segments} after {many}");
    assert_eq!(report["segments"], segments);
    let (exit, status) = json_of(&bench.stack, &["archive"]).await;
    assert_eq!(exit, Exit::Well, "{status}");
    assert_eq!(status["copied_to"], last);
    assert_eq!(status["lag_events"], 0);
    println!("{last} messages in {segments} segments, the first 30,000 commands in {took:.1} s");
    life.stop(GRACE).await;
    // What comes now is in the log alone.
    let later = random.command();
    let count = later.len();
    commits::write(&bench.client, later).await.expect("written");
    let (exit, report) = json_of(&bench.stack, &["verify"]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    assert_eq!(report["last"], last);
    assert_eq!(report["not_copied"], count);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_aggregate_is_found_without_reading_all() {
    let bench = Bench::start().await;
    let life = bench.run(bench.copying());
    let mut random = History::new(22);
    let id = Uuid::from_u128(7);
    let subject = Query::named(id).subject();
    let mut expected = Vec::new();
    for round in 0..4_u64 {
        write_and_copy(&bench, &mut random, 4_000).await;
        for n in 0..3 {
            let payload = format!("[{round}, {n}]");
            let before = expected.last().map_or(0, |(seq, _)| *seq);
            let headers = async_nats::HeaderMap::new();
            let text = payload.clone().into();
            let stored = append::append(&bench.client, &subject, before, headers, text).await;
            expected.push((stored.expect("stored").seq, payload));
        }
    }
    let last = expected.last().expect("some").0;
    archive::copied(&bench, last).await;
    let archive = archive::of(&bench).await;
    let segments = archive.segments().await.expect("segments").len();
    assert!(segments > 4, "{segments} segments");
    let found = copy::history(&archive, &subject, last).await;
    let found: Vec<(u64, String)> = found
        .expect("a history")
        .into_iter()
        .map(|message| {
            (
                message.seq,
                String::from_utf8_lossy(&message.payload).into(),
            )
        })
        .collect();
    assert_eq!(found, expected);
    let early = copy::history(&archive, &subject, expected[4].0).await;
    assert_eq!(early.expect("a history").len(), 5);
    let none = copy::history(&archive, "ev.none", last).await;
    assert_eq!(none.expect("no history"), []);
    life.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_archiver_leaves_neither_gap_nor_double() {
    let bench = Bench::start().await;
    let mut random = History::new(23);
    let mut last = 0;
    for round in 0..6 {
        let instance = bench.spawn(2);
        for _ in 0..5 {
            last = commits::write(&bench.client, commands(&mut random, 400))
                .await
                .expect("written");
        }
        // Each time somewhere else, in the middle of what there is to copy.
        archive::copied(&bench, last.saturating_sub(1_900 - 300 * round)).await;
        instance.kill().expect("killed");
    }
    let instance = bench.spawn(2);
    archive::copied(&bench, last).await;
    let report = same(&bench, last).await;
    println!("six kills: {report}");
    instance.kill().expect("killed");

    // A manifest that is lost is made anew from the segments.
    let archive = archive::of(&bench).await;
    for page in archive.pages().await.expect("pages") {
        std::fs::remove_file(archive::file(&bench.stack, &archive.page_key(page))).expect("gone");
    }
    let life = bench.run(bench.copying());
    archive::copied(&bench, last).await;
    assert_eq!(same(&bench, last).await["chain"], report["chain"]);
    life.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_object_store_is_waited_for_and_nothing_else_waits() {
    let bench = Bench::start().await;
    let life = bench.run(bench.copying());
    let mut random = History::new(24);
    let first = write_and_copy(&bench, &mut random, 1_000).await;
    bench.stack.s3().pause().expect("paused");
    let last = commits::write(&bench.client, commands(&mut random, 1_000)).await;
    bench.reached(last.expect("written")).await;
    bench.stack.s3().resume().expect("resumed");
    archive::copied(&bench, first + 1).await;

    bench.stack.s3().kill().await.expect("killed");
    let last = commits::write(&bench.client, commands(&mut random, 3_000)).await;
    let last = last.expect("written");
    bench.reached(last).await;
    let (exit, status) = json_of(&bench.stack, &["archive"]).await;
    assert_eq!(exit, Exit::Ill, "{status}");
    bench.stack.s3().restart().await.expect("back");
    archive::copied(&bench, last).await;
    same(&bench, last).await;
    life.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_archivers_write_one_copy_and_either_goes_on_alone() {
    let bench = Bench::start().await;
    let lives = [
        bench.run(bench.copying()),
        bench.run(bench.copying()),
        bench.run(bench.copying()),
    ];
    let mut random = History::new(25);
    for _ in 0..10 {
        write_and_copy(&bench, &mut random, 300).await;
    }
    for life in lives {
        let last = write_and_copy(&bench, &mut random, 300).await;
        same(&bench, last).await;
        life.stop(GRACE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_overtaken_is_refused() {
    let bench = Bench::start().await;
    let mut random = History::new(26);
    let all = commands(&mut random, 600);
    let bucket = || Bucket::new(&bench.stack.endpoints().s3);
    let epoch = epoch::of_log(&bench.client).await.expect("a log");
    let log = Log::new(&bench.client).await.expect("a log");
    let mut last = 0;
    let mut zombie = Writer::open(bucket(), epoch, 1).await.expect("opened");
    for some in all.chunks(100) {
        last = commits::write(&bench.client, some.to_vec())
            .await
            .expect("written");
        let mut writer = Writer::open(bucket(), epoch, 1).await.expect("opened");
        for each in [&mut writer, &mut zombie] {
            for record in log.read(each.last() + 1).await.expect("records") {
                each.push(&record);
            }
        }
        writer.flush().await.expect("written");
        assert_eq!((writer.last(), writer.written()), (last, last));
        let refused = zombie.flush().await;
        assert!(matches!(refused, Err(Error::Overtaken)), "{refused:?}");
        zombie = writer;
    }
    same(&bench, last).await;
}
