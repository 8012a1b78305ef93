//! Taking commands from the bus.

mod api_keys;
mod erase;
mod login;
mod logout;
mod query;
mod refresh;
mod register;
mod submit_query;

use crate::{
    passwords::{self, Passwords},
    routing::Router,
    submissions::{self, Submissions},
    write_path::{self, Cache, WritePath},
};
use async_nats::{Client, service::ServiceExt};
use domain::{
    account::{Account, Profile},
    api_keys::ApiKeys,
    authority,
    id::SessionId,
    query::Query,
    session::Session,
    subject::{self, Kind},
    wire::{
        command::{Body, Outcome, Reply, Request},
        error::{Code, Failure},
        rest::User,
    },
};
use futures_util::{FutureExt, StreamExt};
use infra::{
    clock,
    event_store::{self, Provenance},
    lifecycle::Lifecycle,
    telemetry,
};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tracing::{error, warn};

/// Whoever is turned away comes back after this time and up to twice as much more, so that they
/// do not come together.
const RETRY_AFTER_MILLIS: u32 = 1_000;

/// Everything that handlers share.
#[derive(Clone)]
pub struct Handlers(Arc<Shared>);

struct Shared {
    client: Client,
    write: WritePath,
    passwords: Passwords,
    submissions: Submissions,
    router: Arc<Router>,
    accounts: Cache<Account>,
    sessions: Cache<Session>,
    queries: Cache<Query>,
    api_keys: Cache<ApiKeys>,
}

impl Handlers {
    /// Handlers over this write path.
    pub fn new(
        client: &Client,
        write: WritePath,
        passwords: Passwords,
        submissions: Submissions,
        router: Arc<Router>,
    ) -> Self {
        Self(Arc::new(Shared {
            client: client.clone(),
            write,
            passwords,
            submissions,
            router,
            accounts: Cache::default(),
            sessions: Cache::default(),
            queries: Cache::default(),
            api_keys: Cache::default(),
        }))
    }

    /// Decides about one command.
    pub async fn handle(&self, request: Request) -> Reply {
        let name = request.body.name();
        let request_id = request.request_id.clone();
        if !authority::roles(name).contains(&request.actor.role()) {
            warn!(request_id, command = name, "refused: not for this role");
            return refused(Code::AuthPermissionDenied, "Permission denied");
        }
        match self.dispatch(request).await {
            Ok((seq, outcome)) => Reply::Accepted { seq, outcome },
            Err(Problem::Failure(failure)) => Reply::Refused { failure },
            Err(Problem::Unavailable(reason)) => {
                warn!(request_id, command = name, reason, "unavailable");
                Reply::Unavailable
            }
            Err(Problem::Overloaded) => overloaded(),
            Err(Problem::Internal(reason)) => {
                error!(request_id, command = name, reason, "failed");
                Reply::Refused {
                    failure: Failure::internal(),
                }
            }
        }
    }

    async fn dispatch(&self, request: Request) -> Result<(u64, Outcome), Problem> {
        let cx = provenance(&request);
        let shared = &*self.0;
        match request.body {
            Body::Register {
                email,
                name,
                password,
            } => register::handle(shared, cx, email, name, password).await,
            Body::Login {
                email,
                password,
                device_id,
                device_name,
            } => login::handle(shared, cx, email, password, device_id, device_name).await,
            Body::Refresh { session, refresh } => {
                refresh::handle(shared, cx, session, refresh).await
            }
            Body::Logout { session } => logout::handle(shared, cx, session).await,
            Body::EraseAccount { account, password } => {
                erase::handle(shared, cx, account, password).await
            }
            Body::FinishErasure { account, email } => {
                erase::finish(shared, cx, account, email).await
            }
            Body::CreateApiKey { .. } | Body::RevokeApiKey { .. } => {
                api_keys::handle(shared, cx, request.body).await
            }
            Body::SubmitQuery {
                query,
                named,
                via,
                submission,
            } => submit_query::handle(shared, cx, query, named, via, submission).await,
            Body::StartQuery { .. }
            | Body::CompleteQuery { .. }
            | Body::FailQuery { .. }
            | Body::CancelQuery { .. } => query::handle(shared, cx, request.body).await,
        }
    }
}

fn provenance(request: &Request) -> Provenance {
    Provenance {
        command: request.id,
        actor: request.actor.clone(),
        request_id: request.request_id.clone(),
        causation: request.request_id.clone(),
        traceparent: request.traceparent.clone(),
        fingerprint: request.fingerprint,
        deadline: request.deadline,
    }
}

/// Offers `cmd.<kind>` for every kind, as a NATS micro service. At most `in_work` commands are
/// worked on at once; more are turned away at once.
///
/// # Errors
/// When the service cannot be announced.
pub async fn serve(
    client: &Client,
    handlers: Handlers,
    in_work: usize,
    lifecycle: &Lifecycle,
) -> Result<(), async_nats::Error> {
    let service = client
        .service_builder()
        .description("Decides about commands and appends them to the log")
        .start("command-svc", env!("CARGO_PKG_VERSION"))
        .await?;
    let permits = Arc::new(Semaphore::new(in_work.min(Semaphore::MAX_PERMITS)));
    for kind in [Kind::Account, Kind::Session, Kind::Query, Kind::ApiKeys] {
        let subject = subject::command(kind);
        let mut endpoint = service
            .endpoint_builder()
            .name(kind.as_str())
            .add(subject)
            .await?;
        let (handlers, permits, life) = (handlers.clone(), permits.clone(), lifecycle.clone());
        lifecycle.spawn("commands", async move {
            loop {
                let request = tokio::select! {
                    request = endpoint.next() => request,
                    () = life.stopping() => return,
                };
                let Some(request) = request else { return };
                let Ok(permit) = permits.clone().try_acquire_owned() else {
                    // Nothing here may wait: a subscription that is not read loses messages, and
                    // nobody would answer them. Where even this answer finds no room on its way
                    // out, the sender's deadline tells.
                    if respond(&request, &overloaded()).now_or_never().is_none() {
                        warn!("an overload could not be answered");
                    }
                    continue;
                };
                let handlers = handlers.clone();
                life.spawn("command", async move {
                    answer(&handlers, &request).await;
                    drop(permit);
                });
            }
        });
    }
    // The service is announced for as long as it is held.
    let life = lifecycle.clone();
    lifecycle.spawn("service", async move {
        life.stopping().await;
        drop(service);
    });
    Ok(())
}

