//! Defects that are sown into a history, each of which the checker must find. A checker that finds
//! nothing in a run is worth as much as what it finds in these.

use super::{
    History, Kind, Random,
    call::{Effect, Operation, Outcome, ShownQuery},
    fold::fold,
    log::{Commit, Events},
    rows::Table,
};
use domain::{
    Timestamp,
    id::QueryId,
    query::{CancelledBy, Event, Status},
};
use std::collections::HashSet;
use uuid::Uuid;

/// A defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The message of an accepted command is gone.
    Drop,
    /// A query is gone as if it had never been asked: the log is closed up over it and the read
    /// model agrees, so that the client alone knows better.
    Erase,
    /// A message is there twice, each time behind the right predecessor.
    Double,
    /// Two messages of one aggregate have changed places.
    Swap,
    /// Two messages of one aggregate have the same predecessor.
    Fork,
    /// A query ends a second time.
    EndTwice,
    /// A row is not what the events say.
    ChangeRow,
    /// A row is missing.
    LoseRow,
    /// A row is there that no event made.
    InventRow,
    /// A client is shown an earlier state of a query.
    ReadBack,
    /// A client does not see any more what it has seen.
    Vanish,
    /// A read does not show the write whose token came along.
    ReadStale,
    /// A client is shown an answer that was never given.
    InventAnswer,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Drop,
        Self::Erase,
        Self::Double,
        Self::Swap,
        Self::Fork,
        Self::EndTwice,
        Self::ChangeRow,
        Self::LoseRow,
        Self::InventRow,
        Self::ReadBack,
        Self::Vanish,
        Self::ReadStale,
        Self::InventAnswer,
    ];

    /// As what the checker has to report it.
    pub const fn caught_as(self) -> Kind {
        match self {
            Self::Drop | Self::Erase => Kind::Lost,
            Self::Double => Kind::Doubled,
            Self::Swap => Kind::OutOfOrder,
            Self::Fork => Kind::Fork,
            Self::EndTwice => Kind::EndedTwice,
            Self::ChangeRow => Kind::RowWrong,
            Self::LoseRow => Kind::RowMissing,
            Self::InventRow => Kind::RowExtra,
            Self::ReadBack | Self::Vanish => Kind::WentBack,
            Self::ReadStale => Kind::Stale,
            Self::InventAnswer => Kind::WrongAnswer,
        }
    }

    /// Sows it somewhere; `None` where the history holds nothing that it could spoil.
    pub fn sow(self, history: &History, random: &mut Random) -> Option<History> {
        let mut spoilt = history.clone();
        match self {
            Self::Drop => {
                let victims = accepted(history);
                let victim = *random.pick(&victims)?;
                spoilt.log.retain(|commit| commit.seq != victim);
            }
            Self::Erase => erase(&mut spoilt, random)?,
            Self::Double => {
                let copy = random.pick(&history.log)?.clone();
                append(&mut spoilt, copy, None);
            }
            Self::Swap => swap(&mut spoilt, random)?,
            Self::Fork => {
                let mut copy = random.pick(&history.log)?.clone();
                copy.command = random.id().to_string();
                let same = copy.expected;
                append(&mut spoilt, copy, same);
            }
            Self::EndTwice => {
                let ended = |commit: &&Commit| commit.of_query().iter().any(is_end);
                let ends: Vec<&Commit> = history.log.iter().filter(ended).collect();
                let mut again = (*random.pick(&ends)?).clone();
                again.command = random.id().to_string();
                let (query, at) = (QueryId::new(again.aggregate.id), Timestamp::from_millis(1));
                let by = CancelledBy::System;
                again.events = Events::Query(vec![Event::Cancelled { query, by, at }]);
                append(&mut spoilt, again, None);
            }
            Self::ChangeRow => {
                let (table, id) = any_row(&mut spoilt, random)?;
                let row = table.get_mut(&id)?;
                let columns: Vec<String> = ["last_seq", "created_at"].map(Into::into).into();
                let column = random.pick(&columns)?;
                let changed = row.get(column)?.as_i64()? - 1;
                row.insert(column.clone(), changed.into());
            }
            Self::LoseRow => {
                let (table, id) = any_row(&mut spoilt, random)?;
                table.remove(&id)?;
            }
            Self::InventRow => {
                let (table, id) = any_row(&mut spoilt, random)?;
                let row = table.get(&id)?.clone();
                table.insert(random.id(), row);
            }
            Self::ReadBack => {
                let at = shown_ended(history);
                read_again(&mut spoilt, *random.pick(&at)?, |shown| {
                    shown.status = Status::Processing;
                    shown.text = None;
                });
            }
            Self::Vanish => {
                let at = shown_ended(history);
                let at = *random.pick(&at)?;
                read_again(&mut spoilt, at, |_| {});
                if let Outcome::Shown(shown) = &mut spoilt.calls[at + 1].outcome {
                    shown.queries.clear();
                }
            }
            Self::ReadStale => read_stale(&mut spoilt, random)?,
            Self::InventAnswer => {
                let at = shown_ended(history);
                let at = *random.pick(&at)?;
                if let Outcome::Shown(shown) = &mut spoilt.calls[at].outcome {
                    shown.queries[0].text = Some("an answer that nobody gave".into());
                }
            }
        }
        Some(spoilt)
    }
}

