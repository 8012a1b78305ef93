//! Power loss and a full disk under the log.
//!
//! The streams lie on a disk of their own, whose power is cut while grouped commits stream in. The
//! server is stopped first, so that it cannot acknowledge what the disk no longer takes: with the
//! power, a machine loses both at once. `AMAIMA_CUTS` makes it as long as wanted.

use amaima::stack::{self, Stack, SyncMode, wait_for};
use async_nats::HeaderMap;
use domain::{
    Actor, Aggregate,
    commit::header,
    id::{AccountId, CommandId, QueryId},
    query::{Query, Submission},
    subject::EVENTS,
    wire::command::{Body, Reply, Request, Via},
};
use futures_util::future::join_all;
use infra::sealing::Sealing;
use infra::{
    append::{Error, Part},
    bus::Commands,
    clock, config, direct_get,
    group_commit::{GroupCommit, Unit},
    lifecycle::Lifecycle,
};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};
use tests::{disk::Disk, world::PATIENCE};

/// Senders at once: enough for groups.
const SENDERS: usize = 64;

/// What a sender was told of one unit.
struct Sent {
    subjects: Vec<String>,
    command: String,
    /// The sequence of its last part, if it was acknowledged.
    acknowledged: Option<u64>,
    /// Whether it may be in the log.
    possible: bool,
}

