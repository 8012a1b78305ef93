//! Commands: accepted ones have their effect once, others at most once, and nothing else is there.

use crate::history::{
    History, Kind, Violation,
    call::{Call, Effect, Handle, Operation, Outcome},
    log::{Commit, Events},
};
use domain::{id::EmailId, query, session};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

pub fn check(history: &History) -> Vec<Violation> {
    let mut found = submissions(history);
    found.extend(accepted(history));
    found.extend(rotations(history));
    found
}

/// All calls with the same text are one intention.
fn submissions(history: &History) -> Vec<Violation> {
    let mut asked: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in &history.calls {
        if let Operation::Submit { text, .. } = &call.operation {
            asked.entry(text).or_default().push(call);
        }
    }
    let mut stored: BTreeMap<&str, Vec<(Uuid, Uuid)>> = BTreeMap::new();
    for event in history.log.iter().flat_map(Commit::of_query) {
        if let query::Event::Submitted {
            query,
            owner,
            submission,
            ..
        } = event
        {
            let at = stored.entry(&submission.text).or_default();
            at.push((query.uuid(), owner.uuid()));
        }
    }
    let mut found = Vec::new();
    let mut say = |kind, what: String| found.push(Violation::new(kind, what));
    for (text, calls) in &asked {
        let places = stored.remove(text).unwrap_or_default();
        let told: BTreeSet<Uuid> = calls.iter().filter_map(|call| told_query(call)).collect();
        if places.len() > 1 {
            say(
                Kind::Doubled,
                format!("{text:?} was asked once and is stored as {places:?}"),
            );
        }
        for query in &told {
            if !places.iter().any(|(stored, _)| stored == query) {
                say(Kind::Lost, format!("{text:?} was accepted as {query}"));
            }
        }
        let refused = calls
            .iter()
            .all(|call| matches!(call.outcome, Outcome::Refused(_)));
        for (query, owner) in places {
            if refused {
                say(
                    Kind::Unasked,
                    format!("{text:?} was refused and is stored as {query}"),
                );
            }
            let by_him = calls.iter().any(|call| call.person == owner);
            let by_id = calls.iter().all(|call| match &call.operation {
                Operation::Submit {
                    handle: Handle::Id(id),
                    ..
                } => *id == query,
                _ => true,
            });
            if !by_him || !by_id {
                say(
                    Kind::Altered,
                    format!("{text:?} is stored as {query} of {owner}"),
                );
            }
        }
    }
    for (text, places) in stored {
        say(
            Kind::Unasked,
            format!("nobody asked {text:?}, stored as {places:?}"),
        );
    }
    found
}

fn told_query(call: &Call) -> Option<Uuid> {
    match &call.outcome {
        Outcome::Accepted {
            effect: Effect::Query { query, .. },
            ..
        } => Some(*query),
        _ => None,
    }
}

/// Registrations, sessions and cancellations, by the ids that clients were told.
fn accepted(history: &History) -> Vec<Violation> {
    let mut accounts = BTreeSet::new();
    let mut sessions = BTreeMap::new();
    let mut emails = HashMap::new();
    let mut cancelled = BTreeSet::new();
    for commit in &history.log {
        let id = commit.aggregate.id;
        match &commit.events {
            Events::Account(_) => {
                accounts.insert(id);
            }
            Events::Email(_) => {
                emails.insert(id, commit.seq);
            }
            Events::Session(events) => {
                if let Some(session::Event::Opened { account, .. }) = events.first() {
                    sessions.insert(id, account.uuid());
                }
            }
            Events::Query(events) => {
                let ended = |event: &query::Event| matches!(event, query::Event::Cancelled { .. });
                if events.iter().any(ended) {
                    cancelled.insert(id);
                }
            }
            // Clients of a history make no keys.
            Events::ApiKeys(_) | Events::Erased | Events::Unreadable(_) => {}
        }
    }
    let mut found = Vec::new();
    let mut lost = |what: String| found.push(Violation::new(Kind::Lost, what));
    for call in &history.calls {
        let Outcome::Accepted { effect, .. } = &call.outcome else {
            continue;
        };
        match (&call.operation, effect) {
            (Operation::Register { email }, Effect::Account { account, session }) => {
                let claimed = emails.contains_key(&EmailId::of(email).uuid());
                let opened = sessions.get(session) == Some(account);
                if !accounts.contains(account) || !claimed || !opened {
                    lost(format!(
                        "the account {account} with its address and session {session}"
                    ));
                }
            }
            (_, Effect::Session(session)) if sessions.get(session) != Some(&call.person) => {
                lost(format!("the session {session}"));
            }
            (Operation::Cancel { query }, _) if !cancelled.contains(query) => {
                lost(format!("the cancellation of {query}"));
            }
            _ => {}
        }
    }
    found
}

/// Each refresh id is superseded once, by the one that a client was given.
fn rotations(history: &History) -> Vec<Violation> {
    let mut successors: BTreeMap<(Uuid, Uuid), Vec<Uuid>> = BTreeMap::new();
    for event in history.log.iter().flat_map(Commit::of_session) {
        if let session::Event::Refreshed {
            session,
            superseded,
            refresh,
            ..
        } = event
        {
            let key = (session.uuid(), superseded.uuid());
            successors.entry(key).or_default().push(refresh.uuid());
        }
    }
    let mut found = Vec::new();
    for ((session, superseded), by) in &successors {
        if by.len() > 1 {
            let what = format!("{superseded} of session {session} was exchanged for {by:?}");
            found.push(Violation::new(Kind::Doubled, what));
        }
    }
    for call in &history.calls {
        let (
            Operation::Refresh {
                session,
                superseded,
            },
            Outcome::Accepted { effect, .. },
        ) = (&call.operation, &call.outcome)
        else {
            continue;
        };
        let by = successors.get(&(*session, *superseded));
        let given = |by: &Vec<Uuid>| by.iter().any(|by| *effect == Effect::Rotated(*by));
        if !by.is_some_and(given) {
            let what = format!("{superseded} of session {session} was exchanged: {effect:?}");
            found.push(Violation::new(Kind::Lost, what));
        }
    }
    found
}
