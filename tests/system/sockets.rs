//! The query socket.

use serde_json::json;
use tests::{
    client::{Client, Stream},
    world::{Options, World},
};

const QUESTION: &str = "What is a projection here?";

#[tokio::test(flavor = "multi_thread")]
async fn a_submitted_query_streams_and_is_resumed() {
    let world = World::start().await;
    let mia = Client::registered(world.http).await;
    let mut socket = mia.socket().await;
    socket
        .send(&json!({ "type": "submit_query", "query": QUESTION, "timestamp": "x" }))
        .await;
    let first = socket.frame_of("query_update").await;
    let id = first["data"]["queryId"].as_str().unwrap().to_owned();
    assert_eq!(first["data"], json!({ "queryId": id, "status": "queued" }));
    let mut stream = Stream::default();
    stream.add(&first, &id);
    socket.follow(&mut stream, &id).await;
    assert_eq!(stream.end["status"], "completed");
    assert!(stream.end["verification"]["confidence"].is_number());
    let (_, item) = mia.get(&format!("/v1/queries/{id}")).await;
    assert_eq!(item["response_text"].as_str(), Some(stream.text.as_str()));

    // Another socket from the start, and one after the second update.
    let mut whole = mia.socket().await;
    whole
        .send(&json!({ "type": "subscribe_query", "queryId": id }))
        .await;
    let confirmed = whole.frame().await;
    assert_eq!(confirmed["type"], "subscription_confirmed");
    assert_eq!(confirmed["data"], json!({ "queryId": id }));
    assert_eq!(whole.stream_of(&id).await.text, stream.text);
    let mut rest = mia.socket().await;
    rest.send(&json!({ "type": "subscribe_query", "queryId": id, "fromSeq": 2 }))
        .await;
    assert_eq!(rest.frame_of("query_update").await["seq"], 3);

    // Subscribing again on the same socket only confirms.
    whole
        .send(&json!({ "type": "subscribe_query", "queryId": id }))
        .await;
    assert_eq!(whole.frame().await["type"], "subscription_confirmed");
    whole
        .send(&json!({ "type": "unsubscribe_query", "queryId": id }))
        .await;
    assert_eq!(whole.frame().await["type"], "subscription_removed");
    whole.send(&json!({ "type": "heartbeat" })).await;
    assert_eq!(whole.frame().await["type"], "heartbeat");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_answered_and_the_socket_stays_open() {
    let world = World::start().await;
    let mia = Client::registered(world.http).await;
    let stranger = Client::registered(world.http).await;
    let (_, foreign) = stranger
        .post("/v1/query", &json!({ "query": "Who are you?" }))
        .await;
    let mut socket = mia.socket().await;
    let unknown = "00000000-0000-4000-8000-000000000000";
    let mistakes = [
        ("{".to_owned(), "VALIDATION_INVALID_FORMAT"),
        (json!({ "type": "dance" }).to_string(), "BAD_REQUEST"),
        (
            json!({ "type": "submit_query", "query": "  " }).to_string(),
            "VALIDATION_ERROR",
        ),
        (
            json!({ "type": "subscribe_query" }).to_string(),
            "VALIDATION_ERROR",
        ),
        (
            json!({ "type": "subscribe_query", "queryId": unknown }).to_string(),
            "NOT_FOUND",
        ),
        (
            json!({ "type": "subscribe_query", "queryId": "not-an-id" }).to_string(),
            "NOT_FOUND",
        ),
        (
            json!({ "type": "subscribe_query", "queryId": foreign["query_id"] }).to_string(),
            "NOT_FOUND",
        ),
        (
            json!({ "type": "submit_query", "query": "x", "file_ids": ["f"] }).to_string(),
            "FILE_NOT_FOUND",
        ),
    ];
    for (text, code) in mistakes {
        socket.send_text(&text).await;
        let frame = socket.frame().await;
        assert_eq!(frame["type"], "error", "{text} -> {frame}");
        assert_eq!(frame["data"]["code"], code, "{text} -> {frame}");
        assert!(frame["data"]["message"].is_string());
    }
    socket
        .send(&json!({ "type": "com.amaima.ws.Heartbeat" }))
        .await;
    assert_eq!(socket.frame().await["type"], "heartbeat");
}

#[tokio::test(flavor = "multi_thread")]
async fn close_codes_are_the_contracts() {
    let world = World::with(Options {
        fast_pings: true,
        ..Default::default()
    })
    .await;
    let mia = Client::registered(world.http).await;
    assert_eq!(mia.raw_socket("garbage").await.close_code().await, 4401);
    assert_eq!(
        mia.raw_socket(mia.refresh.as_deref().unwrap())
            .await
            .close_code()
            .await,
        4401
    );

    let mut large = mia.socket().await;
    large.send_text(&"x".repeat(64 * 1024 + 1)).await;
    assert_eq!(large.close_code().await, 1009);

    let mut hasty = mia.socket().await;
    for _ in 0..60 {
        hasty.send(&json!({ "type": "pong" })).await;
    }
    assert_eq!(hasty.close_code().await, 4429);

    // Nobody answers its pings.
    let mut silent = mia.socket().await;
    assert_eq!(silent.frame().await["type"], "ping");
    assert_eq!(silent.close_code().await, 4408);

    // Signing out ends the sockets of that session with the next ping.
    let mut ended = mia.socket().await;
    let (_, body) = mia
        .post("/v1/auth/logout", &json!({ "refresh_token": mia.refresh }))
        .await;
    assert_eq!(body["message"], "Logged out");
    assert_eq!(ended.close_code().await, 4401);

    let other = Client::registered(world.http).await;
    let mut socket = other.socket().await;
    world.lifecycle.begin_stop();
    assert_eq!(socket.close_code().await, 1001);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_before_the_first_answer_count() {
    let world = World::start().await;
    let mia = Client::registered(world.http).await;
    let mut socket = mia.raw_socket(mia.access.as_deref().unwrap()).await;
    socket
        .send(&json!({ "type": "submit_query", "query": "Who are you?" }))
        .await;
    assert_eq!(socket.frame().await["type"], "connection_established");
    let (id, mut stream) = socket.begun().await;
    socket.follow(&mut stream, &id).await;
    assert_eq!(stream.end["status"], "completed");
}
