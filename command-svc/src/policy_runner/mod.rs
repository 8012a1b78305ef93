//! Carries out what [`domain::policy`] says should follow from events, at least once.
//!
//! A durable consumer of the log hands out every commit, in order within an aggregate
//! ([`crate::deliveries`]). It is acknowledged after its reactions are done. A reaction that cannot
//! be carried out just now is tried again until it can, and holds up its own aggregate only; one
//! that never could, and a commit that this version cannot read, are parked ([`parked`]).
//!
//! Two instances share the consumer, and either may be killed at any point, so that reactions to
//! one aggregate can happen twice and in another order than their events. That changes nothing:
//! - the first message of a token stream is appended to an empty stream only, the last one behind
//!   all others, and whoever writes the last one writes a missing first one before it;
//! - a job that comes late is refused at its start, one that comes twice is worked on by whoever
//!   appends first;
//! - a timer that is set after it was cleared fires, and its command is refused;
//! - a revocation says the same each time, and a command is known by its id.

mod close_stream;
mod erase;
pub mod parked;

use crate::{
    deliveries::{self, Settled, Source},
    handler::Handlers,
    timers::Timers,
};
use async_nats::{
    Client, HeaderMap,
    jetstream::{self, Message},
};
use bytes::Bytes;
use close_stream::Presence;
use domain::{
    Actor, Timestamp, commit,
    id::{AccountId, CommandId, QueryId},
    limits,
    policy::{self, Reaction, Settings},
    subject::{self, Priority},
    wire::{
        command::{Body as Command, Reply, Request},
        job::Job,
        token::{self, Body},
    },
};
use infra::{
    append, clock, jobs,
    lifecycle::Lifecycle,
    retry::Backoff,
    revocations,
    sealing::{
        Opened, QueryKey,
        keyring::{self, Keyring},
        query_key::Answer,
    },
    telemetry,
    tokens::{self, Tokens},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tracing::{info, warn};

/// Reactions that are carried out at the same time; those that wait to be tried again do not count.
const AT_WORK: usize = 64;
/// How long a command of a policy may take before it is given again.
const COMMAND_MILLIS: i64 = 10_000;
/// The server's answer to what is larger than it takes.
const TOO_LARGE: u64 = 10_054;

/// Carries out reactions. Clones share everything.
#[derive(Clone)]
pub struct Runner {
    client: Client,
    context: jetstream::Context,
    tokens: Tokens,
    keys: Keyring,
    erasing: erase::Erasing,
    timers: Timers,
    handlers: Handlers,
    parked: parked::Parking,
    settings: Settings,
    at_work: Arc<Semaphore>,
    presence: Arc<Presence>,
    life: Lifecycle,
}

/// What a reaction follows from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cause {
    /// The commit's sequence in the log.
    log_seq: u64,
    /// Whose key the commit is sealed with.
    person: Option<AccountId>,
}

/// How to seal what follows from a commit.
enum Seal {
    /// With this key.
    With(QueryKey),
    /// Not at all.
    Not,
    /// Nobody could read it any more: nothing follows.
    Erased,
}

/// Why a reaction was not carried out.
#[derive(Debug)]
pub enum Problem {
    /// It may be possible later.
    Later(String),
    /// It will not be possible by trying again.
    Never(String),
}

impl Problem {
    fn later(error: impl std::error::Error + 'static) -> Self {
        Self::Later(telemetry::chain(&error))
    }

    fn never(error: impl std::error::Error + 'static) -> Self {
        Self::Never(telemetry::chain(&error))
    }
}

/// The place of the error and not its words, which may quote what a person wrote.
fn unreadable(error: commit::Undecodable) -> Problem {
    Problem::Never(format!(
        "{error}: {:?} error at line {}, column {}",
        error.source.classify(),
        error.source.line(),
        error.source.column()
    ))
}

impl From<keyring::Error> for Problem {
    fn from(error: keyring::Error) -> Self {
        if error.is_transient() {
            Self::later(error)
        } else {
            Self::never(error)
        }
    }
}

impl From<append::Error> for Problem {
    fn from(error: append::Error) -> Self {
        match error {
            append::Error::Rejected {
                code: TOO_LARGE, ..
            } => Self::never(error),
            error => Self::later(error),
        }
    }
}

impl From<tokens::Error> for Problem {
    fn from(error: tokens::Error) -> Self {
        if error.is_transient() {
            Self::later(error)
        } else {
            Self::never(error)
        }
    }
}

