//! The log itself: no sequence is missing, and each aggregate is one chain.

use crate::history::{
    Kind, Violation,
    log::{Commit, Events},
};
use std::collections::{HashMap, HashSet};

pub fn check(log: &[Commit]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut next = 1;
    let mut commands = HashSet::new();
    let mut chains: HashMap<_, Vec<&Commit>> = HashMap::new();
    for commit in log {
        if commit.seq != next {
            let what = format!("{} where {next} should be", commit.seq);
            found.push(Violation::new(Kind::Hole, what));
        }
        next = commit.seq + 1;
        if let Events::Unreadable(reason) = &commit.events {
            found.push(Violation::new(
                Kind::Unreadable,
                format!("{}: {reason}", commit.seq),
            ));
        }
        // One command may write to several aggregates, and to each once.
        if !commands.insert((commit.aggregate, &commit.command)) {
            let what = format!("command {} again at {}", commit.command, commit.seq);
            found.push(Violation::new(Kind::Doubled, what));
        }
        chains.entry(commit.aggregate).or_default().push(commit);
    }
    for chain in chains.values() {
        let mut predecessors = HashSet::new();
        let mut last = 0;
        for commit in chain {
            if let Some((kind, what)) = fault(commit, last, &predecessors) {
                let place = format!("{} of {}: {what}", commit.seq, commit.aggregate.subject());
                found.push(Violation::new(kind, place));
            }
            predecessors.extend(commit.expected);
            last = commit.seq;
        }
    }
    found
}

/// What is wrong with the predecessor that a message names.
fn fault(commit: &Commit, last: u64, named: &HashSet<u64>) -> Option<(Kind, String)> {
    let Some(expected) = commit.expected else {
        return Some((Kind::Unguarded, "it expects nothing".into()));
    };
    let what = format!("it follows {expected}, and stands after {last}");
    if expected == last {
        None
    } else if expected >= commit.seq {
        Some((Kind::OutOfOrder, what))
    } else if named.contains(&expected) {
        Some((Kind::Fork, what))
    } else {
        Some((Kind::Gap, what))
    }
}
