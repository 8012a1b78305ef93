//! Group commit against the real server: what goes together, what is refused alone, what is said
//! when no answer comes.

use amaima::stack::{self, Stack};
use async_nats::{Client, HeaderMap};
use command_svc::write_path::{Cache, Expect, WritePath};
use domain::{
    Actor, Aggregate, Timestamp,
    commit::header,
    id::{AccountId, CommandId, QueryId},
    query::{Command, Complexity, Query, Route, Submission},
    subject::EVENTS,
};
use futures_util::future::join_all;
use infra::sealing::{Keyring, Sealing};
use infra::{
    append::{self, Error, NotSent, Part},
    clock, config, direct_get,
    event_store::{EventStore, Provenance},
    group_commit::{GroupCommit, Unit},
    lifecycle::Lifecycle,
};
use std::sync::atomic::{AtomicU64, Ordering};

/// Units that find a slot at once where every write is synced.
const SLOTS: usize = 10;

/// A server, and the committer as it is when every write is synced, whatever this server does.
struct Ground {
    stack: Stack,
    client: Client,
    commits: GroupCommit,
    lifecycle: Lifecycle,
}

impl Ground {
    async fn new() -> Self {
        let stack = stack::testing().await.expect("the servers start");
        let nats = config::Nats::at(&stack.endpoints().nats_url);
        let client = infra::nats::connect(&nats, "test").await.expect("NATS");
        infra::jetstream::prepare(&client, &nats)
            .await
            .expect("streams");
        let lifecycle = Lifecycle::new();
        let commits = GroupCommit::start(client.clone(), config::Sync::Always, &lifecycle);
        Self {
            stack,
            client,
            commits,
            lifecycle,
        }
    }

    /// All at once, so that those without a slot wait together.
    async fn commit_all(&self, units: Vec<Unit>) -> Vec<Result<u64, Error>> {
        join_all(units.into_iter().map(|unit| self.commits.commit(unit))).await
    }

    /// The command of each message on a subject, with its sequence.
    async fn stored(&self, subject: &str) -> Vec<(u64, String)> {
        let found = direct_get::subject(&self.client, EVENTS, subject, 1)
            .await
            .expect("the log is readable");
        found
            .into_iter()
            .map(|stored| {
                let command = stored.headers.get(header::COMMAND_ID).expect("a command");
                (stored.seq, command.to_string())
            })
            .collect()
    }

    fn count(&self, which: impl Fn(&infra::group_commit::Counts) -> &AtomicU64) -> u64 {
        which(self.commits.counts()).load(Ordering::Relaxed)
    }
}

fn subject() -> String {
    Query::named(clock::fresh_id()).subject()
}

fn unit(parts: impl IntoIterator<Item = (String, u64)>) -> Unit {
    let command = clock::fresh_id().to_string();
    let part = |(subject, expected)| {
        let mut headers = HeaderMap::new();
        headers.insert(header::COMMAND_ID, command.as_str());
        Part {
            subject,
            expected,
            headers,
            payload: "[]".into(),
        }
    };
    Unit {
        parts: parts.into_iter().map(part).collect(),
        deadline: clock::now().plus_millis(60_000),
    }
}

