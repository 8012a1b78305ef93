//! Every mistake gets the envelope of contract §4.

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use tests::{
    client::{self, Client},
    world::World,
};

fn check(answer: &client::Answer, status: u16, code: &str, field: Option<&str>, path: &str) {
    let (found, body) = answer;
    assert_eq!(found.as_u16(), status, "{body}");
    assert_eq!(body["error"]["code"], code, "{body}");
    assert!(body["error"]["message"].is_string(), "{body}");
    assert_eq!(body["meta"]["path"], path, "{body}");
    assert!(body["meta"]["request_id"].is_string() && body["meta"]["timestamp"].is_string());
    match field {
        Some(field) => {
            let details = body["error"]["details"].as_array().expect("details");
            assert!(
                details.iter().any(|detail| detail["field"] == field),
                "{body}"
            );
        }
        None => assert!(
            !body["error"].get("details").is_some_and(Value::is_null),
            "{body}"
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_has_the_envelope() {
    let world = World::start().await;
    let mia = Client::registered(world.http).await;
    let nobody = world.client();
    let long = "x".repeat(32_001);
    let many: Vec<String> = (0..6).map(|n| n.to_string()).collect();
    let q = "/v1/query";
    let cases = [
        (json!({}), 422, "VALIDATION_ERROR", Some("query")),
        (
            json!({ "query": "   " }),
            422,
            "VALIDATION_ERROR",
            Some("query"),
        ),
        (
            json!({ "query": 7 }),
            422,
            "VALIDATION_ERROR",
            Some("query"),
        ),
        (
            json!({ "query": long }),
            413,
            "VALIDATION_TOO_LARGE",
            Some("query"),
        ),
        (
            json!({ "query": "x", "operation": "No!" }),
            422,
            "VALIDATION_ERROR",
            Some("operation"),
        ),
        (
            json!({ "query": "x", "file_ids": many }),
            422,
            "VALIDATION_ERROR",
            Some("file_ids"),
        ),
        (json!([1]), 422, "VALIDATION_ERROR", None),
    ];
    for (body, status, code, field) in cases {
        let answer = mia.post(q, &body).await;
        if field.is_some() {
            check(&answer, status, code, field, q);
        } else {
            assert!(answer.0.is_client_error() && answer.1["error"]["code"].is_string());
        }
    }
    check(
        &mia.post(q, &json!({ "query": "x", "file_ids": ["nope"] }))
            .await,
        404,
        "FILE_NOT_FOUND",
        None,
        q,
    );
    let raw = |text: &'static str| mia.request(Method::POST, q).body(text);
    for request in [
        raw("{").header(header::CONTENT_TYPE, "application/json"),
        raw("").header(header::CONTENT_TYPE, "application/json"),
    ] {
        let answer = client::read(request.send().await.unwrap()).await;
        assert_eq!(answer.0, StatusCode::BAD_REQUEST, "{}", answer.1);
        check(&answer, 400, "VALIDATION_INVALID_FORMAT", None, q);
    }
    let huge = mia
        .request(Method::POST, q)
        .header(header::CONTENT_TYPE, "application/json");
    let huge = huge.body("x".repeat(2 * 1024 * 1024)).send().await.unwrap();
    check(
        &client::read(huge).await,
        413,
        "VALIDATION_TOO_LARGE",
        None,
        q,
    );
    check(
        &mia.get("/v1/nowhere?x=1").await,
        404,
        "NOT_FOUND",
        None,
        "/v1/nowhere",
    );
    let wrong = mia.request(Method::DELETE, q).send().await.unwrap();
    check(&client::read(wrong).await, 405, "HTTP_405", None, q);
    check(
        &nobody.get("/v1/auth/me").await,
        401,
        "AUTH_TOKEN_INVALID",
        None,
        "/v1/auth/me",
    );
    let mut wrong = mia.clone();
    wrong.access = mia.refresh.clone();
    let answer = wrong.get("/v1/auth/me").await;
    check(&answer, 401, "AUTH_TOKEN_INVALID", None, "/v1/auth/me");
    assert_eq!(
        answer.1["error"]["message"],
        "Invalid token type. Expected access, got refresh"
    );
    let path = "/v1/queries/00000000-0000-4000-8000-000000000000";
    check(&mia.get(path).await, 404, "NOT_FOUND", None, path);
    let register = "/v1/auth/register";
    let answer = nobody
        .post(register, &json!({ "email": "no", "password": "short" }))
        .await;
    check(&answer, 422, "VALIDATION_ERROR", Some("email"), register);
    check(&answer, 422, "VALIDATION_ERROR", Some("password"), register);
    check(
        &nobody.post("/v1/auth/logout", &json!({})).await,
        422,
        "VALIDATION_ERROR",
        Some("refresh_token"),
        "/v1/auth/logout",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_and_probes_answer_without_a_token() {
    let world = World::start().await;
    let nobody = world.client();
    assert_eq!(
        nobody.get("/health").await,
        (StatusCode::OK, json!({ "status": "ok" }))
    );
    let (status, ready) = nobody.get("/health/ready").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(ready["checks"], json!({ "nats": "ok", "postgres": "ok" }));
    let (_, version) = nobody.get("/v1/version").await;
    assert_eq!(version["api_version"], "v1");
    let (_, keys) = nobody.get("/.well-known/jwks.json").await;
    assert_eq!(keys["keys"][0]["alg"], "RS256");
    let (_, openapi) = nobody.get("/openapi.json").await;
    assert!(
        openapi["openapi"]
            .as_str()
            .is_some_and(|v| v.starts_with("3.1")),
        "{openapi}"
    );
    assert!(openapi["paths"]["/v1/query"]["post"].is_object());
    let page = nobody.request(Method::GET, "/docs").send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    let named = nobody
        .request(Method::GET, "/v1/nowhere")
        .header("X-Request-ID", "mine_1");
    let named = named.send().await.unwrap();
    assert_eq!(named.headers()["X-Request-ID"], "mine_1");
    let (_, body) = client::read(named).await;
    assert_eq!(body["meta"]["request_id"], "mine_1");
    let metrics = reqwest::get(format!("http://{}/metrics", world.metrics))
        .await
        .unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("http_requests_total"), "{metrics}");
}
