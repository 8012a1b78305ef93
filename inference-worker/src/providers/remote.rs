//! Services on the network as one provider: one loop that tries again, one deadline.
//!
//! They are asked in their order. One that fails before it has given any text is asked again up to
//! [`ATTEMPTS`] times, not before it wants to be; if that is long and somebody else may be asked,
//! then that one is. After the first text nobody is asked again: another answer would contradict it.

use super::{
    breaker::Pass,
    dialect::{Cost, Reason, Said},
    endpoint::{Endpoint, Reply},
    fault::{Fault, Kind},
    settings::{Limits, Service},
};
use engine::{
    Error, Finish,
    provider::{
        Abilities, Answer, Card, ChatRequest, End, Item, Load, Provider, Running, Runs, Token,
    },
};
use futures_util::stream;
use infra::retry::Backoff;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{sleep, sleep_until, timeout};
use tracing::{debug, warn};

/// How often one service is asked for one answer at most.
const ATTEMPTS: u32 = 3;
/// Waiting for longer is worth less than the next service.
const SHORT: Duration = Duration::from_secs(2);
/// What follows the reason for the end is only its cost.
const AFTER_REASON: Duration = Duration::from_secs(5);
/// Bytes of an answer at most.
const TEXT_BYTES: usize = 4 << 20;

/// Services on the network, in the order in which they are asked.
#[derive(Debug)]
pub(super) struct Remote {
    card: Card,
    endpoints: Vec<Arc<Endpoint>>,
    limits: Limits,
    runs: Runs,
}

impl Remote {
    /// With at least one service.
    pub(super) fn new(services: &[Service], limits: Limits) -> Result<Self, reqwest::Error> {
        let endpoints: Vec<_> = services
            .iter()
            .map(|service| Ok(Arc::new(Endpoint::new(service, limits)?)))
            .collect::<Result<_, reqwest::Error>>()?;
        let names: Vec<&str> = services.iter().map(|service| &*service.name).collect();
        let first = endpoints.first();
        let any = |able: fn(&Endpoint) -> bool| endpoints.iter().any(|endpoint| able(endpoint));
        let card = Card {
            model: first.map(|first| first.model.clone()).unwrap_or_default(),
            provider: names.join(", "),
            context: None,
            abilities: Abilities {
                logprobs: any(|endpoint| endpoint.logprobs),
                formats: any(|endpoint| endpoint.dialect.has_formats()),
                ..Abilities::default()
            },
        };
        Ok(Self {
            card,
            endpoints,
            limits,
            runs: Runs::default(),
        })
    }
}

impl Provider for Remote {
    fn card(&self) -> &Card {
        &self.card
    }

    fn load(&self) -> Load {
        Load {
            running: self.runs.count(),
            free_tokens: None,
        }
    }

    fn answer(&self, request: ChatRequest) -> Result<Answer, Error> {
        request.check(&self.card)?;
        let mut refusal = None;
        let mut able = Vec::new();
        for endpoint in &self.endpoints {
            match endpoint.dialect.refuse(endpoint, &request) {
                Ok(()) => able.push(endpoint.clone()),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        if let (true, Some(refusal)) = (able.is_empty(), refusal) {
            return Err(refusal);
        }
        let began = Instant::now();
        let latest = began + self.limits.deadline;
        let telling = Telling {
            deadline: request
                .deadline
                .map_or(latest, |deadline| deadline.min(latest)),
            model: self.card.model.clone(),
            open: None,
            began,
            able,
            request,
            _running: self.runs.begin(),
        };
        Ok(Answer::new(stream::unfold(telling, |mut telling| async {
            let item = telling.next().await;
            Some((item, telling))
        })))
    }
}

/// An answer that somebody is asked for, or gives.
struct Telling {
    request: ChatRequest,
    /// Who can serve the request, in order.
    able: Vec<Arc<Endpoint>>,
    deadline: Instant,
    began: Instant,
    /// Of whom was asked last.
    model: String,
    open: Option<Open>,
    _running: Running,
}

impl Telling {
    async fn next(&mut self) -> Item {
        let (cancel, deadline) = (self.request.cancel.clone(), self.deadline);
        let step = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Finish::Cancelled),
            () = sleep_until(deadline.into()) => Err(Finish::Timeout),
            step = self.step() => step,
        };
        match step {
            Ok(Step::Text(text, tokens)) => Item::Text { text, tokens },
            Ok(Step::Ended(reason)) => {
                let open = self.open.take();
                let usage = open.as_ref().and_then(|open| open.cost.usage());
                if let Some(open) = open {
                    open.pass.succeeded();
                }
                self.end(
                    match reason {
                        Reason::Stop => Finish::Stop,
                        Reason::Length => Finish::Length,
                        Reason::Withheld => {
                            Finish::Error("the provider withholds the rest".to_owned())
                        }
                    },
                    usage,
                )
            }
            Err(finish) => self.end(finish, None),
        }
    }

