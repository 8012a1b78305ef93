//! Rebuilds, `verify`, `archive`, backup and restore of a log that queries have left.

use super::{GRACE, SETTLE, copy, ended, gone, head, project, reached, rows, subject, world};
use amaima::{
    admin::Exit,
    stack::{self, wait_for},
};
use async_nats::jetstream;
use domain::subject::EVENTS;
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;
use tests::{
    admin::{json as admin_json, json_of},
    archive,
    client::Client,
    projections::hash,
    world::{PATIENCE, World},
};

/// Builds another generation to the end of the log, and hashes it.
async fn rebuilt(world: &World, from: &[&str]) -> Vec<(String, i64, String)> {
    let order = [&["projections", "rebuild"], from].concat();
    let (exit, answer) = admin_json(world, &order).await;
    assert_eq!(exit, Exit::Well, "{answer}");
    reached(world, "rm_next", head(world).await).await;
    let rows = hash(&world.database().await, "rm_next").await;
    wait_for("no other generation", PATIENCE, || async {
        match admin_json(world, &["projections", "abandon"]).await {
            (Exit::Well, _) => Ok(()),
            (_, answer) => Err(answer.to_string()),
        }
    })
    .await
    .expect("it is abandoned");
    rows
}

/// Takes a query out of the log by hand, as the one user who may.
async fn purge_by_hand(world: &World, query: &str) {
    let url = world.stack.endpoints().nats_purge_url.clone();
    let nats = infra::config::Nats {
        url: url.expect("an own server"),
        ..world.stack.endpoints().nats()
    };
    let client = infra::nats::connect(&nats, "hand").await.expect("NATS");
    let ask = json!({ "filter": subject(query) }).to_string();
    let answer = client.request(format!("$JS.API.STREAM.PURGE.{EVENTS}"), ask.into());
    let answer = answer.await.expect("an answer").payload;
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    assert_eq!(answer["purged"], 2, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_left_is_in_every_rebuild_and_no_difference() {
    let world = world().await;
    let life = project(&world, Some(SETTLE));
    let mia = Client::registered(world.http).await;
    let mut left = Vec::new();
    for _ in 0..20 {
        left.push(ended(&mia).await);
    }
    // The end of the log stays, and with it the last query.
    let stays = left.pop().expect("the last one");
    for id in &left {
        gone(&world, id).await;
    }
    let before = rows(&world).await;
    let end = head(&world).await;
    let context = jetstream::new(world.nats().await);
    let log = context.get_stream(EVENTS).await.expect("the log");
    let kept = log.cached_info().state.messages;
    // Mia's three commits, and those of the query that stays.
    assert_eq!((kept, end), (5, 43));

    assert_eq!(rebuilt(&world, &[]).await, before);
    assert_eq!(rebuilt(&world, &["--from", "copy"]).await, before);

    archive::copied_to(&copy(&world).await, end).await;
    let (exit, report) = admin_json(&world, &["verify"]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    assert_eq!(
        (&report["messages"], &report["purged"]),
        (&end.into(), &38.into())
    );
    let (exit, report) = admin_json(&world, &["archive"]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    assert_eq!(report["purged_aggregates"], 19, "{report}");
    assert_eq!(report["purged_messages"], 38, "{report}");
    let (_, report) = admin_json(&world, &["streams"]).await;
    let streams = report["streams"].as_array().expect("streams");
    let events = streams.iter().find(|stream| stream["name"] == EVENTS);
    assert_eq!(events.expect("the log")["gone"], 38, "{report}");

    // Backed up and restored, the log is whole, and may be left again.
    let backups = TempDir::new().expect("a directory");
    let to = backups.path().join("backup").display().to_string();
    let (exit, report) = admin_json(&world, &["backup", "--to", &to]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    let elsewhere = stack::testing().await.expect("the servers start");
    let (exit, report) = json_of(&elsewhere, &["restore", "--from", &to]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    assert_eq!(report["messages"], end, "{report}");

    // What goes without the ledger is a difference.
    life.stop(GRACE).await;
    let life = project(&world, None);
    ended(&mia).await;
    archive::copied_to(&copy(&world).await, end + 2).await;
    life.stop(GRACE).await;
    purge_by_hand(&world, &stays).await;
    let (exit, report) = admin_json(&world, &["verify"]).await;
    assert_eq!(exit, Exit::Degraded, "{report}");
    let difference = &report["difference"];
    assert_eq!(difference["what"], "missing_in_log", "{difference}");
    assert_eq!(difference["subject"], subject(&stays), "{difference}");

    // And no rebuild passes over it, while the live rows go on.
    let seq = difference["seq"].as_u64().expect("a sequence");
    let life = project(&world, None);
    ordered(&world).await;
    reached(&world, "rm_next", seq - 1).await;
    ended(&mia).await;
    rows(&world).await;
    let pool = world.database().await;
    let next: i64 = sqlx::query_scalar("SELECT max(seq) FROM rm_next.checkpoint")
        .fetch_one(&pool)
        .await
        .expect("the next generation");
    assert_eq!(u64::try_from(next), Ok(seq - 1));
    life.stop(GRACE).await;
}

/// Orders a rebuild, once somebody answers.
async fn ordered(world: &World) {
    let ordered = wait_for("an answer to the order", PATIENCE, || async {
        match admin_json(world, &["projections", "rebuild"]).await {
            (Exit::Well, _) => Ok(()),
            (_, answer) => Err(answer.to_string()),
        }
    });
    ordered.await.expect("it is begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_was_touched_is_named() {
    let world = world().await;
    let life = project(&world, Some(SETTLE));
    let mia = Client::registered(world.http).await;
    let first = ended(&mia).await;
    let second = ended(&mia).await;
    gone(&world, &first).await;
    ended(&mia).await;
    gone(&world, &second).await;
    life.stop(GRACE).await;
    let copy = copy(&world).await;
    let pages = copy.ledger_pages().await.expect("pages");
    assert!(pages.len() >= 2, "{pages:?}");
    let page = archive::file(&world.stack, &copy.ledger_key(0));
    let whole = fs::read(&page).expect("a page");
    archive::flip(&page);
    let (exit, report) = admin_json(&world, &["verify"]).await;
    assert_eq!(exit, Exit::Degraded, "{report}");
    assert_eq!(report["difference"]["what"], "damaged_ledger", "{report}");
    fs::remove_file(&page).expect("removed");
    let (_, report) = admin_json(&world, &["verify"]).await;
    assert_eq!(report["difference"]["what"], "damaged_ledger", "{report}");
    fs::write(&page, whole).expect("written");
    let (exit, report) = admin_json(&world, &["verify"]).await;
    assert_eq!(exit, Exit::Well, "{report}");
}
