//! The read models: every row is what the events make of it, and there are no others.

use crate::history::{History, Kind, Violation, fold::fold, rows::Row};
use serde_json::Value;

pub fn check(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut say = |kind, what: String| found.push(Violation::new(kind, what));
    for (name, wanted) in &fold(&history.log).0 {
        let empty = Default::default();
        let rows = history.rows.0.get(name).unwrap_or(&empty);
        for (id, wanted) in wanted {
            match rows.get(id) {
                None => say(Kind::RowMissing, format!("{name} {id}")),
                Some(row) => {
                    for column in differences(wanted, row) {
                        let (wanted, row) = (&wanted[column], row.get(column));
                        let what = format!("{name} {id}: {column} is {row:?}, not {wanted}");
                        say(Kind::RowWrong, what);
                    }
                }
            }
        }
        for id in rows.keys().filter(|id| !wanted.contains_key(id)) {
            say(Kind::RowExtra, format!("{name} {id}"));
        }
    }
    found
}

/// The columns that differ. Those that no event speaks of are not looked at.
fn differences<'a>(wanted: &'a Row, row: &Row) -> Vec<&'a String> {
    let differs = |(column, value): &(&String, &Value)| {
        let stored = row.get(*column).unwrap_or(&Value::Null);
        !same(value, stored)
    };
    let differing = wanted.iter().filter(differs);
    differing.map(|(column, _)| column).collect()
}

/// Equal, where the database writes floating numbers in its own way.
fn same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) if one.fract() != 0.0 => {
            (one - other).abs() <= f64::EPSILON * one.abs()
        }
        // Milliseconds and sequences are whole numbers that these hold exactly.
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}
