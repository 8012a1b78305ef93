//! Forgetting a person: what has to happen outside the log between the two events that say so.
//!
//! In this order, each step safe to repeat, so that a crash anywhere means to begin again:
//! 1. The read models show nothing of the person any more: they reflect the request.
//! 2. What is still being answered is given up.
//! 3. The key is destroyed: nobody can read the log, its copies, rows, snapshots, jobs and token
//!    streams any more.
//! 4. Token streams are deleted, although nobody can read them.
//!
//! Then the log is told (`account.erased`), and read models delete their rows when they see that.
//! [`domain::stores`] lists every store and what becomes of it.

use super::Problem;
use crate::handler::Handlers;
use async_nats::{Client, jetstream};
use domain::{
    Actor,
    id::{AccountId, CommandId, QueryId},
    limits,
    subject::{self, Kind, View},
    wire::{
        command::{Body, Reply, Request},
        view::{self, Holding, PersonFound, Persons},
    },
};
use infra::{bus::Views, clock, fault, sealing::Keyring};
use tracing::info;

/// Aggregates that are asked for at a time.
const PAGE: u32 = 500;
/// How long one question or command may take.
const PATIENCE_MILLIS: i64 = 5_000;

/// What it takes. Clones share it.
#[derive(Clone)]
pub(super) struct Erasing {
    views: Views,
    context: jetstream::Context,
    keys: Keyring,
    handlers: Handlers,
}

impl Erasing {
    pub(super) fn new(
        client: &Client,
        context: &jetstream::Context,
        keys: &Keyring,
        handlers: &Handlers,
    ) -> Self {
        Self {
            views: Views::new(client.clone()),
            context: context.clone(),
            keys: keys.clone(),
            handlers: handlers.clone(),
        }
    }

    /// Everything up to the last event. `log_seq` is the sequence of the request.
    pub(super) async fn erase(&self, account: AccountId, log_seq: u64) -> Result<(), Problem> {
        let mut streams = Vec::new();
        let mut after = None;
        loop {
            let page = self.queries(account, after, log_seq).await?;
            for query in page.iter().filter(|query| !query.ended) {
                self.give_up(account, QueryId::new(query.id)).await?;
            }
            let age = |query: &&Holding| clock::now().millis_since(query.created_at);
            let recent = page
                .iter()
                .filter(|query| age(query) <= limits::TOKENS_LIFE_MILLIS);
            streams.extend(recent.map(|query| QueryId::new(query.id)));
            match page.last() {
                Some(last) => after = Some(last.id),
                None => break,
            }
        }
        fault::point("erase.given_up");
        self.keys.destroy(account).await?;
        fault::point("erase.key_destroyed");
        let tokens = self.context.get_stream_no_info(subject::TOKENS).await;
        let tokens = tokens.map_err(Problem::later)?;
        for query in &streams {
            let purged = tokens.purge().filter(subject::tokens(*query)).await;
            purged.map_err(Problem::later)?;
        }
        fault::point("erase.streams_deleted");
        info!(account.id = %account, streams = streams.len(), "a person's key is destroyed");
        Ok(())
    }

    async fn queries(
        &self,
        account: AccountId,
        after: Option<uuid::Uuid>,
        at_least: u64,
    ) -> Result<Vec<Holding>, Problem> {
        let request = view::Request {
            at_least,
            deadline: clock::now().plus_millis(PATIENCE_MILLIS),
            request_id: format!("erase.{account}"),
            question: Persons::Aggregates {
                account,
                kind: Kind::Query,
                after,
                limit: PAGE,
            },
        };
        match self.views.ask(View::Persons, &request).await {
            view::Reply::Found {
                result: PersonFound::Aggregates(found),
                ..
            } => Ok(found),
            view::Reply::Found { .. } | view::Reply::Unavailable => {
                Err(Problem::Later("the read models do not answer".to_owned()))
            }
        }
    }

    async fn give_up(&self, account: AccountId, query: QueryId) -> Result<(), Problem> {
        let reply = self
            .handlers
            .handle(Request {
                id: CommandId::derived(&[&query.to_string(), "erase_person"]),
                actor: Actor::System,
                request_id: format!("erase.{account}"),
                traceparent: None,
                deadline: clock::now().plus_millis(PATIENCE_MILLIS),
                fingerprint: None,
                body: Body::CancelQuery { query },
            })
            .await;
        match reply {
            // Refused: it has ended meanwhile, or nobody can read it any more.
            Reply::Accepted { .. } => Ok(()),
            Reply::Refused { failure } if failure.code.status() < 500 => Ok(()),
            Reply::Refused { failure } => Err(Problem::Later(failure.message)),
            Reply::Unavailable | Reply::Overloaded { .. } => {
                Err(Problem::Later("the log is out of reach".to_owned()))
            }
        }
    }
}
