//! `amaima admin` as monitors and scripts call it: exit codes and JSON.

use amaima::stack;
use infra::config;
use serde_json::Value;
use std::process::{Command, Output};

fn admin(nats_url: Option<&str>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_amaima"));
    command.env_remove("NATS_URL").arg("admin").args(args);
    if let Some(url) = nats_url {
        command.env("NATS_URL", url);
    }
    command
        .arg("--data-dir")
        .arg(std::env::temp_dir().join("amaima-nothing-here"))
        .output()
        .expect("it runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn says_what_is_missing() {
    let output = admin(None, &["streams"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("amaima up"), "{error}");
    assert!(output.stdout.is_empty());
    let output = admin(Some("nats://127.0.0.1:1"), &["streams", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let error = json(&output)["error"].to_string();
    assert!(error.contains("127.0.0.1:1"), "{error}");
    // Every subject tells its exit codes.
    for subject in ["streams", "aggregate", "catalogue", "policies"] {
        let help = admin(None, &[subject, "--help"]);
        assert!(String::from_utf8_lossy(&help.stdout).contains("Exit codes"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_how_it_is() {
    let stack = stack::testing().await.expect("the servers start");
    let url = stack.endpoints().nats_url.clone();
    // Servers alone have none of our streams.
    let output = admin(Some(&url), &["streams", "--json"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(json(&output)["missing"][1], "EVENTS");

    let nats = config::Nats::at(&url);
    let client = infra::nats::connect(&nats, "test").await.unwrap();
    let context = infra::jetstream::prepare(&client, &nats).await.unwrap();
    let output = admin(Some(&url), &["streams", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(json(&output)["missing"], serde_json::json!([]));

    // A setting that a promise rests on is changed behind our back.
    let mut events = context.get_stream("EVENTS").await.unwrap();
    let mut config = events.info().await.unwrap().config.clone();
    config.allow_direct = false;
    context.update_stream(config).await.unwrap();
    let output = admin(Some(&url), &["streams"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("BROKEN: allow_direct"), "{table}");
}
