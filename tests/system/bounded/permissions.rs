//! Who may take messages out of the log, and from which log anybody may.

use amaima::stack;
use async_nats::{Client, jetstream};
use domain::subject::EVENTS;
use infra::{append::append, config, jetstream::prepare};
use serde_json::{Value, json};
use std::time::Duration;

const SUBJECT: &str = "ev.00.query.0";

async fn ask(client: &Client, api: &str, body: &Value) -> Result<Value, String> {
    let request = async_nats::Request::new()
        .payload(body.to_string().into())
        .timeout(Some(Duration::from_millis(500)));
    let answer = client.send_request(format!("$JS.API.{api}.{EVENTS}"), request);
    let answer = answer.await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&answer.payload).map_err(|error| error.to_string())
}

async fn messages(client: &Client) -> u64 {
    let context = jetstream::new(client.clone());
    let stream = context.get_stream(EVENTS).await.expect("the log");
    stream.cached_info().state.messages
}

#[tokio::test]
async fn nobody_but_one_may_take_anything_out_of_the_log() {
    let stack = stack::testing().await.expect("the servers start");
    let nats = config::Nats {
        bounded: true,
        ..stack.endpoints().nats()
    };
    let services = infra::nats::connect(&nats, "services").await.expect("NATS");
    prepare(&services, &nats).await.expect("streams");
    let headers = async_nats::HeaderMap::new();
    let stored = append(&services, SUBJECT, 0, headers, "[]".into()).await;
    let seq = stored.expect("stored").seq;
    let purge = json!({ "filter": SUBJECT });
    for (api, body) in [
        ("STREAM.PURGE", &purge),
        ("STREAM.MSG.DELETE", &json!({ "seq": seq })),
        ("STREAM.DELETE", &Value::Null),
    ] {
        let refused = ask(&services, api, body).await;
        assert!(refused.is_err(), "{api}: {refused:?}");
    }
    assert_eq!(messages(&services).await, 1);

    let alone = config::Nats {
        url: nats.purge_url.clone().expect("an own server"),
        ..nats.clone()
    };
    let alone = infra::nats::connect(&alone, "alone").await.expect("NATS");
    let refused = ask(&alone, "STREAM.INFO", &Value::Null).await;
    assert!(refused.is_err(), "nothing else: {refused:?}");
    let purged = ask(&alone, "STREAM.PURGE", &purge).await.expect("purged");
    assert_eq!(purged["purged"], 1, "{purged}");
    assert_eq!(messages(&services).await, 0);
    let wrong = nats.url.expose().replace("//", "//amaima-purge:wrong@");
    let wrong = config::Nats {
        url: config::Secret::new(wrong),
        ..nats
    };
    infra::nats::connect(&wrong, "wrong")
        .await
        .expect_err("not without the password");
}

#[tokio::test]
async fn a_log_that_was_made_to_keep_everything_keeps_everything() {
    let stack = stack::testing().await.expect("the servers start");
    let mut nats = stack.endpoints().nats();
    let services = infra::nats::connect(&nats, "services").await.expect("NATS");
    let context = prepare(&services, &nats).await.expect("streams");
    assert!(!infra::jetstream::is_bounded(&context).await.expect("told"));
    nats.bounded = true;
    // The start goes on with the log as it is.
    let context = prepare(&services, &nats).await.expect("streams");
    assert!(!infra::jetstream::is_bounded(&context).await.expect("told"));
    let alone = config::Nats {
        url: nats.purge_url.clone().expect("an own server"),
        ..nats
    };
    let alone = infra::nats::connect(&alone, "alone").await.expect("NATS");
    let purged = ask(&alone, "STREAM.PURGE", &json!({ "filter": SUBJECT })).await;
    let refused = purged.expect("an answer");
    assert_eq!(
        refused["error"]["description"], "stream purge not permitted",
        "{refused}"
    );
}
