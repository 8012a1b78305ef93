//! A purge that is cut off is taken up again by whoever comes next.

use super::{GRACE, SETTLE, copy, ended, gone, head, in_log, project, rows, world};
use amaima::{admin::Exit, stack::wait_for};
use tests::{
    admin, archive,
    client::Client,
    service::Role,
    world::{PATIENCE, World},
};

/// Waits until the ledger has so many pages.
async fn written_down(world: &World, pages: usize) {
    let copy = copy(world).await;
    wait_for("a page of the ledger", PATIENCE, || async {
        let found = copy
            .ledger_pages()
            .await
            .map_err(|error| error.to_string())?;
        (found.len() >= pages)
            .then_some(())
            .ok_or(format!("{} pages", found.len()))
    })
    .await
    .expect("it is written down");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_down_leaves_after_a_kill() {
    let mut world = world().await;
    let keeping = project(&world, None);
    let mia = Client::registered(world.http).await;
    let first = ended(&mia).await;
    ended(&mia).await;
    rows(&world).await;
    archive::copied_to(&copy(&world).await, head(&world).await).await;
    keeping.stop(GRACE).await;
    // As a process it waits for half a minute between the ledger and the purge.
    world.spawn(Role::Projection);
    written_down(&world, 1).await;
    world.kill(Role::Projection);
    assert_eq!(in_log(&world, &first).await, 2, "it has not left yet");

    // The database may not have what the ledger says, nor anything at all of it.
    let pool = world.database().await;
    sqlx::query("TRUNCATE projection.purged, projection.ledger")
        .execute(&pool)
        .await
        .expect("forgotten");
    let (exit, report) = admin::json(&world, &["verify"]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    assert_eq!(report["purged"], 0, "{report}");

    let life = project(&world, Some(SETTLE));
    gone(&world, &first).await;
    wait_for("the database to know it", PATIENCE, || async {
        let noted: i64 = sqlx::query_scalar("SELECT count(*) FROM projection.purged")
            .fetch_one(&pool)
            .await
            .map_err(|error| error.to_string())?;
        (noted >= 1).then_some(()).ok_or(format!("{noted} rows"))
    })
    .await
    .expect("it follows from the ledger");
    let (exit, report) = admin::json(&world, &["aggregate", "history", "query", &first]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    assert_eq!(report["commits"].as_array().map(Vec::len), Some(2));
    life.stop(GRACE).await;
    let (exit, report) = admin::json(&world, &["verify"]).await;
    assert_eq!(exit, Exit::Well, "{report}");
}
