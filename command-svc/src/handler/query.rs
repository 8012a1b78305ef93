//! `start_query`, `complete_query`, `fail_query` by workers, `cancel_query` by the owner.

use super::{Problem, Shared};
use crate::write_path::{Executed, Expect};
use domain::{
    Actor,
    id::QueryId,
    query::{Command, Query, Refused},
    wire::{
        command::{Body, Outcome},
        error::Code,
    },
};
use infra::event_store::Provenance;

pub(super) async fn handle(
    shared: &Shared,
    cx: Provenance,
    body: Body,
) -> Result<(u64, Outcome), Problem> {
    let (query, command) = match (body, &cx.actor) {
        (Body::StartQuery { query, model }, Actor::Worker(worker)) => (
            query,
            Command::Start {
                query,
                worker: worker.clone(),
                model,
            },
        ),
        (Body::CompleteQuery { query, answer }, _) => (query, Command::Complete { query, answer }),
        (
            Body::FailQuery {
                query,
                code,
                message,
            },
            _,
        ) => (
            query,
            Command::Fail {
                query,
                code,
                message,
            },
        ),
        (Body::CancelQuery { query }, _) => (query, Command::Cancel { query }),
        (body, _) => return Err(Problem::Internal(format!("{body:?} has another handler"))),
    };
    let done = shared
        .write
        .execute(
            &shared.queries,
            query.uuid(),
            Expect::Anything,
            command,
            &cx,
        )
        .await
        .map_err(|error| {
            Problem::from_write(error, |rule| match rule {
                Refused::Unknown | Refused::IdTaken => {
                    Problem::new(Code::NotFound, "Query not found")
                }
                Refused::Ended(_) => Problem::new(Code::Conflict, rule.to_string()),
                Refused::Unroutable(_) => Problem::new(Code::QueryRoutingError, rule.to_string()),
            })
        })?;
    outcome(query, &done)
}

pub(super) fn outcome(query: QueryId, done: &Executed<Query>) -> Result<(u64, Outcome), Problem> {
    let Query::Asked { owner, status, .. } = done.state else {
        return Err(Problem::Internal(format!(
            "query {query} is absent after a command"
        )));
    };
    Ok((
        done.seq,
        Outcome::Query {
            query,
            owner,
            status,
            repeated: !done.appended,
        },
    ))
}
