//! Each query ends, and once.

use crate::history::{Kind, Violation, log::Commit};
use domain::query::Event;
use std::collections::BTreeMap;

pub fn check(log: &[Commit]) -> Vec<Violation> {
    let mut ended: BTreeMap<_, bool> = BTreeMap::new();
    let mut found = Vec::new();
    for commit in log {
        for event in commit.of_query() {
            let is_end = match event {
                Event::Submitted { .. } | Event::Started { .. } => false,
                Event::Completed { .. } | Event::Failed { .. } | Event::Cancelled { .. } => true,
            };
            let ended = ended.entry(commit.aggregate.id).or_default();
            if *ended {
                let what = format!("{} goes on at {}", commit.aggregate.id, commit.seq);
                found.push(Violation::new(Kind::EndedTwice, what));
            }
            *ended |= is_end;
        }
    }
    let open = ended.iter().filter(|(_, ended)| !**ended);
    found.extend(open.map(|(query, _)| Violation::new(Kind::NeverEnded, query.to_string())));
    found
}
