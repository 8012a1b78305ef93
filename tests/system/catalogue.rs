//! What we publish about events and frames is what is stored and sent.

use amaima::admin::Exit;
use domain::{
    Actor,
    catalogue::ENTRIES,
    commit::header,
    id::CommandId,
    subject::{Aggregate, Kind},
    wire::command::{Body, Reply, Request},
};
use infra::{append, bus::Commands, clock};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tests::{
    admin,
    catalogue::{check_log, validator, violations},
    client::{Client, Stream},
    world::{Options, World},
};

/// A frame is what the document says of its type.
fn checked(document: &Value, frame: &Value) {
    let name = frame["type"].as_str().expect("a type");
    let payload = &document["components"]["messages"][format!("server.{name}")]["payload"];
    let errors = validator(payload);
    let errors: Vec<_> = errors.iter_errors(frame).map(|e| e.to_string()).collect();
    assert!(
        payload.is_object() && errors.is_empty(),
        "{frame}: {errors:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_what_is_stored_and_sent() {
    let world = World::start().await;
    let nobody = world.client();
    let (status, list) = nobody.get("/v1/catalog/events").await;
    assert_eq!(status, StatusCode::OK);
    let list = list.as_array().expect("a list");
    assert_eq!(list.len(), ENTRIES.len());
    let old = &list.iter().find(|e| e["type"] == "query.cancelled.v1");
    let old = old.expect("it is listed");
    assert_eq!(
        (&old["status"], &old["version"]),
        (&json!("superseded"), &json!(1))
    );
    assert_eq!(old["superseded_by"], "query.cancelled.v2");
    assert_eq!(old["aggregate"], "query");
    for entry in list {
        assert!(entry["description"].is_string(), "{entry}");
        assert!(
            validator(&entry["schema"]).is_valid(&entry["example"]),
            "{entry}"
        );
    }

    // Each frame of a conversation.
    let (status, document) = nobody.get("/asyncapi.json").await;
    assert_eq!(
        (status, &document["asyncapi"]),
        (StatusCode::OK, &json!("3.0.0"))
    );
    let mia = Client::registered(world.http).await;
    let mut socket = mia.socket().await;
    for frame in [
        json!({ "type": "submit_query", "query": "Who are you?" }),
        json!({ "type": "subscribe_query", "queryId": "not mine" }),
        json!({ "type": "subscribe_system" }),
        json!({ "type": "heartbeat" }),
    ] {
        socket.send(&frame).await;
    }
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let (mut stream, mut ended) = (Stream::default(), false);
    while !ended || seen.len() < 4 {
        let frame = socket.frame().await;
        checked(&document, &frame);
        let name = frame["type"].as_str().expect("a type").to_owned();
        if name == "query_update" {
            let id = frame["data"]["queryId"].as_str().expect("an id").to_owned();
            ended |= stream.add(&frame, &id);
        }
        *seen.entry(name).or_default() += 1;
    }
    println!("{seen:?}");
    // Registered, claimed, opened; submitted, started, completed.
    let client = world.nats().await;
    assert_eq!(check_log(&client, &world.keys(&client)).await, 6);
}

/// Appends a commit as an older program did, and answers with its sequence.
async fn append_v1(world: &World, subject: &str, expected: u64, query: &str) -> u64 {
    let event = json!([{
        "specversion": "1.0", "id": format!("{}.0", clock::fresh_id()),
        "source": "amaima/command-svc", "subject": format!("query/{query}"),
        "time": clock::now(), "datacontenttype": "application/json",
        "type": "query.cancelled.v1", "data": { "query": query, "at": clock::now() },
    }]);
    assert_eq!(violations(&event[0]), Vec::<String>::new());
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(header::EVENT_TYPES, "query.cancelled.v1");
    headers.insert(header::COMMAND_ID, clock::fresh_id().to_string());
    headers.insert(header::SCHEMA, domain::commit::SCHEMA);
    let payload = event.to_string().into_bytes().into();
    let stored = append::append(&world.nats().await, subject, expected, headers, payload).await;
    stored.expect("stored").seq
}

/// Asks, and answers with the query's id and the sequence of the question.
async fn ask(mia: &Client, world: &World) -> (String, u64) {
    let request = mia.request(reqwest::Method::POST, "/v1/query");
    let request = request.header("Prefer", "respond-async");
    let body = json!({ "query": format!("Why? {}", clock::fresh_id()) });
    let answer = request.json(&body).send().await.expect("an answer");
    let (_, answer) = tests::client::read(answer).await;
    let id = answer["query_id"].as_str().expect("an id").to_owned();
    let (_, history) = admin::json(world, &["aggregate", "history", "query", &id]).await;
    (
        id,
        history["commits"][0]["seq"].as_u64().expect("a sequence"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_is_read_as_the_new_one_everywhere() {
    let world = World::with(Options {
        no_worker: true,
        ..Default::default()
    })
    .await;
    let mia = Client::registered(world.http).await;
    let (old, asked) = ask(&mia, &world).await;
    let subject = Aggregate::new(Kind::Query, old.parse().expect("a UUID")).subject();
    append_v1(&world, &subject, asked, &old).await;
    let (own, _) = ask(&mia, &world).await;
    let cancel = format!("/v1/queries/{own}/cancel");
    assert_eq!(mia.post(&cancel, &json!({})).await.0, StatusCode::OK);
    let (given_up, _) = ask(&mia, &world).await;
    let order = Request {
        id: CommandId::new(clock::fresh_id()),
        actor: Actor::System,
        request_id: "test".into(),
        traceparent: None,
        deadline: clock::now().plus_millis(60_000),
        fingerprint: None,
        body: Body::CancelQuery {
            query: given_up.parse().expect("an id"),
        },
    };
    let commands = Commands::new(world.nats().await);
    let reply = commands.insist(&order).await;
    assert!(matches!(reply, Reply::Accepted { .. }), "{reply:?}");

    // The aggregate, whose end a repeat finds; the client's answer has no key more than before.
    let cancel = format!("/v1/queries/{old}/cancel");
    let (status, answer) = mia.post(&cancel, &json!({})).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer, json!({ "query_id": old, "status": "cancelled" }));
    let (exit, state) = admin::json(&world, &["aggregate", "state", "query", &old]).await;
    assert_eq!(
        (exit, &state["state"]["asked"]["status"]),
        (Exit::Well, &json!("cancelled"))
    );
    // The policies.
    let (_, would) = admin::json(&world, &["policies", "dry-run"]).await;
    assert_eq!(
        (&would["unreadable"], &would["reactions"]["close_stream"]),
        (&json!(0), &json!(3))
    );
    // The read models, for analysts as well.
    for id in [&old, &own, &given_up] {
        let (_, item) = mia.get(&format!("/v1/queries/{id}")).await;
        assert_eq!(item["status"], "cancelled", "{item}");
        assert!(item.get("cancelled_by").is_none(), "{item}");
    }
    let by: Vec<(String, String)> = sqlx::query_as(
        "SELECT query_id::text, cancelled_by FROM analytics.rm_queries ORDER BY created_at",
    )
    .fetch_all(&world.database().await)
    .await
    .expect("the view");
    let expected = [(old, "owner"), (own, "owner"), (given_up, "system")];
    assert_eq!(by, expected.map(|(id, by)| (id, by.to_owned())));

    let (exit, report) = admin::json(&world, &["catalogue", "--count"]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    let count = |name: &str| {
        let mut types = report["types"].as_array().expect("types").iter();
        types.find(|each| each["type"] == name).expect("listed")["events"].clone()
    };
    assert_eq!(count("query.submitted.v1"), 3);
    assert_eq!(count("query.cancelled.v1"), 1);
    assert_eq!(count("query.cancelled.v2"), 2);
    assert_eq!(count("query.completed.v1"), 0);
    assert_eq!(report["unknown"], json!({}));
}
