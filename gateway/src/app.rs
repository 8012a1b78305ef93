//! What endpoints share.

use crate::{
    Config, api_keys,
    consistency::Consistency,
    edge::{Call, Key, cors::Origins},
    hub::Hub,
    keys::Keys,
    limits::Limits,
    metrics::Metrics,
    socket::Counted,
    tokens::Tokens,
};
use domain::{
    Actor, Fingerprint, Timestamp,
    id::{AccountId, CommandId, QueryId},
    subject::View,
    wire::{
        command::{Body, Outcome, Reply, Request},
        error::Failure,
        rest::{QueryItem, User},
        view,
    },
};
use infra::{
    bus::{Commands, Views},
    lifecycle::Lifecycle,
    revocations::Revocations,
    sealing::QueryKeys,
    workers::Workers,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{ops::Deref, sync::Arc};

/// How long a caller waits for a command to be decided, in milliseconds.
const COMMAND_WAIT_MILLIS: i64 = 5_000;
/// How long a caller waits for a view: the projection's own patience and some for the way.
const VIEW_WAIT_MILLIS: i64 = domain::limits::READ_WAIT_MILLIS as i64 + 500;

/// A command, and by what it is recognised when it comes again.
pub(crate) struct Order {
    pub(crate) id: CommandId,
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) body: Body,
}

impl Order {
    /// A command that `who` gives through `route`.
    pub(crate) fn new(key: &Key, who: &str, route: &str, body: Body) -> Self {
        Self {
            id: key.command(who, route),
            fingerprint: key.fingerprint(&body),
            body,
        }
    }
}

