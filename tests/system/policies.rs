//! Policies: their reactions happen, whoever is killed and however many instances share the work.

use amaima::{admin::Exit, stack::wait_for};
use async_nats::jetstream;
use domain::{
    Actor, Aggregate,
    id::{AccountId, CommandId, QueryId},
    query::{Event, Query, Submission},
    subject,
    wire::token::{self, Body, Terminal},
};
use infra::{
    append::{self, Part},
    clock, config,
    event_store::{Loaded, Provenance},
    tokens::Tokens,
};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tests::{
    admin,
    client::{self, Client},
    service::Role,
    world::{Options, PATIENCE, Services, World},
};

/// Puts a submission into the log as command-svc does; the sequence of its commit.
async fn submit(world: &World, query: QueryId, owner: AccountId) -> u64 {
    let log = world.log().await;
    let submission = Submission {
        text: "Why?".into(),
        operation: "general".into(),
        file_ids: vec![],
        context: None,
        reference: None,
        options: None,
    };
    let at = clock::now();
    let provenance = Provenance {
        command: CommandId::derived(&[&query.to_string()]),
        actor: Actor::User(owner),
        request_id: "req_test".into(),
        causation: "req_test".into(),
        traceparent: None,
        fingerprint: None,
        deadline: at.plus_millis(30_000),
    };
    let event = Event::Submitted {
        query,
        owner,
        submission,
        at,
        route: None,
    };
    let commit = log
        .pending::<Query>(query.uuid(), &Loaded::default(), &provenance, at, &[event])
        .await
        .unwrap();
    let nats = world.nats().await;
    let Part {
        subject,
        expected,
        headers,
        payload,
    } = commit;
    append::append(&nats, &subject, expected, headers, payload)
        .await
        .unwrap()
        .seq
}

fn fresh() -> (QueryId, AccountId) {
    (
        QueryId::new(clock::fresh_id()),
        AccountId::new(clock::fresh_id()),
    )
}

