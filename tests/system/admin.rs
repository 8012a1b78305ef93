//! `amaima admin` on a system that runs.

use amaima::{admin::Exit, stack::wait_for};
use async_nats::jetstream;
use futures_util::TryStreamExt;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tests::{
    admin::{json, text},
    client::Client,
    world::{PATIENCE, World},
};

/// The last sequence of every stream, buckets included, and its number of messages.
async fn sequences(world: &World) -> BTreeMap<String, (u64, u64)> {
    let context = jetstream::new(world.nats().await);
    let streams = context.streams();
    streams
        .map_ok(|info| {
            let state = info.state;
            (info.config.name, (state.last_sequence, state.messages))
        })
        .try_collect()
        .await
        .expect("the streams")
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_into_a_system_without_touching_it() {
    let world = World::start().await;
    let mia = Client::registered(world.http).await;
    let (status, answer) = mia
        .post("/v1/query", &json!({ "query": "Who are you?" }))
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let id = answer["query_id"].as_str().unwrap();
    let account = mia.user.clone().unwrap();
    wait_for("rest", PATIENCE, || async {
        let (_, report) = json(&world, &["policies"]).await;
        match report["oldest_unacknowledged"].is_null() {
            true => Ok(()),
            false => Err(report.to_string()),
        }
    })
    .await
    .expect("the policies are done");
    let before = sequences(&world).await;

    let (exit, report) = json(&world, &["streams"]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    let streams = report["streams"].as_array().unwrap();
    let events = streams.iter().find(|stream| stream["name"] == "EVENTS");
    let events = events.expect("the log");
    assert_eq!(
        events["promises"][0],
        json!({ "setting": "replicas", "kept": true })
    );
    assert!(
        events["consumers"]
            .as_array()
            .unwrap()
            .iter()
            .any(|each| each["name"] == "policies"),
        "{events}"
    );
    assert!(text(&world, &["streams"]).await.1.contains("EVENTS"));

    let (exit, history) = json(&world, &["aggregate", "history", "query", id, "--events"]).await;
    assert_eq!(exit, Exit::Well);
    let commits = history["commits"].as_array().unwrap();
    let types: Vec<&Value> = commits.iter().map(|commit| &commit["types"][0]).collect();
    assert_eq!(
        types,
        [
            "query.submitted.v1",
            "query.started.v1",
            "query.completed.v1"
        ]
    );
    let actors: Vec<&Value> = commits.iter().map(|commit| &commit["actor"]).collect();
    assert_eq!(actors, ["user", "worker", "worker"]);
    assert_eq!(commits[0]["events"][0]["data"]["text"], "Who are you?");
    assert!(
        commits[0]["request_id"]
            .as_str()
            .unwrap()
            .starts_with("req_")
    );
    let seqs: Vec<String> = commits
        .iter()
        .map(|commit| commit["seq"].to_string())
        .collect();

    // By its subject as well; the state then and now, and what lies between.
    let subject = history["subject"].as_str().unwrap();
    let (_, now) = json(&world, &["aggregate", "state", subject]).await;
    assert_eq!(now["state"]["asked"]["status"], "completed");
    let (_, then) = json(
        &world,
        &["aggregate", "state", "query", id, "--at", &seqs[0]],
    )
    .await;
    assert_eq!(then["state"]["asked"]["status"], "queued");
    assert_eq!(then["commits"], 1);
    let diff = ["aggregate", "diff", "query", id, &seqs[0], &seqs[2]];
    let (exit, diff) = json(&world, &diff).await;
    assert_eq!(exit, Exit::Degraded, "something was found");
    assert_eq!(
        diff["changes"],
        json!([
            { "path": "/asked/attempts", "change": "changed", "before": 0, "after": 1 },
            { "path": "/asked/status", "change": "changed", "before": "queued", "after": "completed" },
        ])
    );
    let same = ["aggregate", "diff", subject, &seqs[2], &seqs[2]];
    assert_eq!(json(&world, &same).await.0, Exit::Well);

    // Secrets stay secret in every form.
    for args in [
        ["aggregate", "history", "account", &account, "--events"].as_slice(),
        &["aggregate", "state", "account", &account],
        &["aggregate", "diff", "account", &account, "0", "99999"],
    ] {
        for shown in [
            text(&world, args).await.1,
            json(&world, args).await.1.to_string(),
        ] {
            assert!(shown.contains("***"), "{shown}");
            assert!(!shown.contains("argon2"), "{shown}");
        }
    }

    // What is not there is said, with an exit code of its own.
    let nobody = uuid::Uuid::nil().to_string();
    for args in [
        ["aggregate", "state", "query", &nobody],
        ["aggregate", "state", "garden", &nobody],
        ["aggregate", "history", "query", "mine"],
    ] {
        let (exit, error) = json(&world, &args).await;
        assert_eq!(exit, Exit::Ill);
        assert!(error["error"].is_string(), "{error}");
    }

    // A dry run tells what would be done, and does nothing.
    let (exit, would) = json(&world, &["policies", "dry-run"]).await;
    assert_eq!(exit, Exit::Well, "{would}");
    assert_eq!(would["unreadable"], 0);
    let reactions = &would["reactions"];
    for (kind, count) in [
        ("open_stream", 1),
        ("enqueue_job", 1),
        ("set_timer", 1),
        ("close_stream", 1),
        ("clear_timer", 1),
        ("command", 0),
    ] {
        assert_eq!(reactions[kind], count, "{kind}: {would}");
    }
    let args = [
        "policies",
        "dry-run",
        "--list",
        "--kind",
        "close_stream",
        "--json",
    ];
    let (_, lines) = text(&world, &args).await;
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("a document a line"))
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["seq"].to_string(), seqs[2]);
    assert_eq!(lines[0]["reaction"], "close_stream");
    assert_eq!(lines[1]["reactions"], json!({ "close_stream": 1 }));
    let until = ["policies", "dry-run", "--to", &seqs[1], "--from", &seqs[0]];
    let (_, part) = json(&world, &until).await;
    assert_eq!(part["reactions"]["close_stream"], 0);
    assert_eq!(part["reactions"]["open_stream"], 1);

    assert_eq!(sequences(&world).await, before, "nothing was touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuilds_flips_and_rolls_back_the_read_models() {
    let world = World::start().await;
    let mia = Client::registered(world.http).await;
    mia.post("/v1/query", &json!({ "query": "Who are you?" }))
        .await;
    let numbers = |report: &Value| -> Vec<(String, u64)> {
        let generations = report["generations"].as_array().unwrap();
        let each = |each: &Value| {
            let state = each["state"].as_str().unwrap().to_owned();
            (state, each["number"].as_u64().unwrap())
        };
        generations.iter().map(each).collect()
    };
    let (exit, report) = json(&world, &["projections"]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    assert_eq!(numbers(&report), [("live".into(), 1)]);

    let (exit, text) = text(&world, &["projections", "rebuild", "--flip", "--watch"]).await;
    assert_eq!(exit, Exit::Well, "{text}");
    let (_, report) = json(&world, &["projections"]).await;
    assert_eq!(
        numbers(&report),
        [("live".into(), 2), ("previous".into(), 1)]
    );
    let (_, list) = mia.get("/v1/queries").await;
    assert_eq!(list[0]["query"], "Who are you?", "{list}");

    let (exit, report) = json(&world, &["projections", "rollback"]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    wait_for("the first generation", PATIENCE, || async {
        // While the live generation changes hands nobody answers.
        let (_, report) = json(&world, &["projections"]).await;
        match report["generations"][0]["number"].as_u64() {
            Some(1) => Ok(()),
            _ => Err(report.to_string()),
        }
    })
    .await
    .expect("the rollback");

    let (exit, report) = json(&world, &["projections", "flip"]).await;
    assert_eq!(exit, Exit::Ill, "{report}");
    assert!(report["error"].is_string(), "{report}");
}
