//! `submit_query`: a question is asked once, however often it is sent.

use super::{Problem, Shared, query::outcome};
use crate::write_path::Expect;
use domain::{
    Actor,
    id::QueryId,
    query::{Command, Refused, Submission},
    wire::{
        command::{Outcome, Via},
        error::{Code, Detail, DetailKind, Failure},
    },
};
use infra::{clock, event_store::Provenance, telemetry};
use tracing::warn;

pub(super) async fn handle(
    shared: &Shared,
    cx: Provenance,
    query: QueryId,
    named: bool,
    via: Via,
    submission: Submission,
) -> Result<(u64, Outcome), Problem> {
    let Actor::User(owner) = cx.actor else {
        return Err(Problem::new(
            Code::AuthPermissionDenied,
            "Permission denied",
        ));
    };
    // A query without a name of its own may be one that is there already. One with a name is noted
    // only once it is made: under that name another question may have come before.
    let query = if named {
        query
    } else {
        shared
            .submissions
            .resolve(owner, query, named, via, &submission, clock::now())
            .await?
    };
    // Only some rules ask whose it is, and only then the account is read.
    let tier = match shared.router.asks_for_tier() {
        true => Some(shared.profile(owner).await?.tier),
        false => None,
    };
    let route = shared.router.route(&submission, tier);
    let model = route.as_ref().ok().map(|route| route.model.clone());
    let posted = (named && via == Via::Rest).then(|| submission.clone());
    // Whoever comes first under this id makes it; for the others it is a repeat.
    let submit = Command::Submit {
        query,
        owner,
        submission,
        route,
    };
    let done = shared
        .write
        .execute(&shared.queries, query.uuid(), Expect::Absent, submit, &cx)
        .await
        .map_err(|error| Problem::from_write(error, refused))?;
    if let Some(model) = model.filter(|_| done.appended) {
        shared.router.note(model);
    }
    if let Some(posted) = posted.filter(|_| done.appended) {
        let noted = shared
            .submissions
            .resolve(owner, query, named, via, &posted, clock::now());
        // It is in the log: at worst a socket that could have claimed it asks again.
        if let Err(error) = noted.await {
            warn!(
                reason = telemetry::chain(&error),
                "a submission is not noted"
            );
        }
    }
    outcome(query, &done)
}

fn refused(rule: Refused) -> Problem {
    match rule {
        Refused::IdTaken => Problem::Failure(Failure::validation(vec![Detail::new(
            "query_id",
            DetailKind::InvalidValue,
            "This id is taken",
        )])),
        Refused::Unknown => Problem::new(Code::NotFound, "Query not found"),
        Refused::Ended(_) => Problem::new(Code::Conflict, rule.to_string()),
        Refused::Unroutable(_) => Problem::new(Code::QueryRoutingError, rule.to_string()),
    }
}
