//! Jobs and token streams are sealed: who follows gets the text, who reads the stores does not.

use amaima::stack::wait_for;
use async_nats::{HeaderMap, header, jetstream};
use bytes::Bytes;
use domain::{
    commit::header::SEALED,
    id::{AccountId, QueryId},
    subject,
    wire::token::{Body, Message},
};
use futures_util::StreamExt;
use infra::{
    direct_get::{self, Stored},
    sealing::{QueryKeys, query_key::Answer, sealed_for},
    tokens::{Error, Tokens},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{fs, net::SocketAddr};
use tests::{
    client::{self, Client, Stream},
    service::Role,
    world::{Model, Options, PATIENCE, Services, World},
};

const QUESTION: &str = "What does Zephyrine Quandleby sing in xylophone?";
/// Shorter pieces of an answer are found in random bytes now and then.
const LONG: usize = 8;

/// The bytes of all files of a stream.
fn files(world: &World, stream: &str) -> Vec<u8> {
    let streams = world.stack.data_dir().join("nats/jetstream/$G/streams");
    let blocks = fs::read_dir(streams.join(stream).join("msgs")).expect("its blocks");
    let blocks = blocks.map(|block| fs::read(block.expect("a block").path()).expect("readable"));
    blocks.collect::<Vec<_>>().concat()
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

fn account(client: &Client) -> AccountId {
    let user = client.user.as_deref().expect("signed in");
    user.parse().expect("an id")
}

/// The same person at another gateway.
fn at(gateway: SocketAddr, client: &Client) -> Client {
    let mut there = Client::new(gateway);
    (there.access, there.user) = (client.access.clone(), client.user.clone());
    there
}

/// The server-sent events of a query to its end.
async fn by_sse(client: &Client, id: &str) -> Stream {
    let request = client.request(Method::GET, &format!("/v1/queries/{id}/stream"));
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let text = response.text().await.expect("events");
    let mut stream = Stream::default();
    for event in text.split("\n\n").filter(|event| event.contains("data:")) {
        let line = |name: &str| {
            let found = event.lines().find_map(|line| line.strip_prefix(name));
            let found = found.unwrap_or_else(|| panic!("{name} in {event}"));
            serde_json::from_str::<Value>(found.trim()).expect("JSON")
        };
        let frame = json!({ "seq": line("id:"), "data": line("data:") });
        stream.add(&frame, id);
    }
    stream
}

/// Messages 2 and later are sealed for this person and show nothing of the texts.
fn is_sealed(headers: &HeaderMap, payload: &Bytes, person: AccountId, texts: &[&str]) {
    assert_eq!(sealed_for(Some(headers)), Ok(Some(person)));
    for text in texts.iter().chain(&["kind", "text", "seq"]) {
        assert!(!holds(payload, text.as_bytes()), "{text} is in plain");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_gets_the_text_and_who_reads_the_stores_does_not() {
    let options = Options {
        services: Services::AsProcesses,
        model: Model::Slow,
        no_worker: true,
        ..Options::default()
    };
    let mut world = World::with(options).await;
    let nats = world.nats().await;
    let mia = Client::registered(world.http).await;
    let owner = account(&mia);
    let mut socket = mia.socket().await;
    let submit = json!({ "type": "submit_query", "query": QUESTION });
    socket.send(&submit).await;
    let (id, mut stream) = socket.begun().await;
    let query: QueryId = id.parse().expect("an id");

    // The job waits: its query and its person are to be read, the question is not.
    let jobs = wait_for("the job", PATIENCE, || async {
        let jobs = direct_get::subject(&nats, subject::JOBS, subject::ALL_JOBS, 1).await;
        let jobs = jobs.map_err(|error| error.to_string())?;
        (!jobs.is_empty()).then_some(jobs).ok_or("none".to_owned())
    });
    let jobs = jobs.await.expect("a job");
    let [
        Stored {
            headers, payload, ..
        },
    ] = &jobs[..]
    else {
        panic!("one job: {jobs:?}")
    };
    is_sealed(headers, payload, owner, &[QUESTION, "Zephyrine"]);
    let named = headers.get(header::NATS_MESSAGE_ID).expect("an id");
    assert_eq!(named.as_str(), id);
    let stored = files(&world, subject::JOBS);
    assert!(holds(&stored, id.as_bytes()), "the files are searched");
    assert!(!holds(&stored, b"Zephyrine"));

    // It is answered: on the socket, on a stream at another gateway that a stranger asked first,
    // and for whoever listens to the bus.
    let elsewhere = world.another_gateway().await;
    let ben = Client::registered(elsewhere).await;
    let events = format!("/v1/queries/{id}/events");
    let (status, body) = ben.get(&events).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{body}");
    let mut live = nats.subscribe(subject::live(query)).await.expect("heard");
    nats.flush().await.expect("subscribed");
    world.spawn(Role::Worker);
    let mias = at(elsewhere, &mia);
    let (_, by_sse) = tokio::join!(socket.follow(&mut stream, &id), by_sse(&mias, &id));
    assert_eq!(stream.end["status"], "completed", "{}", stream.end);
    assert!(stream.chunks > 2, "{} chunks", stream.chunks);
    assert_eq!((&by_sse.text, by_sse.seq), (&stream.text, stream.seq));

    // What is stored, and what was published again, is the same and says nothing.
    let name = subject::tokens(query);
    let stored = direct_get::subject(&nats, subject::TOKENS, &name, 1).await;
    let stored = stored.expect("the stream");
    assert_eq!(stored.len() as u64, stream.seq);
    let keys = world.keys(&nats);
    let key = keys.of_query(query, owner).await.expect("a key");
    let tokens = Tokens::new(nats.clone());
    let history = tokens.history(query, key.key()).await.expect("it opens");
    let chunks: Vec<&str> = history.messages.iter().filter_map(chunk).collect();
    assert_eq!(chunks.concat(), stream.text);
    let mut long = chunks.clone();
    long.retain(|text| text.trim().len() >= LONG);
    assert!(long.len() > 2, "{chunks:?}");
    assert_eq!(stored[0].headers.get(SEALED), None);
    let first: Message = serde_json::from_slice(&stored[0].payload).expect("in plain");
    assert_eq!(first.body, Body::Queued { owner });
    for message in &stored[1..] {
        is_sealed(&message.headers, &message.payload, owner, &long);
        let told = live.next().await.expect("it was published again");
        assert_eq!(told.payload, message.payload);
        assert_eq!(
            told.headers.expect("headers").get(SEALED),
            message.headers.get(SEALED)
        );
    }
    let last = stored.last().expect("the end").payload.clone();
    let bytes = wait_for("the end on the disk", PATIENCE, || async {
        let bytes = files(&world, subject::TOKENS);
        let there = holds(&bytes, &last);
        there.then_some(bytes).ok_or("not there".to_owned())
    });
    let bytes = bytes.await.expect("it is written");
    assert!(
        holds(&bytes, br#""kind":"queued""#),
        "message 1 is as it is"
    );
    for text in long
        .iter()
        .chain(&[r#""kind":"chunk""#, r#""kind":"terminal""#])
    {
        assert!(!holds(&bytes, text.as_bytes()), "{text} is on the disk");
    }

    // Another one's key opens nothing.
    let asked = QueryKeys::new(nats.clone());
    let bens = asked.ask(query, account(&ben)).await.expect("an answer");
    let opened = tokens.history(query, bens.key()).await;
    assert!(matches!(opened, Err(Error::NoKey { person, .. }) if person == owner));

    // Without the key there is no text, for nobody.
    keys.destroy(owner).await.expect("destroyed");
    let erased = wait_for("command-svc to know", PATIENCE, || async {
        match asked.ask(query, owner).await {
            Ok(Answer::Erased) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    erased.await.expect("it hears of it");
    let mias = at(world.another_gateway().await, &mia);
    for path in [&events, &format!("/v1/queries/{id}/stream")] {
        let request = mias.request(Method::GET, path).send().await;
        let (status, body) = client::read(request.expect("an answer")).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{body}");
    }
    let mut socket = mias.socket().await;
    let subscribe = json!({ "type": "subscribe_query", "queryId": id });
    socket.send(&subscribe).await;
    let answer = socket.frame().await;
    assert_eq!(answer["type"], "error", "{answer}");
    assert_eq!(answer["data"]["code"], "NOT_FOUND", "{answer}");
}

fn chunk(message: &Message) -> Option<&str> {
    match &message.body {
        Body::Chunk(chunk) => Some(&chunk.text),
        Body::Queued { .. } | Body::Terminal(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_command_svc_who_comes_new_is_asked_to_come_again() {
    let options = Options {
        services: Services::AsProcesses,
        ..Options::default()
    };
    let mut world = World::with(options).await;
    let mia = Client::registered(world.http).await;
    let body = json!({ "query": "Who are you?" });
    let (status, answer) = mia.post("/v1/query", &body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let id = answer["query_id"].as_str().expect("an id");
    let mias = at(world.another_gateway().await, &mia);
    world.kill(Role::Command);
    let events = format!("/v1/queries/{id}/events");
    let (status, body) = mias.get(&events).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    // Who followed before knows it all.
    assert_eq!(mia.get(&events).await.0, StatusCode::OK);
    world.spawn(Role::Command);
    let told = wait_for("the events", PATIENCE, || async {
        match mias.get(&events).await {
            (StatusCode::OK, told) => Ok(told),
            other => Err(format!("{other:?}")),
        }
    });
    let told = told.await.expect("the events in the end");
    let mut stream = Stream::default();
    for event in told.as_array().expect("an array") {
        stream.add(event, id);
    }
    assert_eq!(Some(stream.text.as_str()), answer["response_text"].as_str());
}

/// A job whose person is erased before a worker takes it is dropped and does not come again, and
/// whoever follows the query is not kept waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_an_erased_person_is_dropped() {
    let options = Options {
        services: Services::AsProcesses,
        no_worker: true,
        ..Options::default()
    };
    let mut world = World::with(options).await;
    let nats = world.nats().await;
    let mia = Client::registered(world.http).await;
    let request = mia.request(Method::POST, "/v1/query");
    let request = request.header("Prefer", "respond-async");
    let body = json!({ "query": QUESTION });
    let sent = request.json(&body).send().await.expect("an answer");
    let (status, queued) = client::read(sent).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{queued}");
    let context = jetstream::new(nats.clone());
    let jobs = context.get_stream(subject::JOBS).await.expect("JOBS");
    let left = |wanted: u64| {
        let jobs = &jobs;
        async move {
            wait_for("the jobs", PATIENCE, || async {
                let info = jobs.get_info().await.map_err(|error| error.to_string())?;
                let left = info.state.messages;
                (left == wanted).then_some(()).ok_or(left.to_string())
            })
            .await
            .expect("as many")
        }
    };
    left(1).await;
    let id = queued["query_id"].as_str().expect("an id");
    let query: QueryId = id.parse().expect("an id");
    let (told, ()) = tokio::join!(by_sse(&mia, id), async {
        told_once(&world, &mia, id).await;
        let keys = world.keys(&nats);
        keys.destroy(account(&mia)).await.expect("destroyed");
        let tokens = context.get_stream(subject::TOKENS).await.expect("TOKENS");
        let purged = tokens.purge().filter(subject::tokens(query)).await;
        purged.expect("deleted");
    });
    assert_eq!((told.seq, told.text.as_str()), (1, ""));
    world.spawn(Role::Worker);
    left(0).await;
}

/// Waits until the gateway has told a follower of the query that it waits.
async fn told_once(world: &World, client: &Client, id: &str) {
    wait_for("the first update", PATIENCE, || async {
        let (status, told) = client.get(&format!("/v1/queries/{id}/events")).await;
        let is_told = told.as_array().is_some_and(|told| !told.is_empty());
        is_told.then_some(()).ok_or(format!("{status}: {told}"))
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.tail_of_logs()));
}