#[derive(Debug, Default)]
struct Found {
    acknowledged: usize,
    lost: usize,
    unanswered_whole: usize,
    unanswered_absent: usize,
    torn: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_loss_takes_nothing_that_was_acknowledged_and_tears_nothing() {
    let Some(found) = cut_power(SyncMode::Always, cuts()).await else {
        return;
    };
    println!("every write synced: {found:?}");
    assert_eq!(found.lost, 0, "{found:?}");
    assert_eq!(found.torn, 0, "{found:?}");
    assert!(found.acknowledged > 0, "{found:?}");
}

/// The same where the server acknowledges before its disk has the message: this is what shows that
/// the test above can fail.
#[tokio::test(flavor = "multi_thread")]
async fn relaxed_writes_are_lost_with_the_power() {
    let Some(found) = cut_power(SyncMode::Relaxed, 1).await else {
        return;
    };
    println!("relaxed: {found:?}");
    assert!(found.lost > 0, "{found:?}");
}

fn cuts() -> usize {
    let text = std::env::var("AMAIMA_CUTS").ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(3)
}

fn disk(megabytes: u64) -> Option<Disk> {
    match Disk::new(megabytes) {
        Ok(disk) => Some(disk),
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

async fn start(disk: &Disk, sync: SyncMode) -> (Stack, config::Nats) {
    let stack = stack::testing_with(|options| {
        options.sync = sync;
        options.nats_store = Some(disk.path().join("streams"));
    })
    .await
    .expect("the servers start");
    let nats = stack.endpoints().nats();
    (stack, nats)
}

async fn cut_power(sync: SyncMode, cuts: usize) -> Option<Found> {
    let disk = disk(512)?;
    let (stack, nats) = start(&disk, sync).await;
    infra::durability::check(&nats).await.expect("as promised");
    let client = infra::nats::connect(&nats, "test").await.expect("NATS");
    infra::jetstream::prepare(&client, &nats)
        .await
        .expect("streams");
    // The streams themselves are there for good.
    disk.settle().expect("synced");
    let lifecycle = Lifecycle::new();
    let mut sent = Vec::new();
    for cut in 0..cuts {
        let commits = GroupCommit::start(client.clone(), nats.sync, &lifecycle);
        let (over, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
        let senders = (0..SENDERS).map(|sender| send(&commits, &over, &acknowledged, sender));
        let power = async {
            // Somewhere in the middle of it, elsewhere each time.
            let enough = 300 + clock::fresh_id().as_u128() as u64 % 700;
            wait_for("commits before the cut", PATIENCE, || async {
                let so_far = acknowledged.load(Ordering::Relaxed);
                if so_far >= enough {
                    Ok(())
                } else {
                    Err(so_far)
                }
            })
            .await
            .expect("commits are acknowledged");
            stack.nats().pause().expect("stopped");
            disk.cut_power().expect("the power is cut");
            stack.nats().kill().await.expect("killed");
            over.store(true, Ordering::Relaxed);
        };
        let (units, ()) = tokio::join!(join_all(senders), power);
        let groups = commits.counts().groups.load(Ordering::Relaxed);
        let units: Vec<Sent> = units.into_iter().flatten().collect();
        println!("cut {cut}: {} units, {groups} groups", units.len());
        sent.extend(units);
        disk.power_on().expect("the disk is there again");
        stack.nats().restart().await.expect("restarted");
    }
    let mut found = Found::default();
    for unit in &sent {
        let mut stored = Vec::new();
        for subject in &unit.subjects {
            let messages = wait_for("a readable log", PATIENCE, || {
                direct_get::subject(&client, EVENTS, subject, 1)
            });
            let ours = messages
                .await
                .expect("the log")
                .into_iter()
                .find(|message| {
                    let command = message.headers.get(header::COMMAND_ID);
                    command.is_some_and(|command| command.as_str() == unit.command)
                });
            stored.extend(ours.map(|message| message.seq));
        }
        let whole = stored.len() == unit.subjects.len()
            && stored.windows(2).all(|pair| pair[1] == pair[0] + 1);
        found.torn += usize::from(!whole && !stored.is_empty());
        match unit.acknowledged {
            Some(seq) => {
                found.acknowledged += 1;
                found.lost += usize::from(!whole || stored.last() != Some(&seq));
            }
            None if whole => {
                assert!(unit.possible, "what was refused is in the log");
                found.unanswered_whole += 1;
            }
            None => found.unanswered_absent += 1,
        }
    }
    if sync == SyncMode::Always {
        chains(&client, &sent).await;
    }
    Some(found)
}

/// Commits one unit after the other until the power is gone: now one aggregate of the sender's
/// own, which grows, now several new ones at once.
async fn send(
    commits: &GroupCommit,
    over: &AtomicBool,
    acknowledged: &AtomicU64,
    sender: usize,
) -> Vec<Sent> {
    let own = Query::named(clock::fresh_id()).subject();
    let (mut head, mut sent) = (0, Vec::new());
    while !over.load(Ordering::Relaxed) {
        let parts = if sent.len() % 2 == 0 {
            vec![(own.clone(), head)]
        } else {
            let fresh = || (Query::named(clock::fresh_id()).subject(), 0);
            (0..1 + sender % 3).map(|_| fresh()).collect()
        };
        let unit = unit(&parts);
        let result = commits.commit(unit.0).await;
        if let Ok(seq) = result {
            acknowledged.fetch_add(1, Ordering::Relaxed);
            if sent.len() % 2 == 0 {
                head = seq;
            }
        }
        sent.push(Sent {
            subjects: parts.into_iter().map(|(subject, _)| subject).collect(),
            command: unit.1,
            acknowledged: result.as_ref().ok().copied(),
            possible: matches!(
                result,
                Err(Error::NoAnswer { .. } | Error::Unreadable { .. })
            ),
        });
        if result.is_err() {
            break;
        }
    }
    sent
}

fn unit(parts: &[(String, u64)]) -> (Unit, String) {
    let command = clock::fresh_id().to_string();
    let part = |(subject, expected): &(String, u64)| {
        let mut headers = HeaderMap::new();
        headers.insert(header::COMMAND_ID, command.as_str());
        Part {
            subject: subject.clone(),
            expected: *expected,
            headers,
            payload: vec![b'x'; 600].into(),
        }
    };
    let unit = Unit {
        parts: parts.iter().map(part).collect(),
        deadline: clock::now().plus_millis(60_000),
    };
    (unit, command)
}

/// What a growing aggregate holds is what was sent to it, in order, without a gap.
async fn chains(client: &async_nats::Client, sent: &[Sent]) {
    let mut subjects: Vec<&String> = sent.iter().map(|unit| &unit.subjects[0]).collect();
    subjects.sort();
    subjects.dedup();
    for subject in subjects {
        let expected = sent
            .iter()
            .filter(|unit| unit.subjects.contains(subject))
            .map(|unit| unit.command.as_str());
        let stored = direct_get::subject(client, EVENTS, subject, 1)
            .await
            .expect("the log");
        let stored: Vec<_> = stored
            .iter()
            .filter_map(|message| Some(message.headers.get(header::COMMAND_ID)?.as_str()))
            .collect();
        let prefix: Vec<_> = expected.take(stored.len()).collect();
        assert_eq!(stored, prefix, "{subject}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_unavailable_and_loses_nothing() {
    let Some(disk) = disk(96) else { return };
    let (stack, nats) = start(&disk, SyncMode::Always).await;
    let lifecycle = Lifecycle::new();
    let (service, life) = (
        command_svc::Config::at(nats.clone(), Sealing::Off),
        lifecycle.clone(),
    );
    lifecycle.spawn("command-svc", async move {
        command_svc::run(service, life)
            .await
            .expect("command-svc runs");
    });
    let client = infra::nats::connect(&nats, "test").await.expect("NATS");
    let commands = Commands::new(client.clone());
    wait_for("command-svc", PATIENCE, || submit(&commands))
        .await
        .expect("commands are taken");
    disk.fill_but(6 << 20).expect("almost full");
    let mut accepted = Vec::new();
    loop {
        match submit(&commands).await {
            Ok((query, seq)) => accepted.push((query, seq)),
            Err(reply) if reply == "Unavailable" => break,
            Err(other) => panic!("a full disk is no reason for {other}"),
        }
        assert!(accepted.len() < 2_000, "the disk never gets full");
    }
    println!("full after {} commands", accepted.len());
    disk.make_room().expect("room again");
    // A stream that has met a full disk answers no write any more, room or not, until its server is
    // started again (nats-server 2.15.1).
    stack.nats().restart().await.expect("restarted");
    let last = wait_for("a command after that", PATIENCE, || submit(&commands));
    accepted.push(last.await.expect("commands go on"));
    for (query, seq) in accepted {
        let subject = Query::named(query.uuid()).subject();
        let stored = direct_get::subject(&client, EVENTS, &subject, 1)
            .await
            .expect("the log");
        let sequences: Vec<u64> = stored.iter().map(|message| message.seq).collect();
        assert_eq!(sequences, [seq]);
    }
    lifecycle.stop(Duration::from_secs(5)).await;
}

/// A long question that does not compress.
async fn submit(commands: &Commands) -> Result<(QueryId, u64), String> {
    let query = QueryId::new(clock::fresh_id());
    let text: String = (0..200)
        .map(|_| uuid::Uuid::new_v4().simple().to_string())
        .collect();
    let request = Request {
        id: CommandId::new(clock::fresh_id()),
        actor: Actor::User(AccountId::new(clock::fresh_id())),
        request_id: "req_0123456789ab".into(),
        traceparent: None,
        deadline: clock::now().plus_millis(4_000),
        fingerprint: None,
        body: Body::SubmitQuery {
            query,
            named: true,
            via: Via::Socket,
            submission: Submission {
                text,
                operation: "general".into(),
                file_ids: vec![],
                context: None,
                reference: None,
                options: None,
            },
        },
    };
    match commands.send(&request).await {
        Reply::Accepted { seq, .. } => Ok((query, seq)),
        other => Err(format!("{other:?}")),
    }
}
