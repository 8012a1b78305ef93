//! Writing the last message of a query's token stream, after everything that belongs before it.
//!
//! The server stores chunks without waiting for its disk, so its crash can lose the latest ones
//! after clients saw them. Their worker brings them back; if it is gone as well, the rest of the
//! text is filled in here under the same numbers. The first message, which says whose the stream
//! is, may be missing too, when another instance has the commit that calls for it: it is then
//! written here, out of the log, and what the other one writes is refused as a conflict.

use super::{Cause, Problem, Runner, Seal, open_stream, unreadable};
use async_nats::Client;
use domain::{
    Aggregate, Timestamp, commit,
    id::QueryId,
    policy::{Reaction, Settings, react_to_query},
    query::{Event, Query},
    subject,
    wire::token::{self, Body, Terminal},
};
use infra::{
    append, clock, direct_get,
    nats::connects,
    retry::Backoff,
    sealing::{Keyring, Opened},
    tokens::Tokens,
};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tracing::warn;

/// How long a worker may take to bring back chunks that a crash of the server lost, from the end of
/// its query or, if that was later, from when the server was there again.
const REPAIR: Duration = Duration::from_secs(5);

/// Since when the server has been there. Replaying a log, all of whose queries are long over, waits
/// for their workers once and not for each.
#[derive(Debug)]
pub(super) struct Presence(Mutex<(u64, Instant)>);

impl Presence {
    /// From now on.
    pub(super) fn begin(client: &Client) -> Self {
        Self(Mutex::new((connects(client), Instant::now())))
    }

    /// A new connection is taken note of when it is first looked for, which is late and never early.
    fn since(&self, client: &Client) -> Instant {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != connects(client) {
            *seen = (connects(client), Instant::now());
        }
        seen.1
    }
}

pub(super) async fn close_stream(
    runner: &Runner,
    query: QueryId,
    terminal: &Terminal,
    at: Timestamp,
    cause: Cause,
) -> Result<(), Problem> {
    let Runner {
        client,
        keys,
        presence,
        tokens,
        ..
    } = runner;
    // Whoever works on it can stop: nothing that it says now would be stored.
    client
        .publish(subject::cancel(query), "".into())
        .await
        .map_err(Problem::later)?;
    let age = clock::now().millis_since(at);
    let left = REPAIR.saturating_sub(Duration::from_millis(age));
    let give_up = (Instant::now() + left).max(presence.since(client) + REPAIR);
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
    loop {
        // Each time, since the person may be erased meanwhile.
        let key = match runner.key(query, cause).await? {
            Seal::With(key) => Some(key),
            Seal::Not => None,
            Seal::Erased => return Ok(()),
        };
        let history = tokens.history(query, key.as_ref()).await?;
        let Some(last) = history.messages.last() else {
            if !open_from_log(client, keys, tokens, query).await? {
                return Ok(());
            }
            backoff.wait().await;
            continue;
        };
        if last.is_terminal() {
            return Ok(());
        }
        let seq = last.seq;
        let next = match missing(terminal, seq) {
            true if Instant::now() < give_up => {
                backoff.wait().await;
                continue;
            }
            true => {
                warn!(query.id = %query, seq, "filling in chunks that were lost");
                filler(&history.messages, terminal, seq + 1, at)
            }
            false => token::Message {
                seq: seq + 1,
                at,
                body: Body::Terminal(terminal.clone()),
                log_seq: Some(cause.log_seq),
            },
        };
        match tokens
            .append(query, history.last, &next, key.as_ref())
            .await
        {
            Ok(_) | Err(append::Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Does what the query's first commit calls for; false if nobody can read that any more.
async fn open_from_log(
    client: &Client,
    keys: &Keyring,
    tokens: &Tokens,
    query: QueryId,
) -> Result<bool, Problem> {
    let subject = Query::named(query.uuid()).subject();
    let commits = direct_get::subject(client, subject::EVENTS, &subject, 1)
        .await
        .map_err(Problem::later)?;
    for stored in commits {
        let opened = keys.open(&subject, Some(&stored.headers), &stored.payload);
        let Opened::Text(payload) = opened.await? else {
            return Ok(false);
        };
        let events: Vec<Event> = commit::decode(&subject, &payload).map_err(unreadable)?;
        let reactions = events
            .iter()
            .flat_map(|event| react_to_query(event, &Settings::default()));
        for reaction in reactions {
            if let Reaction::OpenStream { query, owner, at } = reaction {
                return open_stream(tokens, query, owner, at).await.map(|()| true);
            }
        }
    }
    Err(Problem::Never(format!(
        "{subject} does not begin with a submission"
    )))
}

/// Whether chunks that the answer was streamed in are not in the stream: `queued` is message 1.
fn missing(terminal: &Terminal, last_seq: u32) -> bool {
    match terminal {
        Terminal::Completed { answer } => last_seq < answer.chunks + 1,
        Terminal::Failed { .. } | Terminal::Cancelled => false,
    }
}

/// The rest of the text for the first missing number, empty chunks for the others.
fn filler(
    messages: &[token::Message],
    terminal: &Terminal,
    seq: u32,
    at: Timestamp,
) -> token::Message {
    let told: String = messages
        .iter()
        .filter_map(|message| match &message.body {
            Body::Chunk(chunk) => Some(chunk.text.as_str()),
            Body::Queued { .. } | Body::Terminal(_) => None,
        })
        .collect();
    let text = match terminal {
        Terminal::Completed { answer } => answer.response_text.strip_prefix(&told).unwrap_or(""),
        Terminal::Failed { .. } | Terminal::Cancelled => "",
    };
    let chunk = token::Chunk {
        text: text.to_owned(),
        ids: vec![],
        logprob: 0.0,
        compute_ms: 0,
        model: None,
        tokens: vec![],
    };
    token::Message {
        seq,
        at,
        body: Body::Chunk(chunk),
        log_seq: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::query;

    fn completed(text: &str, chunks: u32) -> Terminal {
        Terminal::Completed {
            answer: query::Answer {
                response_text: text.into(),
                model_used: "m".into(),
                confidence: None,
                latency_ms: 1,
                finish_reason: "stop".into(),
                usage: query::Usage::default(),
                chunks,
            },
        }
    }

    fn chunk(seq: u32, text: &str) -> token::Message {
        let chunk = token::Chunk {
            text: text.into(),
            ids: vec![],
            logprob: 0.0,
            compute_ms: 0,
            model: None,
            tokens: vec![],
        };
        token::Message {
            seq,
            at: Timestamp::from_millis(0),
            body: Body::Chunk(chunk),
            log_seq: None,
        }
    }

    #[test]
    fn lost_chunks_are_filled_in_under_their_numbers() {
        let terminal = completed("one two three", 3);
        let mut stream = vec![chunk(2, "one ")];
        while missing(&terminal, stream.last().unwrap().seq) {
            let seq = stream.last().unwrap().seq + 1;
            stream.push(filler(&stream, &terminal, seq, Timestamp::from_millis(0)));
        }
        let texts: Vec<_> = stream
            .iter()
            .map(|message| match &message.body {
                Body::Chunk(chunk) => (message.seq, chunk.text.as_str()),
                Body::Queued { .. } | Body::Terminal(_) => panic!("only chunks"),
            })
            .collect();
        assert_eq!(texts, [(2, "one "), (3, "two three"), (4, "")]);
        assert!(!missing(&Terminal::Cancelled, 0));
    }
}
