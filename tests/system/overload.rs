//! Too much at once: whoever is turned away hears it at once, and what was accepted is in the log.

use domain::{
    Actor,
    id::{AccountId, CommandId, QueryId},
    query::{Query, Submission},
    subject::{self, Kind},
    wire::command::{Body, Reply, Request, Via},
};
use futures_util::future::join_all;
use infra::clock;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::time::{Duration, Instant};
use tests::{
    client::{self, Client},
    world::{Options, World},
};

const FLOOD: usize = 400;
/// What one answer may take on a machine that compiles and tests other things meanwhile. A gateway
/// that tries again until its deadline would take that whole time for whoever is turned away.
const BOUND: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_answered_at_once_and_nothing_accepted_is_lost() {
    let world = World::with(Options {
        no_worker: true,
        commands_in_work: Some(4),
        ..Default::default()
    })
    .await;
    let mia = Client::registered(world.http).await;
    let calls = (0..FLOOD).map(|n| {
        let mia = mia.clone();
        async move {
            let id = uuid::Uuid::new_v4().to_string();
            let request = mia
                .request(Method::POST, "/v1/query")
                .header("Prefer", "respond-async")
                .json(&json!({ "query": format!("Question {n}?"), "query_id": id }));
            let began = Instant::now();
            let response = request.send().await.expect("an answer");
            let took = began.elapsed();
            let after = response.headers().get("Retry-After").cloned();
            let (status, body) = client::read(response).await;
            (id, status, after, body, took)
        }
    });
    let answers = join_all(calls).await;
    let store = world.log().await;
    let (mut accepted, mut turned_away) = (0, 0);
    for (id, status, after, body, took) in answers {
        assert!(took < BOUND, "{took:?} for {status}");
        match status {
            StatusCode::ACCEPTED => {
                let id: QueryId = id.parse().unwrap();
                let query = store.load::<Query>(id.uuid()).await.unwrap();
                assert!(matches!(query.state, Query::Asked { .. }), "{id} is lost");
                accepted += 1;
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                assert_eq!(body["error"]["code"], "SYSTEM_UNAVAILABLE");
                let secs: u32 = after
                    .expect("Retry-After")
                    .to_str()
                    .unwrap()
                    .parse()
                    .unwrap();
                assert!((1..=3).contains(&secs), "{secs}");
                turned_away += 1;
            }
            other => panic!("{other} {body}"),
        }
    }
    println!("{accepted} accepted, {turned_away} turned away of {FLOOD}");
    assert!(accepted > 0 && turned_away > 0);
    // It was the flood alone: the next one is accepted.
    let after = json!({ "query": "Who are you?", "query_id": uuid::Uuid::new_v4().to_string() });
    let request = mia
        .request(Method::POST, "/v1/query")
        .header("Prefer", "respond-async");
    let status = request.json(&after).send().await.unwrap().status();
    assert_eq!(status, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_not_decided_after_its_deadline() {
    let world = World::with(Options {
        no_worker: true,
        ..Default::default()
    })
    .await;
    Client::registered(world.http).await;
    let nats = world.nats().await;
    let query = QueryId::new(clock::fresh_id());
    let mut request = Request {
        id: CommandId::new(clock::fresh_id()),
        actor: Actor::User(AccountId::new(clock::fresh_id())),
        request_id: "test".into(),
        traceparent: None,
        deadline: clock::now().plus_millis(-1),
        fingerprint: None,
        body: Body::SubmitQuery {
            query,
            named: true,
            via: Via::Socket,
            submission: Submission {
                text: "Why?".into(),
                operation: "general".into(),
                file_ids: vec![],
                context: None,
                reference: None,
                options: None,
            },
        },
    };
    let send = async |request: &Request| -> Reply {
        let payload = serde_json::to_vec(request).unwrap();
        let answer = nats.request(subject::command(Kind::Query), payload.into());
        serde_json::from_slice(&answer.await.unwrap().payload).unwrap()
    };
    let reply = send(&request).await;
    assert!(
        matches!(reply, Reply::Unavailable),
        "never refused: {reply:?}"
    );
    let store = world.log().await;
    let state = store.load::<Query>(query.uuid()).await.unwrap().state;
    assert_eq!(state, Query::Absent);
    request.deadline = clock::now().plus_millis(30_000);
    let reply = send(&request).await;
    assert!(matches!(reply, Reply::Accepted { .. }), "{reply:?}");
}
