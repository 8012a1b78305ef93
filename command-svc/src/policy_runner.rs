//! Carries out what [`domain::policy`] says should follow from events, at least once.
//!
//! A durable consumer of the log hands every commit to one of a few lanes, by aggregate, so that
//! the reactions to one aggregate happen in order. A commit is acknowledged after its reactions
//! are done; a reaction that cannot be carried out is tried again until it can.

use async_nats::{
    Client, HeaderMap, header,
    jetstream::{
        self, AckKind, Message,
        consumer::{AckPolicy, PullConsumer, pull},
    },
};
use domain::{
    commit,
    id::QueryId,
    limits,
    policy::{Reaction, react_to_query, react_to_session},
    subject::{self, Aggregate, Kind},
    wire::token::{self, Body, Terminal},
};
use futures_util::StreamExt;
use infra::{lifecycle::Lifecycle, retry::Backoff, revocations, telemetry, tokens::Tokens};
use std::time::Duration;
use tokio::{sync::mpsc, time::Instant};
use tracing::{debug, error, info, warn};

/// Lanes that work side by side.
const LANES: usize = 16;
/// Commits that wait in one lane; the consumer pauses while it is full.
const LANE_DEPTH: usize = 64;
/// The server gives a commit to somebody else when it was not acknowledged for so long.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// How long a worker may take to bring back chunks that a crash of the server lost.
const REPAIR: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Runner {
    client: Client,
    context: jetstream::Context,
    tokens: Tokens,
}

/// Starts the runner; it belongs to the lifecycle.
pub fn start(client: &Client, context: &jetstream::Context, lifecycle: &Lifecycle) {
    let runner = Runner {
        client: client.clone(),
        context: context.clone(),
        tokens: Tokens::new(client.clone()),
    };
    let lanes: Vec<_> = (0..LANES)
        .map(|_| {
            let (lane, mut commits) = mpsc::channel::<Message>(LANE_DEPTH);
            let runner = runner.clone();
            lifecycle.spawn("policy lane", async move {
                while let Some(message) = commits.recv().await {
                    runner.settle(&message).await;
                }
            });
            lane
        })
        .collect();
    let life = lifecycle.clone();
    lifecycle.spawn("policies", async move {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            tokio::select! {
                ended = follow(&runner.context, &lanes) => match ended {
                    Ok(()) => debug!("the policies' consumer ended"),
                    Err(error) => warn!(%error, "the policies' consumer is lost"),
                },
                () = life.stopping() => return,
            }
            backoff.wait().await;
        }
    });
    info!(policy.lanes = LANES, "policies run");
}

