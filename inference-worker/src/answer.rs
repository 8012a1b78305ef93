//! Answering one query.

use crate::stream_writer::{Lost, StreamWriter};
use async_nats::Client;
use domain::{
    Actor,
    id::{CommandId, QueryId},
    query::{Answer, Usage},
    subject,
    text::storable,
    wire::{
        command::{self, Outcome, Reply},
        error::Code,
        job::Job,
        token::{Body, Chunk, Message},
    },
};
use engine::{
    Finish, Priority,
    provider::{self, ChatRequest, Item, Provider},
};
use futures_util::{FutureExt, StreamExt};
use infra::{
    bus::Commands,
    clock,
    jobs::Waiting,
    retry::Backoff,
    sealing::{
        QueryKeys,
        query_key::{self, Answer as FoundKey},
    },
    telemetry,
    tokens::Tokens,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};

/// After the first chunk, text is collected for so long before the next one goes out.
const COLLECT: Duration = Duration::from_millis(30);
/// How long one command to command-svc may take, repeats included.
const COMMAND: Duration = Duration::from_secs(30);
/// A job that was given out so often without an end is given up.
const DELIVERIES: i64 = 20;

/// How work on a job ended.
#[derive(Clone, Copy)]
pub(crate) enum Ended {
    /// The query has ended, and the log says so.
    Done,
    /// Something was out of reach; somebody should try again after this pause.
    Later(Duration),
    /// Another worker has the job.
    Lost,
    /// Nobody can read the job.
    Unreadable,
}

/// What jobs are worked on with. Clones share it.
#[derive(Clone)]
pub(crate) struct Worker {
    client: Client,
    commands: Commands,
    tokens: Tokens,
    keys: QueryKeys,
    provider: Arc<dyn Provider>,
    name: String,
    max_new_tokens: usize,
}

/// The end of a generation, as far as this worker brought it.
struct Generated {
    end: provider::End,
    /// Tokens of the whole answer that have a probability.
    tokens: usize,
}

impl Worker {
    pub(crate) fn new(
        client: &Client,
        provider: Arc<dyn Provider>,
        name: String,
        max_new_tokens: usize,
    ) -> Self {
        Self {
            client: client.clone(),
            commands: Commands::new(client.clone()),
            tokens: Tokens::new(client.clone()),
            keys: QueryKeys::new(client.clone()),
            provider,
            name,
            max_new_tokens,
        }
    }

    /// Answers a query, or goes on where the worker before has stopped.
    pub(crate) async fn answer(&self, waiting: Waiting, delivery: i64) -> Ended {
        let query = waiting.query();
        // The same id for every repeat of this delivery, another one for the next delivery.
        let start = CommandId::derived(&[
            &query.to_string(),
            "start",
            &self.name,
            &delivery.to_string(),
        ]);
        // The client waits for its first chunk, so the model begins while the log is told. Nothing is
        // published before the log has it.
        let started = self.start(query, start).shared();
        let work = self.work(waiting, delivery, start, started.clone());
        let (ended, _) = tokio::join!(work, started);
        ended
    }

