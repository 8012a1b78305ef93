//! The history of an aggregate that has left the log, asked over the bus of whoever reads the copy.
//!
//! Only queries leave, long after they have ended. Somebody may still ask for one under its old id,
//! be it to give a command to it or to make it once more; so an id that may be an old one is asked
//! for before anything is appended. One that says itself how young it is (UUID version 7) needs no
//! question: whoever purges leaves the log alone where an id is younger than [`AGE_MILLIS`].
//!
//! An answer is one message for each commit, as a direct get of the stream would give it, and one
//! that ends it.

use crate::{archive::Message, direct_get::Stored, retry::Backoff};
use async_nats::{Client, HeaderMap, StatusCode, header};
use domain::{Timestamp, subject};
use futures_util::StreamExt;
use std::time::Duration;
use uuid::Uuid;

/// What says itself that it is younger than this does not leave the log, in milliseconds.
pub const AGE_MILLIS: u64 = 24 * 3_600_000;
/// And is not asked for while it is younger than this: clocks of machines may differ by the rest.
const SURE_MILLIS: u64 = AGE_MILLIS / 2;
/// Ends an answer; says how many messages there were, or why there is no answer.
const END: &str = "Amaima-End";
/// Longest silence within an answer.
const SILENCE: Duration = Duration::from_secs(5);
/// How often somebody is asked who is not there.
const ATTEMPTS: u32 = 4;

/// Nobody tells; trying again may help.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No projection-svc answers.
    #[error("no projection-svc tells what has left the log")]
    NoAnswer,
    /// It cannot tell now.
    #[error("projection-svc does not tell what has left the log: {0}")]
    Unavailable(String),
}

/// Whether an aggregate of this id may have left the log.
pub fn may_have_left(id: Uuid, now: Timestamp) -> bool {
    age_millis(id, now).is_none_or(|age| age >= SURE_MILLIS)
}

/// Whether an aggregate of this id may leave the log, as far as its id is concerned.
pub fn may_leave(id: Uuid, now: Timestamp) -> bool {
    age_millis(id, now).is_none_or(|age| age >= AGE_MILLIS)
}

/// How old an id is that tells; zero for one from the future.
fn age_millis(id: Uuid, now: Timestamp) -> Option<u64> {
    let (secs, nanos) = (id.get_version_num() == 7)
        .then(|| id.get_timestamp())
        .flatten()?
        .to_unix();
    let millis = secs * 1000 + u64::from(nanos) / 1_000_000;
    let made = Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX));
    Some(now.millis_since(made))
}

/// The commits of an aggregate that has left the log, in order; none where it has not.
///
/// # Errors
/// When nobody tells.
pub async fn history(client: &Client, aggregate: &str) -> Result<Vec<Stored>, Error> {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(400));
    for _ in 1..ATTEMPTS {
        match ask(client, aggregate).await {
            Err(Error::NoAnswer) => backoff.wait().await,
            answered => return answered,
        }
    }
    ask(client, aggregate).await
}

async fn ask(client: &Client, aggregate: &str) -> Result<Vec<Stored>, Error> {
    let no_answer = |_| Error::NoAnswer;
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.map_err(no_answer)?;
    let asked = client.publish_with_reply(subject::PURGED, inbox, aggregate.to_owned().into());
    asked.await.map_err(|_| Error::NoAnswer)?;
    let mut found = Vec::new();
    loop {
        let reply = tokio::time::timeout(SILENCE, replies.next()).await;
        let Ok(Some(reply)) = reply else {
            return Err(Error::NoAnswer);
        };
        if reply.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(Error::NoAnswer);
        }
        let headers = reply.headers.unwrap_or_default();
        if let Some(end) = headers.get(END) {
            let is_whole = end.as_str().parse() == Ok(found.len());
            return is_whole
                .then_some(found)
                .ok_or_else(|| Error::Unavailable(end.to_string()));
        }
        let seq = headers.get(header::NATS_SEQUENCE);
        let seq = seq.and_then(|seq| seq.as_str().parse().ok());
        found.push(Stored {
            seq: seq.ok_or_else(|| Error::Unavailable("a commit without sequence".to_owned()))?,
            headers,
            payload: reply.payload,
        });
    }
}

/// What is sent to whoever asked: headers and payload of each message.
pub fn answer(history: Result<Vec<Message>, String>) -> Vec<(HeaderMap, bytes::Bytes)> {
    let mut answer = Vec::new();
    let mut end = HeaderMap::new();
    match history {
        Ok(history) => {
            end.insert(END, history.len().to_string());
            for message in history {
                let mut headers = message.header_map();
                let at = Timestamp::from_millis(message.at_nanos / 1_000_000);
                headers.insert(header::NATS_SEQUENCE, message.seq.to_string());
                headers.insert(header::NATS_SUBJECT, message.subject);
                headers.insert(header::NATS_TIME_STAMP, at.to_string());
                answer.push((headers, message.payload));
            }
        }
        // Headers hold one line.
        Err(reason) => end.insert(END, reason.replace(['\r', '\n'], " ")),
    }
    answer.push((end, bytes::Bytes::new()));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::{NoContext, Timestamp as At};

    fn made_at(millis: u64) -> Uuid {
        let at = At::from_unix(NoContext, millis / 1000, (millis % 1000) as u32 * 1_000_000);
        Uuid::new_v7(at)
    }

    #[test]
    fn an_id_that_may_have_left_is_one_that_does_not_say_that_it_is_young() {
        let now = Timestamp::from_millis(1_800_000_000_123);
        let ago = |millis: u64| made_at(1_800_000_000_123 - millis);
        assert!(may_have_left(Uuid::new_v4(), now));
        assert!(may_have_left(ago(SURE_MILLIS), now));
        assert!(!may_have_left(ago(SURE_MILLIS - 1), now));
        assert!(!may_have_left(made_at(1_900_000_000_000), now));
        assert!(may_leave(Uuid::new_v4(), now));
        assert!(may_leave(ago(AGE_MILLIS), now));
        assert!(!may_leave(ago(AGE_MILLIS - 1), now));
        assert!(!may_leave(made_at(1_900_000_000_000), now));
    }
}
