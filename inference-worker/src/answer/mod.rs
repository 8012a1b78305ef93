//! Answering one query: [`finding`] looks what is there already, [`request`] says what the job asks
//! of the model, [`publishing`] puts what the model says into the token stream, with [`pending`],
//! [`reporting`] tells the log how it went, [`stop`] hears that the query ended elsewhere.

mod finding;
mod pending;
mod publishing;
mod reporting;
mod request;
mod stop;

use crate::{
    models::{Models, Place},
    stream_writer::{Lost, StreamWriter},
};
use async_nats::Client;
use domain::{
    id::{CommandId, QueryId},
    query::{Answer, Usage},
    subject::Priority,
    wire::{error::Code, job::Job, token::Chunk},
};
use engine::{
    Finish, ResponseFormat,
    calibration::Calibration,
    provider::{self, Provider},
};
use finding::Found;
use futures_util::{
    FutureExt,
    future::{Either, ready},
};
use infra::{bus::Commands, jobs::Waiting, sealing::QueryKeys, telemetry, tokens::Tokens};
use publishing::{Generated, Said};
use reporting::Reporting;
use std::{sync::Arc, time::Duration};
use stop::Stop;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// A job that was given out so often without an end is given up.
const DELIVERIES: i64 = 20;

/// How work on a job ended.
#[derive(Clone, Copy)]
pub(crate) enum Ended {
    /// The query has ended, and the log says so.
    Done,
    /// Another worker should go on at once.
    HandedOver,
    /// Something was out of reach; somebody should try again after this pause.
    Later(Duration),
    /// Another worker has the job.
    Lost,
    /// Nobody can read the job.
    Unreadable,
}

/// A job as it was handed out.
pub(crate) struct Delivered {
    pub(crate) waiting: Waiting,
    /// How often it was.
    pub(crate) delivery: i64,
    pub(crate) priority: Priority,
}

/// What jobs are worked on with. Clones share it.
#[derive(Clone)]
pub(crate) struct Worker {
    client: Client,
    reporting: Reporting,
    tokens: Tokens,
    keys: QueryKeys,
    models: Models,
    max_new_tokens: usize,
    handing_over: CancellationToken,
}

impl Worker {
    pub(crate) fn new(
        client: &Client,
        models: Models,
        name: String,
        max_new_tokens: usize,
    ) -> Self {
        Self {
            client: client.clone(),
            reporting: Reporting::new(Commands::new(client.clone()), name),
            tokens: Tokens::new(client.clone()),
            keys: QueryKeys::new(client.clone()),
            models,
            max_new_tokens,
            handing_over: CancellationToken::new(),
        }
    }

    /// Its models.
    pub(crate) const fn models(&self) -> &Models {
        &self.models
    }

    /// Has other workers go on with all that is in hand, as far as they can.
    pub(crate) fn hand_over(&self) {
        self.handing_over.cancel();
    }

    /// Answers a query, or goes on where the worker before has stopped.
    pub(crate) async fn answer(&self, delivered: Delivered, place: &mut Place) -> Ended {
        let Delivered {
            waiting, delivery, ..
        } = &delivered;
        let (query, delivery) = (waiting.query(), *delivery);
        let start = self.reporting.start_id(query, delivery);
        let finding = self.find(waiting);
        let finding = if delivery == 1 {
            // The client waits for its first chunk, so the model begins while the log is told.
            // Nothing is published before the log has it.
            Either::Left(finding)
        } else {
            let found = match finding.await {
                Ok(found) => found,
                Err(ended) => return ended,
            };
            let begun_by = found.begun_by();
            if let Some(model) = begun_by.filter(|begun| *begun != place.served().id()) {
                match self.models.named(model) {
                    Some(served) => *place = self.models.take(served),
                    None if delivery > DELIVERIES => {
                        let message = "The answer was interrupted, and its model is gone";
                        let code = Code::QueryModelError;
                        return self.reporting.fail(query, code, message).await;
                    }
                    // Another worker has it, or will.
                    None => return Ended::Later(Duration::from_secs(1)),
                }
            }
            Either::Right(ready(Ok(found)))
        };
        let model = place.served().id().to_owned();
        let started = self.reporting.start(query, start, &model).shared();
        let work = self.work(&delivered, start, finding, place, started.clone());
        tokio::join!(work, started).0
    }

