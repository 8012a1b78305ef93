//! `X-Consistency-Token`: who hands it on never reads something older than it has seen, through
//! whichever gateway.

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tests::{
    client::{self, Client},
    world::{Options, World},
};

const TOKEN: &str = "X-Consistency-Token";

fn token(response: &Response) -> String {
    let value = response.headers().get(TOKEN);
    let value = value.unwrap_or_else(|| panic!("no token: {response:?}"));
    value.to_str().unwrap().to_owned()
}

fn parts(token: &str) -> (&str, u64) {
    let (epoch, seq) = token.split_once('-').expect("two parts");
    (epoch, seq.parse().expect("a number"))
}

async fn get(client: &Client, path: &str, token: &str) -> Response {
    let request = client.request(Method::GET, path).header(TOKEN, token);
    request.send().await.expect("an answer")
}

async fn ask(client: &Client, text: &str) -> (String, Response) {
    let id = uuid::Uuid::new_v4().to_string();
    let request = client
        .request(Method::POST, "/v1/query")
        .header("Prefer", "respond-async")
        .json(&json!({ "query": text, "query_id": id }));
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    (id, response)
}

/// The same person at another gateway.
fn at(http: std::net::SocketAddr, person: &Client) -> Client {
    let mut client = Client::new(http);
    client.access = person.access.clone();
    client
}

async fn world() -> World {
    World::with(Options {
        no_worker: true,
        ..Default::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_elsewhere_waits_for_what_was_written_here() {
    let world = world().await;
    let here = Client::registered(world.http).await;
    let there = at(world.another_gateway().await, &here);
    // The read model stands still for as long as this lock is held; reading goes on.
    let pool = world.database().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE tablename = 'queries'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let mut still = pool.begin().await.unwrap();
    let lock = format!("LOCK TABLE {} IN EXCLUSIVE MODE", tables.join(", "));
    sqlx::query(sqlx::AssertSqlSafe(lock))
        .execute(&mut *still)
        .await
        .unwrap();
    let (id, asked) = ask(&here, "Who are you?").await;
    let written = token(&asked);
    let path = format!("/v1/queries/{id}");
    assert_eq!(
        there.get(&path).await.0,
        StatusCode::NOT_FOUND,
        "it has not heard of it"
    );
    let began = Instant::now();
    let late = get(&there, &path, &written).await;
    assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(late.headers().contains_key("Retry-After"));
    assert!((Duration::from_millis(1_800)..Duration::from_secs(5)).contains(&began.elapsed()));
    let (waiting, _) = tokio::join!(get(&there, &path, &written), async {
        still.rollback().await.unwrap();
    });
    assert_eq!(waiting.status(), StatusCode::OK);
    let read = token(&waiting);
    assert_eq!(parts(&read).0, parts(&written).0);
    assert!(parts(&read).1 >= parts(&written).1, "{read} {written}");

    // A chain of writes here and reads there, each with the token of the one before.
    let mut last = read;
    for n in 0..10 {
        let (id, asked) = ask(&here, &format!("Question {n}?")).await;
        let response = get(&there, "/v1/queries", &token(&asked)).await;
        assert_eq!(response.status(), StatusCode::OK);
        let next = token(&response);
        assert!(parts(&next).1 > parts(&last).1, "{next} after {last}");
        last = next;
        let (_, list) = client::read(response).await;
        assert_eq!(list[0]["query_id"], id);
    }

    // A token of another log cannot be waited for; the answer brings one of this log.
    let foreign = "0000000000000001-999999999";
    let response = get(&there, "/v1/queries", foreign).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(parts(&token(&response)).0, parts(&last).0);
    for bad in ["7", "x-1", "0000000000000001-", "0000000000000001-1x"] {
        let (status, body) = client::read(get(&there, "/v1/queries", bad).await).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(body["error"]["code"], "VALIDATION_INVALID_FORMAT");
        assert_eq!(body["error"]["details"][0]["field"], TOKEN);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_waits_and_every_answer_has_a_token() {
    let world = world().await;
    let mia = Client::registered(world.http).await;
    let (id, asked) = ask(&mia, "Who are you?").await;
    let now = token(&asked);
    let future = format!("{}-{}", parts(&now).0, parts(&now).1 + 1_000_000);
    let (_, document) = world.client().get("/openapi.json").await;
    let mut reads = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        let Some(read) = item.get("get").filter(|read| read["security"].is_array()) else {
            continue;
        };
        if path.starts_with("/v1/models") {
            // What workers say of themselves just now is no read model.
            continue;
        }
        let takes = read["parameters"].as_array().expect("parameters");
        assert!(takes.iter().any(|one| one["name"] == TOKEN), "{path}");
        let path = path.replace("{id}", &id);
        let response = get(&mia, &path, &now).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert!(parts(&token(&response)).1 >= parts(&now).1, "{path}");
        let late = get(&mia, &path, &future).await;
        assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(late.headers().contains_key("Retry-After"), "{path}");
        reads += 1;
    }
    assert!(reads >= 6, "{reads}");
    // What ended by the client's own hand has ended in its stream.
    let cancel = format!("/v1/queries/{id}/cancel");
    let cancelled = mia.request(Method::POST, &cancel).send().await.unwrap();
    let now = token(&cancelled);
    let there = at(world.another_gateway().await, &mia);
    let events = get(&there, &format!("/v1/queries/{id}/events"), &now).await;
    assert!(parts(&token(&events)).1 >= parts(&now).1);
    let (_, events): (_, Value) = client::read(events).await;
    let last = events
        .as_array()
        .and_then(|all| all.last())
        .expect("events");
    assert_eq!(last["data"]["status"], "cancelled", "{events}");
}