fn command(unit: &Unit) -> String {
    unit.parts[0]
        .headers
        .get(header::COMMAND_ID)
        .unwrap()
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_after_the_other_each_is_a_plain_append() {
    let ground = Ground::new().await;
    let mut expected = 0;
    let subject = subject();
    for _ in 0..20 {
        let unit = unit([(subject.clone(), expected)]);
        expected = ground.commits.commit(unit).await.expect("stored");
    }
    assert_eq!(ground.stored(&subject).await.len(), 20);
    assert_eq!(ground.count(|counts| &counts.alone), 20);
    assert_eq!(ground.count(|counts| &counts.groups), 0);
    // Nothing in the log tells of a batch.
    let raw = direct_get::subject(&ground.client, EVENTS, &subject, 1)
        .await
        .unwrap();
    assert!(
        raw.iter()
            .all(|stored| stored.headers.get("Nats-Batch-Id").is_none())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stale_commit_among_a_hundred_is_refused_alone() {
    let ground = Ground::new().await;
    let taken = subject();
    let first = unit([(taken.clone(), 0)]);
    ground.commits.commit(first).await.expect("stored");
    let mut units: Vec<Unit> = (0..SLOTS + 100).map(|_| unit([(subject(), 0)])).collect();
    let stale = SLOTS + 50;
    units[stale] = unit([(taken.clone(), 0)]);
    let results = ground.commit_all(units.clone()).await;
    for (index, (unit, result)) in units.iter().zip(results).enumerate() {
        if index == stale {
            assert!(
                matches!(&result, Err(Error::Conflict { subject, expected: 0 }) if *subject == taken),
                "{result:?}"
            );
        } else {
            let seq = result.unwrap_or_else(|error| panic!("{index}: {error}"));
            let stored = ground.stored(&unit.parts[0].subject).await;
            assert_eq!(stored, [(seq, command(unit))]);
        }
    }
    assert_eq!(ground.stored(&taken).await.len(), 1);
    assert_eq!(ground.count(|counts| &counts.refused), 1);
    // The others went out again as one batch: they did not have to go by themselves. Some found a
    // slot before there was a batch; how many depends on how fast the server is.
    assert!(ground.count(|counts| &counts.groups) >= 2);
    let alone = ground.count(|counts| &counts.alone);
    assert!(alone < 1 + SLOTS as u64 + 50, "{alone} went by themselves");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_commits_to_one_aggregate_one_is_stored() {
    let ground = Ground::new().await;
    let contended = subject();
    let mut units: Vec<Unit> = (0..60).map(|_| unit([(contended.clone(), 0)])).collect();
    units.extend((0..60).map(|_| unit([(subject(), 0)])));
    let results = ground.commit_all(units.clone()).await;
    let (hot, others) = results.split_at(60);
    assert_eq!(hot.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(
        hot.iter()
            .all(|result| matches!(result, Ok(_) | Err(Error::Conflict { .. })))
    );
    assert!(others.iter().all(Result::is_ok));
    assert_eq!(ground.stored(&contended).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_unit_lie_next_to_each_other() {
    let ground = Ground::new().await;
    let parts = |count: usize| (0..count).map(|_| (subject(), 0)).collect::<Vec<_>>();
    let units: Vec<Unit> = (0..80).map(|index| unit(parts(1 + index % 4))).collect();
    let results = ground.commit_all(units.clone()).await;
    for (unit, result) in units.iter().zip(results) {
        let last = result.expect("stored");
        let first = last + 1 - unit.parts.len() as u64;
        for (part, seq) in unit.parts.iter().zip(first..) {
            assert_eq!(
                ground.stored(&part.subject).await,
                [(seq, command(unit))],
                "{unit:?}"
            );
        }
    }
    assert!(ground.count(|counts| &counts.groups) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_part_takes_its_whole_unit_with_it_and_nothing_else() {
    let ground = Ground::new().await;
    let taken = subject();
    let first = unit([(taken.clone(), 0)]);
    ground.commits.commit(first).await.expect("stored");
    let fresh = subject();
    let mut units: Vec<Unit> = (0..40).map(|_| unit([(subject(), 0)])).collect();
    units.push(unit([(fresh.clone(), 0), (taken.clone(), 0)]));
    let results = ground.commit_all(units).await;
    let (stale, others) = results.split_last().expect("results");
    assert!(matches!(stale, Err(Error::Conflict { .. })), "{stale:?}");
    assert!(others.iter().all(Result::is_ok));
    assert!(ground.stored(&fresh).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_does_not_hold_the_others_up() {
    let ground = Ground::new().await;
    let mut units: Vec<Unit> = (0..40).map(|_| unit([(subject(), 0)])).collect();
    // Larger than the server takes.
    units[30].parts[0].payload = vec![b' '; 9 << 20].into();
    units[31] = unit([(subject(), 0), (subject(), 0)]);
    units[31].parts[1].subject = units[31].parts[0].subject.clone();
    let results = ground.commit_all(units).await;
    assert!(
        matches!(results[30], Err(Error::Rejected { .. })),
        "{:?}",
        results[30]
    );
    let malformed = NotSent::Malformed;
    assert!(matches!(results[31], Err(Error::NotSent { reason, .. }) if reason == malformed));
    let stored = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(stored, 38);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_makes_nobody_lie() {
    let ground = Ground::new().await;
    ground.stack.nats().pause().expect("paused");
    let mut units: Vec<Unit> = (0..SLOTS + 40).map(|_| unit([(subject(), 0)])).collect();
    for unit in &mut units[SLOTS + 20..] {
        unit.deadline = clock::now().plus_millis(1_000);
    }
    let results = ground.commit_all(units.clone()).await;
    // Those in the first group went out, those whose deadline passed meanwhile may not have.
    assert!(
        results[..SLOTS]
            .iter()
            .all(|result| matches!(result, Err(Error::NoAnswer { .. }))),
        "{results:?}"
    );
    ground.stack.nats().resume().expect("resumed");
    // What was sent before this one has been dealt with when this one is answered.
    let mut last = ground.commits.commit(unit([(subject(), 0)])).await;
    while matches!(last, Err(Error::NoAnswer { .. })) {
        last = ground.commits.commit(unit([(subject(), 0)])).await;
    }
    last.expect("the server is back");
    let mut unknown = 0;
    for (unit, result) in units.iter().zip(&results) {
        let stored = ground.stored(&unit.parts[0].subject).await;
        match result {
            Ok(seq) => assert_eq!(stored, [(*seq, command(unit))]),
            Err(Error::NoAnswer { .. }) => {
                unknown += 1;
                assert!(stored.len() <= 1);
            }
            Err(error) => assert!(stored.is_empty(), "{error}: {stored:?}"),
        }
    }
    assert!(unknown >= SLOTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_too_late_or_finds_the_queue_full_is_refused_at_once() {
    let ground = Ground::new().await;
    let mut late = unit([(subject(), 0)]);
    late.deadline = Timestamp::from_millis(1);
    let result = ground.commits.commit(late).await;
    let reason = NotSent::TooLate;
    assert!(matches!(result, Err(Error::NotSent { reason: found, .. }) if found == reason));
    ground.stack.nats().pause().expect("paused");
    // More than the slots, the queue and what the committer itself holds.
    let many = SLOTS + 2 * 4_096 + 1_000;
    let commits = &ground.commits;
    let (answered, waited) = (AtomicU64::new(0), AtomicU64::new(0));
    let all = join_all((0..many).map(|_| async {
        let result = commits.commit(unit([(subject(), 0)])).await;
        match result {
            Err(Error::NotSent {
                reason: NotSent::Overloaded,
                ..
            }) => answered.fetch_add(1, Ordering::Relaxed),
            _ => waited.fetch_add(1, Ordering::Relaxed),
        };
    }));
    tokio::select! {
        _ = all => {}
        // Those that were refused have their answer before anybody else can have one.
        () = async {
            while answered.load(Ordering::Relaxed) < 1_000 {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    assert!(answered.load(Ordering::Relaxed) >= 1_000);
    assert_eq!(waited.load(Ordering::Relaxed), 0);
    ground.stack.nats().resume().expect("resumed");
    ground.lifecycle.begin_stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_one_aggregate_queue_instead_of_conflicting() {
    let ground = Ground::new().await;
    let keys = Keyring::new(&ground.client, Sealing::Off);
    let store = EventStore::new(ground.client.clone(), keys);
    let write = WritePath::new(store.clone(), ground.commits.clone());
    let cache = Cache::<Query>::default();
    let id = clock::fresh_id();
    let (query, owner) = (QueryId::new(id), AccountId::new(clock::fresh_id()));
    let submit = Command::Submit {
        query,
        owner,
        submission: Submission {
            text: "Who is first?".into(),
            operation: "general".into(),
            file_ids: vec![],
            context: None,
            reference: None,
            options: None,
        },
        route: Ok(Route {
            model: "any".into(),
            rule: "default".into(),
            reason: "No worker is there".into(),
            complexity: Complexity::Simple,
        }),
    };
    write
        .execute(&cache, id, Expect::Absent, submit, &provenance(owner))
        .await
        .expect("submitted");
    let starts = join_all((0..64).map(|worker| {
        let start = Command::Start {
            query,
            worker: format!("worker-{worker}"),
            model: "demo".into(),
        };
        let (write, cache) = (&write, &cache);
        async move {
            write
                .execute(cache, id, Expect::Anything, start, &provenance(owner))
                .await
        }
    }))
    .await;
    let mut sequences: Vec<u64> = starts
        .into_iter()
        .map(|done| done.expect("started").seq)
        .collect();
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), 64);
    let stored = ground.stored(&Query::named(id).subject()).await;
    assert_eq!(stored.len(), 65);
    let sent = ground.count(|counts| &counts.alone) + ground.count(|counts| &counts.grouped);
    assert_eq!(sent, 65, "nothing was sent in vain");
}

fn provenance(owner: AccountId) -> Provenance {
    Provenance {
        command: CommandId::new(clock::fresh_id()),
        actor: Actor::User(owner),
        request_id: "req_0123456789ab".into(),
        causation: "req_0123456789ab".into(),
        traceparent: None,
        fingerprint: None,
        deadline: clock::now().plus_millis(60_000),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_leaves_every_unit_whole_or_absent() {
    let ground = Ground::new().await;
    let units: Vec<Unit> = (0..300)
        .map(|index| unit((0..1 + index % 3).map(|_| (subject(), 0))))
        .collect();
    let (results, killed) =
        tokio::join!(ground.commit_all(units.clone()), ground.stack.nats().kill());
    killed.expect("killed");
    ground.stack.nats().restart().await.expect("restarted");
    for (unit, result) in units.iter().zip(results) {
        let mut stored = 0;
        for part in &unit.parts {
            stored += ground.stored(&part.subject).await.len();
        }
        match result {
            Ok(_) => assert_eq!(stored, unit.parts.len()),
            Err(append::Error::NoAnswer { .. } | append::Error::Unreadable { .. }) => {
                assert!(stored == 0 || stored == unit.parts.len(), "{stored}");
            }
            Err(error) => assert_eq!(stored, 0, "{error}"),
        }
    }
}
