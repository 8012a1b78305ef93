//! command-svc dies at each step of an erasure, and it is done in the end all the same, once.

use super::{PASSWORD, ask, delete, erased, id, person};
use amaima::stack::wait_for;
use domain::{
    account::{Account, Event},
    email::Email,
    id::EmailId,
    subject,
};
use infra::{direct_get, sealing::keyring::Found};
use reqwest::StatusCode;
use tests::{
    service::Role,
    world::{Options, PATIENCE, Services, World},
};

/// Where [`infra::fault`] lets it die.
const STEPS: [&str; 4] = [
    "erase.given_up",
    "erase.key_destroyed",
    "erase.streams_deleted",
    "erase.told",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_changes_nothing_in_the_end() {
    let mut world = World::with(Options {
        services: Services::AsProcesses,
        ..Options::default()
    })
    .await;
    for step in STEPS {
        let email = format!("{}@canary.example", step.replace('.', "-"));
        let them = person(&world, "Zephyrine", &email, "phone").await;
        let answered = ask(&them, "What is a projection here?").await;
        world.kill(Role::Command);
        world.spawn_with(Role::Command, &[("AMAIMA_CRASH_AT", step)]);
        world.commands_are_answered().await;
        let (status, answer) = delete(&them, PASSWORD).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        wait_for("the crash", PATIENCE, || async {
            let exited = world.process(Role::Command).exited();
            exited.map(|_| ()).ok_or(format!("alive before {step}"))
        })
        .await
        .expect("it dies");
        world.kill(Role::Command);
        world.spawn(Role::Command);
        erased(&world, &them).await;

        let events = account_events(&world, &them).await;
        assert!(
            matches!(
                events[..],
                [Event::ErasureRequested { .. }, Event::Erased { .. }]
            ),
            "{step}: {events:?}"
        );
        let client = world.nats().await;
        let found = world.keys(&client).find(id(&them)).await;
        assert!(matches!(found, Ok(Found::Erased)), "{step}: {found:?}");
        let kept = direct_get::subject(&client, subject::KEYS, &subject::key(id(&them)), 1).await;
        assert_eq!(kept.expect("readable").len(), 1, "the tombstone alone");
        let query = answered["query_id"].as_str().expect("an id").parse();
        let stream = subject::tokens(query.expect("an id"));
        let left = direct_get::subject(&client, subject::TOKENS, &stream, 1).await;
        assert_eq!(left.expect("readable").len(), 0, "{step}");
        let log = world.log().await;
        let claim = log.load::<Email>(EmailId::of(&email).uuid()).await;
        assert_eq!(claim.expect("readable").state, Email::Free, "{step}");
    }
}

/// What the log tells of an account that can still be read.
async fn account_events(world: &World, client: &tests::client::Client) -> Vec<Event> {
    let subject = <Account as domain::Aggregate>::named(id(client).uuid()).subject();
    let nats = world.nats().await;
    let keys = world.keys(&nats);
    let stored = direct_get::subject(&nats, subject::EVENTS, &subject, 1).await;
    let mut events = Vec::new();
    for message in stored.expect("readable") {
        let opened = keys.open_stored(&subject, message).await.expect("a key");
        let read = opened.map(|message| domain::commit::decode(&subject, &message.payload));
        events.extend(read.into_iter().flat_map(|read| read.expect("ours")));
    }
    events
}
