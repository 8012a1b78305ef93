//! Read models out of the copy are those out of the log, and whole where the log is not.

use super::{GRACE, commands, same, write_and_copy};
use amaima::stack::wait_for;
use domain::wire::admin::{Generation, Projections, Reply, State, Status};
use tests::{
    archive,
    commits::{self, History},
    projections::Bench,
    world::PATIENCE,
};

fn next(status: &Status) -> Option<&Generation> {
    status
        .generations
        .iter()
        .find(|each| each.state == State::Next)
}

/// Builds another generation, to the end of the log, and answers with the hashes of its tables.
async fn built(bench: &Bench, order: Projections, last: u64) -> Vec<(String, i64, String)> {
    let begun = bench.ordered(&order).await;
    assert!(matches!(begun, Reply::Begun), "{begun:?}");
    bench
        .status_when("another generation", |status| {
            next(status).is_some_and(|next| next.seq >= last && next.lag == 0)
        })
        .await;
    let rows = bench.hash("rm_next").await;
    wait_for("no other generation", PATIENCE, || async {
        // The builder looks at it now and then.
        match bench.order(&Projections::Abandon).await? {
            Reply::Begun => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .expect("it is abandoned");
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_from_the_copy_comes_to_the_same_rows() {
    let bench = Bench::start().await;
    let life = bench.run(bench.copying());
    let mut random = History::new(41);
    let last = write_and_copy(&bench, &mut random, 8_000).await;
    bench.reached(last).await;
    same(&bench, last).await;
    let rows = bench.hash("rm").await;
    let from_log = built(&bench, Projections::Rebuild { flip: false }, last).await;
    let from_copy = built(&bench, Projections::RebuildFromCopy { flip: false }, last).await;
    println!("{last} commits: {rows:?}");
    assert!(rows.iter().all(|(_, count, _)| *count > 0), "{rows:?}");
    assert_eq!(from_log, rows);
    assert_eq!(from_copy, rows);

    // Behind the end of the copy it goes on from the log.
    life.stop(GRACE).await;
    let mut config = bench.copying();
    if let Some(archive) = &mut config.archive {
        archive.every = std::time::Duration::from_secs(3600);
    }
    let life = bench.run(config);
    let later = commits::write(&bench.client, commands(&mut random, 1_000)).await;
    let later = later.expect("written");
    bench.reached(later).await;
    let rows = bench.hash("rm").await;
    let from_copy = built(&bench, Projections::RebuildFromCopy { flip: false }, later).await;
    assert_eq!(from_copy, rows);
    life.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_from_the_copy_is_whole_where_the_log_is_not() {
    let bench = Bench::start().await;
    let life = bench.run(bench.copying());
    let mut random = History::new(42);
    let last = write_and_copy(&bench, &mut random, 3_000).await;
    bench.reached(last).await;
    let rows = bench.hash("rm").await;
    life.stop(GRACE).await;
    let nats = bench.stack.nats();
    nats.stop().await.expect("stopped");
    archive::flip(archive::blocks(&bench.stack).last().expect("a block"));
    nats.restart().await.expect("back");
    let (_, report) = archive::verify(&bench.stack).await;
    assert_eq!(report["difference"]["what"], "missing_in_log", "{report}");

    let life = bench.run(bench.copying());
    let from_copy = built(&bench, Projections::RebuildFromCopy { flip: false }, last).await;
    assert_eq!(from_copy, rows);
    life.stop(GRACE).await;
}
