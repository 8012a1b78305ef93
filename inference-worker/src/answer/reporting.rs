//! What the log is told of a query: that a worker starts, and how it ended.

use super::Ended;
use domain::{
    Actor,
    id::{CommandId, QueryId},
    query::Answer,
    wire::{
        command::{self, Outcome, Reply},
        error::Code,
    },
};
use infra::{bus::Commands, clock};
use std::time::Duration;
use tracing::{error, info, warn};

/// How long one command to command-svc may take, repeats included.
pub(super) const COMMAND: Duration = Duration::from_secs(30);

/// Tells the log in a worker's name. Clones share the connection.
#[derive(Clone)]
pub(super) struct Reporting {
    commands: Commands,
    worker: String,
}

impl Reporting {
    pub(super) fn new(commands: Commands, worker: String) -> Self {
        Self { commands, worker }
    }

    /// The same id for every repeat of this delivery, another one for the next delivery.
    pub(super) fn start_id(&self, query: QueryId, delivery: i64) -> CommandId {
        let query = query.to_string();
        CommandId::derived(&[&query, "start", &self.worker, &delivery.to_string()])
    }

    /// Tells the log that this worker starts; `Some` when there is nothing to do.
    pub(super) async fn start(&self, query: QueryId, id: CommandId, model: &str) -> Option<Ended> {
        let model = model.to_owned();
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

    pub(super) async fn complete(&self, query: QueryId, answer: Answer) -> Ended {
        let body = command::Body::CompleteQuery { query, answer };
        self.end(query, "complete", body).await
    }

    pub(super) async fn fail(&self, query: QueryId, code: Code, message: &str) -> Ended {
        warn!(query.id = %query, code = code.as_str(), "a query failed");
        let message = message.to_owned();
        let body = command::Body::FailQuery {
            query,
            code,
            message,
        };
        self.end(query, "fail", body).await
    }

    async fn end(&self, query: QueryId, what: &str, body: command::Body) -> Ended {
        let id = CommandId::derived(&[&query.to_string(), what, &self.worker]);
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
                actor: Actor::Worker(self.worker.clone()),
                request_id: id.to_string(),
                traceparent: None,
                deadline,
                fingerprint: None,
                body,
            })
            .await
    }
}
