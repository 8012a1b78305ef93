//! Everything that a history promises, one group of promises a file.

mod chain;
mod effects;
mod ends;
mod reads;
mod table;

use super::{History, Violation};

/// Every promise that this history breaks, sorted.
pub fn violations(history: &History) -> Vec<Violation> {
    let mut found = chain::check(&history.log);
    found.extend(effects::check(history));
    found.extend(ends::check(&history.log));
    found.extend(table::check(history));
    found.extend(reads::check(history));
    found.sort();
    found.dedup();
    found
}

/// How much has not come to its end or into the read models yet.
pub(super) fn unfinished(history: &History) -> usize {
    ends::check(&history.log).len() + table::check(history).len()
}
