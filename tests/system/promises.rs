//! What is asserted at the start about the servers below: a weaker one than promised stops it.

use amaima::stack::{self, SyncMode};
use async_nats::jetstream::{
    self,
    stream::{Config, StorageType},
};
use domain::subject::{ALL_EVENTS, EVENTS};
use infra::sealing::Sealing;
use infra::{
    config::{self, Secret, Sync},
    durability::{self, Error},
    jetstream::prepare,
    lifecycle::Lifecycle,
};

async fn nats(sync: SyncMode) -> (stack::Stack, config::Nats) {
    let stack = stack::testing_with(|options| options.sync = sync)
        .await
        .expect("the servers start");
    let nats = stack.endpoints().nats();
    (stack, nats)
}

#[tokio::test]
async fn a_server_that_syncs_every_write_is_taken_and_one_that_does_not_is_not() {
    let (_stack, synced) = nats(SyncMode::Always).await;
    assert_eq!(synced.sync, Sync::Always);
    durability::check(&synced).await.expect("as promised");

    let (_stack, relaxed) = nats(SyncMode::Relaxed).await;
    durability::check(&relaxed).await.expect("nothing promised");
    let promised = config::Nats {
        sync: Sync::Always,
        ..relaxed
    };
    let refused = durability::check(&promised).await;
    assert!(matches!(refused, Err(Error::Weaker { .. })), "{refused:?}");
    // And command-svc does not start on it.
    let refused = command_svc::run(
        command_svc::Config::at(promised, Sealing::Off),
        Lifecycle::new(),
    )
    .await;
    assert!(matches!(refused, Err(command_svc::Error::Durability(_))));
}

#[tokio::test]
async fn nobody_is_taken_at_their_word_silently() {
    let (_stack, synced) = nats(SyncMode::Always).await;
    let mut unasked = config::Nats {
        system_url: None,
        ..synced.clone()
    };
    let refused = durability::check(&unasked).await.expect_err("unknown");
    let message = refused.to_string();
    for variable in [
        "NATS_SYSTEM_URL",
        "NATS_SYNC_UNCHECKED",
        "NATS_SYNC=relaxed",
    ] {
        assert!(message.contains(variable), "{message}");
    }
    unasked.sync_unchecked = true;
    durability::check(&unasked).await.expect("vouched for");
    // A client of the log may not ask.
    let asked = config::Nats {
        system_url: Some(synced.url.clone()),
        ..synced.clone()
    };
    let refused = durability::check(&asked).await;
    assert!(matches!(refused, Err(Error::NoAnswer)), "{refused:?}");
    let wrong = synced.url.expose().replace("//", "//amaima-check:wrong@");
    let wrong = config::Nats {
        system_url: Some(Secret::new(wrong)),
        ..synced
    };
    let refused = durability::check(&wrong).await;
    assert!(matches!(refused, Err(Error::Connect(_))), "{refused:?}");
}

#[tokio::test]
async fn a_log_in_memory_stops_the_start() {
    let (_stack, relaxed) = nats(SyncMode::Relaxed).await;
    let client = infra::nats::connect(&relaxed, "test").await.expect("NATS");
    let weak = Config {
        name: EVENTS.into(),
        subjects: vec![ALL_EVENTS.into()],
        storage: StorageType::Memory,
        ..Config::default()
    };
    jetstream::new(client.clone())
        .create_stream(weak)
        .await
        .expect("made");
    prepare(&client, &relaxed).await.expect_err("not in memory");
}
