//! What clients were shown: never older than what the same client was shown before, never older
//! than a write whose token came along, and no answer that was not given.

use crate::history::{
    History, Kind, Violation,
    call::{Call, Effect, Operation, Outcome, Shown},
    log::Commit,
};
use domain::query::{Event, Status};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

pub fn check(history: &History) -> Vec<Violation> {
    let mut answers = HashMap::new();
    for event in history.log.iter().flat_map(Commit::of_query) {
        if let Event::Completed { query, answer, .. } = event {
            answers.insert(query.uuid(), answer.response_text.as_str());
        }
    }
    let mut clients: BTreeMap<(usize, Uuid), Client> = BTreeMap::new();
    let mut found = Vec::new();
    for call in &history.calls {
        let client = clients.entry((call.client, call.person)).or_default();
        client.take(call, &answers, &mut found);
    }
    found
}

/// What one client knows.
#[derive(Default)]
struct Client {
    queries: BTreeMap<Uuid, Known>,
    sessions: BTreeMap<Uuid, String>,
}

/// What one client knows of a query.
#[derive(Default)]
struct Known {
    /// What it was shown last.
    shown: Option<(Status, Option<String>)>,
    /// The token of its submission: the lowest where several answers had one, since each stands for
    /// it.
    submitted: Option<u64>,
    /// The same of its cancellation.
    cancelled: Option<u64>,
}

/// The order in which a query's states follow each other.
const fn rank(status: Status) -> u8 {
    match status {
        Status::Queued => 0,
        Status::Processing => 1,
        Status::Streaming => 2,
        Status::Completed | Status::Failed | Status::Cancelled => 3,
    }
}

/// The lower of two tokens, if there is one.
fn lower(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

/// Whether a read with `at_least` must show what was written with the token `written`.
fn covers(at_least: Option<u64>, written: Option<u64>) -> bool {
    matches!((at_least, written), (Some(at_least), Some(written)) if at_least >= written)
}

impl Client {
    fn take(&mut self, call: &Call, answers: &HashMap<Uuid, &str>, found: &mut Vec<Violation>) {
        let mut say = |kind, what: String| {
            let what = format!("client {} at {:.3?}: {what}", call.client, call.began);
            found.push(Violation::new(kind, what));
        };
        match (&call.operation, &call.outcome) {
            (
                _,
                Outcome::Accepted {
                    effect: Effect::Query { query, answer },
                    token,
                },
            ) => {
                let known = self.queries.entry(*query).or_default();
                known.submitted = lower(known.submitted, *token);
                if let Some(text) = answer
                    && answers.get(query) != Some(&text.as_str())
                {
                    say(
                        Kind::WrongAnswer,
                        format!("{query} was answered by {text:?}"),
                    );
                }
            }
            (Operation::Cancel { query }, Outcome::Accepted { token, .. }) => {
                let known = self.queries.entry(*query).or_default();
                known.cancelled = lower(known.cancelled, *token);
            }
            (Operation::ReadQuery { query, at_least }, Outcome::Shown(shown)) => {
                self.see(shown, *at_least, answers, &mut say);
                if shown.queries.is_empty() {
                    self.miss(*query, *at_least, &mut say);
                }
            }
            (Operation::ReadQueries { at_least }, Outcome::Shown(shown)) => {
                self.see(shown, *at_least, answers, &mut say);
                if shown.complete {
                    let listed = |id: &Uuid| shown.queries.iter().any(|each| each.query == *id);
                    let absent: Vec<Uuid> = self
                        .queries
                        .keys()
                        .copied()
                        .filter(|id| !listed(id))
                        .collect();
                    for query in absent {
                        self.miss(query, *at_least, &mut say);
                    }
                }
            }
            (Operation::ReadSessions { .. }, Outcome::Shown(shown)) => {
                for (session, seen) in &shown.sessions {
                    // ISO 8601 in UTC sorts by time.
                    let before = self.sessions.insert(*session, seen.clone());
                    if before.is_some_and(|before| before > *seen) {
                        say(
                            Kind::WentBack,
                            format!("session {session} was last seen earlier"),
                        );
                    }
                }
            }
            _ => {}
        }
    }

    fn see(
        &mut self,
        shown: &Shown,
        at_least: Option<u64>,
        answers: &HashMap<Uuid, &str>,
        say: &mut impl FnMut(Kind, String),
    ) {
        for each in &shown.queries {
            let (query, status) = (each.query, each.status);
            let known = self.queries.entry(query).or_default();
            if let Some((before, text)) = &known.shown {
                let changed = rank(*before) == 3 && (*before != status || *text != each.text);
                if rank(status) < rank(*before) || changed {
                    say(
                        Kind::WentBack,
                        format!("{query} was {before:?} and is {status:?}"),
                    );
                }
            }
            if covers(at_least, known.cancelled) && rank(status) < 3 {
                say(
                    Kind::Stale,
                    format!("{query} was cancelled and is {status:?}"),
                );
            }
            let given = answers.get(&query).copied();
            let right = match status {
                Status::Completed => each.text.as_deref() == given,
                _ => each.text.is_none(),
            };
            if !right {
                say(
                    Kind::WrongAnswer,
                    format!("{query} is {status:?} with {:?}", each.text),
                );
            }
            known.shown = Some((status, each.text.clone()));
        }
    }

    fn miss(&self, query: Uuid, at_least: Option<u64>, say: &mut impl FnMut(Kind, String)) {
        let Some(known) = self.queries.get(&query) else {
            return;
        };
        if known.shown.is_some() {
            say(Kind::WentBack, format!("{query} was there and is not"));
        } else if covers(at_least, known.submitted) {
            say(
                Kind::Stale,
                format!("{query} was accepted and is not there"),
            );
        }
    }
}
