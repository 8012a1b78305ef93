//! What `TOKENS` publishes again for live followers.

use super::{
    Ground,
    answers::{Answer, Headers, WRONG, put, stored},
    on_one_and_on_three,
};
use amaima::stack::wait_for;
use async_nats::Subscriber;
use domain::{id::QueryId, subject};
use futures_util::StreamExt;
use std::time::Duration;
use tests::world::PATIENCE;
use tokio::sync::Mutex;
use uuid::Uuid;

on_one_and_on_three!(only_what_is_stored_is_published_again);

const MESSAGES: usize = 10;
/// The last message that each subscriber is to see.
const END: &str = "end";
/// Published until it is heard, so that subscriptions are known to be in force.
const PROBE: &str = "probe";

async fn until_end(mut subscriber: Subscriber) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != END) {
        let message = subscriber.next().await.expect("a message");
        if &message.payload[..] != PROBE.as_bytes() {
            seen.push(String::from_utf8_lossy(&message.payload).into_owned());
        }
    }
    seen
}

/// Carries: followers of `live.<query>` see each stored chunk once and in order, also through
/// another server than the one that was written to, and nothing of a worker that has lost its job.
/// A core subscriber of the stream's own subject sees what was refused as well, so that nothing of
/// ours subscribes to `tok.>`.
async fn only_what_is_stored_is_published_again(ground: &Ground) {
    let query = QueryId::new(Uuid::new_v4());
    let tokens = subject::tokens(query);
    let elsewhere = ground.member(2).await;
    let writer = ground.member(0).await;
    let raw = elsewhere.subscribe(tokens.clone()).await;
    let raw = raw.expect("subscribed");
    let live = elsewhere.subscribe(subject::live(query)).await;
    let live = live.expect("subscribed");
    // Interest travels through a cluster in order: where the second has come, the first has too.
    let live = Mutex::new(live);
    wait_for("interest at the writer's server", PATIENCE, || async {
        let sent = writer.publish(subject::live(query), PROBE.into()).await;
        sent.map_err(|error| error.to_string())?;
        let mut live = live.lock().await;
        let heard = tokio::time::timeout(Duration::from_millis(100), live.next()).await;
        heard.map(drop).map_err(|error| error.to_string())
    })
    .await
    .expect("a probe comes through");
    let (mut last, mut kept, mut sent) = (0, Vec::new(), Vec::new());
    for n in 0..MESSAGES {
        let good = format!("good {n}");
        last = stored(&writer, &tokens, Headers::expecting(last), &good).await;
        let bad = format!("bad {n}");
        let answer = put(&writer, &tokens, Headers::expecting(last + 1), &bad).await;
        assert_eq!(answer, Answer::Refused(WRONG));
        kept.push(good.clone());
        sent.extend([good, bad]);
    }
    stored(&writer, &tokens, Headers::expecting(last), END).await;
    kept.push(END.to_owned());
    sent.push(END.to_owned());
    assert_eq!(until_end(live.into_inner()).await, kept);
    assert_eq!(until_end(raw).await, sent);
}
