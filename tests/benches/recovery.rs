//! What a lost log costs: how much of it is gone, and how long until people are served again.
//!
//! `cargo bench -p tests --bench recovery`. A log of some size is filled and copied; while somebody
//! writes, its server is killed for good, and the system comes back from the object store and a
//! backup of the keys on other servers. `AMAIMA_EVENTS` changes the size, `ARCHIVE_EVERY_MS` how
//! often is copied.

use amaima::stack::{self, SyncMode, wait_for};
use infra::sealing::Keyring;
use projection_svc::archiver;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::time::{Duration, Instant};
use tests::{
    admin, archive,
    client::Client,
    commits::{self, History},
    keys::Kept,
    projections::Bench,
    world::{Options, World},
};

const PATIENCE: Duration = Duration::from_secs(600);
/// How long somebody writes before the server is lost.
const WRITING: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let events: usize = infra::config::parsed("AMAIMA_EVENTS", 200_000)?;
    let every = archiver::every_from_env()?;
    let servers = || {
        stack::testing_with(|options| {
            options.sync = SyncMode::Always;
            options.disposable = false;
        })
    };
    let bench = Bench::on(servers().await?).await;
    fill(&bench, events).await?;
    let Bench { stack, .. } = bench;
    let options = Options {
        copying: true,
        copy_every: Some(every),
        ..Options::default()
    };
    let lost = World::on(stack, options).await;
    let mia = Client::registered(lost.http).await;
    let asked = json!({ "query": "What is a projection here?" });
    wait_for("an answer", PATIENCE, || async {
        let (status, answer) = mia.post("/v1/query", &asked).await;
        (status == StatusCode::OK)
            .then_some(())
            .ok_or(answer.to_string())
    })
    .await
    .map_err(anyhow::Error::msg)?;
    let client = lost.nats().await;
    let copy = archive::in_bucket(&lost.stack, &client).await;
    archive::copied_to(&copy, events as u64).await;
    let kept = Kept::of(&lost.stack).await;

    let (mut written, began) = (Vec::new(), Instant::now());
    while began.elapsed() < WRITING {
        let body = json!({ "query": format!("Question {}?", written.len()) });
        let request = mia.request(Method::POST, "/v1/query").json(&body);
        let answer = request.header("prefer", "respond-async").send().await?;
        anyhow::ensure!(
            answer.status() == StatusCode::ACCEPTED,
            "{}",
            answer.status()
        );
        let token = answer.headers()["x-consistency-token"].to_str()?.to_owned();
        let seq = token.rsplit('-').next().map(str::parse::<u64>);
        written.push((seq.unwrap_or(Ok(0))?, Instant::now()));
    }
    lost.stack.nats().kill().await?;
    let burnt = Instant::now();
    let tail = copy.tail().await?.map_or(0, |tail| tail.last);
    let newest = written.iter().rev().find(|(seq, _)| *seq <= tail);
    let rpo = newest.map_or(f64::MAX, |(_, at)| burnt.duration_since(*at).as_secs_f64());
    let gone = written.iter().filter(|(seq, _)| *seq > tail).count();
    lost.lifecycle.begin_stop();

    let began = Instant::now();
    let other = kept.brought_to(servers().await?);
    let (from, keys) = (
        archive::file(&lost.stack, "").display().to_string(),
        kept.file(),
    );
    let restored = admin::json_of(&other, &["restore", "--from", &from, "--keys", &keys]).await;
    let restore = began.elapsed();
    let world = World::on(other, options).await;
    let mut back = Client::new(world.http);
    back.access.clone_from(&mia.access);
    back.user.clone_from(&mia.user);
    wait_for("the first answer", PATIENCE, || async {
        let (_, found) = back.get("/v1/queries").await;
        let some = found.as_array().is_some_and(|list| !list.is_empty());
        some.then_some(()).ok_or(found.to_string())
    })
    .await
    .map_err(anyhow::Error::msg)?;
    let read = began.elapsed();
    wait_for("a new answer", PATIENCE, || async {
        let (status, answer) = back.post("/v1/query", &asked).await;
        (status == StatusCode::OK)
            .then_some(())
            .ok_or(answer.to_string())
    })
    .await
    .map_err(anyhow::Error::msg)?;
    let answered = began.elapsed();
    say(&format!(
        "{} messages, synced, copied every {} ms, {} writes in {} s\n\
         RPO {rpo:.2} s: {gone} of {} writes lost\n\
         RTO from servers alone: log restored and compared {:.1} s, what was there is read {:.1} s, \
         a new question is answered {:.1} s",
        restored.1["messages"],
        every.as_millis(),
        written.len(),
        WRITING.as_secs(),
        written.len(),
        restore.as_secs_f64(),
        read.as_secs_f64(),
        answered.as_secs_f64(),
    ));
    world.lifecycle.stop(Duration::from_secs(20)).await;
    // Their ends read the logs once more.
    lost.stack.nats().restart().await?;
    Ok(())
}

/// A sealed log of this many events.
async fn fill(bench: &Bench, events: usize) -> anyhow::Result<()> {
    let keys = Keyring::new(&bench.client, bench.stack.endpoints().sealing()?);
    let mut random = History::new(1);
    let mut parts = Vec::with_capacity(events + 2);
    while parts.len() < events {
        let command = random.command();
        parts.extend(commits::sealed(&keys, random.concerned(), command).await?);
    }
    commits::write(&bench.client, parts).await?;
    Ok(())
}

fn say(line: &str) {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").ok();
}