    /// Everything but telling the log that this worker starts, which `started` is about.
    async fn work(
        &self,
        waiting: Waiting,
        delivery: i64,
        start: CommandId,
        started: impl Future<Output = Option<Ended>>,
    ) -> Ended {
        let query = waiting.query();
        let (stored, stop, key) = tokio::join!(
            self.tokens.stored(query),
            self.listen_for_stop(query),
            self.key(&waiting)
        );
        let stop = match stop {
            Ok(stop) => stop,
            Err(error) => return later(query, &error),
        };
        let key = match key {
            Ok(FoundKey::Key(key)) => Some(key),
            Ok(FoundKey::Plain) => None,
            // Nobody could read the answer.
            Ok(FoundKey::Erased) => return Ended::Done,
            Err(error) => return later(query, &error),
        };
        let history = match stored.and_then(|stored| stored.open(key.as_ref())) {
            Ok(history) => history,
            Err(error) => return started.await.unwrap_or_else(|| later(query, &error)),
        };
        if history.messages.last().is_some_and(Message::is_terminal) {
            return Ended::Done;
        }
        if delivery > DELIVERIES {
            return match started.await {
                Some(nothing_to_do) => nothing_to_do,
                None => {
                    self.fail(
                        query,
                        Code::QueryProcessingError,
                        "The query could not be processed",
                    )
                    .await
                }
            };
        }
        let job = match waiting.open(key.as_ref()) {
            Ok(job) => job,
            Err(error) => {
                error!(query.id = %query, reason = telemetry::chain(&error), "a job cannot be read");
                return Ended::Unreadable;
            }
        };
        let mut writer = StreamWriter::after(self.tokens.clone(), query, key, history);
        if writer.chunks().next().is_some() && !self.provider.card().abilities.resume {
            // Another answer would contradict what was shown.
            let message = "The answer was interrupted, and its model cannot go on with it";
            return match started.await {
                Some(nothing_to_do) => nothing_to_do,
                None => self.fail(query, Code::QueryModelError, message).await,
            };
        }
        let items = self.submit(&job, &writer, stop.token.clone());
        if let Some(nothing_to_do) = started.await {
            return nothing_to_do;
        }
        let items = match items {
            Ok(items) => items,
            Err(busy @ engine::Error::Busy { .. }) => return later(query, &busy),
            Err(refused) => {
                let message = telemetry::chain(&refused);
                return self.fail(query, Code::QueryModelError, &message).await;
            }
        };
        let generated = match self.publish(&job, items, &mut writer).await {
            Ok(Some(generated)) => generated,
            Ok(None) => {
                return self
                    .fail(query, Code::QueryModelError, "Model inference failed")
                    .await;
            }
            Err(Lost) => return self.after_loss(query, start).await,
        };
        match &generated.end.finish {
            Finish::Stop => self.complete(query, "stop", &mut writer, &generated).await,
            Finish::Length => {
                self.complete(query, "length", &mut writer, &generated)
                    .await
            }
            Finish::Cancelled => self.after_loss(query, start).await,
            Finish::Timeout => {
                self.fail(query, Code::QueryTimeout, "The query took too long")
                    .await
            }
            Finish::Error(reason) => {
                error!(query.id = %query, reason, "inference failed");
                self.fail(query, Code::QueryModelError, "Model inference failed")
                    .await
            }
        }
    }

