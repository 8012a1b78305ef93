//! Promises about loss, against real processes that are killed.
//!
//! The tests run in a short form; `AMAIMA_KILLS` and `AMAIMA_COMMANDS` make them as long as wanted.

use amaima::stack::{ServerKind, wait_for};
use domain::{id::QueryId, query};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tests::{
    client::{self, Client},
    service::Role,
    world::{Model, Options, PATIENCE, Services, World},
};

fn count(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_leaves_no_gap() {
    let options = Options {
        services: Services::AsProcesses,
        model: Model::Slow,
        ..Default::default()
    };
    let mut world = World::with(options).await;
    let mia = Client::registered(world.http).await;
    let mut socket = mia.socket().await;
    for kill in 0..count("AMAIMA_KILLS", 2) {
        socket
            .send(&json!({ "type": "submit_query", "query": format!("Go on and on {kill}") }))
            .await;
        let (id, mut stream) = socket.begun().await;
        // Each time somewhere else in the answer.
        while stream.chunks < 3 + kill % 8 * 4 {
            let ended = stream.add(&socket.frame_of("query_update").await, &id);
            assert!(!ended, "the model is too fast to be killed in the middle");
        }
        let before = stream.chunks;
        world.kill(Role::Worker);
        world.spawn(Role::Worker);
        socket.follow(&mut stream, &id).await;
        assert_eq!(stream.end["status"], "completed");
        let (status, item) = mia.get(&format!("/v1/queries/{id}")).await;
        assert_eq!(status, StatusCode::OK, "{item}");
        assert_eq!(item["response_text"].as_str(), Some(stream.text.as_str()));
        println!(
            "kill {kill}: {before} chunks before, {} in all, {} characters, no gap, equal to the stored text",
            stream.chunks,
            stream.text.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_is_down_is_503_and_comes_back() {
    let world = World::start().await;
    let mia = Client::registered(world.http).await;
    world.stack.nats().kill().await.expect("killed");
    let request = mia
        .request(Method::POST, "/v1/query")
        .json(&json!({ "query": "Who are you?" }));
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("Retry-After"));
    let (_, body) = client::read(response).await;
    assert_eq!(body["error"]["code"], "SYSTEM_UNAVAILABLE");
    let (status, ready) = mia.get("/health/ready").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{ready}");
    world.stack.nats().restart().await.expect("restarted");
    world.ready().await;
    let answered = wait_for("an answer", PATIENCE, || async {
        let (status, body) = mia
            .post("/v1/query", &json!({ "query": "Who are you?" }))
            .await;
        if status.is_success() {
            Ok(body)
        } else {
            Err(body.to_string())
        }
    });
    answered.await.expect("an answer after the restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_stops_only_reads() {
    let world = World::start().await;
    let mia = Client::registered(world.http).await;
    world.stack.postgres().kill().await.expect("killed");
    let (status, body) = mia.get("/v1/queries").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    // Commands go on, answers included.
    let (status, answer) = mia
        .post("/v1/query", &json!({ "query": "Who are you?" }))
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    world.stack.postgres().restart().await.expect("restarted");
    let listed = wait_for("the projection", PATIENCE, || async {
        let (status, list) = mia.get("/v1/queries").await;
        let found = status.is_success() && list[0]["query_id"] == answer["query_id"];
        if found {
            Ok(())
        } else {
            Err(format!("{status} {list}"))
        }
    });
    listed.await.expect("the projection catches up by itself");
}

/// What is killed, in this order, while commands stream in.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Server(ServerKind),
    Service(Role),
}

const VICTIMS: [Victim; 6] = [
    Victim::Service(Role::Command),
    Victim::Server(ServerKind::Nats),
    Victim::Service(Role::Projection),
    Victim::Server(ServerKind::Postgres),
    Victim::Service(Role::Worker),
    Victim::Service(Role::Gateway),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_accepted_command_is_in_the_log_once_and_in_the_read_model_once() {
    let total = count("AMAIMA_COMMANDS", 120);
    let options = Options {
        services: Services::AsProcesses,
        ..Default::default()
    };
    let mut world = World::with(options).await;
    let mia = Client::registered(world.http).await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let (mia, accepted) = (mia.clone(), accepted.clone());
            async move {
                let mut ids = Vec::new();
                for n in (sender..total).step_by(4) {
                    ids.push(submit(&mia, n).await);
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
                ids
            }
        })
        .map(|sending| {
            #[expect(clippy::disallowed_methods, reason = "joined below")]
            tokio::spawn(sending)
        })
        .collect();
    for (index, victim) in VICTIMS.into_iter().enumerate() {
        let mark = total * (index + 1) / (VICTIMS.len() + 1);
        wait_for("commands before the next kill", PATIENCE * 3, || async {
            let so_far = accepted.load(Ordering::Relaxed);
            if so_far >= mark { Ok(()) } else { Err(so_far) }
        })
        .await
        .expect("commands are accepted");
        println!(
            "{} accepted: killing {victim:?}",
            accepted.load(Ordering::Relaxed)
        );
        match victim {
            Victim::Server(kind) => {
                let server = world.stack.server(kind);
                server.kill().await.expect("killed");
                server.restart().await.expect("restarted");
            }
            Victim::Service(role) => {
                world.kill(role);
                world.spawn(role);
            }
        }
    }
    let mut ids = BTreeSet::new();
    for sending in senders {
        ids.extend(sending.await.expect("a sender ends"));
    }
    assert_eq!(ids.len(), total);

    // In the log once.
    let log = world.log().await;
    let pool = world.database().await;
    let mut last = 0;
    for id in &ids {
        let id: QueryId = id.parse().unwrap();
        let commits = world.commits::<query::Query>(id.uuid()).await;
        let submitted = commits
            .iter()
            .flat_map(|(_, events)| events)
            .filter(|event| matches!(event, query::Event::Submitted { .. }))
            .count();
        assert_eq!(submitted, 1, "{id}");
        let loaded = log.load::<query::Query>(id.uuid()).await.unwrap();
        last = last.max(loaded.last_seq);
    }
    // Every one is answered, and in the read model once.
    // A loaded machine answers a few questions per second.
    let patience = PATIENCE * 2 + Duration::from_millis(500) * u32::try_from(total).unwrap();
    wait_for("all answers", patience, || async {
        let done: i64 =
            sqlx::query_scalar("SELECT count(*) FROM rm.queries WHERE status = 'completed'")
                .fetch_one(&pool)
                .await
                .map_err(|error| error.to_string())?;
        if usize::try_from(done) == Ok(total) {
            Ok(())
        } else {
            Err(format!("{done} of {total}"))
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.tail_of_logs()));
    let rows: Vec<String> = sqlx::query_scalar("SELECT query_id::text FROM rm.queries")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(rows.len(), total);
    assert_eq!(rows.into_iter().collect::<BTreeSet<_>>(), ids);
    println!(
        "{total} accepted commands: each in the log once and in the read model once (log at {last})"
    );
}

/// Submits one question until it is accepted, always with the same id.
async fn submit(mia: &Client, n: usize) -> String {
    let id = uuid::Uuid::new_v4().to_string();
    let body = json!({ "query": format!("What is an aggregate? ({n})"), "query_id": id });
    let accepted = wait_for("an accepted command", PATIENCE * 2, || async {
        let request = mia
            .request(Method::POST, "/v1/query")
            .header("Prefer", "respond-async")
            .timeout(Duration::from_secs(15))
            .json(&body);
        let response = request.send().await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body: Value = response.json().await.map_err(|error| error.to_string())?;
        // A gateway that has just started may not have its bus yet: anything but 5xx is final.
        match status {
            StatusCode::ACCEPTED | StatusCode::OK => Ok(body),
            status if status.is_server_error() => Err(format!("{status} {body}")),
            status => panic!("{status} {body}"),
        }
    });
    let body = accepted.await.expect("accepted in the end");
    assert_eq!(body["query_id"], id);
    id
}