/// Shared by everything that the gateway runs.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) lifecycle: Lifecycle,
    pub(crate) nats: async_nats::Client,
    pub(crate) commands: Commands,
    pub(crate) views: Views,
    pub(crate) tokens: Tokens,
    pub(crate) revocations: Revocations,
    pub(crate) api_keys: api_keys::Known,
    pub(crate) workers: Workers,
    pub(crate) consistency: Arc<Consistency>,
    pub(crate) limits: Limits,
    pub(crate) hub: Hub,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) origins: Origins,
    pub(crate) sockets: Arc<Counted>,
    pub(crate) socket_config: crate::Sockets,
    pub(crate) min_client_version: String,
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    pub(crate) fn new(
        config: &Config,
        keys: Keys,
        nats: async_nats::Client,
        lifecycle: Lifecycle,
    ) -> Self {
        let metrics = Arc::new(Metrics::new());
        let consistency = Arc::new(Consistency::new());
        consistency.watch(nats.clone(), &lifecycle);
        let tokens = infra::tokens::Tokens::new(nats.clone());
        Self(Arc::new(Shared {
            commands: Commands::new(nats.clone()),
            views: Views::new(nats.clone()),
            tokens: Tokens::new(keys),
            // Needed until the last call has ended, so its end is not waited for: a child's tasks
            // are dropped with the parent's hard signal.
            revocations: Revocations::watch(&nats, &lifecycle.child()),
            api_keys: api_keys::Known::new(),
            workers: Workers::watch(&nats, &lifecycle.child()),
            consistency: consistency.clone(),
            limits: Limits::new(config.commands_in_flight, config.questions_in_flight),
            hub: Hub::new(
                nats.clone(),
                tokens,
                QueryKeys::new(nats.clone()),
                metrics.clone(),
                consistency,
                lifecycle.clone(),
            ),
            metrics,
            origins: Origins::new(config.origins()),
            sockets: Arc::new(Counted::new(config.sockets.per_user)),
            socket_config: config.sockets.clone(),
            min_client_version: config.min_client_version.clone(),
            lifecycle,
            nats,
        }))
    }

    /// Gives a command and waits for what comes of it. A user's next read reflects it.
    ///
    /// # Errors
    /// The refusal, or that nothing is known.
    pub(crate) async fn order(
        &self,
        call: &Call,
        actor: Actor,
        order: Order,
    ) -> Result<Outcome, Failure> {
        let _place = self.limits.command()?;
        let Order {
            id,
            fingerprint,
            body,
        } = order;
        let giver = match &actor {
            Actor::User(user) => Some(*user),
            Actor::Anonymous | Actor::Worker(_) | Actor::System => None,
        };
        let request = Request {
            id,
            actor,
            request_id: call.request_id.to_string(),
            traceparent: call.traceparent.clone(),
            deadline: infra::clock::now().plus_millis(COMMAND_WAIT_MILLIS),
            fingerprint,
            body,
        };
        match self.commands.send(&request).await {
            Reply::Accepted { seq, outcome } => {
                let writer = match &outcome {
                    Outcome::SignedIn { user, .. } => Some(user.id),
                    Outcome::SignedOut
                    | Outcome::ApiKey { .. }
                    | Outcome::Query { .. }
                    | Outcome::Erasing { .. }
                    | Outcome::Erased => giver,
                };
                if let Some(writer) = writer {
                    self.consistency.record(writer, seq);
                }
                call.seen.note(seq);
                // The response names the log as well as the sequence.
                self.consistency.epoch().await;
                Ok(outcome)
            }
            Reply::Refused { failure } => Err(failure),
            Reply::Unavailable => Err(Failure::unavailable()),
            Reply::Overloaded { retry_after_ms } => Err(Failure::overloaded(retry_after_ms)),
        }
    }

    /// Asks a view for what `user` may see, at least as new as the user's last write here, and as
    /// what the client has seen anywhere.
    ///
    /// # Errors
    /// When the view cannot answer now.
    pub(crate) async fn ask<Q, R>(
        &self,
        call: &Call,
        user: AccountId,
        view: View,
        question: Q,
    ) -> Result<R, Failure>
    where
        Q: Serialize + Sync,
        R: DeserializeOwned,
    {
        let written = self.consistency.of(user);
        self.ask_as_of(call, written, view, question).await
    }

    /// Asks a view on nobody's behalf, at least as new as what the client has seen.
    ///
    /// # Errors
    /// When the view cannot answer now.
    pub(crate) async fn ask_for_anybody<Q, R>(
        &self,
        call: &Call,
        view: View,
        question: Q,
    ) -> Result<R, Failure>
    where
        Q: Serialize + Sync,
        R: DeserializeOwned,
    {
        self.ask_as_of(call, 0, view, question).await
    }

    async fn ask_as_of<Q, R>(
        &self,
        call: &Call,
        written: u64,
        view: View,
        question: Q,
    ) -> Result<R, Failure>
    where
        Q: Serialize + Sync,
        R: DeserializeOwned,
    {
        let _place = self.limits.question()?;
        let seen = self.seen(call).await?;
        let request = view::Request {
            at_least: written.max(seen),
            deadline: infra::clock::now().plus_millis(VIEW_WAIT_MILLIS),
            request_id: call.request_id.to_string(),
            question,
        };
        match self.views.ask(view, &request).await {
            view::Reply::Found { as_of, result } => {
                call.seen.note(as_of);
                Ok(result)
            }
            view::Reply::Unavailable => Err(Failure::unavailable()),
        }
    }

    /// What the client has seen of this log: zero without a token, or with one of another log,
    /// which nobody can wait for.
    async fn seen(&self, call: &Call) -> Result<u64, Failure> {
        let Some(token) = call.token else {
            return Ok(0);
        };
        let epoch = self.consistency.epoch().await;
        let epoch = epoch.ok_or_else(Failure::unavailable)?;
        Ok(if token.epoch == epoch { token.seq } else { 0 })
    }

    /// A person, if there is one.
    ///
    /// # Errors
    /// When the view cannot answer now.
    pub(crate) async fn account(
        &self,
        call: &Call,
        account: AccountId,
    ) -> Result<Option<User>, Failure> {
        let question = view::Accounts::Get { account };
        self.ask::<_, view::AccountFound>(call, account, View::Accounts, question)
            .await
    }

    /// A query, if it is this person's.
    ///
    /// # Errors
    /// When the view cannot answer now.
    pub(crate) async fn query(
        &self,
        call: &Call,
        owner: AccountId,
        query: QueryId,
    ) -> Result<Option<QueryItem>, Failure> {
        let question = view::Queries::Get { owner, query };
        let page: view::QueryPage = self.ask(call, owner, View::Queries, question).await?;
        Ok(page.items.into_iter().next())
    }

    /// Whether the read models answer.
    pub(crate) async fn reads_work(&self, deadline: Timestamp) -> bool {
        let nobody = AccountId::new(uuid::Uuid::nil());
        let request = view::Request {
            at_least: 0,
            deadline,
            request_id: "readiness".into(),
            question: view::Accounts::Get { account: nobody },
        };
        let reply: view::Reply<view::AccountFound> = self.views.ask(View::Accounts, &request).await;
        matches!(reply, view::Reply::Found { .. })
    }
}
