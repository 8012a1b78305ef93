//! Loading aggregates: how many round trips it takes, with and without a snapshot, and what
//! becomes of snapshots that are worth nothing.

use amaima::stack::{self, Stack, wait_for};
use async_nats::{Client, HeaderMap, jetstream};
use command_svc::write_path::{Cache, Expect, WritePath};
use domain::{
    Actor, Aggregate, Timestamp,
    commit::{self, header},
    id::{AccountId, CommandId, QueryId},
    query::{Command, Event, Query, Submission},
    subject::{EVENTS, SNAPSHOTS},
};
use infra::sealing::{Keyring, Sealing};
use infra::{
    append::Part,
    clock, config,
    event_store::{EventStore, Known, Loaded, Provenance},
    group_commit::GroupCommit,
    lifecycle::Lifecycle,
    snapshots::Snapshots,
};
use std::sync::atomic::Ordering;
use tests::world::PATIENCE;
use uuid::Uuid;

struct Ground {
    stack: Stack,
    lifecycle: Lifecycle,
    /// For what a test does beside loading.
    client: Client,
}

impl Ground {
    async fn new() -> Self {
        let stack = stack::testing().await.expect("the servers start");
        let ground = Self {
            client: connect(&stack).await,
            stack,
            lifecycle: Lifecycle::new(),
        };
        let nats = config::Nats::at(&ground.stack.endpoints().nats_url);
        infra::jetstream::prepare(&ground.client, &nats)
            .await
            .expect("streams");
        ground
    }

    /// A process that has just started: its own connection, and nothing in memory.
    async fn process(&self) -> Process {
        let client = connect(&self.stack).await;
        let context = jetstream::new(client.clone());
        let keys = Keyring::new(&client, Sealing::Off);
        let snapshots = Snapshots::open(&context, &keys, &self.lifecycle)
            .await
            .expect("the bucket");
        let store = EventStore::new(client.clone(), keys).with_snapshots(snapshots);
        let commits = GroupCommit::start(client.clone(), config::Sync::Relaxed, &self.lifecycle);
        Process {
            write: WritePath::new(store.clone(), commits),
            cache: Cache::default(),
            store,
            client,
        }
    }

    /// Appends this many more commits to a query, in batches.
    async fn grow(&self, id: Uuid, mut loaded: Loaded<Query>, count: u32) -> Loaded<Query> {
        let subject = Query::named(id).subject();
        for _ in 0..count {
            let command = CommandId::new(clock::fresh_id());
            let event = next_event(id, &loaded);
            let encoded =
                commit::encode::<Query>(id, command, at(), std::slice::from_ref(&event)).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(header::COMMAND_ID, command.to_string());
            let part = Part {
                subject: subject.clone(),
                expected: loaded.last_seq,
                headers,
                payload: encoded.payload.into(),
            };
            let stored = infra::append::append(
                &self.client,
                &part.subject,
                part.expected,
                part.headers,
                part.payload,
            )
            .await
            .expect("appended");
            let by = Known {
                command,
                seq: stored.seq,
                fingerprint: None,
            };
            loaded = loaded.after(by, &[event]);
        }
        loaded
    }

    async fn bucket(&self) -> jetstream::kv::Store {
        let context = jetstream::new(self.client.clone());
        context.get_key_value(SNAPSHOTS).await.expect("the bucket")
    }

    /// Waits until there is a snapshot of this query at or after a commit.
    async fn snapshot(&self, id: Uuid) -> String {
        let bucket = self.bucket().await;
        let value = wait_for("a snapshot", PATIENCE, || async {
            let value = bucket
                .get(key(id))
                .await
                .map_err(|error| error.to_string())?;
            value.ok_or_else(|| "none".to_owned())
        });
        String::from_utf8(value.await.expect("a snapshot").to_vec()).unwrap()
    }

    async fn put_snapshot(&self, id: Uuid, value: String) {
        let bucket = self.bucket().await;
        bucket.put(key(id), value.into()).await.expect("put");
    }
}

struct Process {
    write: WritePath,
    cache: Cache<Query>,
    store: EventStore,
    client: Client,
}

impl Process {
    /// Loads without a cache, and counts the requests that it took.
    async fn load(&self, id: Uuid) -> (Loaded<Query>, u64) {
        let before = requests(&self.client);
        let loaded = self.store.load(id).await.expect("loaded");
        (loaded, requests(&self.client) - before)
    }

    async fn start_again(&self, id: Uuid, worker: &str) -> u64 {
        let start = Command::Start {
            query: QueryId::new(id),
            worker: worker.into(),
            model: "demo".into(),
        };
        let cx = Provenance {
            command: CommandId::new(clock::fresh_id()),
            actor: Actor::Worker(worker.into()),
            request_id: "req_0123456789ab".into(),
            causation: "req_0123456789ab".into(),
            traceparent: None,
            fingerprint: None,
            deadline: clock::now().plus_millis(60_000),
        };
        let done = self
            .write
            .execute(&self.cache, id, Expect::Anything, start, &cx);
        done.await.expect("started").seq
    }
}

fn at() -> Timestamp {
    Timestamp::from_millis(1_741_079_700_000)
}

