//! A worker that asks a provider on the network, from the client's request to the stored answer.

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use inference_worker::providers::{Dialect, Limits, Service, Settings};
use infra::config::Secret;
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tests::{
    client::Client,
    world::{Options, World},
};
use tokio::task::JoinSet;

/// A server that speaks OpenAI's API: it refuses the first request, cuts the answer to one question,
/// and answers the others.
async fn answer(number: usize, body: Value) -> Response {
    if number == 0 {
        let refusal = json!({"error": {"code": "rate_limit_exceeded"}});
        return (StatusCode::TOO_MANY_REQUESTS, Json(refusal)).into_response();
    }
    let question = body["messages"][0]["content"].as_str().unwrap_or_default();
    let frame = |content: &str, finish: Value| {
        let told = json!({"content": [{"token": content, "logprob": -0.5, "bytes": null}]});
        let choice = json!({"index": 0, "delta": {"content": content}, "finish_reason": finish,
            "logprobs": told});
        format!("data: {}\n\n", json!({"choices": [choice]}))
    };
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}});
    let frames = match question {
        "Cut?" => frame("Half an ", Value::Null),
        _ => format!(
            "{}{}data: {usage}\n\ndata: [DONE]\n\n",
            frame("A whole ", Value::Null),
            frame("answer ☀", json!("stop")),
        ),
    };
    ([("content-type", "text/event-stream")], frames).into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_answers_from_end_to_end() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let route =
        post(move |Json(body): Json<Value>| answer(count.fetch_add(1, Ordering::Relaxed), body));
    let service = Router::new().route("/v1/chat/completions", route);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, service).await.expect("it serves") });

    let world = World::with(Options {
        no_worker: true,
        ..Options::default()
    })
    .await;
    let mut config = world.worker();
    config.providers = Some(Settings::Remote {
        services: vec![Service {
            name: "here".to_owned(),
            dialect: Dialect::OpenAi,
            base_url: url.parse().expect("a URL"),
            model: "a-model-elsewhere".to_owned(),
            key: Some(Secret::new("sk-secret")),
            logprobs: true,
        }],
        limits: Limits::default(),
    });
    world.run_worker(config, &world.lifecycle);

    let mia = Client::registered(world.http).await;
    let (status, answer) = mia.post("/v1/query", &json!({"query": "Whole?"})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["response_text"], "A whole answer ☀");
    assert_eq!(answer["model_used"], "a-model-elsewhere");
    let confidence = answer["confidence"].as_f64().expect("a confidence");
    assert!((confidence - (-0.5_f64).exp()).abs() < 1e-6, "{confidence}");
    assert_eq!(asked.load(Ordering::Relaxed), 2, "a refusal and an answer");

    // What was shown is not contradicted: the query fails.
    let (status, body) = mia.post("/v1/query", &json!({"query": "Cut?"})).await;
    assert_eq!(
        body["error"]["code"], "QUERY_MODEL_ERROR",
        "{status} {body}"
    );
    let (_, list) = mia.get("/v1/queries").await;
    let list = list.as_array().expect("an array");
    let statuses: Vec<&Value> = list.iter().map(|item| &item["status"]).collect();
    assert_eq!(statuses, ["failed", "completed"]);
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}
