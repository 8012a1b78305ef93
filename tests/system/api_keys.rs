//! API keys: what programs sign in with on a person's behalf.

use amaima::stack::wait_for;
use domain::api_keys::{ApiKeys, Event, SecretHash};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::{
    client::{self, Answer, Client},
    world::{Options, PATIENCE, World},
};

async fn without_worker() -> World {
    let options = Options {
        no_worker: true,
        ..Options::default()
    };
    World::with(options).await
}

async fn create(client: &Client, scopes: &[&str]) -> Value {
    let body = json!({ "name": "Nightly report", "scopes": scopes });
    let (status, made) = client.post("/v1/api-keys", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    made
}

/// The same client, but for what it shows.
fn with_key(client: &Client, key: &Value) -> Client {
    let mut client = client.clone();
    client.access = key["key"].as_str().map(str::to_owned);
    client
}

async fn delete(client: &Client, path: &str) -> Answer {
    let request = client.request(Method::DELETE, path);
    client::read(request.send().await.expect("an answer")).await
}

async fn ask(client: &Client) -> Answer {
    let request = client.request(Method::POST, "/v1/query");
    let request = request.header("Prefer", "respond-async");
    let answer = request.json(&json!({ "query": "Why?" })).send().await;
    client::read(answer.expect("an answer")).await
}

fn refused(answer: Answer, status: StatusCode, code: &str) -> String {
    assert_eq!(answer.0, status, "{}", answer.1);
    assert_eq!(answer.1["error"]["code"], code, "{}", answer.1);
    let message = answer.1["error"]["message"].as_str();
    message.expect("a message").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_does_what_it_was_made_for_until_it_is_revoked() {
    let world = without_worker().await;
    let mia = Client::registered(world.http).await;
    let made = create(&mia, &["queries:write", "queries:read"]).await;
    let reading = create(&mia, &["queries:read"]).await;
    let key = made["key"].as_str().expect("a key");
    assert!(
        key.starts_with(made["hint"].as_str().expect("a hint")),
        "{made}"
    );

    // At once, at this gateway.
    let program = with_key(&mia, &made);
    let (status, queued) = ask(&program).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{queued}");
    let (status, list) = with_key(&mia, &reading).get("/v1/queries").await;
    assert_eq!(status, StatusCode::OK, "{list}");
    assert_eq!(list[0]["query_id"], queued["query_id"]);

    // What it was not made for, and what no key may do.
    let denied = StatusCode::FORBIDDEN;
    let message = refused(
        ask(&with_key(&mia, &reading)).await,
        denied,
        "AUTH_PERMISSION_DENIED",
    );
    assert!(message.contains("queries:write"), "{message}");
    for path in ["/v1/auth/me", "/v1/api-keys", "/v1/users/me/export"] {
        refused(program.get(path).await, denied, "AUTH_PERMISSION_DENIED");
    }
    let body = json!({ "name": "mine", "scopes": ["queries:read"] });
    let more = program.post("/v1/api-keys", &body).await;
    refused(more, denied, "AUTH_PERMISSION_DENIED");

    // Shown once.
    let (_, list) = mia.get("/v1/api-keys").await;
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
    assert_eq!(list[1]["id"], made["id"]);
    assert_eq!(list[1]["name"], "Nightly report");
    assert!(!list.to_string().contains(key), "{list}");

    // Revoked, it is worthless at once; the other one lives.
    let path = format!("/v1/api-keys/{}", made["id"].as_str().expect("an id"));
    let stranger = Client::registered(world.http).await;
    let not_found = StatusCode::NOT_FOUND;
    refused(delete(&stranger, &path).await, not_found, "NOT_FOUND");
    for _ in 0..2 {
        let (status, revoked) = delete(&mia, &path).await;
        assert_eq!(status, StatusCode::OK, "{revoked}");
        assert_eq!(revoked, json!({ "id": made["id"], "revoked": true }));
    }
    let none = StatusCode::UNAUTHORIZED;
    refused(ask(&program).await, none, "AUTH_TOKEN_INVALID");
    let (status, list) = mia.get("/v1/api-keys").await;
    assert_eq!((status, &list[0]["id"]), (StatusCode::OK, &reading["id"]));
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    let (status, _) = with_key(&mia, &reading).get("/v1/queries").await;
    assert_eq!(status, StatusCode::OK);

    // One that was never made, and one that was mistyped.
    for wrong in ["amk_", "amk_x", &key.replace("amk_", "amk_0"), &key[..75]] {
        let wrong = with_key(&mia, &json!({ "key": wrong }));
        refused(wrong.get("/v1/queries").await, none, "AUTH_TOKEN_INVALID");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_its_hash_is_stored_and_a_repeat_cannot_show_it_again() {
    let world = without_worker().await;
    let mia = Client::registered(world.http).await;
    let body = json!({ "name": "ci", "scopes": ["queries:read"] });
    let attempt = || async {
        let request = mia.request(Method::POST, "/v1/api-keys");
        let request = request.header("Idempotency-Key", "k1").json(&body);
        client::read(request.send().await.expect("an answer")).await
    };
    let (status, made) = attempt().await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    // The first answer may have been lost: the client learns which key nobody knows.
    let message = refused(attempt().await, StatusCode::CONFLICT, "HTTP_409");
    let id = made["id"].as_str().expect("an id");
    assert!(message.contains(id), "{message}");

    let key = made["key"].as_str().expect("a key");
    let account = mia.user.as_deref().expect("signed in").parse();
    let commits = world.commits::<ApiKeys>(account.expect("an id")).await;
    let [(stored, events)] = commits.as_slice() else {
        panic!("{commits:?}")
    };
    let [Event::Created { secret_hash, .. }] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(*secret_hash, SecretHash::of(key));
    // The key's last part is nothing but secret.
    let secret = &key[key.len() - 40..];
    assert!(!String::from_utf8_lossy(&stored.payload).contains(secret));
    let row: String = sqlx::query_scalar("SELECT row::text FROM rm.api_keys AS row")
        .fetch_one(&world.database().await)
        .await
        .expect("one row");
    assert!(
        row.contains(secret_hash.as_str()) && !row.contains(secret),
        "{row}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_end_in_time_and_with_their_person() {
    let world = without_worker().await;
    let mia = Client::registered(world.http).await;
    let end = infra::clock::now().plus_millis(1_500);
    let body = json!({ "name": "short", "scopes": ["queries:read"], "expires_at": end });
    let (status, short) = mia.post("/v1/api-keys", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{short}");
    let program = with_key(&mia, &short);
    let ended = wait_for("the key's end", PATIENCE, || async {
        match program.get("/v1/queries").await {
            (StatusCode::OK, _) => Err("it is good".to_owned()),
            answer => Ok(answer),
        }
    });
    let ended = ended.await.expect("it ends");
    assert!(infra::clock::now() >= end, "too early");
    refused(ended, StatusCode::UNAUTHORIZED, "AUTH_TOKEN_EXPIRED");
    assert_eq!(mia.get("/v1/api-keys").await.1, json!([]));

    let lasting = create(&mia, &["queries:read", "queries:write"]).await;
    let program = with_key(&mia, &lasting);
    assert_eq!(program.get("/v1/queries").await.0, StatusCode::OK);
    let request = mia.request(Method::DELETE, "/v1/users/me");
    let request = request.json(&json!({ "password": "password123" }));
    let erasing = client::read(request.send().await.expect("an answer")).await;
    assert_eq!(erasing.0, StatusCode::ACCEPTED, "{}", erasing.1);
    for answer in [program.get("/v1/queries").await, ask(&program).await] {
        refused(answer, StatusCode::UNAUTHORIZED, "AUTH_USER_NOT_FOUND");
    }
    let pool = world.database().await;
    let gone = wait_for("the rows to go", PATIENCE, || async {
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM rm.api_keys")
            .fetch_one(&pool)
            .await
            .map_err(|error| error.to_string())?;
        (rows == 0).then_some(()).ok_or(format!("{rows} rows"))
    });
    gone.await.expect("they go");
}