impl Runner {
    /// A runner that gives its commands to these handlers.
    pub fn new(
        client: &Client,
        context: &jetstream::Context,
        keys: &Keyring,
        handlers: Handlers,
        parked: parked::Parking,
        settings: Settings,
        life: &Lifecycle,
    ) -> Self {
        Self {
            client: client.clone(),
            context: context.clone(),
            tokens: Tokens::new(client.clone()),
            keys: keys.clone(),
            erasing: erase::Erasing::new(client, context, keys, &handlers),
            timers: Timers::new(context),
            handlers,
            parked,
            settings,
            at_work: Arc::new(Semaphore::new(AT_WORK)),
            presence: Arc::new(Presence::begin(client)),
            life: life.clone(),
        }
    }

    /// Starts; everything belongs to the lifecycle.
    pub fn start(&self) {
        let source = Source {
            stream: subject::EVENTS,
            durable: subject::POLICIES,
            description: "Carries out what follows from events",
            filter: subject::ALL_EVENTS,
        };
        let (context, life, runner) = (self.context.clone(), self.life.clone(), self.clone());
        self.life.spawn("policies", async move {
            deliveries::run(context, source, life, move |message| {
                let runner = runner.clone();
                async move { runner.settle(&message).await }
            })
            .await;
        });
        info!(
            policy.query_life_ms = self.settings.query_life_millis,
            "policies run"
        );
    }

    /// Carries out the reactions to one commit, or parks it.
    async fn settle(&self, message: &Message) -> Settled {
        let log_seq = message.info().map_or(0, |info| info.stream_sequence);
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        let mut tries = 0_u32;
        let mut done = 0;
        loop {
            tries += 1;
            let tried = self
                .react(
                    &message.subject,
                    message.headers.as_ref(),
                    &message.payload,
                    log_seq,
                    &mut done,
                )
                .await;
            let reason = match tried {
                Ok(()) => return Settled::Done,
                Err(Problem::Never(reason)) => {
                    match self.parked.park(log_seq, &message.subject, &reason).await {
                        Ok(()) => return Settled::Done,
                        Err(error) => telemetry::chain(&error),
                    }
                }
                Err(Problem::Later(reason)) => reason,
            };
            if tries.is_power_of_two() {
                warn!(subject = %message.subject, seq = log_seq, tries, reason, "a reaction is tried again");
            }
            tokio::select! {
                () = backoff.wait() => {}
                // Another instance, or this one after its restart, goes on.
                () = self.life.stopping() => return Settled::Again(Duration::ZERO),
            }
        }
    }

    /// Carries out the reactions to a commit from number `done` on, which it moves forward.
    async fn react(
        &self,
        subject: &str,
        headers: Option<&HeaderMap>,
        payload: &Bytes,
        log_seq: u64,
        done: &mut usize,
    ) -> Result<(), Problem> {
        let payload = match self.keys.open(subject, headers, payload).await? {
            Opened::Text(payload) => payload,
            // Nothing follows from what nobody can read.
            Opened::Erased => return Ok(()),
        };
        let cause = Cause {
            log_seq,
            person: self.keys.person(subject, headers)?,
        };
        let reactions = policy::react(subject, &payload, &self.settings).map_err(unreadable)?;
        for reaction in reactions.iter().skip(*done) {
            // It is closed at no time: the runner holds it.
            let _place = self.at_work.acquire().await.map_err(Problem::later)?;
            self.carry_out(reaction, cause).await?;
            *done += 1;
        }
        Ok(())
    }

    /// Carries out the reactions to the commit at this sequence, each tried once.
    async fn try_once(&self, seq: u64) -> Result<(), Problem> {
        let stream = self.context.get_stream_no_info(subject::EVENTS).await;
        let found = stream.map_err(Problem::later)?.direct_get(seq).await;
        let message = found.map_err(Problem::later)?;
        self.react(
            &message.subject,
            Some(&message.headers),
            &message.payload,
            seq,
            &mut 0,
        )
        .await
    }