    /// Everything but telling the log that this worker starts, which `started` is about.
    async fn work(
        &self,
        job: &Delivered,
        start: CommandId,
        finding: impl Future<Output = Result<Found, Ended>>,
        place: &mut Place,
        started: impl Future<Output = Option<Ended>>,
    ) -> Ended {
        let query = job.waiting.query();
        let found = match finding.await {
            Ok(found) => found,
            // The log may know that there is nothing to do.
            Err(later @ Ended::Later(_)) => return started.await.unwrap_or(later),
            Err(ended) => return ended,
        };
        match self.begin(job, found, place).await {
            Err(Instead::Ended(ended)) => ended,
            Err(Instead::Failed(code, message)) => match started.await {
                Some(nothing_to_do) => nothing_to_do,
                None => self.reporting.fail(query, code, &message).await,
            },
            Ok(begun) => match started.await {
                Some(nothing_to_do) => nothing_to_do,
                None => self.go_on(query, start, begun, place).await,
            },
        }
    }

    /// Has the model begin, or go on after what the stream holds.
    async fn begin(
        &self,
        delivered: &Delivered,
        found: Found,
        place: &mut Place,
    ) -> Result<Begun, Instead> {
        let query = delivered.waiting.query();
        if delivered.delivery > DELIVERIES {
            let message = "The query could not be processed".to_owned();
            return Err(Instead::Failed(Code::QueryProcessingError, message));
        }
        let begun_by = found.begun_by().map(ToOwned::to_owned);
        let Found { stop, key, history } = found;
        let job = match delivered.waiting.clone().open(key.as_ref()) {
            Ok(job) => job,
            Err(error) => {
                error!(query.id = %query, reason = telemetry::chain(&error), "a job cannot be read");
                return Err(Instead::Ended(Ended::Unreadable));
            }
        };
        let wished = job
            .options
            .as_ref()
            .and_then(|wished| wished.model.as_deref());
        if let Some(model) = wished.filter(|wished| *wished != place.served().id()) {
            // Whoever routes queries puts jobs that name a model where its workers look.
            let Some(served) = self.models.named(model) else {
                let message = format!("No model here is called {model}");
                return Err(Instead::Failed(Code::QueryRoutingError, message));
            };
            *place = self.models.take(served);
        }
        if begun_by.is_some_and(|begun| begun != place.served().id()) {
            // A first delivery of a consumer that was made anew: the next one looks before.
            return Err(Instead::Ended(Ended::HandedOver));
        }
        let writer = StreamWriter::after(self.tokens.clone(), query, key, history);
        let abilities = place.served().provider().card().abilities;
        if writer.chunks().next().is_some() && !abilities.resume {
            // Another answer would contradict what was shown.
            let message =
                "The answer was interrupted, and its model cannot go on with it".to_owned();
            return Err(Instead::Failed(Code::QueryModelError, message));
        }
        let provider = place.served().provider().clone();
        let items = self
            .submit(
                provider,
                &job,
                delivered.priority,
                &writer,
                stop.token.clone(),
            )
            .await;
        let items = items.map_err(|error| refused(query, &error))?;
        Ok(Begun {
            job,
            items,
            writer,
            _stop: stop,
        })
    }

