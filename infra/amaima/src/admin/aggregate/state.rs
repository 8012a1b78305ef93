use super::{
    super::{Error, Exit, Output},
    Commit,
    commits::Named,
    mask::masked,
};
use domain::{
    Aggregate, Timestamp,
    account::Account,
    api_keys::ApiKeys,
    commit::{self, Undecodable},
    email::Email,
    query::Query,
    session::Session,
    subject::Kind,
};
use serde::Serialize;
use serde_json::Value;
use std::fmt;

#[derive(Debug, Serialize)]
struct Report {
    subject: String,
    kind: &'static str,
    id: uuid::Uuid,
    /// Sequence of the last commit in the state; 0 when there is none yet.
    seq: u64,
    at: Option<Timestamp>,
    commits: usize,
    state: Value,
}

pub(super) fn run(
    named: &Named,
    commits: &[Commit],
    at: Option<u64>,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    let commits = until(commits, at.unwrap_or(u64::MAX));
    let last = commits.last();
    let report = Report {
        subject: named.subject.clone(),
        kind: named.aggregate.kind.as_str(),
        id: named.aggregate.id,
        seq: last.map_or(0, |commit| commit.stored.seq),
        at: last.and_then(|commit| commit.at),
        commits: commits.len(),
        state: masked(fold(named, commits)?),
    };
    output.report(&report);
    Ok(Exit::Well)
}

/// The commits that the log had when it was at `seq`.
pub(super) fn until(commits: &[Commit], seq: u64) -> &[Commit] {
    &commits[..commits.partition_point(|commit| commit.stored.seq <= seq)]
}

/// The state that these commits make, with its secrets.
pub(super) fn fold(named: &Named, commits: &[Commit]) -> Result<Value, Undecodable> {
    match named.aggregate.kind {
        Kind::Account => fold_as::<Account>(named, commits),
        Kind::Email => fold_as::<Email>(named, commits),
        Kind::Session => fold_as::<Session>(named, commits),
        Kind::Query => fold_as::<Query>(named, commits),
        Kind::ApiKeys => fold_as::<ApiKeys>(named, commits),
    }
}

fn fold_as<A: Aggregate>(named: &Named, commits: &[Commit]) -> Result<Value, Undecodable> {
    let mut state = A::default();
    for commit in commits {
        if commit.erased {
            state = state.erased();
            continue;
        }
        let events: Vec<A::Event> = commit::decode(&named.subject, &commit.stored.payload)?;
        state = events.iter().fold(state, A::evolve);
    }
    serde_json::to_value(state).map_err(|source| Undecodable {
        subject: named.subject.clone(),
        source,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.map_or(String::new(), |at| format!(" ({at})"));
        writeln!(
            f,
            "{}\nat sequence {}{at}, after {} commits\n\n{:#}",
            self.subject, self.seq, self.commits, self.state
        )
    }
}
