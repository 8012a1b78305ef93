//! A system comes back on another machine: from a backup, and from the copy when the log is lost.

use amaima::{
    admin::Exit,
    stack::{self, wait_for},
};
use domain::{Aggregate, query::Query, subject::EVENTS};
use infra::{append::append, direct_get};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Instant;
use tempfile::TempDir;
use tests::{
    admin::{json, json_of},
    archive,
    client::Client,
    keys::Kept,
    projections::{Bench, hash},
    world::{Options, PATIENCE, World},
};
use uuid::Uuid;

/// Everything in this process, with a copy of the log.
fn copying() -> Options {
    Options {
        copying: true,
        ..Options::default()
    }
}

/// Asks, and waits for the answer.
async fn ask(client: &Client, question: &str) -> Value {
    let body = json!({ "query": question });
    let (status, answer) = client.post("/v1/query", &body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

/// The last sequence of the log.
async fn head(world: &World) -> u64 {
    let context = async_nats::jetstream::new(world.nats().await);
    let mut stream = context.get_stream(EVENTS).await.expect("the log");
    stream.info().await.expect("its state").state.last_sequence
}

/// Waits until nothing follows any more from what is in the log, and answers with its end.
async fn rest(world: &World) -> u64 {
    wait_for("rest", PATIENCE, || async {
        let (_, report) = json(world, &["policies"]).await;
        match report["oldest_unacknowledged"].is_null() {
            true => Ok(()),
            false => Err(report.to_string()),
        }
    })
    .await
    .expect("the policies are done");
    head(world).await
}

/// Waits until the live rows have this sequence, and hashes them.
async fn rows(world: &World, seq: u64) -> Vec<(String, i64, String)> {
    let pool = world.database().await;
    wait_for("the rows", PATIENCE, || async {
        let reached: i64 = sqlx::query_scalar("SELECT min(seq) FROM rm.checkpoint")
            .fetch_one(&pool)
            .await
            .map_err(|error| error.to_string())?;
        let reached = u64::try_from(reached).unwrap_or(0);
        (reached >= seq)
            .then_some(())
            .ok_or(format!("{reached} of {seq}"))
    })
    .await
    .expect("the projection goes on");
    hash(&pool, "rm").await
}

async fn copied(world: &World, seq: u64) {
    let archive = archive::in_bucket(&world.stack, &world.nats().await).await;
    archive::copied_to(&archive, seq).await;
}

/// The same person at another gateway, with the tokens of before.
fn moved(client: &Client, world: &World) -> Client {
    let mut moved = world.client();
    moved.access.clone_from(&client.access);
    moved.refresh.clone_from(&client.refresh);
    moved.user.clone_from(&client.user);
    moved
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_brings_the_system_back_on_another_machine() {
    let world = World::with(copying()).await;
    let mut people = Vec::new();
    for n in 0..3 {
        let client = Client::registered(world.http).await;
        ask(&client, &format!("What is a projection here, {n}?")).await;
        people.push(client);
    }
    let refresh = json!({ "refresh_token": people[2].refresh });
    let (status, answer) = people[2].post("/v1/auth/logout", &refresh).await;
    assert!(status.is_success(), "{answer}");
    let seq = rest(&world).await;
    let before = rows(&world, seq).await;
    copied(&world, seq).await;
    let kept = Kept::of(&world.stack).await;
    let (_, queries) = people[0].get("/v1/queries").await;
    let backups = TempDir::new().expect("a directory");
    let to = backups.path().join("backup").display().to_string();
    for _ in 0..2 {
        let (exit, report) = json(&world, &["backup", "--to", &to]).await;
        assert_eq!(exit, Exit::Well, "{report}");
        assert_eq!(
            (&report["last"], &report["lag_events"]),
            (&seq.into(), &0.into())
        );
    }
    world.lifecycle.stop(PATIENCE).await;
    drop(world);

    let begun = Instant::now();
    let stack = kept.other_machine().await;
    let keys = kept.file();
    let (exit, report) = json_of(&stack, &["restore", "--from", &to, "--keys", &keys]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    assert_eq!(
        (&report["first"], &report["last"]),
        (&1.into(), &seq.into())
    );
    assert_eq!((&report["keys"], &report["erased"]), (&3.into(), &0.into()));
    let world = World::on(stack, copying()).await;
    let mia = moved(&people[0], &world);
    assert_eq!(queries.as_array().map(Vec::len), Some(1), "{queries}");
    wait_for("the first answer", PATIENCE, || async {
        let (_, found) = mia.get("/v1/queries").await;
        (found == queries).then_some(()).ok_or(found.to_string())
    })
    .await
    .expect("the read models are folded");
    let answered = begun.elapsed().as_secs_f64();
    assert_eq!(rows(&world, seq).await, before);
    // Nothing is done a second time that leaves a trace in the log.
    assert_eq!(rest(&world).await, seq);
    ask(&mia, "Who are you?").await;
    println!(
        "{seq} messages: from no machine to the first answer {answered:.1} s, of which the log {} \
         ms; to a new question's answer {:.1} s",
        report["took_ms"],
        begun.elapsed().as_secs_f64()
    );
    // Who had signed out is signed out, and can come again.
    let (status, _) = moved(&people[2], &world).get("/v1/auth/me").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let fresh = Client::registered(world.http).await;
    ask(&fresh, "What is a projection here?").await;
    let seq = rest(&world).await;
    copied(&world, seq).await;
    let (exit, report) = json(&world, &["verify"]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    world.lifecycle.stop(PATIENCE).await;
}

/// What the log lost before it was copied is told, and what came after it is where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_a_hole_is_restored_around_it() {
    let bench = Bench::start().await;
    let subject = Query::named(Uuid::from_u128(9)).subject();
    // The byte in the middle of the block is one of a payload, so that one message is lost.
    let (count, payload) = (61, format!("[{:500}]", ""));
    for seq in 1..=count {
        let headers = async_nats::HeaderMap::new();
        let payload = payload.clone().into();
        let stored = append(&bench.client, &subject, seq - 1, headers, payload).await;
        assert_eq!(stored.expect("stored").seq, seq);
    }
    let nats = bench.stack.nats();
    nats.stop().await.expect("stopped");
    archive::flip(archive::blocks(&bench.stack).last().expect("a block"));
    nats.restart().await.expect("back");
    let life = bench.run(bench.copying());
    archive::copied(&bench, count).await;
    life.stop(PATIENCE).await;
    let (exit, report) = archive::verify(&bench.stack).await;
    assert_eq!(exit, Exit::Degraded, "{report}");
    assert_eq!(report["difference"]["what"], "missing_in_both", "{report}");
    let lost = report["difference"]["seq"].as_u64().expect("a sequence");
    let (exit, status) = json_of(&bench.stack, &["archive"]).await;
    assert_eq!((exit, &status["has_gaps"]), (Exit::Degraded, &true.into()));

    let backups = TempDir::new().expect("a directory");
    let to = backups.path().join("backup").display().to_string();
    let (exit, report) = json_of(&bench.stack, &["backup", "--to", &to]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    let other = stack::testing().await.expect("the servers start");
    let (exit, report) = json_of(&other, &["restore", "--from", &to]).await;
    assert_eq!(exit, Exit::Degraded, "{report}");
    assert_eq!(
        (&report["last"], &report["lost"]),
        (&count.into(), &1.into())
    );
    let other = Bench::on(other).await;
    let kept = direct_get::subject(&other.client, EVENTS, &subject, 1).await;
    let kept: Vec<u64> = kept
        .expect("messages")
        .iter()
        .map(|each| each.seq)
        .collect();
    let expected: Vec<u64> = (1..=count).filter(|seq| *seq != lost).collect();
    assert_eq!(kept, expected);
    // Nothing stands still: the marker is parked, with what is no commit here at all.
    let life = other.run(other.config());
    other.reached(count).await;
    life.stop(PATIENCE).await;
}

/// The machine of the log burns while people write; the object store's is another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_log_costs_what_was_not_copied_yet() {
    let lost = World::with(copying()).await;
    let mia = Client::registered(lost.http).await;
    ask(&mia, "What is a projection here?").await;
    let kept = Kept::of(&lost.stack).await;
    let mut written = Vec::new();
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < 3.0 {
        let body = json!({ "query": format!("Question {}?", written.len()) });
        let request = mia.request(Method::POST, "/v1/query").json(&body);
        let answer = request.header("prefer", "respond-async").send().await;
        assert_eq!(answer.expect("an answer").status(), StatusCode::ACCEPTED);
        written.push((head(&lost).await, Instant::now()));
    }
    let client = lost.nats().await;
    let archive = archive::in_bucket(&lost.stack, &client).await;
    lost.stack.nats().kill().await.expect("killed");
    let burnt = Instant::now();
    let tail = archive.tail().await.expect("a manifest").expect("a copy");
    let newest = written.iter().rev().find(|(seq, _)| *seq <= tail.last);
    let rpo = newest.map_or(f64::MAX, |(_, at)| burnt.duration_since(*at).as_secs_f64());
    let gone = written.iter().filter(|(seq, _)| *seq > tail.last).count();
    lost.lifecycle.begin_stop();

    let begun = Instant::now();
    let stack = kept.other_machine().await;
    // The endpoint's own files are as good as a backup.
    let bucket = archive::file(&lost.stack, "").display().to_string();
    let keys = kept.file();
    let (exit, report) = json_of(&stack, &["restore", "--from", &bucket, "--keys", &keys]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    assert!(report["last"].as_u64() >= Some(tail.last), "{report}");
    let world = World::on(stack, copying()).await;
    let mia = moved(&mia, &world);
    wait_for("the first answer", PATIENCE, || async {
        let (_, found) = mia.get("/v1/queries").await;
        let some = found.as_array().is_some_and(|list| !list.is_empty());
        some.then_some(()).ok_or(found.to_string())
    })
    .await
    .expect("the read models are folded");
    let rto = begun.elapsed().as_secs_f64();
    println!(
        "{} messages, copied every {} ms: RPO {rpo:.3} s ({gone} of {} writes lost), RTO {rto:.1} s",
        report["last"],
        archive::EVERY.as_millis(),
        written.len()
    );
    assert!(rpo < 5.0, "{rpo}");
    world.lifecycle.stop(PATIENCE).await;
    // Its end reads the log once more.
    lost.stack.nats().restart().await.expect("the lost server");
}
