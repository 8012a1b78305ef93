//! Workers that are killed in the middle of several answers: nobody is told anything that the
//! answer in the end contradicts, and every query ends.
//!
//! The test runs in a short form; `AMAIMA_WORKER_KILLS` makes it as long as wanted.

use amaima::stack::{Process, wait_for};
use domain::{
    id::QueryId,
    query::{Options, options::Format},
    subject::{self, Kind},
    wire::command::{Body, Request},
};
use futures_util::{StreamExt, future::join_all};
use infra::clock;
use reqwest::StatusCode;
use serde_json::json;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};
use tests::{
    asking::Asking,
    client::{Client, Stream},
    service::Role,
    world::{self, Model, PATIENCE, Services, World},
};

const WORKERS: usize = 2;
/// Answers that are wanted at once.
const ASKED: usize = 8;
/// Answers that a kill hits at least.
const HIT: usize = 2;
/// Chunks that a worker has told of each of them at least. A job that was handed out too often
/// without an end is given up, so that each worker has to bring them on.
const CHUNKS: usize = 6;

/// Queries that have not ended.
type Open = Arc<Mutex<HashMap<QueryId, Reached>>>;

/// How far a query is.
#[derive(Clone, Debug, Default)]
struct Reached {
    chunks: usize,
    has_format: bool,
    /// Who has it, and how many chunks there were then.
    taken: Option<(String, usize)>,
}

impl Reached {
    /// Whether this worker is in the middle of its answer.
    fn is_told_by(&self, worker: &str) -> bool {
        let taken = self.taken.as_ref();
        taken.is_some_and(|(by, before)| by == worker && self.chunks >= before + CHUNKS)
    }
}

/// What is wanted of an answer, in turn.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    Text,
    Words,
    Numbers,
}

impl Wanted {
    fn options(self) -> Options {
        let (max_tokens, format) = match self {
            Self::Text => (200, None),
            Self::Words => (400, Some(Format::Regex("([a-z]{2,8} ){30}".into()))),
            Self::Numbers => {
                let items = json!({ "type": "integer", "minimum": 100, "maximum": 999 });
                let schema =
                    json!({ "type": "array", "items": items, "minItems": 12, "maxItems": 12 });
                (600, Some(Format::JsonSchema(schema)))
            }
        };
        Options {
            max_tokens: Some(max_tokens),
            temperature: Some(1.0),
            logprobs: Some(1),
            format,
            ..Options::default()
        }
    }

    fn check(self, text: &str) {
        match self {
            Self::Text => assert!(!text.is_empty()),
            Self::Words => {
                let words: Vec<&str> = text.split_terminator(' ').collect();
                let is_word = |word: &&str| {
                    (2..=8).contains(&word.len())
                        && word.bytes().all(|byte| byte.is_ascii_lowercase())
                };
                assert!(words.len() == 30 && words.iter().all(is_word), "{text}");
            }
            Self::Numbers => {
                let numbers: Vec<u32> = serde_json::from_str(text).expect("numbers");
                let is_right = |number: &u32| (100..=999).contains(number);
                assert!(
                    numbers.len() == 12 && numbers.iter().all(is_right),
                    "{text}"
                );
            }
        }
    }
}

/// Asks and follows, one query after the other, until it is `enough`; how many there were, and how
/// many characters and chunks they had.
async fn follow(
    mia: Client,
    asking: Asking,
    wanted: Wanted,
    open: Open,
    enough: Arc<AtomicBool>,
) -> (usize, usize, usize) {
    let mut socket = mia.socket().await;
    let (mut queries, mut characters, mut chunks) = (0, 0, 0);
    while !enough.load(Ordering::Relaxed) {
        let options = wanted.options();
        let reached = Reached {
            has_format: options.format.is_some(),
            ..Reached::default()
        };
        let query = QueryId::new(clock::fresh_id());
        open.lock().expect("whole").insert(query, reached);
        let text = format!("Go on, {wanted:?} {queries}");
        asking.submit_as(query, &text, options).await;
        let queued = wait_for("a query in line", PATIENCE, || async {
            let messages = asking.messages(query).await?;
            if messages.is_empty() {
                Err("none".to_owned())
            } else {
                Ok(())
            }
        });
        queued.await.expect("it is in line");
        let id = query.to_string();
        socket
            .send(&json!({ "type": "subscribe_query", "queryId": id }))
            .await;
        let mut stream = Stream::default();
        loop {
            let frame = socket.frame().await;
            if frame["type"] == "ping" {
                socket.send(&json!({ "type": "pong" })).await;
                continue;
            }
            if frame["type"] != "query_update" {
                assert_ne!(frame["type"], "error", "{frame}");
                continue;
            }
            // Whatever is not one number after the other, or contradicts the whole text, fails here.
            if stream.add(&frame, &id) {
                break;
            }
            if let Some(reached) = open.lock().expect("whole").get_mut(&query) {
                reached.chunks = stream.chunks;
            }
        }
        open.lock().expect("whole").remove(&query);
        assert_eq!(stream.end["status"], "completed", "{:?}", stream.end);
        wanted.check(&stream.text);
        let told = asking.told(query).await;
        assert_eq!(told.answer().response_text, stream.text);
        let ids: usize = told.chunks.iter().map(|chunk| chunk.ids.len()).sum();
        let tokens: usize = told.chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        let counted = told.answer().usage.completion_tokens as usize;
        assert_eq!(
            (ids, tokens),
            (counted, counted),
            "no token twice, none left out"
        );
        let (status, item) = mia.get(&format!("/v1/queries/{id}")).await;
        assert_eq!(status, StatusCode::OK, "{item}");
        assert_eq!(item["response_text"].as_str(), Some(stream.text.as_str()));
        queries += 1;
        characters += stream.text.chars().count();
        chunks += stream.chunks;
    }
    (queries, characters, chunks)
}

