//! The keys themselves: destroyed on the disk, wrapped anew, kept apart, brought back, missed.

use super::{PASSWORD, ask, delete, erased, id, person};
use amaima::{admin::Exit, stack};
use domain::subject;
use infra::{
    config, direct_get, jetstream,
    sealing::{
        Keyring, MasterKeys, Sealing,
        keyring::{Error, Found},
    },
};
use reqwest::StatusCode;
use serde_json::Value;
use std::fs;
use tempfile::TempDir;
use tests::{
    admin::{json, json_of},
    bytes,
    world::{Options, PATIENCE, World},
};

fn masters(names: &[&str]) -> String {
    let lines = names.iter().map(|name| MasterKeys::fresh_line(name));
    lines.map(|line| line.expect("random")).collect()
}

fn sealing(text: &str) -> Sealing {
    Sealing::Keys(MasterKeys::read(text, None).expect("master keys"))
}

/// The wrapped key of a person, as it is stored.
async fn stored(client: &async_nats::Client, person: domain::id::AccountId) -> Vec<String> {
    let entries = direct_get::subject(client, subject::KEYS, &subject::key(person), 1).await;
    let text = |payload: &[u8]| {
        let entry: Value = serde_json::from_slice(payload).expect("JSON");
        entry["key"].as_str().unwrap_or_default().to_owned()
    };
    let entries = entries.expect("readable");
    entries.iter().map(|entry| text(&entry.payload)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_key_is_not_on_the_disk() {
    let world = World::with(Options {
        no_worker: true,
        ..Options::default()
    })
    .await;
    let mia = person(&world, "Mia", "mia@example.com", "phone").await;
    let client = world.nats().await;
    let wrapped = stored(&client, id(&mia)).await;
    assert_eq!(wrapped.len(), 1);
    let files = world.stack.data_dir().join("nats");
    assert_eq!(bytes::found(&files, &wrapped).expect("readable").len(), 1);
    assert_eq!(delete(&mia, PASSWORD).await.0, StatusCode::ACCEPTED);
    erased(&world, &mia).await;
    assert_eq!(bytes::found(&files, &wrapped).expect("readable").len(), 0);
    assert_eq!(stored(&client, id(&mia)).await, [""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_wrapped_anew_kept_apart_and_brought_back() {
    let stack = stack::testing().await.expect("the servers start");
    let nats = config::Nats::at(&stack.endpoints().nats_url);
    let client = infra::nats::connect(&nats, "test").await.expect("NATS");
    jetstream::prepare(&client, &nats).await.expect("streams");
    let (old, both) = (masters(&["2025"]), masters(&["2026"]));
    let both = format!("{both}{old}");
    let before = Keyring::new(&client, sealing(&old));
    let persons: Vec<domain::id::AccountId> = (1..=3)
        .map(|n| domain::id::AccountId::new(uuid::Uuid::from_u128(n)))
        .collect();
    let mut wrapped = Vec::new();
    for person in &persons {
        let key = before.for_writing(*person).await.expect("a key");
        assert!(key.is_some());
        wrapped.extend(stored(&client, *person).await);
    }
    before.destroy(persons[2]).await.expect("destroyed");

    // With the new key first, everything is wrapped with it, and nothing of before is left.
    fs::write(&stack.endpoints().master_keys_file, &both).expect("written");
    let (exit, report) = json_of(&stack, &["keys", "status"]).await;
    assert_eq!((exit, &report["current"]), (Exit::Degraded, &"2026".into()));
    assert_eq!(report["wrapped_with"]["2025"], 2, "{report}");
    let (exit, report) = json_of(&stack, &["keys", "rotate"]).await;
    assert_eq!((exit, &report["rewrapped"]), (Exit::Well, &2.into()));
    let (exit, report) = json_of(&stack, &["keys", "status"]).await;
    assert_eq!((exit, &report["erased"]), (Exit::Well, &1.into()));
    assert_eq!(report["wrapped_with"]["2026"], 2, "{report}");
    let files = stack.data_dir().join("nats");
    assert_eq!(bytes::found(&files, &wrapped).expect("readable").len(), 0);
    let new = both.lines().next().expect("a line");
    let after = Keyring::new(&client, sealing(new));
    let same = |found| match found {
        Found::Key(key) => Ok(key),
        other => Err(other),
    };
    for person in &persons[..2] {
        let key = |found| same(found).expect("a key").rows.expose().to_owned();
        assert_eq!(
            key(after.find(*person).await.expect("found")),
            key(before.find(*person).await.expect("found"))
        );
    }
    // Who has the old master key alone can read nothing any more.
    let found = Keyring::new(&client, sealing(&old)).find(persons[0]).await;
    assert!(
        matches!(found, Err(Error::NotUnwrapped { .. })),
        "{found:?}"
    );

    let place = TempDir::new().expect("a directory");
    let file = place.path().join("keys").display().to_string();
    let (exit, report) = json_of(&stack, &["keys", "backup", "--file", &file]).await;
    assert_eq!((exit, &report["entries"]), (Exit::Well, &3.into()));
    let (exit, _) = json_of(&stack, &["keys", "backup", "--file", &file]).await;
    assert_eq!(exit, Exit::Ill, "nothing is overwritten");

    // The keys are lost. Nothing is begun without them, and then they are back.
    let context = async_nats::jetstream::new(client.clone());
    context.delete_stream(subject::KEYS).await.expect("deleted");
    let refused = jetstream::prepare(&client, &nats).await;
    assert!(
        matches!(refused, Err(jetstream::Error::KeysLost)),
        "{refused:?}"
    );
    let (exit, report) = json_of(&stack, &["keys", "restore", "--file", &file]).await;
    assert_eq!((exit, &report["restored"]), (Exit::Well, &3.into()));
    jetstream::prepare(&client, &nats).await.expect("prepared");
    let back = Keyring::new(&client, sealing(new));
    assert!(same(back.find(persons[0]).await.expect("found")).is_ok());
    let erased = back.find(persons[2]).await;
    assert!(matches!(erased, Ok(Found::Erased)), "{erased:?}");
    let (_, report) = json_of(&stack, &["keys", "restore", "--file", &file]).await;
    assert_eq!(
        (&report["restored"], &report["there"]),
        (&0.into(), &3.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_erases_and_looks_at_what_is_left() {
    let world = World::start().await;
    let mia = person(&world, "Mia", "mia@example.com", "phone").await;
    let answered = ask(&mia, "What is a projection here?").await;
    let account = mia.user.clone().expect("signed in");
    let (exit, report) = json(&world, &["erase", &account]).await;
    assert_eq!(exit, Exit::Ill, "not without --yes: {report}");
    assert_eq!(mia.get("/v1/auth/me").await.0, StatusCode::OK);
    let (exit, report) = json(&world, &["erase", &account, "--yes"]).await;
    assert_eq!((exit, &report["erased"]), (Exit::Well, &true.into()));
    erased(&world, &mia).await;
    let query = answered["query_id"].as_str().expect("an id");
    let (exit, history) = json(
        &world,
        &["aggregate", "history", "query", query, "--events"],
    )
    .await;
    assert_eq!(exit, Exit::Well, "{history}");
    let commits = history["commits"].as_array().expect("commits");
    assert_eq!(commits.len(), 3, "ids, times and types stay: {history}");
    for commit in commits {
        assert_eq!(
            (&commit["erased"], &commit["events"]),
            (&true.into(), &Value::Null)
        );
    }
    let (_, state) = json(&world, &["aggregate", "state", "query", query]).await;
    assert_eq!(state["state"], "erased", "{state}");
    let (_, state) = json(&world, &["aggregate", "state", "account", &account]).await;
    assert_eq!(state["state"], "erased", "{state}");
    let (exit, run) = json(&world, &["policies", "dry-run"]).await;
    assert_eq!((exit, &run["unreadable"]), (Exit::Well, &0.into()));
    assert!(run["erased"].as_u64() >= Some(5), "{run}");
    let nobody = uuid::Uuid::new_v4().to_string();
    let (exit, report) = json(&world, &["erase", &nobody, "--yes"]).await;
    assert_eq!(exit, Exit::Ill, "{report}");
    world.lifecycle.stop(PATIENCE).await;
}
