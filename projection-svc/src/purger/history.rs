//! Answers `log.purged`: the commits of a query that has left the log, out of the copy.

use super::Notes;
use async_nats::{Client, Message, SubscribeError};
use domain::subject::{self, Aggregate, Kind};
use futures_util::StreamExt;
use infra::{archive, lifecycle::Lifecycle, purged, telemetry::chain};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tracing::warn;

/// Most questions in work at a time; more are turned away at once, and may be asked again.
const IN_WORK: usize = 64;

/// Answers until the life ends.
pub(crate) async fn serve(
    client: &Client,
    notes: Notes,
    lifecycle: &Lifecycle,
) -> Result<(), SubscribeError> {
    let group = "projection-svc".to_owned();
    let mut questions = client.queue_subscribe(subject::PURGED, group).await?;
    let (client, life) = (client.clone(), lifecycle.clone());
    let permits = Arc::new(Semaphore::new(IN_WORK));
    lifecycle.spawn("purged", async move {
        loop {
            let question = tokio::select! {
                question = questions.next() => question,
                () = life.stopping() => return,
            };
            let Some(question) = question else { return };
            let (client, notes) = (client.clone(), notes.clone());
            let permit = permits.clone().try_acquire_owned();
            life.spawn("purged", async move {
                let found = match &permit {
                    Ok(_) => find(&notes, &question).await,
                    Err(_) => Err("too many ask".to_owned()),
                };
                reply(&client, &question, found).await;
            });
        }
    });
    Ok(())
}

async fn find(notes: &Notes, question: &Message) -> Result<Vec<archive::Message>, String> {
    let named = str::from_utf8(&question.payload)
        .ok()
        .and_then(Aggregate::parse);
    let named = named.ok_or("this is no aggregate's subject")?;
    if named.kind != Kind::Query {
        return Ok(Vec::new());
    }
    let left = notes.find(named.id).await.map_err(|error| chain(&error))?;
    let Some((copy, last)) = left else {
        return Ok(Vec::new());
    };
    let history = archive::history(&copy, &named.subject(), last).await;
    let history = history.map_err(|error| chain(&error))?;
    if history.last().is_none_or(|message| message.seq != last) {
        return Err(format!("the copy has not what it had at {last}"));
    }
    Ok(history)
}

async fn reply(client: &Client, question: &Message, found: Result<Vec<archive::Message>, String>) {
    if let Err(reason) = &found {
        warn!(reason, "what has left the log cannot be told");
    }
    let Some(inbox) = &question.reply else { return };
    for (headers, payload) in purged::answer(found) {
        let sent = client.publish_with_headers(inbox.clone(), headers, payload);
        if let Err(error) = sent.await {
            warn!(error = chain(&error), "an answer cannot be sent");
            return;
        }
    }
}
