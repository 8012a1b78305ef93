//! The table.

use crate::contest::Figures;

/// Versions of what is compared, as this workspace has locked them.
const LOCK: &str = include_str!("../Cargo.lock");

/// The version of a crate.
pub fn version(of: &str) -> &'static str {
    let package = format!("name = \"{of}\"");
    LOCK.lines()
        .skip_while(|line| *line != package)
        .find_map(|line| line.strip_prefix("version = \""))
        .map_or("?", |version| version.trim_end_matches('"'))
}

/// A contestant's name and its runs.
pub struct Entry {
    /// What it is.
    pub name: String,
    /// One element per round.
    pub runs: Vec<Figures>,
}

/// Ours is the first entry; the others are compared with it.
pub fn table(entries: &[Entry]) -> String {
    const HEAD: [&str; 8] = [
        "",
        "commands/s",
        "p50 ms",
        "p99 ms",
        "projected events/s",
        "replayed events/s",
        "conflicts/1000",
        "audit",
    ];
    let mut lines = vec![HEAD.map(str::to_owned)];
    for entry in entries {
        let audit = match faults(entry).len() {
            0 => "exact".to_owned(),
            faults => format!("{faults} faults"),
        };
        let [commands, p50, p99, projected, replayed, conflicts] = medians(entry);
        lines.push([
            entry.name.clone(),
            format!("{commands:.0}"),
            format!("{p50:.2}"),
            format!("{p99:.2}"),
            or_none(projected, |projected| format!("{projected:.0}")),
            or_none(replayed, |replayed| format!("{replayed:.0}")),
            format!("{conflicts:.0}"),
            audit,
        ]);
    }
    if let Some((ours, theirs)) = entries.split_first() {
        let own = medians(ours);
        for entry in theirs {
            let other = medians(entry);
            let ratio = |figure: usize| format!("{:.2}", own[figure] / other[figure]);
            lines.push([
                format!("ours / {}", entry.name),
                ratio(0),
                ratio(1),
                ratio(2),
                or_none(own[3] / other[3], |ratio| format!("{ratio:.2}")),
                or_none(own[4] / other[4], |ratio| format!("{ratio:.2}")),
                String::new(),
                String::new(),
            ]);
        }
    }
    let mut text = aligned(&lines);
    for entry in entries {
        for fault in faults(entry) {
            text.push_str(&format!("{}: {fault}\n", entry.name));
        }
    }
    text
}

/// What was lost, doubled or wrong in any round.
pub fn faults(entry: &Entry) -> Vec<String> {
    let rounds = entry.runs.iter().enumerate();
    rounds
        .flat_map(|(round, run)| {
            let faults = run.faults.iter();
            faults.map(move |fault| format!("round {}: {fault}", round + 1))
        })
        .collect()
}

fn or_none(figure: f64, write: impl Fn(f64) -> String) -> String {
    if figure.is_nan() {
        "none".to_owned()
    } else {
        write(figure)
    }
}

fn medians(entry: &Entry) -> [f64; 6] {
    let of = |figure: fn(&Figures) -> f64| median(entry.runs.iter().map(figure).collect());
    [
        of(|run| run.commands),
        of(|run| run.p50),
        of(|run| run.p99),
        of(|run| run.projected.unwrap_or(f64::NAN)),
        of(|run| run.replayed.unwrap_or(f64::NAN)),
        of(|run| run.conflicts),
    ]
}

/// Of the runs that have the figure.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.retain(|figure| !figure.is_nan());
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The first column to the left, the others to the right.
fn aligned<const COLUMNS: usize>(lines: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in lines {
        for (place, (width, cell)) in widths.iter().zip(line).enumerate() {
            if place == 0 {
                text.push_str(&format!("{cell:<width$}"));
            } else {
                text.push_str(&format!(" | {cell:>width$}"));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(commands: f64, later: Option<f64>, faults: &[&str]) -> Figures {
        Figures {
            commands,
            p50: 1.0,
            p99: 2.0,
            projected: later,
            replayed: later,
            conflicts: 0.0,
            faults: faults.iter().map(|fault| (*fault).to_owned()).collect(),
        }
    }

    #[test]
    fn medians_ratios_and_faults_are_told() {
        let ours = Entry {
            name: "ours".into(),
            runs: [900.0, 1000.0, 5000.0]
                .map(|rate| run(rate, Some(10.0), &[]))
                .to_vec(),
        };
        let theirs = Entry {
            name: "theirs".into(),
            runs: vec![
                run(250.0, None, &["2 rows are missing"]),
                run(250.0, Some(5.0), &[]),
            ],
        };
        let table = table(&[ours, theirs]);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].contains("1000") && lines[1].contains("exact"));
        // The figure of the run that has it.
        assert!(lines[2].contains(" 5 ") && lines[2].contains("1 faults"));
        assert!(lines[3].starts_with("ours / theirs") && lines[3].contains("4.00"));
        assert!(lines[3].contains("2.00"));
        assert_eq!(lines[4], "theirs: round 1: 2 rows are missing");
    }

    #[test]
    fn versions_come_from_the_lock_file() {
        assert!(version("cqrs-es").starts_with("0."));
        assert_eq!(version("no-such-crate"), "?");
    }
}