/// A query's token stream once its last message satisfies `wanted`.
async fn stream_until(
    world: &World,
    query: QueryId,
    wanted: impl Fn(&token::Message) -> bool,
) -> Vec<token::Message> {
    let nats = world.nats().await;
    let (tokens, keys) = (Tokens::new(nats.clone()), world.keys(&nats));
    wait_for("the token stream", PATIENCE, || async {
        let stored = tokens.stored(query).await.map_err(|e| e.to_string())?;
        let key = match stored.person().map_err(|e| e.to_string())? {
            Some(person) => keys
                .of_query(query, person)
                .await
                .map_err(|e| e.to_string())?,
            None => return Err("nothing".into()),
        };
        match stored.open(key.key()) {
            Ok(history) if history.messages.last().is_some_and(&wanted) => Ok(history.messages),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.tail_of_logs()))
}

/// The messages of a stream.
async fn messages(world: &World, stream: &str) -> u64 {
    let context = jetstream::new(world.nats().await);
    let stream = context.get_stream(stream).await.unwrap();
    stream.cached_info().state.messages
}

#[tokio::test(flavor = "multi_thread")]
async fn reactions_happen_although_their_instance_was_killed() {
    let mut world = World::with(Options {
        services: Services::AsProcesses,
        no_worker: true,
        ..Default::default()
    })
    .await;
    // Killed between the append and everything that follows.
    world.kill(Role::Command);
    let (query, owner) = fresh();
    submit(&world, query, owner).await;
    let tokens = Tokens::new(world.nats().await);
    assert!(
        tokens
            .history(query, None)
            .await
            .unwrap()
            .messages
            .is_empty()
    );
    world.spawn(Role::Command);
    let stream = stream_until(&world, query, |_| true).await;
    assert_eq!(stream[0].body, Body::Queued { owner });

    // And killed anywhere in the middle of it.
    let mia = Client::registered(world.http).await;
    let mut asked = vec![query];
    for n in 0..3 {
        let request = mia
            .request(Method::POST, "/v1/query")
            .header("Prefer", "respond-async");
        let body = json!({ "query": format!("Why? ({n})") });
        let (status, queued) = client::read(request.json(&body).send().await.unwrap()).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{queued}");
        world.kill(Role::Command);
        asked.push(queued["query_id"].as_str().unwrap().parse().unwrap());
        world.spawn(Role::Command);
        world.ready().await;
    }
    for query in &asked {
        stream_until(&world, *query, |_| true).await;
    }
    wait_for("rest", PATIENCE, || async {
        let (exit, report) = admin::json(&world, &["policies"]).await;
        match exit == Exit::Well && report["oldest_unacknowledged"].is_null() {
            true => Ok(()),
            false => Err(report.to_string()),
        }
    })
    .await
    .expect("all is acknowledged");
    for query in &asked {
        assert_eq!(
            tokens.history(*query, None).await.unwrap().messages.len(),
            1
        );
    }
    assert_eq!(messages(&world, subject::JOBS).await, asked.len() as u64);
    assert_eq!(messages(&world, subject::TIMERS).await, asked.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_come_to_the_same() {
    let world = World::with(Options {
        no_worker: true,
        ..Default::default()
    })
    .await;
    let endpoints = world.stack.endpoints();
    let nats = config::Nats::at(&endpoints.nats_url);
    let second = command_svc::Config::at(nats, endpoints.sealing().expect("master keys"));
    let life = world.lifecycle.clone();
    world.lifecycle.spawn("second command-svc", async move {
        command_svc::run(second, life).await.expect("it runs");
    });
    wait_for("both", PATIENCE, || async {
        let (_, report) = admin::json(&world, &["policies"]).await;
        match report["policies"]["waiting_pulls"].as_u64() {
            Some(2..) => Ok(()),
            _ => Err(report.to_string()),
        }
    })
    .await
    .expect("both pull");
    let mia = Client::registered(world.http).await;
    let owner: AccountId = mia.user.as_deref().unwrap().parse().unwrap();
    for n in 0..20 {
        let id = uuid::Uuid::new_v4().to_string();
        let body = json!({ "query": format!("Why? ({n})"), "query_id": id });
        let request = mia
            .request(Method::POST, "/v1/query")
            .header("Prefer", "respond-async");
        let (status, queued) = client::read(request.json(&body).send().await.unwrap()).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{queued}");
        let path = format!("/v1/queries/{id}/cancel");
        let (status, cancelled) = mia.post(&path, &json!({})).await;
        assert_eq!(status, StatusCode::OK, "{cancelled}");
        let query = id.parse().unwrap();
        let stream = stream_until(&world, query, token::Message::is_terminal).await;
        let bodies: Vec<_> = stream.iter().map(|message| &message.body).collect();
        assert_eq!(
            bodies,
            [
                &Body::Queued { owner },
                &Body::Terminal(Terminal::Cancelled)
            ]
        );
        assert_eq!((stream[0].seq, stream[1].seq), (1, 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_carried_out_is_parked_and_tried_again() {
    let world = World::with(Options {
        no_worker: true,
        ..Default::default()
    })
    .await;
    let nats = world.nats().await;
    let context = jetstream::new(nats.clone());
    wait_for("the policies", PATIENCE, || async {
        let (exit, report) = admin::json(&world, &["policies"]).await;
        match (exit, report["parked_count"].as_u64()) {
            (Exit::Well, Some(0)) => Ok(()),
            _ => Err(report.to_string()),
        }
    })
    .await
    .expect("nothing is parked");

    // A commit that nobody can read, and another one of the same lane that goes on.
    let unreadable = Query::named(clock::fresh_id()).subject();
    let stored = context
        .publish(unreadable.clone(), r#"[{"type":"query.dreamt.v9"}]"#.into())
        .await
        .unwrap();
    let unreadable_seq = stored.await.unwrap().sequence;

    // A token stream that holds what cannot be read: its last message cannot be written.
    let mia = Client::registered(world.http).await;
    let id = uuid::Uuid::new_v4().to_string();
    let query: QueryId = id.parse().unwrap();
    let request = mia
        .request(Method::POST, "/v1/query")
        .header("Prefer", "respond-async");
    let body = json!({ "query": "Why?", "query_id": id });
    let (status, queued) = client::read(request.json(&body).send().await.unwrap()).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{queued}");
    stream_until(&world, query, |_| true).await;
    let garbage = context.publish(subject::tokens(query), "?".into()).await;
    let garbage = garbage.unwrap().await.unwrap().sequence;
    let path = format!("/v1/queries/{id}/cancel");
    assert_eq!(mia.post(&path, &json!({})).await.0, StatusCode::OK);
    let report = wait_for("two that are parked", PATIENCE, || async {
        let (exit, report) = admin::json(&world, &["policies"]).await;
        match report["parked_count"] == 2 {
            true => Ok((exit, report)),
            false => Err(report.to_string()),
        }
    });
    let (exit, report) = report.await.expect("both are parked");
    assert_eq!(exit, Exit::Degraded);
    assert_eq!(report["parked"][0]["seq"], unreadable_seq);
    assert_eq!(report["parked"][0]["subject"], unreadable);
    let reason = report["parked"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("Data error at line 1"), "{reason}");
    let cancelled_seq = report["parked"][1]["seq"].as_u64().unwrap();
    let (_, shown) = admin::text(&world, &["policies"]).await;
    println!("{shown}");
    assert!(shown.contains(&unreadable), "{shown}");

    // Tried again too early, both stay; after it is mended, one is done.
    let (exit, report) = admin::json(&world, &["policies", "retry", "--all"]).await;
    assert_eq!(exit, Exit::Degraded);
    assert_eq!(report["orders"][1]["outcome"], "still_parked", "{report}");
    let tokens = context.get_stream(subject::TOKENS).await.unwrap();
    tokens.delete_message(garbage).await.unwrap();
    let seq = cancelled_seq.to_string();
    let (exit, report) = admin::json(&world, &["policies", "retry", &seq]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    assert_eq!(
        report["orders"][0],
        json!({ "seq": cancelled_seq, "outcome": "done" })
    );
    let stream = stream_until(&world, query, token::Message::is_terminal).await;
    assert_eq!(stream.len(), 2);

    // The other one is let go by name, once.
    let seq = unreadable_seq.to_string();
    assert_eq!(
        admin::json(&world, &["policies", "skip", &seq]).await.0,
        Exit::Well
    );
    let (exit, report) = admin::json(&world, &["policies", "skip", &seq]).await;
    assert_eq!(exit, Exit::Degraded);
    assert_eq!(report["orders"][0]["outcome"], "not_parked");
    let (exit, report) = admin::json(&world, &["policies"]).await;
    assert_eq!((exit, &report["parked_count"]), (Exit::Well, &json!(0)));
}
