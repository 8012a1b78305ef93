//! A cluster that loses members, the leader of the log among them.

use super::{Ground, connect, fresh_subject};
use amaima::stack::wait_for;
use async_nats::{Client, HeaderMap, jetstream};
use domain::subject::EVENTS;
use futures_util::future::join_all;
use infra::{append, direct_get};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tests::world::PATIENCE;

const WRITERS: usize = 4;
const KILLS: usize = 3;
/// Acknowledged writes between two kills.
const BETWEEN: usize = 60;

/// Carries: with `NATS_REPLICAS=3` nothing that was acknowledged is lost, and nothing is written
/// twice, when servers are killed one after the other while commits come in. A write without an
/// answer is looked for before it is tried again, as the write path does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_with_a_killed_leader() {
    let ground = Ground::own(3).await;
    let (written, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let writers = join_all((0..WRITERS).map(|_| write(&ground, &written, &stop)));
    let killing = async {
        for kill in 0..KILLS {
            let mark = BETWEEN * (kill + 1);
            wait_for("writes before the next kill", PATIENCE * 2, || async {
                let so_far = written.load(Ordering::Relaxed);
                if so_far >= mark { Ok(()) } else { Err(so_far) }
            })
            .await
            .expect("writes go on");
            let leader = ground.leader().await;
            let server = &ground.cluster.members()[leader];
            server.kill().await.expect("killed");
            server.restart().await.expect("restarted");
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (acknowledged, ()) = tokio::join!(writers, killing);
    for (subject, seqs) in acknowledged {
        let whole = wait_for("the whole subject", PATIENCE, || async {
            let log = direct_get::subject(&ground.client, EVENTS, &subject, 1).await;
            let log = log.map_err(|error| error.to_string())?;
            let found: Vec<u64> = log.iter().map(|message| message.seq).collect();
            if found.len() < seqs.len() {
                Err(format!("{} messages", found.len()))
            } else {
                Ok(found)
            }
        });
        assert_eq!(whole.await.expect("it is there"), seqs);
    }
    println!(
        "{} writes, {KILLS} leaders killed",
        written.load(Ordering::Relaxed)
    );
}

/// Appends one after the other and returns where the log has them, as far as it was told or saw.
async fn write(ground: &Ground, written: &AtomicUsize, stop: &AtomicBool) -> (String, Vec<u64>) {
    let subject = fresh_subject();
    let client = connect(&ground.cluster.url()).await;
    let mut seqs: Vec<u64> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let last = seqs.last().copied().unwrap_or(0);
        let payload = seqs.len().to_string();
        let stored =
            append::append(&client, &subject, last, HeaderMap::new(), payload.into()).await;
        match stored {
            Ok(stored) => {
                seqs.push(stored.seq);
                written.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => seqs.extend(stored_after(&client, &subject, last).await),
        }
    }
    (subject, seqs)
}

/// Whether our own message was stored although no answer came.
async fn stored_after(client: &Client, subject: &str, last: u64) -> Option<u64> {
    let looked = wait_for("an answer of the leader", PATIENCE, || async {
        let context = jetstream::new(client.clone());
        let stream = context
            .get_stream_no_info(EVENTS)
            .await
            .map_err(|error| error.to_string())?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(message.sequence),
            Err(error) => match error.kind() {
                jetstream::stream::LastRawMessageErrorKind::NoMessageFound => Ok(0),
                _ => Err(error.to_string()),
            },
        }
    });
    let head = looked.await.expect("the leader answers");
    (head > last).then_some(head)
}