fn start(world: &World, name: &str) -> Process {
    let more = [("WORKER_NAME", name), ("WORKER_MAX_NEW_TOKENS", "700")];
    world.one_more(Role::Worker, &more)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_workers_contradict_nobody_and_every_query_ends() {
    let kills = std::env::var("AMAIMA_WORKER_KILLS")
        .ok()
        .and_then(|text| text.parse().ok());
    let kills: usize = kills.unwrap_or(4);
    let world = World::with(world::Options {
        services: Services::AsProcesses,
        model: Model::Steady,
        no_worker: true,
        ..Default::default()
    })
    .await;
    let mia = Client::registered(world.http).await;
    let asking = Asking::of(&world, &mia).await;
    let (open, enough) = (Open::default(), Arc::new(AtomicBool::new(false)));

    let nats = world.nats().await;
    let mut commands = nats
        .subscribe(subject::command(Kind::Query))
        .await
        .expect("heard");
    let taken = open.clone();
    world.lifecycle.spawn("who takes what", async move {
        while let Some(command) = commands.next().await {
            let request: Request = serde_json::from_slice(&command.payload).expect("ours");
            let domain::Actor::Worker(worker) = request.actor else {
                continue;
            };
            if let (Body::StartQuery { query, .. }, Ok(mut open)) = (request.body, taken.lock())
                && let Some(reached) = open.get_mut(&query)
            {
                reached.taken = Some((worker, reached.chunks));
            }
        }
    });

    let wanted = [Wanted::Text, Wanted::Words, Wanted::Text, Wanted::Numbers];
    let followers = (0..ASKED).map(|n| {
        let wanted = wanted[n % wanted.len()];
        let follower = follow(
            mia.clone(),
            asking.clone(),
            wanted,
            open.clone(),
            enough.clone(),
        );
        #[expect(clippy::disallowed_methods, reason = "joined below")]
        tokio::spawn(follower)
    });
    let followers: Vec<_> = followers.collect();

    let mut workers: HashMap<String, Process> = HashMap::new();
    for n in 0..WORKERS {
        let name = format!("worker-{n}");
        workers.insert(name.clone(), start(&world, &name));
    }
    let (mut hit, mut hit_formats) = (0, 0);
    for kill in 0..kills {
        let victim = wait_for("a worker in the middle of answers", PATIENCE, || async {
            if followers.iter().any(|follower| follower.is_finished()) {
                return Ok(None);
            }
            let open = open.lock().map_err(|error| error.to_string())?.clone();
            let in_hand = |name: &String| {
                open.values()
                    .filter(|reached| reached.is_told_by(name))
                    .count()
            };
            let busiest = workers
                .keys()
                .max_by_key(|name| in_hand(name))
                .filter(|name| in_hand(name) >= HIT);
            busiest
                .map(|name| Some((name.clone(), open.clone())))
                .ok_or(format!("{open:?}"))
        });
        let victim = victim
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", world.tail_of_logs()));
        let Some((name, open)) = victim else {
            // One has found a mistake.
            break;
        };
        workers
            .remove(&name)
            .expect("it runs")
            .kill()
            .expect("killed");
        let told = open.values().filter(|reached| reached.is_told_by(&name));
        hit += told.clone().count();
        hit_formats += told.filter(|reached| reached.has_format).count();
        let next = format!("worker-{}", WORKERS + kill);
        workers.insert(next.clone(), start(&world, &next));
    }
    enough.store(true, Ordering::Relaxed);
    let (mut queries, mut characters, mut chunks) = (0, 0, 0);
    for followed in join_all(followers).await {
        let followed = followed.expect("no contradiction");
        queries += followed.0;
        characters += followed.1;
        chunks += followed.2;
    }
    assert!(hit >= kills * HIT && hit_formats > 0);
    println!(
        "{kills} workers killed in the middle of {hit} answers, {hit_formats} of them with a format: {queries} queries, all of which ended, {characters} characters in {chunks} chunks, no gap, no contradiction"
    );
}