    /// Carries out one reaction.
    pub(crate) async fn carry_out(&self, reaction: &Reaction, cause: Cause) -> Result<(), Problem> {
        match reaction {
            Reaction::OpenStream { at, .. } | Reaction::CloseStream { at, .. }
                if clock::now().millis_since(*at) > limits::TOKENS_LIFE_MILLIS =>
            {
                // Nobody can follow it any more: this is a replay of old events.
                Ok(())
            }
            Reaction::OpenStream { query, owner, at } => {
                open_stream(&self.tokens, *query, *owner, *at).await
            }
            Reaction::CloseStream {
                query,
                terminal,
                at,
            } => close_stream::close_stream(self, *query, terminal, *at, cause).await,
            Reaction::EnqueueJob {
                model,
                priority,
                job,
            } => self.enqueue(model, *priority, job, cause).await,
            Reaction::Revoke { key, ttl_secs } => {
                // A replay of old events must not revoke for longer than the tokens can live.
                debug_assert!(*ttl_secs <= limits::REFRESH_TOKEN_SECS);
                revocations::revoke(&self.client, *key, *ttl_secs)
                    .await
                    .map_err(Problem::later)
            }
            Reaction::SetTimer { timer, at } => {
                self.timers.set(*timer, *at).await.map_err(Problem::later)
            }
            Reaction::ClearTimer { timer } => {
                self.timers.clear(*timer).await.map_err(Problem::later)
            }
            Reaction::Erase { account } => self.erasing.erase(*account, cause.log_seq).await,
            Reaction::Command { id, cause, body } => self.give(*id, cause, body).await,
        }
    }

    async fn enqueue(
        &self,
        model: &str,
        priority: Priority,
        job: &Job,
        cause: Cause,
    ) -> Result<(), Problem> {
        let life = u64::try_from(self.settings.query_life_millis).unwrap_or(u64::MAX);
        if clock::now().millis_since(job.submitted_at) > life {
            // Its timer is due: whoever took the job would only be told so.
            return Ok(());
        }
        let key = match self.key(job.query, cause).await? {
            Seal::With(key) => Some(key),
            Seal::Not => None,
            Seal::Erased => return Ok(()),
        };
        let subject = subject::job(model, priority);
        let message = jobs::message(&subject, job, key.as_ref()).map_err(|error| match error {
            jobs::Error::NotSealed(_) => Problem::later(error),
            error => Problem::never(error),
        });
        let (headers, payload) = message?;
        let stored = self
            .context
            .publish_with_headers(subject, headers, payload)
            .await
            .map_err(Problem::later)?;
        stored.await.map_err(Problem::later)?;
        Ok(())
    }

    /// How to seal what follows for a query: as the commit is sealed that it follows from.
    async fn key(&self, query: QueryId, cause: Cause) -> Result<Seal, Problem> {
        let Some(person) = cause.person else {
            return Ok(Seal::Not);
        };
        match self.keys.of_query(query, person).await? {
            Answer::Key(key) => Ok(Seal::With(key)),
            Answer::Erased => Ok(Seal::Erased),
            Answer::Plain => Err(keyring::Error::Missing { person }.into()),
        }
    }

    /// Gives a command. A refusal is an answer: what the command wanted is not wanted any more.
    async fn give(&self, id: CommandId, cause: &str, body: &Command) -> Result<(), Problem> {
        let reply = self
            .handlers
            .handle(Request {
                id,
                actor: Actor::System,
                request_id: cause.to_owned(),
                traceparent: None,
                deadline: clock::now().plus_millis(COMMAND_MILLIS),
                fingerprint: None,
                body: body.clone(),
            })
            .await;
        match reply {
            Reply::Accepted { seq, .. } => {
                info!(
                    command = body.name(),
                    cause, seq, "a policy's command is in effect"
                );
                Ok(())
            }
            Reply::Refused { failure } if failure.code.status() < 500 => {
                info!(
                    command = body.name(),
                    cause,
                    reason = failure.message,
                    "not needed"
                );
                Ok(())
            }
            Reply::Refused { failure } => Err(Problem::Later(failure.message)),
            Reply::Unavailable | Reply::Overloaded { .. } => {
                Err(Problem::Later("the log is out of reach".to_owned()))
            }
        }
    }
}

async fn open_stream(
    tokens: &Tokens,
    query: QueryId,
    owner: AccountId,
    at: Timestamp,
) -> Result<(), Problem> {
    let message = token::Message {
        seq: 1,
        at,
        body: Body::Queued { owner },
        log_seq: None,
    };
    match tokens.append(query, 0, &message, None).await {
        Ok(_) | Err(append::Error::Conflict { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