fn next_event(id: Uuid, loaded: &Loaded<Query>) -> Event {
    let query = QueryId::new(id);
    match loaded.state {
        Query::Asked { attempts, .. } => Event::Started {
            query,
            worker: "w".into(),
            model: "demo".into(),
            attempt: attempts + 1,
            at: at(),
        },
        _ => Event::Submitted {
            query,
            owner: AccountId::new(Uuid::from_u128(1)),
            submission: Submission {
                text: "Again?".into(),
                operation: "general".into(),
                file_ids: vec![],
                context: None,
                reference: None,
                options: None,
            },
            at: at(),
            route: None,
        },
    }
}

async fn connect(stack: &Stack) -> Client {
    let nats = config::Nats::at(&stack.endpoints().nats_url);
    infra::nats::connect(&nats, "test").await.expect("NATS")
}

/// Messages that this connection has published: each is a request, with as many answers as fit.
fn requests(client: &Client) -> u64 {
    client.statistics().out_messages.load(Ordering::Relaxed)
}

fn key(id: Uuid) -> String {
    format!("query.{}", id.hyphenated())
}

fn same(one: &Loaded<Query>, other: &Loaded<Query>) {
    assert_eq!(one.last_seq, other.last_seq);
    assert_eq!(
        serde_json::to_value(one).unwrap(),
        serde_json::to_value(other).unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_events_take_eleven_round_trips_and_two_from_a_snapshot() {
    let ground = Ground::new().await;
    let id = clock::fresh_id();
    let whole = ground.grow(id, Loaded::default(), 10_000).await;
    let process = ground.process().await;
    // The beginning (256) and the missing snapshot at once, then ten times a thousand, and perhaps
    // the writing of a snapshot, which nobody waits for.
    let (loaded, requests) = process.load(id).await;
    same(&loaded, &whole);
    assert!((12..=13).contains(&requests), "{requests} requests");
    // That load has had it written down; the next one finds it.
    ground.snapshot(id).await;
    let whole = ground.grow(id, whole, 20).await;
    let (loaded, requests) = ground.process().await.load(id).await;
    same(&loaded, &whole);
    assert_eq!(
        requests, 3,
        "beginning and snapshot at once, and what came after"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_aggregate_takes_one_round_trip_and_a_warm_one_none() {
    let ground = Ground::new().await;
    let id = clock::fresh_id();
    let whole = ground.grow(id, Loaded::default(), 100).await;
    let process = ground.process().await;
    let (loaded, cold) = process.load(id).await;
    same(&loaded, &whole);
    assert_eq!(cold, 2, "the snapshot is looked for at the same time");
    let seq = process.start_again(id, "first").await;
    let before = requests(&process.client);
    assert!(process.start_again(id, "second").await > seq);
    assert_eq!(requests(&process.client) - before, 1, "the append alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_write_path_writes_snapshots_as_an_aggregate_grows() {
    let ground = Ground::new().await;
    let id = clock::fresh_id();
    let whole = ground.grow(id, Loaded::default(), 200).await;
    let process = ground.process().await;
    let mut last = 0;
    for worker in 0..60 {
        last = process.start_again(id, &format!("w{worker}")).await;
    }
    let snapshot: serde_json::Value = serde_json::from_str(&ground.snapshot(id).await).unwrap();
    let at = snapshot["loaded"]["last_seq"].as_u64().unwrap();
    assert!(at > whole.last_seq && at <= last, "{snapshot}");
    let (loaded, requests) = ground.process().await.load(id).await;
    assert_eq!(loaded.last_seq, last);
    assert_eq!(requests, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_worth_nothing_is_not_used() {
    let ground = Ground::new().await;
    let id = clock::fresh_id();
    let whole = ground.grow(id, Loaded::default(), 600).await;
    let process = ground.process().await;
    process.load(id).await;
    let good = ground.snapshot(id).await;
    let seq = format!(r#""last_seq":{}"#, whole.last_seq);
    let shape = format!(r#""shape":{}"#, Query::SHAPE);
    assert!(good.contains(&seq) && good.contains(&shape), "{good}");
    let ahead = format!(r#""last_seq":{}"#, whole.last_seq + 1_000);
    let behind = format!(r#""last_seq":{}"#, whole.last_seq - 1);
    for (what, bad) in [
        ("ahead of the log", good.replace(&seq, &ahead)),
        (
            "at another commit than it says",
            good.replace(&seq, &behind),
        ),
        (
            "of another shape",
            good.replace(&shape, r#""shape":999999"#),
        ),
        ("cut off", good[..good.len() / 2].to_owned()),
        ("nothing", String::new()),
    ] {
        ground.put_snapshot(id, bad).await;
        let loaded: Loaded<Query> = process.store.load(id).await.expect(what);
        same(&loaded, &whole);
        let loaded: Loaded<Query> = process.store.load_from_leader(id).await.expect(what);
        same(&loaded, &whole);
    }
    // And the log is what counts, not the snapshot's state.
    ground.put_snapshot(id, good).await;
    let (loaded, requests) = ground.process().await.load(id).await;
    same(&loaded, &whole);
    assert_eq!(requests, 3);
    let stream = jetstream::new(ground.client.clone());
    let consumers = stream.get_stream(EVENTS).await.expect("the log");
    assert_eq!(consumers.cached_info().state.consumer_count, 0);
}