    /// The key of a job, which command-svc may take as long to give as for a command.
    async fn key(&self, waiting: &Waiting) -> Result<FoundKey, query_key::Error> {
        let Some(person) = waiting.person() else {
            return Ok(FoundKey::Plain);
        };
        let begun = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            match self.keys.ask(waiting.query(), person).await {
                Err(_) if begun.elapsed() < COMMAND => backoff.wait().await,
                answer => return answer,
            }
        }
    }

    /// Tells the log that this worker starts; `Some` when there is nothing to do.
    async fn start(&self, query: QueryId, id: CommandId) -> Option<Ended> {
        let model = self.provider.card().model.clone();
        match self
            .command(id, command::Body::StartQuery { query, model })
            .await
        {
            Reply::Accepted {
                outcome: Outcome::Query { status, .. },
                ..
            } => status.is_final().then_some(Ended::Done),
            Reply::Accepted { .. } => None,
            // It has ended, or there never was such a query.
            Reply::Refused { failure }
                if matches!(failure.code, Code::Conflict | Code::NotFound) =>
            {
                info!(query.id = %query, reason = failure.message, "nothing to do for a job");
                Some(Ended::Done)
            }
            Reply::Refused { .. } | Reply::Unavailable | Reply::Overloaded { .. } => {
                Some(Ended::Later(Duration::from_secs(1)))
            }
        }
    }

    /// Whether the query has ended, or only our part in it.
    async fn after_loss(&self, query: QueryId, start: CommandId) -> Ended {
        match self.start(query, start).await {
            Some(Ended::Done) => Ended::Done,
            Some(Ended::Later(_) | Ended::Lost | Ended::Unreadable) | None => Ended::Lost,
        }
    }

    async fn listen_for_stop(&self, query: QueryId) -> Result<Stop, async_nats::SubscribeError> {
        let mut signals = self.client.subscribe(subject::cancel(query)).await?;
        let token = CancellationToken::new();
        let (cancel, gone) = (token.clone(), CancellationToken::new());
        let guard = gone.clone().drop_guard();
        let listener = async move {
            tokio::select! {
                Some(_) = signals.next() => cancel.cancel(),
                () = gone.cancelled() => {}
            }
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "it ends with the job that holds its guard"
        )]
        tokio::spawn(listener);
        Ok(Stop {
            token,
            _guard: guard,
        })
    }

    /// Has the model begin, or go on after what the stream holds.
    fn submit(
        &self,
        job: &Job,
        writer: &StreamWriter,
        cancel: CancellationToken,
    ) -> Result<provider::Answer, engine::Error> {
        let message = engine::Message {
            role: "user".to_owned(),
            content: job.text.clone(),
        };
        self.provider.answer(ChatRequest {
            id: job.query.uuid().as_u128(),
            owner: job.owner.uuid().as_u128(),
            // Whoever asks waits for the answer; a job says nothing that a person could not claim.
            priority: Priority::Interactive,
            generated: writer
                .chunks()
                .flat_map(|chunk| chunk.ids.iter().copied())
                .collect(),
            cancel,
            ..ChatRequest::new(vec![message], self.max_new_tokens)
        })
    }

    /// Publishes what the model says; `None` where it ends without an end.
    async fn publish(
        &self,
        job: &Job,
        mut items: provider::Answer,
        writer: &mut StreamWriter,
    ) -> Result<Option<Generated>, Lost> {
        if writer.is_empty() {
            writer.push(Body::Queued { owner: job.owner }).await?;
        }
        let mut tokens = writer.chunks().map(|chunk| chunk.ids.len()).sum();
        let mut pending = Pending::new();
        loop {
            let item = match pending.due() {
                None => items.next().await,
                Some(due) => match tokio::time::timeout_at(due.into(), items.next()).await {
                    Ok(item) => item,
                    Err(_) => {
                        writer.push(pending.take()).await?;
                        continue;
                    }
                },
            };
            match item {
                Some(Item::Text { text, tokens: told }) => {
                    tokens += told.len();
                    pending.add(&text, &told);
                }
                Some(Item::End(end)) => {
                    pending.add_text(&end.text);
                    if !pending.is_empty() && end.finish != Finish::Cancelled {
                        writer.push(pending.take()).await?;
                    }
                    return Ok(Some(Generated { end, tokens }));
                }
                None => return Ok(None),
            }
        }
    }

    async fn complete(
        &self,
        query: QueryId,
        finish_reason: &str,
        writer: &mut StreamWriter,
        generated: &Generated,
    ) -> Ended {
        let answer = {
            let chunks: Vec<&Chunk> = writer.chunks().collect();
            let Generated { end, tokens } = generated;
            let usage = end.usage.unwrap_or_default();
            let logprob: f64 = chunks.iter().map(|chunk| chunk.logprob).sum();
            // What earlier workers spent stands in their chunks, ours is known exactly.
            let ours = u64::try_from(end.compute.as_millis()).unwrap_or(u64::MAX);
            let told: u64 = chunks.iter().map(|chunk| chunk.compute_ms).sum();
            Answer {
                response_text: chunks.iter().map(|chunk| chunk.text.as_str()).collect(),
                model_used: end.model.clone(),
                confidence: (*tokens > 0).then(|| (logprob / *tokens as f64).exp().clamp(0.0, 1.0)),
                latency_ms: told.max(ours),
                finish_reason: finish_reason.to_owned(),
                usage: Usage {
                    prompt_tokens: u32::try_from(usage.prompt_tokens).unwrap_or(u32::MAX),
                    completion_tokens: u32::try_from(usage.completion_tokens).unwrap_or(u32::MAX),
                },
                chunks: u32::try_from(chunks.len()).unwrap_or(u32::MAX),
            }
        };
        let ended = self
            .end(
                query,
                "complete",
                command::Body::CompleteQuery { query, answer },
            )
            .await;
        if let Err(Lost) = writer.settle().await {
            // The stream has its last message already: nothing was missing.
            return ended;
        }
        ended
    }

    async fn fail(&self, query: QueryId, code: Code, message: &str) -> Ended {
        warn!(query.id = %query, code = code.as_str(), "a query failed");
        let message = message.to_owned();
        self.end(
            query,
            "fail",
            command::Body::FailQuery {
                query,
                code,
                message,
            },
        )
        .await
    }

    async fn end(&self, query: QueryId, what: &str, body: command::Body) -> Ended {
        let id = CommandId::derived(&[&query.to_string(), what, &self.name]);
        match self.command(id, body).await {
            Reply::Accepted { .. } => Ended::Done,
            // It has ended otherwise meanwhile.
            Reply::Refused { failure } if failure.code == Code::Conflict => Ended::Done,
            Reply::Refused { failure } => {
                error!(query.id = %query, reason = failure.message, "the end of a query is refused");
                Ended::Later(Duration::from_secs(5))
            }
            Reply::Unavailable | Reply::Overloaded { .. } => Ended::Later(Duration::from_secs(1)),
        }
    }

    async fn command(&self, id: CommandId, body: command::Body) -> Reply {
        let deadline =
            clock::now().plus_millis(i64::try_from(COMMAND.as_millis()).unwrap_or(i64::MAX));
        self.commands
            .insist(&command::Request {
                id,
                actor: Actor::Worker(self.name.clone()),
                request_id: id.to_string(),
                traceparent: None,
                deadline,
                fingerprint: None,
                body,
            })
            .await
    }
}

