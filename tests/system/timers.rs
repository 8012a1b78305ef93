//! Timers: what we rely on at nats-server, and the life of a query.

use amaima::stack::{self, wait_for};
use async_nats::{
    header,
    jetstream::{self, AckKind, consumer::pull, stream::Stream},
};
use command_svc::timers::Timers;
use domain::{id::QueryId, subject, timer::Timer};
use futures_util::StreamExt;
use infra::{clock, config};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::{
    client::{self, Client},
    service::Role,
    world::{Options, PATIENCE, Services, World},
};

/// What timers are set and due: their subjects, in order.
async fn subjects(stream: &Stream) -> Vec<String> {
    let info = stream.info_with_subjects(">").await.expect("an answer");
    let mut subjects: Vec<String> = info
        .map(|each| each.expect("an answer"))
        .map(|(subject, _)| subject)
        .collect()
        .await;
    subjects.sort_unstable();
    subjects
}

async fn until_due(stream: &Stream, timer: Timer) {
    wait_for("the timer", PATIENCE, || async {
        let found = subjects(stream).await;
        match found.contains(&timer.due_subject()) {
            true => Ok(()),
            false => Err(format!("{found:?}")),
        }
    })
    .await
    .expect("it fires");
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_at_the_server() {
    let servers = stack::testing().await.expect("the servers start");
    let nats = config::Nats::at(&servers.endpoints().nats_url);
    let client = infra::nats::connect(&nats, "test").await.unwrap();
    let context = infra::jetstream::prepare(&client, &nats).await.unwrap();
    let stream = context.get_stream(subject::TIMERS).await.unwrap();
    let timers = Timers::new(&context);
    let timer = |n| Timer::QueryLife(QueryId::new(uuid::Uuid::from_u128(n)));
    let later = |millis| clock::now().plus_millis(millis);

    // One whose time is past fires at once, and is gone from where it was set.
    timers.set(timer(1), later(-60_000)).await.unwrap();
    until_due(&stream, timer(1)).await;
    assert_eq!(subjects(&stream).await, [timer(1).due_subject()]);

    // Set again it moves; it is not early, and says by whom it was set and that it is over.
    timers.set(timer(2), later(300)).await.unwrap();
    let at = later(1_500);
    timers.set(timer(2), at).await.unwrap();
    until_due(&stream, timer(2)).await;
    let due = timer(2).due_subject();
    let fired = stream.get_last_raw_message_by_subject(&due).await.unwrap();
    let stored = (fired.time.unix_timestamp_nanos() / 1_000_000) as i64;
    assert!(
        stored >= at.as_millis(),
        "{} ms early",
        at.as_millis() - stored
    );
    println!("fired {} ms after its time", stored - at.as_millis());
    let header = |name: async_nats::HeaderName| fired.headers.get(name).map(ToString::to_string);
    assert_eq!(header(header::NATS_SCHEDULER), Some(timer(2).set_subject()));
    assert_eq!(header(header::NATS_SCHEDULE_NEXT).as_deref(), Some("purge"));
    assert_eq!(
        serde_json::from_slice::<Timer>(&fired.payload).unwrap(),
        timer(2)
    );

    // Cleared, it does not fire; one that was set later than its time shows that time went by.
    timers.set(timer(3), later(200)).await.unwrap();
    timers.clear(timer(3)).await.unwrap();
    timers.clear(timer(3)).await.unwrap();
    timers.set(timer(4), later(600)).await.unwrap();
    until_due(&stream, timer(4)).await;
    assert!(!subjects(&stream).await.contains(&timer(3).due_subject()));

    // A killed server forgets none: what came due meanwhile, and what comes later, fire once.
    timers.set(timer(5), later(100)).await.unwrap();
    timers.set(timer(6), later(3_000)).await.unwrap();
    servers.nats().kill().await.expect("killed");
    servers.nats().restart().await.expect("restarted");
    let info = wait_for("the connection", PATIENCE, || stream.get_info());
    info.await.expect("it comes back");
    until_due(&stream, timer(5)).await;
    until_due(&stream, timer(6)).await;

    // What is due stays until it is acknowledged, and comes again until then.
    let consumer = stream
        .create_consumer(pull::Config {
            durable_name: Some("test".into()),
            filter_subject: subject::DUE_TIMERS.into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let mut seen = Vec::new();
    let mut messages = consumer.messages().await.unwrap();
    while seen.len() < 5 {
        let message: jetstream::Message = messages.next().await.unwrap().unwrap();
        if message.info().unwrap().delivered == 1 {
            message.ack_with(AckKind::Nak(None)).await.unwrap();
        } else {
            message.double_ack().await.unwrap();
            seen.push(Timer::parse_due(&message.subject).expect("a timer"));
        }
    }
    seen.sort_unstable_by_key(Timer::due_subject);
    assert_eq!(seen, [1, 2, 4, 5, 6].map(timer), "each once");
    assert!(subjects(&stream).await.is_empty());
}

/// The types of a query's events, in order.
async fn history(world: &World, query: &str) -> Vec<String> {
    let (_, report) = tests::admin::json(world, &["aggregate", "history", "query", query]).await;
    let commits = report["commits"].as_array().expect("commits");
    commits
        .iter()
        .map(|commit| commit["types"][0].as_str().expect("a type").to_owned())
        .collect()
}

async fn ask_async(mia: &Client, question: &str) -> String {
    let request = mia
        .request(Method::POST, "/v1/query")
        .header("Prefer", "respond-async");
    let body = json!({ "query": question });
    let (status, queued) = client::read(request.json(&body).send().await.unwrap()).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{queued}");
    queued["query_id"].as_str().expect("an id").to_owned()
}

async fn until_failed(mia: &Client, id: &str) -> Value {
    wait_for("the end of the query", PATIENCE, || async {
        let (status, item) = mia.get(&format!("/v1/queries/{id}")).await;
        match item["status"] == "failed" {
            true => Ok(item),
            false => Err(format!("{status} {item}")),
        }
    })
    .await
    .expect("it fails")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_nobody_answers_fails_after_its_life() {
    let mut world = World::with(Options {
        no_worker: true,
        query_life_secs: Some(2),
        ..Default::default()
    })
    .await;
    let mia = Client::registered(world.http).await;
    let mut socket = mia.socket().await;
    socket
        .send(&json!({ "type": "submit_query", "query": "Is anybody there?" }))
        .await;
    let by_rest = mia.post("/v1/query", &json!({ "query": "Hello?" })).await;
    assert_eq!(by_rest.0, StatusCode::GATEWAY_TIMEOUT, "{}", by_rest.1);
    assert_eq!(by_rest.1["error"]["code"], "QUERY_TIMEOUT");
    assert_eq!(
        by_rest.1["error"]["message"],
        "The query was not answered within 2 seconds"
    );

    let (id, mut stream) = socket.begun().await;
    let told = socket.failed(&mut stream, &id).await;
    assert_eq!(stream.end["status"], "failed");
    assert_eq!(told, "QUERY_TIMEOUT");
    until_failed(&mia, &id).await;
    assert_eq!(
        history(&world, &id).await,
        ["query.submitted.v1", "query.failed.v1"]
    );

    // A worker that comes too late does not begin, and the jobs are gone.
    let context = jetstream::new(world.nats().await);
    let jobs = context.get_stream(subject::JOBS).await.unwrap();
    assert_eq!(jobs.get_info().await.unwrap().state.messages, 2);
    world.spawn(Role::Worker);
    wait_for("the end of the jobs", PATIENCE, || async {
        match jobs.get_info().await {
            Ok(info) if info.state.messages == 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .expect("they are acknowledged");
    assert_eq!(history(&world, &id).await.len(), 2, "nobody started");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answered_query_has_no_timer_any_more() {
    let world = World::start().await;
    let mia = Client::registered(world.http).await;
    let (status, answer) = mia
        .post("/v1/query", &json!({ "query": "Who are you?" }))
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let context = jetstream::new(world.nats().await);
    let timers = context.get_stream(subject::TIMERS).await.unwrap();
    wait_for("the timer's end", PATIENCE, || async {
        let left = subjects(&timers).await;
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await
    .expect("it is cleared");
    let info = timers.get_info().await.unwrap();
    assert_eq!(info.state.last_sequence, 1, "it was set once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_query_outlasts_its_servers() {
    let mut world = World::with(Options {
        services: Services::AsProcesses,
        no_worker: true,
        query_life_secs: Some(4),
        ..Default::default()
    })
    .await;
    let mia = Client::registered(world.http).await;
    let id = ask_async(&mia, "Is anybody there?").await;
    let context = jetstream::new(world.nats().await);
    let timers = context.get_stream(subject::TIMERS).await.unwrap();
    wait_for("the timer", PATIENCE, || async {
        match subjects(&timers).await {
            set if set.is_empty() => Err("none"),
            _ => Ok(()),
        }
    })
    .await
    .expect("it is set");
    // The timer comes due while nobody is there to hear of it.
    world.kill(Role::Command);
    world.stack.nats().kill().await.expect("killed");
    let over = clock::now().plus_millis(4_000);
    wait_for("the end of its life", PATIENCE, || async {
        let left = over.millis_since(clock::now());
        if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} ms left"))
        }
    })
    .await
    .expect("time goes by");
    world.stack.nats().restart().await.expect("restarted");
    world.spawn(Role::Command);
    let item = until_failed(&mia, &id).await;
    assert_eq!(item["query_id"], id.as_str());
    // Fired again, late, it changes nothing.
    let timer = Timer::QueryLife(id.parse().unwrap());
    let again = Timers::new(&context);
    again.set(timer, clock::now()).await.expect("set");
    wait_for("the timer's end", PATIENCE, || async {
        let left = subjects(&timers).await;
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await
    .expect("it is done with");
    assert_eq!(
        history(&world, &id).await,
        ["query.submitted.v1", "query.failed.v1"]
    );
}
