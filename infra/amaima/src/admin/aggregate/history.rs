use super::{
    super::{Error, Exit, Output, Table},
    Commit,
    commits::Named,
    mask::masked,
    state,
};
use domain::{Actor, Timestamp, commit::header};
use serde::Serialize;
use serde_json::Value;
use std::fmt;

#[derive(Debug, Serialize)]
struct Report {
    subject: String,
    kind: &'static str,
    id: uuid::Uuid,
    commits: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    seq: u64,
    at: Option<Timestamp>,
    types: Vec<String>,
    command: Option<String>,
    /// `anonymous`, `user`, `worker`, …
    actor: Option<String>,
    request_id: Option<String>,
    causation: Option<String>,
    /// Whether this version of the program understands it.
    readable: bool,
    /// Whether its person was erased, so that nobody can read it.
    erased: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Value>,
}

pub(super) fn run(
    named: &Named,
    commits: &[Commit],
    events: bool,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    let report = Report {
        subject: named.subject.clone(),
        kind: named.aggregate.kind.as_str(),
        id: named.aggregate.id,
        commits: commits
            .iter()
            .map(|commit| row(named, commit, events))
            .collect(),
    };
    output.report(&report);
    Ok(Exit::well_if(report.commits.iter().all(|row| row.readable)))
}

fn row(named: &Named, commit: &Commit, events: bool) -> Row {
    let types = commit.header(header::EVENT_TYPES).unwrap_or_default();
    let actor = commit.header(header::ACTOR);
    let actor = actor.and_then(|json| serde_json::from_str::<Actor>(&json).ok());
    let payload = || {
        let text = || String::from_utf8_lossy(&commit.stored.payload).into_owned();
        masked(serde_json::from_slice(&commit.stored.payload).unwrap_or_else(|_| text().into()))
    };
    Row {
        seq: commit.stored.seq,
        at: commit.at,
        types: types
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        command: commit.header(header::COMMAND_ID),
        actor: actor.map(|actor| format!("{:?}", actor.role()).to_lowercase()),
        request_id: commit.header(header::REQUEST_ID),
        causation: commit.header(header::CAUSATION_ID),
        readable: state::fold(named, std::slice::from_ref(commit)).is_ok(),
        erased: commit.erased,
        events: (events && !commit.erased).then(payload),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&[
            "seq", "at", "events", "actor", "command", "request", "cause",
        ]);
        for row in &self.commits {
            let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
            let mut types = row.types.join(", ");
            if row.erased {
                types.push_str(" (erased)");
            }
            if !row.readable {
                types.push_str(" (UNREADABLE)");
            }
            table.row([
                row.seq.to_string(),
                row.at.map_or("-".into(), |at| at.to_string()),
                types,
                or_dash(&row.actor),
                or_dash(&row.command),
                or_dash(&row.request_id),
                or_dash(&row.causation),
            ]);
        }
        write!(f, "{}\n\n{table}", self.subject)?;
        for row in &self.commits {
            if let Some(events) = &row.events {
                write!(f, "\n{}: {events:#}\n", row.seq)?;
            }
        }
        Ok(())
    }
}
