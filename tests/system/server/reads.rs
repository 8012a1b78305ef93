//! Direct get: what a read after a write sees.

use super::{
    Ground,
    answers::{Headers, history, stored},
    connect, fresh_subject, on_one_and_on_three,
};
use amaima::stack::wait_for;
use async_nats::{Client, StatusCode, jetstream};
use domain::{
    Actor, Aggregate, Timestamp,
    id::{AccountId, CommandId, QueryId},
    query::{Event, Query, Submission},
    subject::EVENTS,
};
use futures_util::StreamExt;
use infra::sealing::{Keyring, Sealing};
use infra::{
    append::{self, Part},
    event_store::{EventStore, Loaded, Provenance},
};
use serde_json::json;
use tests::world::PATIENCE;
use uuid::Uuid;

const DIRECT_GET: &str = "$JS.API.DIRECT.GET.EVENTS";

on_one_and_on_three!(the_leader_shows_every_acknowledged_write);

/// Carries: loading by direct get from one server is never behind; with replicas only the lookup
/// of the last message at the leader is not, which `EventStore::load_from_leader` begins with.
async fn the_leader_shows_every_acknowledged_write(ground: &Ground) {
    let subject = fresh_subject();
    let events = jetstream::new(ground.client.clone());
    let events = events.get_stream_no_info(EVENTS).await.expect("a handle");
    let mut last = 0;
    for n in 0..100 {
        last = stored(
            &ground.client,
            &subject,
            Headers::expecting(last),
            &n.to_string(),
        )
        .await;
        let seen = events.get_last_raw_message_by_subject(&subject).await;
        assert_eq!(seen.expect("a message").sequence, last);
        if !ground.replicated() {
            let log = history(&ground.client, &subject).await;
            assert_eq!(log.last().map(|last| last.0), Some(last));
        }
    }
}

/// Carries: after a conflict the write path loads from the leader. A follower that was frozen for a
/// moment answers a direct get from what it had, while acknowledged writes are on the way to it.
#[tokio::test]
async fn a_follower_lags_and_loading_from_the_leader_does_not() {
    const ROUNDS: usize = 20;
    let ground = Ground::own(3).await;
    let leader = ground.leader().await;
    let follower = (leader + 1) % ground.cluster.replicas();
    let at_leader = connect(&ground.cluster.member_urls()[leader]).await;
    let at_follower = connect(&ground.cluster.member_urls()[follower]).await;
    let reader = EventStore::new(
        at_follower.clone(),
        Keyring::new(&at_follower, Sealing::Off),
    );
    let frozen = &ground.cluster.members()[follower];
    let (mut behind, mut put_off) = (0, 0);
    for _ in 0..ROUNDS {
        let id = Uuid::new_v4();
        frozen.pause().expect("frozen");
        let last = submit(&at_leader, id).await;
        // The request waits in the frozen server's socket, like the commits on its routes.
        let inbox = at_follower.new_inbox();
        let mut replies = at_follower
            .subscribe(inbox.clone())
            .await
            .expect("an inbox");
        let ask = json!({ "last_by_subj": Query::named(id).subject() }).to_string();
        at_follower
            .publish_with_reply(DIRECT_GET, inbox, ask.into())
            .await
            .expect("sent");
        at_follower.flush().await.expect("written");
        frozen.resume().expect("awake");
        match reader.load_from_leader::<Query>(id).await {
            Ok(loaded) => assert_eq!(loaded.last_seq, last),
            Err(_) => put_off += 1,
        }
        let reply = replies.next().await.expect("an answer");
        behind += usize::from(reply.status == Some(StatusCode::NOT_FOUND));
        let caught_up = wait_for("the follower", PATIENCE, || async {
            match reader.load_from_leader::<Query>(id).await {
                Ok(loaded) if loaded.last_seq == last => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        caught_up.await.expect("the follower catches up");
    }
    println!("{ROUNDS} rounds: {behind} reads behind, {put_off} loads from the leader put off");
}

/// Many large commits on other subjects keep the follower busy, then the one that is read.
async fn submit(client: &Client, id: Uuid) -> u64 {
    let store = EventStore::new(client.clone(), Keyring::new(client, Sealing::Off));
    let mut last = 0;
    for n in 0..40 {
        let id = if n == 39 { id } else { Uuid::new_v4() };
        let query = QueryId::new(id);
        let at = Timestamp::from_millis(1);
        let owner = AccountId::new(Uuid::from_u128(1));
        let event = Event::Submitted {
            query,
            owner,
            submission: Submission {
                text: "?".repeat(60_000),
                operation: "general".into(),
                file_ids: Vec::new(),
                context: None,
                reference: None,
                options: None,
            },
            at,
            route: None,
        };
        let provenance = Provenance {
            command: CommandId::new(Uuid::new_v4()),
            actor: Actor::User(owner),
            request_id: "pin".into(),
            causation: "pin".into(),
            traceparent: None,
            fingerprint: None,
            deadline: at.plus_millis(30_000),
        };
        let nothing = Loaded::<Query>::default();
        let pending = store.pending(id, &nothing, &provenance, at, &[event]).await;
        let Part {
            subject,
            expected,
            headers,
            payload,
        } = pending.expect("it encodes");
        let stored = append::append(client, &subject, expected, headers, payload).await;
        last = stored.expect("it is stored").seq;
    }
    last
}