const fn is_end(event: &Event) -> bool {
    matches!(
        event,
        Event::Completed { .. } | Event::Failed { .. } | Event::Cancelled { .. }
    )
}

/// The sequences of the messages that accepted commands have made.
fn accepted(history: &History) -> Vec<u64> {
    let made = |commit: &&Commit| {
        history
            .calls
            .iter()
            .any(|call| match (&call.operation, &call.outcome) {
                (
                    _,
                    Outcome::Accepted {
                        effect: Effect::Query { query, .. },
                        ..
                    },
                ) => commit.aggregate.id == *query && commit.expected == Some(0),
                (Operation::Cancel { query }, Outcome::Accepted { .. }) => {
                    let cancels = |event: &Event| matches!(event, Event::Cancelled { .. });
                    commit.aggregate.id == *query && commit.of_query().iter().any(cancels)
                }
                (
                    _,
                    Outcome::Accepted {
                        effect: Effect::Rotated(fresh),
                        ..
                    },
                ) => commit.of_session().iter().any(|event| match event {
                    domain::session::Event::Refreshed { refresh, .. } => refresh.uuid() == *fresh,
                    _ => false,
                }),
                _ => false,
            })
    };
    history
        .log
        .iter()
        .filter(made)
        .map(|commit| commit.seq)
        .collect()
}

/// Appends a message, behind this predecessor or behind the right one.
fn append(history: &mut History, mut commit: Commit, expected: Option<u64>) {
    let same = |other: &&Commit| other.aggregate == commit.aggregate;
    let last = history.log.iter().rev().find(same).map(|last| last.seq);
    commit.expected = expected.or(last);
    commit.seq = history.log.last().map_or(0, |last| last.seq) + 1;
    history.log.push(commit);
}

/// Takes a query out of the log, closes the log up, and folds the rows again.
fn erase(history: &mut History, random: &mut Random) -> Option<()> {
    let told = history.calls.iter().filter_map(|call| match &call.outcome {
        Outcome::Accepted {
            effect: Effect::Query { query, .. },
            ..
        } => Some(*query),
        _ => None,
    });
    let told: Vec<Uuid> = told.collect();
    let victim = *random.pick(&told)?;
    let gone: Vec<u64> = history
        .log
        .iter()
        .filter(|commit| commit.aggregate.id == victim)
        .map(|commit| commit.seq)
        .collect();
    let closed_up = |seq: u64| seq - gone.iter().filter(|gone| **gone < seq).count() as u64;
    history.log.retain(|commit| !gone.contains(&commit.seq));
    for commit in &mut history.log {
        commit.seq = closed_up(commit.seq);
        commit.expected = commit.expected.map(closed_up);
    }
    history.rows = fold(&history.log);
    Some(())
}

fn swap(history: &mut History, random: &mut Random) -> Option<()> {
    let log = &mut history.log;
    let mut pairs = Vec::new();
    for (at, one) in log.iter().enumerate() {
        let later = log.iter().enumerate().skip(at + 1);
        let same = later.filter(|(_, other)| other.aggregate == one.aggregate);
        pairs.extend(same.map(|(later, _)| (at, later)));
    }
    let (one, other) = *random.pick(&pairs)?;
    log.swap(one, other);
    let seq = log[one].seq;
    log[one].seq = log[other].seq;
    log[other].seq = seq;
    Some(())
}

