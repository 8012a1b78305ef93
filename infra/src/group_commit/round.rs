//! One round: a group goes out as one atomic batch, and every unit gets its answer.
//!
//! A batch is refused whole, and the server does not say because of which part. So after a
//! conflict the heads of its subjects are read, those that were overtaken are told so, and the
//! rest goes out again. If that is refused too, each goes by itself, which tells for certain.

use super::{
    Counts, Waiting,
    unit::{self, Unit},
};
use crate::{
    append::{self, Error, NotSent},
    clock, direct_get,
};
use async_nats::Client;
use domain::subject;
use futures_util::{StreamExt, stream};
use std::sync::atomic::Ordering;
use tracing::debug;

/// Units that go by themselves at once after a group was refused twice.
const BY_THEMSELVES: usize = 32;

/// Appends one unit by itself.
pub(super) async fn alone(client: &Client, mut unit: Unit) -> Result<u64, Error> {
    let stored = if unit.parts.len() == 1
        && let Some(part) = unit.parts.pop()
    {
        append::append(
            client,
            &part.subject,
            part.expected,
            part.headers,
            part.payload,
        )
        .await?
    } else {
        append::append_batch(client, &batch_id(), unit.parts.iter()).await?
    };
    Ok(stored.seq)
}

/// Appends a group; every unit of it is answered.
pub(super) async fn together(
    client: &Client,
    counts: &Counts,
    worth_a_batch: usize,
    group: Vec<Waiting>,
) {
    let Some(refused) = batch(client, counts, group).await else {
        return;
    };
    let rest = without_overtaken(client, refused).await;
    let rest = if rest.len() < worth_a_batch {
        Some(rest)
    } else {
        batch(client, counts, rest).await
    };
    for_each_by_itself(client, counts, rest.unwrap_or_default()).await;
}

/// Sends one batch. What was refused comes back; otherwise all are answered.
async fn batch(client: &Client, counts: &Counts, group: Vec<Waiting>) -> Option<Vec<Waiting>> {
    counts.groups.fetch_add(1, Ordering::Relaxed);
    counts
        .grouped
        .fetch_add(group.len() as u64, Ordering::Relaxed);
    let parts: Vec<_> = group.iter().flat_map(|each| &each.unit.parts).collect();
    let count = parts.len() as u64;
    let result = append::append_batch(client, &batch_id(), parts.into_iter()).await;
    match result {
        Ok(stored) if stored.batch == count => {
            let units = group.iter().map(|each| &each.unit);
            let sequences: Vec<u64> = unit::sequences(units, stored.seq).collect();
            for (waiting, seq) in group.into_iter().zip(sequences) {
                waiting.answer(Ok(seq));
            }
            None
        }
        Err(error @ (Error::Conflict { .. } | Error::Rejected { .. } | Error::NotSent { .. })) => {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            debug!(units = group.len(), %error, "a group was refused");
            Some(group)
        }
        // Nobody knows what became of it.
        Ok(_) | Err(Error::NoAnswer { .. } | Error::Unreadable { .. }) => {
            for waiting in group {
                let subject = waiting.unit.subject();
                waiting.answer(Err(Error::NoAnswer {
                    subject,
                    source: async_nats::RequestErrorKind::Other.into(),
                }));
            }
            None
        }
    }
}

/// Tells those whose subjects have moved on; the others come back.
async fn without_overtaken(client: &Client, group: Vec<Waiting>) -> Vec<Waiting> {
    let subjects = group.iter().flat_map(|each| &each.unit.parts);
    let subjects: Vec<&str> = subjects.map(|part| part.subject.as_str()).collect();
    let heads = match direct_get::heads(client, subject::EVENTS, &subjects).await {
        Ok(heads) => heads,
        Err(error) => {
            debug!(%error, "the heads of a refused group cannot be read");
            return group;
        }
    };
    let mut rest = Vec::with_capacity(group.len());
    for waiting in group {
        match unit::conflict(&waiting.unit, &heads) {
            Some(error) => waiting.answer(Err(error)),
            None => rest.push(waiting),
        }
    }
    rest
}

async fn for_each_by_itself(client: &Client, counts: &Counts, group: Vec<Waiting>) {
    let now = clock::now();
    let going = group.into_iter().map(|waiting| async move {
        let Waiting { unit, answer } = waiting;
        let result = if unit.deadline < now {
            Err(unit.not_sent(NotSent::TooLate))
        } else {
            counts.alone.fetch_add(1, Ordering::Relaxed);
            alone(client, unit).await
        };
        answer.send(super::Verdict::Done(result)).ok();
    });
    stream::iter(going)
        .buffer_unordered(BY_THEMSELVES)
        .collect::<()>()
        .await;
}

/// An id that no other batch has: a retry of the same command is another batch to the server.
fn batch_id() -> String {
    clock::fresh_id().simple().to_string()
}