/// Something is out of reach.
fn later(query: QueryId, error: &(dyn std::error::Error + 'static)) -> Ended {
    warn!(query.id = %query, reason = telemetry::chain(error), "a job has to wait");
    Ended::Later(Duration::from_secs(1))
}

/// Hears when a query has ended elsewhere, for as long as it is held.
struct Stop {
    token: CancellationToken,
    _guard: DropGuard,
}

/// Tokens that wait to go out together.
struct Pending {
    text: String,
    ids: Vec<u32>,
    logprob: f64,
    since: Instant,
    /// Nothing has gone out yet: the first text goes at once.
    first: bool,
}

impl Pending {
    fn new() -> Self {
        Self {
            text: String::new(),
            ids: vec![],
            logprob: 0.0,
            since: Instant::now(),
            first: true,
        }
    }

    fn add(&mut self, text: &str, tokens: &[provider::Token]) {
        self.ids.extend(tokens.iter().filter_map(|token| token.id));
        self.add_text(text);
        self.logprob += tokens
            .iter()
            .map(|token| f64::from(token.logprob))
            .sum::<f64>();
    }

    /// A model can say what no row can hold; then the stream does not say it either.
    fn add_text(&mut self, text: &str) {
        self.text.push_str(&storable(text));
    }

    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.text.is_empty()
    }

    /// When what waits should go out; never while there is no text.
    fn due(&self) -> Option<Instant> {
        if self.text.is_empty() {
            return None;
        }
        Some(if self.first {
            self.since
        } else {
            self.since + COLLECT
        })
    }

    fn take(&mut self) -> Body {
        let compute_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let taken = std::mem::replace(self, Self::new());
        self.first = false;
        Body::Chunk(Chunk {
            text: taken.text,
            ids: taken.ids,
            logprob: taken.logprob,
            compute_ms,
            tokens: vec![],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_says_what_a_row_can_hold() {
        let mut pending = Pending::new();
        let token = provider::Token {
            id: Some(7),
            logprob: -0.5,
            bytes: vec![],
            top: vec![],
        };
        pending.add("a\0", &[token]);
        pending.add_text("\0b");
        let Body::Chunk(chunk) = pending.take() else {
            panic!("a chunk is due");
        };
        assert_eq!(chunk.text, "a\u{fffd}\u{fffd}b");
        assert_eq!(chunk.ids, [7]);
    }
}