fn any_row<'a>(history: &'a mut History, random: &mut Random) -> Option<(&'a mut Table, Uuid)> {
    let filled = history
        .rows
        .0
        .iter_mut()
        .filter(|(_, table)| !table.is_empty());
    let mut tables: Vec<&mut Table> = filled.map(|(_, table)| table).collect();
    let chosen = random.below(tables.len());
    if tables.is_empty() {
        return None;
    }
    let table = tables.swap_remove(chosen);
    let ids: Vec<Uuid> = table.keys().copied().collect();
    Some((table, *random.pick(&ids)?))
}

/// The reads of one query that showed its end.
fn shown_ended(history: &History) -> Vec<usize> {
    let ended = |outcome: &Outcome| match outcome {
        Outcome::Shown(shown) => shown
            .queries
            .first()
            .is_some_and(|each| each.status.is_final()),
        _ => false,
    };
    let calls = history.calls.iter().enumerate();
    calls
        .filter(|(_, call)| matches!(call.operation, Operation::ReadQuery { .. }))
        .filter(|(_, call)| ended(&call.outcome))
        .map(|(at, _)| at)
        .collect()
}

/// Adds the same read once more, with something else shown.
fn read_again(history: &mut History, at: usize, change: impl Fn(&mut ShownQuery)) {
    let mut again = history.calls[at].clone();
    if let Outcome::Shown(shown) = &mut again.outcome {
        shown.queries.iter_mut().for_each(change);
    }
    history.calls.insert(at + 1, again);
}

/// Adds a read behind an accepted question that was sent with its token and shows nothing.
fn read_stale(history: &mut History, random: &mut Random) -> Option<()> {
    let mut seen = HashSet::new();
    let mut written = Vec::new();
    for (at, call) in history.calls.iter().enumerate() {
        match &call.outcome {
            Outcome::Shown(shown) => seen.extend(shown.queries.iter().map(|each| each.query)),
            Outcome::Accepted {
                effect: Effect::Query { query, .. },
                token: Some(token),
            } if !seen.contains(query) => written.push((at, *query, *token)),
            _ => {}
        }
    }
    let (at, query, token) = *random.pick(&written)?;
    let mut read = history.calls[at].clone();
    read.operation = Operation::ReadQuery {
        query,
        at_least: Some(token),
    };
    read.outcome = Outcome::Shown(Default::default());
    history.calls.insert(at + 1, read);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{check::violations, invent, rows::QUERIES};
    use serde_json::json;

    /// Histories per mutant. Each has another seed, which a failure names.
    const HISTORIES: u64 = 60;

    #[test]
    fn every_mutant_is_found_as_what_it_is() {
        for mutant in Mutant::ALL {
            let mut sown = 0;
            for seed in 0..HISTORIES {
                let history = invent::history(seed, 40);
                // Another sequence than the history's own, whose ids would come again.
                let mut random = Random::new(!seed);
                let Some(spoilt) = mutant.sow(&history, &mut random) else {
                    continue;
                };
                sown += 1;
                let found = violations(&spoilt);
                let caught = found.iter().any(|each| each.kind == mutant.caught_as());
                assert!(caught, "{mutant:?}, seed {seed}: {found:#?}");
            }
            assert!(sown > HISTORIES / 2, "{mutant:?} was sown {sown} times");
        }
    }

    #[test]
    fn every_column_of_a_row_is_compared() {
        let history = invent::history(7, 40);
        let (id, row) = history.rows.0[QUERIES].first_key_value().unwrap();
        for column in row.keys() {
            let mut spoilt = history.clone();
            let table = spoilt.rows.0.get_mut(QUERIES).unwrap();
            table
                .get_mut(id)
                .unwrap()
                .insert(column.clone(), json!("something else"));
            let found = violations(&spoilt);
            assert_eq!(found.len(), 1, "{column}: {found:#?}");
            assert_eq!(found[0].kind, Kind::RowWrong);
        }
    }
}
