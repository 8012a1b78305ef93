//! What OpenAI's official clients get, and what they leave behind.

use amaima::stack::wait_for;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::{
    client::{self, Client},
    openai::Official,
    world::{Model, Options, PATIENCE, World},
};

/// A person and a key of theirs.
async fn person(world: &World) -> (Client, String) {
    let mia = Client::registered(world.http).await;
    let body = json!({ "name": "openai", "scopes": ["queries:write"] });
    let (status, made) = mia.post("/v1/api-keys", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let key = made["key"].as_str().expect("a key").to_owned();
    (mia, key)
}

async fn each(world: &World, key: &str, what: &str) -> [Value; 2] {
    let mut got = [Value::Null, Value::Null];
    for (client, got) in Official::ALL.into_iter().zip(&mut got) {
        *got = client.run(what, world.http, key).await.expect("it works");
    }
    got
}

/// The content and the end of an answer in pieces, checked to be one answer.
fn joined(chunks: &Value) -> (String, Value) {
    let chunks = chunks.as_array().expect("a list");
    let (mut text, mut end) = (String::new(), Value::Null);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    for chunk in chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk", "{chunk}");
        assert_eq!(chunk["id"], chunks[0]["id"]);
        let choice = &chunk["choices"][0];
        text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        if !choice["finish_reason"].is_null() {
            assert!(end.is_null(), "a second end: {chunk}");
            end = choice["finish_reason"].clone();
        }
    }
    (text, end)
}

#[tokio::test(flavor = "multi_thread")]
async fn they_list_models_and_get_answers_whole_and_in_pieces() {
    let world = World::start().await;
    let (mia, key) = person(&world).await;
    for got in each(&world, &key, "list").await {
        assert_eq!(got["ids"], json!(["amaima-demo"]));
        assert_eq!(got["one"]["object"], "model");
        assert!(got["one"]["created"].as_i64() > Some(1_600_000_000));
    }
    let [plain, other] = each(&world, &key, "plain").await;
    let choice = &plain["choices"][0];
    assert_eq!(plain["object"], "chat.completion");
    assert_eq!(plain["model"], "amaima-demo");
    assert_eq!(choice["message"]["role"], "assistant");
    let text = choice["message"]["content"].as_str().expect("a text");
    assert!(text.len() > 20, "{plain}");
    let usage = &plain["usage"];
    let counted = ["prompt_tokens", "completion_tokens"].map(|name| usage[name].as_u64());
    let [Some(prompt), Some(answer)] = counted else {
        panic!("{usage}")
    };
    assert!(prompt > 0 && (1..=40).contains(&answer), "{usage}");
    assert_eq!(usage["total_tokens"], prompt + answer);
    assert_ne!(plain["id"], other["id"], "equal questions are two");
    assert_eq!(choice["message"], other["choices"][0]["message"]);

    for chunks in each(&world, &key, "stream").await {
        let (streamed, end) = joined(&chunks);
        assert_eq!(streamed, text);
        assert_eq!(end, choice["finish_reason"]);
        let last = chunks.as_array().and_then(|chunks| chunks.last());
        let last = last.expect("a last one");
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), usage));
    }

    // They are queries as all others: the person sees them.
    let id = plain["id"]
        .as_str()
        .and_then(|id| id.strip_prefix("chatcmpl-"));
    let (status, item) = mia
        .get(&format!("/v1/queries/{}", id.expect("an id")))
        .await;
    assert_eq!(status, StatusCode::OK, "{item}");
    assert_eq!(item["query"], "What is a projection here?");
    assert_eq!(item["response_text"], text);
}