    /// Publishes the answer to its end.
    async fn go_on(
        &self,
        query: QueryId,
        start: CommandId,
        begun: Begun,
        place: &mut Place,
    ) -> Ended {
        let Begun {
            job,
            items,
            mut writer,
            _stop,
        } = begun;
        let model = place.served().id().to_owned();
        let generated = match self.publish(&job, items, &mut writer, place).await {
            Ok(Said::Ended(generated)) => generated,
            Ok(Said::HandedOver) => return Ended::HandedOver,
            Ok(Said::Nothing) => return self.failed(query, "it ended without an end").await,
            Ok(Said::Otherwise) => {
                return self.failed(query, "it contradicts what was shown").await;
            }
            Err(Lost) => return self.after_loss(query, start, &model).await,
        };
        let finish_reason = match &generated.end.finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Cancelled => return self.after_loss(query, start, &model).await,
            Finish::Timeout => {
                let message = "The query took too long";
                return self
                    .reporting
                    .fail(query, Code::QueryTimeout, message)
                    .await;
            }
            Finish::Error(reason) => return self.failed(query, reason).await,
        };
        let calibration = place.served().provider().calibration();
        self.complete(query, finish_reason, &mut writer, &generated, calibration)
            .await
    }

    /// Whether the query has ended, or only our part in it.
    async fn after_loss(&self, query: QueryId, start: CommandId, model: &str) -> Ended {
        match self.reporting.start(query, start, model).await {
            Some(Ended::Done) => Ended::Done,
            _ => Ended::Lost,
        }
    }

    async fn submit(
        &self,
        provider: Arc<dyn Provider>,
        job: &Job,
        priority: Priority,
        writer: &StreamWriter,
        cancel: CancellationToken,
    ) -> Result<provider::Answer, engine::Error> {
        let published = writer.chunks().flat_map(|chunk| chunk.ids.iter().copied());
        let request = request::request(
            job,
            priority,
            published.collect(),
            self.max_new_tokens,
            cancel,
        );
        if request.response_format == ResponseFormat::Text {
            return provider.answer(request);
        }
        // A format may take seconds to compile.
        tokio::task::spawn_blocking(move || provider.answer(request))
            .await
            .unwrap_or(Err(engine::Error::Stopped))
    }

    async fn complete(
        &self,
        query: QueryId,
        finish_reason: &str,
        writer: &mut StreamWriter,
        generated: &Generated,
        calibration: Option<Calibration>,
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
                confidence: (*tokens > 0)
                    .then(|| (logprob / *tokens as f64).exp().clamp(0.0, 1.0))
                    .map(|certainty| match calibration {
                        Some(calibration) => calibration.apply(certainty),
                        None => certainty,
                    }),
                latency_ms: told.max(ours),
                finish_reason: finish_reason.to_owned(),
                usage: Usage {
                    prompt_tokens: u32::try_from(usage.prompt_tokens).unwrap_or(u32::MAX),
                    completion_tokens: u32::try_from(usage.completion_tokens).unwrap_or(u32::MAX),
                },
                chunks: u32::try_from(chunks.len()).unwrap_or(u32::MAX),
            }
        };
        let ended = self.reporting.complete(query, answer).await;
        if let Err(Lost) = writer.settle().await {
            // The stream has its last message already: nothing was missing.
            return ended;
        }
        ended
    }

    /// The model broke; why is for operators, not for users.
    async fn failed(&self, query: QueryId, reason: &str) -> Ended {
        error!(query.id = %query, reason, "inference failed");
        let message = "Model inference failed";
        self.reporting
            .fail(query, Code::QueryModelError, message)
            .await
    }
}

/// A model that has begun with a job.
struct Begun {
    job: Job,
    items: provider::Answer,
    writer: StreamWriter,
    /// The answer stops when this is dropped.
    _stop: Stop,
}

/// What happens where a model cannot begin.
enum Instead {
    /// Nothing that the query's owner hears of.
    Ended(Ended),
    /// The query ends.
    Failed(Code, String),
}

/// The model does not begin.
fn refused(query: QueryId, error: &engine::Error) -> Instead {
    use engine::Error::{Busy, ChatTemplate, Compiling, Request, Stopped, Stuck, TooLong};
    let code = match error {
        Busy { .. } | Compiling { .. } | Stopped | Stuck { .. } => {
            return Instead::Ended(later(query, error));
        }
        // The next model would say the same, or could not know what is meant.
        Request { .. } | ChatTemplate(_) => Code::ValidationError,
        TooLong { .. } => Code::ValidationTooLarge,
        _ => Code::QueryModelError,
    };
    Instead::Failed(code, telemetry::chain(error))
}

/// Something is out of reach.
fn later(query: QueryId, error: &(dyn std::error::Error + 'static)) -> Ended {
    warn!(query.id = %query, reason = telemetry::chain(error), "a job has to wait");
    Ended::Later(Duration::from_secs(1))
}