    fn end(&self, finish: Finish, usage: Option<engine::Usage>) -> Item {
        Item::End(End {
            finish,
            text: String::new(),
            usage,
            model: self.model.clone(),
            compute: self.began.elapsed(),
        })
    }

    async fn step(&mut self) -> Result<Step, Finish> {
        let Some(mut open) = self.open.take() else {
            let (mut open, step) = self.begin().await?;
            open.pass.began();
            self.open = Some(open);
            return Ok(step);
        };
        match open.step().await {
            Ok(step) => {
                self.open = Some(open);
                Ok(step)
            }
            Err(fault) => {
                open.pass.failed();
                Err(Finish::Error(format!("{}: {fault}", open.name)))
            }
        }
    }

    /// Asks one after the other until somebody begins to answer.
    async fn begin(&mut self) -> Result<(Open, Step), Finish> {
        let mut faults = Vec::new();
        for (place, endpoint) in self.able.iter().enumerate() {
            let mut backoff = Backoff::new(Duration::from_millis(250), SHORT);
            let mut attempt = 1;
            let fault = loop {
                self.model.clone_from(&endpoint.model);
                let fault = match Open::try_open(endpoint, &self.request).await {
                    Ok(open) => return Ok(open),
                    Err(fault) => fault,
                };
                let (provider, reason) = (&endpoint.name, fault.to_string());
                let after = match fault.kind {
                    Kind::Again { after } => after,
                    Kind::Unusable => {
                        warn!(provider, reason, "a provider cannot be used");
                        break fault;
                    }
                    Kind::Refused | Kind::KeptAway => {
                        debug!(provider, reason, "a provider is passed over");
                        break fault;
                    }
                };
                warn!(provider, attempt, reason, "a provider has failed");
                let pause = backoff.delay().max(after.unwrap_or_default());
                let others = &self.able[place + 1..];
                let patience = match others.iter().any(|other| !other.gate.is_open()) {
                    true => SHORT,
                    false => self.deadline.saturating_duration_since(Instant::now()),
                };
                if attempt == ATTEMPTS || pause > patience {
                    break fault;
                }
                attempt += 1;
                sleep(pause).await;
            };
            faults.push(format!("{}: {fault}", endpoint.name));
        }
        Err(Finish::Error(faults.join("; ")))
    }
}

/// What an answer goes on with.
#[derive(Debug)]
enum Step {
    Text(String, Vec<Token>),
    Ended(Reason),
}

/// An answer that somebody gives.
struct Open {
    name: String,
    reply: Reply,
    pass: Pass,
    reason: Option<Reason>,
    cost: Cost,
    bytes: usize,
}

impl Open {
    /// Asks once; comes back with the first text, or with an end without any.
    async fn try_open(endpoint: &Endpoint, request: &ChatRequest) -> Result<(Self, Step), Fault> {
        let pass = endpoint.gate.pass().ok_or_else(Fault::kept_away)?;
        let reply = match endpoint.ask(request).await {
            Ok(reply) => reply,
            Err(fault) => return Err(judged(pass, fault)),
        };
        let mut open = Self {
            name: endpoint.name.clone(),
            reason: None,
            cost: Cost::default(),
            bytes: 0,
            reply,
            pass,
        };
        match open.step().await {
            Ok(step) => Ok((open, step)),
            Err(fault) => Err(judged(open.pass, fault)),
        }
    }

    async fn step(&mut self) -> Result<Step, Fault> {
        loop {
            let next = match self.reason {
                None => self.reply.next().await?,
                // The answer is whole, whatever happens to the rest.
                Some(_) => match timeout(AFTER_REASON, self.reply.next()).await {
                    Ok(Ok(next)) => next,
                    Ok(Err(_)) | Err(_) => None,
                },
            };
            match next {
                Some(Said::Text(text, tokens)) => {
                    self.bytes += text.len();
                    if self.bytes > TEXT_BYTES {
                        let reason = format!("an answer has more than {TEXT_BYTES} bytes");
                        return Err(Fault::again(reason));
                    }
                    return Ok(Step::Text(text, tokens));
                }
                Some(Said::Finished(reason)) => self.reason = Some(reason),
                Some(Said::Cost { prompt, completion }) => self.cost.add(prompt, completion),
                Some(Said::Done) => return Ok(Step::Ended(self.reason.unwrap_or(Reason::Stop))),
                None => {
                    let cut = || Fault::again("the stream was cut before its end".to_owned());
                    return self.reason.map(Step::Ended).ok_or_else(cut);
                }
            }
        }
    }
}

/// A request that is refused says nothing of the provider's health.
fn judged(pass: Pass, fault: Fault) -> Fault {
    if fault.kind != Kind::Refused {
        pass.failed();
    }
    fault
}