#[tokio::test(flavor = "multi_thread")]
async fn they_raise_the_errors_that_they_know() {
    let world = World::start().await;
    let (_, key) = person(&world).await;
    let wanted = json!([
        ["AuthenticationError", 401, "invalid_api_key", null],
        ["NotFoundError", 404, "model_not_found", "model"],
        ["NotFoundError", 404, "model_not_found", "model"],
        ["NotFoundError", 404, "model_not_found", "model"],
        ["BadRequestError", 400, "unsupported_parameter", "n"],
        ["BadRequestError", 400, "invalid_type", "messages"],
        ["BadRequestError", 400, "invalid_value", "temperature"],
        [
            "BadRequestError",
            400,
            "context_length_exceeded",
            "messages"
        ],
        ["BadRequestError", 400, "invalid_value", null],
    ]);
    for got in each(&world, &key, "errors").await {
        let errors = got.as_array().expect("a list");
        let told: Value = errors
            .iter()
            .map(|error| {
                json!([
                    error["class"],
                    error["status"],
                    error["code"],
                    error["param"]
                ])
            })
            .collect();
        assert_eq!(told, wanted);
        for error in errors {
            assert_eq!(error["type"], "invalid_request_error");
            assert_eq!(error["request_id"], true);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_they_abandon_is_cancelled() {
    let world = World::with(Options {
        model: Model::Slow,
        ..Options::default()
    })
    .await;
    let (mia, key) = person(&world).await;
    for got in each(&world, &key, "cancel").await {
        assert!(got["streamed"].is_string(), "{got}");
    }
    let cancelled = wait_for("four cancelled queries", PATIENCE, || async {
        let (_, list) = mia.get("/v1/queries?status=cancelled").await;
        let count = list.as_array().map(Vec::len);
        (count == Some(4)).then_some(()).ok_or(list.to_string())
    });
    cancelled.await.expect("all are");
    let (_, list) = mia.get("/v1/queries").await;
    assert_eq!(list.as_array().map(Vec::len), Some(4), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_key_of_idempotency_a_conversation_is_one_query() {
    let world = World::start().await;
    let (mut mia, key) = person(&world).await;
    let model = {
        let (_, models) = mia.get("/v1/models").await;
        models["data"][0]["id"].clone()
    };
    mia.access = Some(key);
    let ask = |question: &'static str, more: Value| {
        let mut body = json!({
            "model": model, "messages": [{ "role": "user", "content": question }],
        });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        let request = mia.request(Method::POST, "/v1/chat/completions");
        request.header("Idempotency-Key", "k1").json(&body).send()
    };
    let question = "What is an aggregate?";
    let (status, first) = client::read(ask(question, json!({})).await.unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{first}");
    let (_, second) = client::read(ask(question, json!({})).await.unwrap()).await;
    assert_eq!(first["id"], second["id"]);
    assert_eq!(first["choices"], second["choices"]);
    let more = json!({ "stream": true });
    let streamed = ask(question, more).await.unwrap().text().await.unwrap();
    assert!(streamed.ends_with("data: [DONE]\n\n"), "{streamed}");
    assert!(streamed.contains(first["id"].as_str().expect("an id")));
    for (question, more) in [
        ("What is an event?", json!({})),
        (question, json!({ "max_tokens": 5 })),
    ] {
        let (status, body) = client::read(ask(question, more).await.unwrap()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert_eq!(body["error"]["param"], "Idempotency-Key", "{body}");
        assert_eq!(body["error"]["type"], "invalid_request_error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_told_probabilities() {
    let world = World::start().await;
    let (_, key) = person(&world).await;
    for got in each(&world, &key, "logprobs").await {
        let choice = &got["whole"]["choices"][0];
        let tokens = choice["logprobs"]["content"].as_array().expect("a list");
        assert_eq!(got["whole"]["usage"]["completion_tokens"], tokens.len());
        let mut bytes = Vec::new();
        for token in tokens {
            let logprob = token["logprob"].as_f64().expect("a number");
            let top = token["top_logprobs"].as_array().expect("a list");
            assert_eq!(top.len(), 3, "{token}");
            // It was the likeliest one.
            assert_eq!(top[0]["bytes"], token["bytes"]);
            assert_eq!(top[0]["logprob"].as_f64(), Some(logprob));
            assert!(logprob <= 0.0 && top[1]["logprob"].as_f64() <= Some(logprob));
            let each = token["bytes"].as_array().expect("a list").iter();
            bytes.extend(each.map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap()));
        }
        let text = choice["message"]["content"].as_str().expect("a text");
        assert_eq!(String::from_utf8_lossy(&bytes).trim(), text.trim());
        let (streamed, _) = joined(&got["chunks"]);
        assert_eq!(streamed, text);
        let chunks = got["chunks"].as_array().expect("a list").iter();
        let pieces =
            chunks.filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array());
        let pieces: Vec<&Value> = pieces.flatten().collect();
        assert_eq!(pieces, tokens.iter().collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn they_get_what_a_schema_demands() {
    let world = World::start().await;
    let (_, key) = person(&world).await;
    for got in each(&world, &key, "schema").await {
        assert_eq!(got["whole"]["choices"][0]["finish_reason"], "stop");
        let city = &got["parsed"];
        assert!(
            city["name"] == "Athens" || city["name"] == "Bergen",
            "{got}"
        );
        assert!(
            (0..=9_999_999).contains(&city["people"].as_i64().unwrap_or(-1)),
            "{got}"
        );
    }
}
