use super::{
    super::{Error, Exit, Output, Table},
    Commit,
    commits::Named,
    mask::{is_secret, masked},
    state::{fold, until},
};
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeSet, fmt};

#[derive(Debug, Serialize)]
struct Report {
    subject: String,
    kind: &'static str,
    id: uuid::Uuid,
    from: u64,
    to: u64,
    changes: Vec<Change>,
}

/// One place where two states differ.
#[derive(Debug, PartialEq, Serialize)]
struct Change {
    /// JSON pointer (RFC 6901).
    path: String,
    change: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Added,
    Removed,
    Changed,
}

pub(super) fn run(
    named: &Named,
    commits: &[Commit],
    from: u64,
    to: u64,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    let before = fold(named, until(commits, from))?;
    let after = fold(named, until(commits, to))?;
    let mut changes = Vec::new();
    compare("", Some(&before), Some(&after), false, &mut changes);
    let report = Report {
        subject: named.subject.clone(),
        kind: named.aggregate.kind.as_str(),
        id: named.aggregate.id,
        from,
        to,
        changes,
    };
    output.report(&report);
    Ok(Exit::well_if(report.changes.is_empty()))
}

/// Lists where two documents differ. What is secret is compared, but not shown.
fn compare(
    path: &str,
    before: Option<&Value>,
    after: Option<&Value>,
    secret: bool,
    changes: &mut Vec<Change>,
) {
    if before == after {
        return;
    }
    match (before, after) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for name in names {
                let token = name.replace('~', "~0").replace('/', "~1");
                compare(
                    &format!("{path}/{token}"),
                    before.get(name),
                    after.get(name),
                    secret || is_secret(name),
                    changes,
                );
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            for index in 0..before.len().max(after.len()) {
                let path = format!("{path}/{index}");
                compare(&path, before.get(index), after.get(index), secret, changes);
            }
        }
        (before, after) => {
            let shown = |value: &Value| match secret {
                true => Value::from("***"),
                false => masked(value.clone()),
            };
            changes.push(Change {
                path: path.to_owned(),
                change: match (before, after) {
                    (None, _) => Kind::Added,
                    (_, None) => Kind::Removed,
                    _ => Kind::Changed,
                },
                before: before.map(shown),
                after: after.map(shown),
            });
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}\nfrom sequence {} to {}\n",
            self.subject, self.from, self.to
        )?;
        if self.changes.is_empty() {
            return writeln!(f, "no difference");
        }
        let mut table = Table::new(&["path", "change", "before", "after"]);
        for change in &self.changes {
            let text = |value: &Option<Value>| value.as_ref().map(Value::to_string);
            table.row([
                if change.path.is_empty() {
                    "(all)".into()
                } else {
                    change.path.clone()
                },
                format!("{:?}", change.change).to_lowercase(),
                text(&change.before).unwrap_or_default(),
                text(&change.after).unwrap_or_default(),
            ]);
        }
        write!(f, "{table}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_what_was_added_removed_and_changed() {
        let before = json!({ "a": 1, "b": { "password_hash": "x" }, "c": [1, 2], "d/e": true });
        let after = json!({ "a": 2, "b": { "password_hash": "y" }, "c": [1], "f": null });
        let mut changes = vec![];
        compare("", Some(&before), Some(&after), false, &mut changes);
        let shown: Vec<_> = changes
            .iter()
            .map(|change| (change.path.as_str(), change.change, change.before.clone()))
            .collect();
        assert_eq!(
            shown,
            [
                ("/a", Kind::Changed, Some(json!(1))),
                ("/b/password_hash", Kind::Changed, Some(json!("***"))),
                ("/c/1", Kind::Removed, Some(json!(2))),
                ("/d~1e", Kind::Removed, Some(json!(true))),
                ("/f", Kind::Added, None),
            ]
        );
    }
}
