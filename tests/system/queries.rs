//! Queries by REST.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::{
    client::{self, Client},
    world::{Model, Options, World},
};

const QUESTION: &str = "What is a projection here?";

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_and_listed() {
    let world = World::start().await;
    let mia = Client::registered(world.http).await;
    let (status, answer) = mia.post("/v1/query", &json!({ "query": QUESTION })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let text = answer["response_text"].as_str().unwrap_or_default();
    assert!(text.len() > 20, "{answer}");
    assert!(
        answer.get("responseText").is_none(),
        "a second key makes a client print it twice"
    );
    assert_eq!(answer["model_used"], "amaima-demo");
    assert_eq!(answer["supports_streaming"], true);
    assert_eq!(answer["file_references"], Value::Null);
    assert!(
        answer["confidence"]
            .as_f64()
            .is_some_and(|c| (0.0..=1.0).contains(&c)),
        "{answer}"
    );

    // Read your own writes: the list has it at once.
    let (status, list) = mia.get("/v1/queries").await;
    assert_eq!(status, StatusCode::OK);
    let item = &list.as_array().expect("a bare array")[0];
    assert_eq!(item["query_id"], answer["query_id"]);
    assert_eq!(item["query"], QUESTION);
    let id = answer["query_id"].as_str().unwrap();
    let (status, item) = mia.get(&format!("/v1/queries/{id}")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(item["operation"], "general");

    // The same updates as on the socket.
    let (_, events) = mia
        .get(&format!("/v1/queries/{id}/events?from_seq=0"))
        .await;
    let mut stream = client::Stream::default();
    let events = events.as_array().expect("an array");
    let ended: Vec<bool> = events.iter().map(|event| stream.add(event, id)).collect();
    assert_eq!(ended.iter().filter(|ended| **ended).count(), 1);
    assert_eq!(stream.text, text);

    // Somebody else's query is not there.
    let other = Client::registered(world.http).await;
    let (status, body) = other.get(&format!("/v1/queries/{id}")).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::NOT_FOUND, &json!("NOT_FOUND"))
    );
    assert_eq!(other.get("/v1/queries").await.1, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_the_same_query() {
    let world = World::start().await;
    let mia = Client::registered(world.http).await;
    let by_key = |question: &'static str| {
        let request = mia
            .request(Method::POST, "/v1/query")
            .header("Idempotency-Key", "k1");
        async move {
            client::read(
                request
                    .json(&json!({ "query": question }))
                    .send()
                    .await
                    .unwrap(),
            )
            .await
        }
    };
    let (_, first) = by_key(QUESTION).await;
    let (_, second) = by_key(QUESTION).await;
    assert_eq!(first["query_id"], second["query_id"]);
    assert_eq!(first["response_text"], second["response_text"]);

    let own = "11111111-2222-4333-8444-555555555555";
    let body = json!({ "query": QUESTION, "query_id": own });
    let (_, first) = mia.post("/v1/query", &body).await;
    assert_eq!(first["query_id"], own);
    assert_eq!(mia.post("/v1/query", &body).await.1["query_id"], own);
    let stranger = Client::registered(world.http).await;
    let (status, refused) = stranger.post("/v1/query", &body).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
    assert_eq!(refused["error"]["details"][0]["field"], "query_id");

    let body = json!({ "query": "Who are you?", "queryId": "query_1741079700000_ab12cd34e" });
    let (_, first) = mia.post("/v1/query", &body).await;
    assert_eq!(
        mia.post("/v1/query", &body).await.1["query_id"],
        first["query_id"]
    );

    // Without any id: identical within ten seconds, and claimed by a socket once.
    let body = json!({ "query": "What is an aggregate?" });
    let (_, first) = mia.post("/v1/query", &body).await;
    assert_eq!(
        mia.post("/v1/query", &body).await.1["query_id"],
        first["query_id"]
    );
    let mut socket = mia.socket().await;
    let submit = json!({ "type": "submit_query", "query": "What is an aggregate?" });
    socket.send(&submit).await;
    let claimed = socket.stream_of(first["query_id"].as_str().unwrap()).await;
    assert_eq!(claimed.text, first["response_text"].as_str().unwrap());
    socket.send(&submit).await;
    let fresh = socket.frame_of("query_update").await;
    assert_ne!(
        fresh["data"]["queryId"], first["query_id"],
        "each can be claimed once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_has_pages_and_filters() {
    let world = World::start().await;
    let mia = Client::registered(world.http).await;
    for n in 0..5 {
        let body = json!({ "query": format!("Question {n}?"), "operation": "analysis" });
        let request = mia
            .request(Method::POST, "/v1/query")
            .header("Prefer", "respond-async");
        let (status, queued) = client::read(request.json(&body).send().await.unwrap()).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{queued}");
        assert_eq!(queued["status"], "queued");
        assert_eq!(queued["supports_streaming"], true);
    }
    let page = mia.request(Method::GET, "/v1/queries?limit=3&operation=analysis");
    let page = page.send().await.unwrap();
    let cursor = page.headers()["X-Next-Cursor"].to_str().unwrap().to_owned();
    let (_, first) = client::read(page).await;
    let (_, second) = mia
        .get(&format!(
            "/v1/queries?limit=3&operation=analysis&cursor={cursor}"
        ))
        .await;
    let questions: Vec<_> = [first, second]
        .iter()
        .flat_map(|page| page.as_array().unwrap().clone())
        .map(|item| item["query"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        questions,
        [
            "Question 4?",
            "Question 3?",
            "Question 2?",
            "Question 1?",
            "Question 0?"
        ]
    );
    assert_eq!(mia.get("/v1/queries?operation=general").await.1, json!([]));
    let (status, body) = mia.get("/v1/queries?status=sleeping").await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::BAD_REQUEST, &json!("VALIDATION_INVALID_FORMAT"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_cancelled_by_its_owner() {
    let world = World::with(Options {
        model: Model::Slow,
        ..Default::default()
    })
    .await;
    let mia = Client::registered(world.http).await;
    let mut socket = mia.socket().await;
    socket
        .send(&json!({ "type": "submit_query", "query": "Go on and on" }))
        .await;
    let (id, mut stream) = socket.begun().await;
    while stream.chunks < 2 {
        assert!(!stream.add(&socket.frame_of("query_update").await, &id));
    }
    let stranger = Client::registered(world.http).await;
    let path = format!("/v1/queries/{id}/cancel");
    assert_eq!(
        stranger.post(&path, &json!({})).await.0,
        StatusCode::NOT_FOUND
    );
    let (status, body) = mia.post(&path, &json!({})).await;
    assert_eq!(
        (status, body),
        (
            StatusCode::OK,
            json!({ "query_id": id, "status": "cancelled" })
        )
    );
    socket.follow(&mut stream, &id).await;
    assert_eq!(stream.end["status"], "cancelled");
    assert!(stream.end.get("responseText").is_none());
    let (_, item) = mia.get(&format!("/v1/queries/{id}")).await;
    assert_eq!(item["status"], "cancelled");
}

/// A row cannot hold U+0000; whoever followed the answer must have read the same as who asks later.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_row_can_hold_is_replaced_before_anybody_sees_it() {
    let world = World::with(Options {
        model: Model::SayingNul,
        ..Default::default()
    })
    .await;
    let mia = Client::registered(world.http).await;
    let mut socket = mia.socket().await;
    socket
        .send(&json!({ "type": "submit_query", "query": "Go on and on" }))
        .await;
    let (id, mut stream) = socket.begun().await;
    socket.follow(&mut stream, &id).await;
    assert!(stream.text.contains('\u{fffd}') && !stream.text.contains('\0'));
    assert_eq!(
        stream.end["responseText"].as_str(),
        Some(stream.text.as_str())
    );
    let (status, item) = mia.get(&format!("/v1/queries/{id}")).await;
    assert_eq!(status, StatusCode::OK, "{item}");
    assert_eq!(item["response_text"].as_str(), Some(stream.text.as_str()));
}