async fn answer(handlers: &Handlers, request: &async_nats::service::Request) {
    let reply = match serde_json::from_slice::<Request>(&request.message.payload) {
        // Nobody waits any more, or our clocks differ: not decided, in any case.
        Ok(command) if command.deadline < clock::now() => Reply::Unavailable,
        Ok(command) => handlers.handle(command).await,
        Err(error) => {
            error!(%error, "a command cannot be read");
            refused(Code::BadRequest, "The command cannot be read")
        }
    };
    respond(request, &reply).await;
}

async fn respond(request: &async_nats::service::Request, reply: &Reply) {
    match serde_json::to_vec(reply) {
        Ok(payload) => {
            if let Err(error) = request.respond(Ok(payload.into())).await {
                warn!(%error, "an answer did not get out");
            }
        }
        Err(error) => error!(%error, "an answer cannot be encoded"),
    }
}

fn overloaded() -> Reply {
    // The low bits of a fresh id are random.
    let random = clock::fresh_id().as_u128() as u32;
    Reply::Overloaded {
        retry_after_ms: RETRY_AFTER_MILLIS + random % (2 * RETRY_AFTER_MILLIS),
    }
}

fn refused(code: Code, message: &str) -> Reply {
    Reply::Refused {
        failure: Failure::new(code, message),
    }
}

/// Why a handler has no outcome.
enum Problem {
    /// The client is told.
    Failure(Failure),
    /// Nothing is known; the same command may come again.
    Unavailable(String),
    /// There is too much to do; the same command may come again later.
    Overloaded,
    /// Something that should not happen.
    Internal(String),
}

impl Problem {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self::Failure(Failure::new(code, message))
    }

    /// What a failed execution means, where the rules that were broken are told by `refused`.
    fn from_write<R: std::error::Error>(
        error: write_path::Error<R>,
        refused: impl FnOnce(R) -> Self,
    ) -> Self {
        match error {
            write_path::Error::Refused(rule) => refused(rule),
            write_path::Error::Conflict => Self::new(
                Code::Conflict,
                "The resource was changed by others at the same time",
            ),
            write_path::Error::OtherBody => Self::Failure(Failure::other_body()),
            write_path::Error::Late => Self::Unavailable(error.to_string()),
            write_path::Error::Log(error) => error.into(),
        }
    }
}

impl From<event_store::Error> for Problem {
    fn from(error: event_store::Error) -> Self {
        if error.is_overload() {
            return Self::Overloaded;
        }
        if error.is_erased() {
            return not_found();
        }
        let reason = telemetry::chain(&error);
        if error.is_transient() {
            Self::Unavailable(reason)
        } else {
            Self::Internal(reason)
        }
    }
}

impl From<passwords::Error> for Problem {
    fn from(error: passwords::Error) -> Self {
        match error {
            passwords::Error::Busy => Self::Overloaded,
            passwords::Error::Late => Self::Unavailable(error.to_string()),
            passwords::Error::Hash(_) => Self::Internal(telemetry::chain(&error)),
        }
    }
}

impl From<submissions::Error> for Problem {
    fn from(error: submissions::Error) -> Self {
        Self::Unavailable(telemetry::chain(&error))
    }
}

fn user(profile: &Profile) -> User {
    User {
        id: profile.id,
        email: profile.email.clone(),
        name: profile.name.clone(),
        is_active: true,
        subscription_tier: profile.tier,
        created_at: profile.created_at,
    }
}

/// Who is signed in by a register or login that was given before: the session as it is now, since
/// the refresh id of the first answer is worthless once it was used.
fn signed_in_again(
    profile: &Profile,
    session: SessionId,
    state: &Session,
) -> Result<Outcome, Problem> {
    match state {
        Session::Open(open) => Ok(Outcome::SignedIn {
            user: user(profile),
            session,
            refresh: open.current,
        }),
        Session::Revoked { .. } => Err(Problem::new(
            Code::AuthTokenInvalid,
            "The session that was opened under this key has ended",
        )),
        Session::Erased => Err(not_found()),
        Session::Absent => Err(Problem::Internal(format!("session {session} is absent"))),
    }
}

/// There is no such person, or not any more.
fn not_found() -> Problem {
    Problem::new(Code::AuthUserNotFound, "User not found or inactive")
}

impl Shared {
    /// The profile of an account that must exist.
    async fn profile(&self, account: domain::id::AccountId) -> Result<Profile, Problem> {
        match self.write.load(&self.accounts, account.uuid()).await?.state {
            Account::Active(profile) => Ok(profile),
            Account::Absent | Account::Erasing { .. } | Account::Erased => Err(not_found()),
        }
    }
}
