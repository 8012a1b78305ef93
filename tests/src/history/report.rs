//! A run as tables.

use super::{
    Violation,
    call::{Call, Outcome},
    killer::Hits,
};
use std::{collections::BTreeMap, fmt::Write};

/// Operations, hits and violations.
pub(super) fn tables(calls: &[Call], hits: &Hits, violations: &[Violation]) -> String {
    let mut text = String::new();
    write(&mut text, calls, hits, violations).ok();
    text
}

fn write(
    text: &mut String,
    calls: &[Call],
    hits: &Hits,
    violations: &[Violation],
) -> std::fmt::Result {
    let mut operations: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for call in calls {
        let column = match call.outcome {
            Outcome::Accepted { .. } | Outcome::Shown(_) => 0,
            Outcome::Unknown(_) => 1,
            Outcome::Refused(_) => 2,
        };
        operations.entry(call.operation.name()).or_default()[column] += 1;
    }
    let mut row = |name: &str, cells: [&dyn std::fmt::Display; 4]| {
        let [a, b, c, d] = cells;
        writeln!(text, "{name:<18}{a:>9}{b:>9}{c:>9}{d:>9}")
    };
    row("operation", [&"calls", &"answered", &"unknown", &"refused"])?;
    let mut sum = [0; 3];
    for (name, counts) in &operations {
        let [answered, unknown, refused] = counts;
        row(
            name,
            [&(answered + unknown + refused), answered, unknown, refused],
        )?;
        (0..3).for_each(|column| sum[column] += counts[column]);
    }
    row(
        "all",
        [&sum.iter().sum::<usize>(), &sum[0], &sum[1], &sum[2]],
    )?;
    writeln!(text, "\n{:<18}{:>9}{:>9}", "process", "kills", "pauses")?;
    let mut names: Vec<&String> = hits.kills.keys().chain(hits.pauses.keys()).collect();
    names.sort();
    names.dedup();
    let count = |of: &BTreeMap<String, usize>, name: &String| of.get(name).copied().unwrap_or(0);
    for name in names {
        let (kills, pauses) = (count(&hits.kills, name), count(&hits.pauses, name));
        writeln!(text, "{name:<18}{kills:>9}{pauses:>9}")?;
    }
    let all = |of: &BTreeMap<String, usize>| of.values().sum::<usize>();
    writeln!(
        text,
        "{:<18}{:>9}{:>9}",
        "all",
        all(&hits.kills),
        all(&hits.pauses)
    )?;
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for violation in violations {
        *kinds.entry(format!("{:?}", violation.kind)).or_default() += 1;
    }
    writeln!(text, "\nviolations: {}", violations.len())?;
    for (kind, count) in kinds {
        writeln!(text, "{kind:<18}{count:>9}")?;
    }
    Ok(())
}
