//! A person gets everything that is kept about them, and nothing of anybody else.

use domain::{account::Account, api_keys::ApiKeys, query::Query, session::Session};
use futures_util::StreamExt;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tests::{
    catalogue::violations,
    client::Client,
    world::{Options, World},
};

/// More than one page of everything.
const QUESTIONS: usize = 230;

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_handed_over_as_one_document() {
    let world = World::with(Options {
        no_worker: true,
        ..Options::default()
    })
    .await;
    let mia = Client::registered(world.http).await;
    let ben = Client::registered(world.http).await;
    let ask = |client: Client, text: String| async move {
        let request = client.request(Method::POST, "/v1/query");
        let request = request.header("Prefer", "respond-async");
        let answer = request.json(&json!({ "query": text })).send().await;
        assert_eq!(answer.expect("an answer").status(), StatusCode::ACCEPTED);
    };
    ask(ben.clone(), "What does Ben ask?".to_owned()).await;
    let questions = (0..QUESTIONS).map(|n| ask(mia.clone(), format!("What does Mia ask, {n}?")));
    let asking = futures_util::stream::iter(questions).buffer_unordered(16);
    asking.collect::<Vec<()>>().await;

    let body = json!({ "name": "ci", "scopes": ["queries:read"] });
    let (status, key) = mia.post("/v1/api-keys", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{key}");

    let request = mia.request(Method::GET, "/v1/users/me/export");
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let headers = answer.headers().clone();
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    assert!(
        !headers.contains_key(header::CONTENT_LENGTH),
        "it is streamed"
    );
    let text = answer.text().await.expect("to its end");
    assert!(!text.contains("Ben"), "somebody else's");
    assert!(!text.contains("argon2"), "the hash of a password");
    let document: Value = serde_json::from_str(&text).expect("one document");
    assert_eq!(document["format"], "amaima.export.v1");
    assert_eq!(document["user"]["id"].as_str(), mia.user.as_deref());
    assert_eq!(document["sessions"].as_array().map(Vec::len), Some(1));
    let ids = |name: &str, key: &str| -> BTreeSet<String> {
        let items = document[name].as_array().expect("a list").iter();
        items
            .map(|item| item[key].as_str().expect("an id").to_owned())
            .collect()
    };
    let queries = ids("queries", "query_id");
    assert_eq!(queries.len(), QUESTIONS);

    // Every event of the log that is about them, each once.
    let events = document["events"].as_array().expect("a list");
    let mut expected = 0;
    let account = mia
        .user
        .as_deref()
        .expect("signed in")
        .parse()
        .expect("an id");
    expected += world.commits::<Account>(account).await.len();
    expected += world.commits::<ApiKeys>(account).await.len();
    for session in ids("sessions", "session_id") {
        let id = session.parse().expect("an id");
        expected += world.commits::<Session>(id).await.len();
    }
    for query in &queries {
        expected += world
            .commits::<Query>(query.parse().expect("an id"))
            .await
            .len();
    }
    // One command may concern several aggregates, which its events' ids do not tell apart.
    let distinct = events
        .iter()
        .map(|event| (event["subject"].to_string(), event["id"].to_string()));
    assert_eq!(distinct.collect::<BTreeSet<_>>().len(), expected);
    assert_eq!(events.len(), expected);
    for event in events {
        let mut event = event.clone();
        if event["type"] == "account.registered.v1" {
            event["data"]["password_hash"] = "left out".into();
        }
        if event["type"] == "api_keys.created.v1" {
            assert!(event["data"]["secret_hash"].is_null(), "the hash of a key");
            event["data"]["secret_hash"] = "left out".into();
        }
        assert_eq!(violations(&event), Vec::<String>::new());
    }
    let (status, _) = Client::new(world.http).get("/v1/users/me/export").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}