async fn follow(
    context: &jetstream::Context,
    lanes: &[mpsc::Sender<Message>],
) -> Result<(), async_nats::Error> {
    let config = pull::Config {
        durable_name: Some("policies".into()),
        description: Some("Carries out what follows from events".into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: (LANES * LANE_DEPTH * 2) as i64,
        filter_subject: subject::ALL_EVENTS.into(),
        ..pull::Config::default()
    };
    let consumer: PullConsumer = context
        .create_consumer_on_stream(config, subject::EVENTS)
        .await?;
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(LANES * LANE_DEPTH)
        .heartbeat(Duration::from_secs(2))
        .expires(Duration::from_secs(10))
        .messages()
        .await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let part = Aggregate::parse(&message.subject).map_or(0, |aggregate| aggregate.part());
        let lane = &lanes[usize::try_from(part).unwrap_or(0) % lanes.len()];
        if lane.send(message).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

impl Runner {
    /// Carries out the reactions to one commit and acknowledges it.
    async fn settle(&self, message: &Message) {
        let log_seq = message.info().map_or(0, |info| info.stream_sequence);
        for reaction in reactions(message) {
            let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
            while let Err(reason) = self.carry_out(&reaction, log_seq).await {
                warn!(subject = %message.subject, reason, "a reaction is tried again");
                // Unless the server hears that we are at it, it hands the commit to others too.
                message.ack_with(AckKind::Progress).await.ok();
                backoff.wait().await;
            }
        }
        if let Err(error) = message.ack().await {
            debug!(subject = %message.subject, %error, "a commit was not acknowledged");
        }
    }

    async fn carry_out(&self, reaction: &Reaction, log_seq: u64) -> Result<(), String> {
        match reaction {
            Reaction::OpenStream { query, owner, at } => {
                let message = token::Message {
                    seq: 1,
                    at: *at,
                    body: Body::Queued { owner: *owner },
                    log_seq: None,
                };
                match self.tokens.append(*query, 0, &message).await {
                    Ok(_) | Err(infra::append::Error::Conflict { .. }) => Ok(()),
                    Err(error) => Err(telemetry::chain(&error)),
                }
            }
            Reaction::EnqueueJob {
                model,
                priority,
                job,
            } => {
                let mut headers = HeaderMap::new();
                headers.insert(header::NATS_MESSAGE_ID, job.query.to_string());
                let payload = serde_json::to_vec(job).map_err(|error| error.to_string())?;
                let stored = self
                    .context
                    .publish_with_headers(subject::job(model, *priority), headers, payload.into())
                    .await
                    .map_err(|error| telemetry::chain(&error))?;
                stored.await.map_err(|error| telemetry::chain(&error))?;
                Ok(())
            }
            Reaction::CloseStream {
                query,
                terminal,
                at,
            } => self.close_stream(*query, terminal, *at, log_seq).await,
            Reaction::Revoke { key, ttl_secs } => {
                // A replay of old events must not revoke for longer than the tokens can live.
                debug_assert!(*ttl_secs <= limits::REFRESH_TOKEN_SECS);
                revocations::revoke(&self.client, *key, *ttl_secs)
                    .await
                    .map_err(|error| telemetry::chain(&error))
            }
        }
    }

    /// Writes the last message of a stream, after everything that belongs before it.
    ///
    /// The server stores chunks without waiting for its disk, so its crash can lose the latest
    /// ones after clients saw them. Their worker brings them back; if it is gone as well, the rest
    /// of the text is filled in here under the same numbers.
    async fn close_stream(
        &self,
        query: QueryId,
        terminal: &Terminal,
        at: domain::Timestamp,
        log_seq: u64,
    ) -> Result<(), String> {
        // Whoever works on it can stop: nothing that it says now would be stored.
        self.client
            .publish(subject::cancel(query), "".into())
            .await
            .map_err(|error| error.to_string())?;
        let give_up = Instant::now() + REPAIR;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        loop {
            let history = self
                .tokens
                .history(query)
                .await
                .map_err(|error| telemetry::chain(&error))?;
            let last = history.messages.last();
            if last.is_some_and(token::Message::is_terminal) {
                return Ok(());
            }
            let seq = last.map_or(0, |message| message.seq);
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
                    log_seq: Some(log_seq),
                },
            };
            match self.tokens.append(query, history.last, &next).await {
                Ok(_) | Err(infra::append::Error::Conflict { .. }) => {}
                Err(error) => return Err(telemetry::chain(&error)),
            }
        }
    }
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
    at: domain::Timestamp,
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
    };
    token::Message {
        seq,
        at,
        body: Body::Chunk(chunk),
        log_seq: None,
    }
}

/// What should follow from a commit. One that cannot be read has no effect here: projections park
/// it and name it.
fn reactions(message: &Message) -> Vec<Reaction> {
    let Some(aggregate) = Aggregate::parse(&message.subject) else {
        return vec![];
    };
    let decoded = match aggregate.kind {
        Kind::Query => commit::decode(&message.subject, &message.payload)
            .map(|events| events.iter().flat_map(react_to_query).collect()),
        Kind::Session => commit::decode(&message.subject, &message.payload)
            .map(|events| events.iter().flat_map(react_to_session).collect()),
        Kind::Account | Kind::Email => Ok(vec![]),
    };
    decoded.unwrap_or_else(|error| {
        error!(
            reason = telemetry::chain(&error),
            "a commit cannot be read by the policies"
        );
        vec![]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{Timestamp, query};

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
