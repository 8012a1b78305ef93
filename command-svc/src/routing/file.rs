//! The file of rules.

use domain::routing::{Rule, Rules};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The rules of the tree.
const BUILT_IN: &str = include_str!("default.toml");
/// Bytes of a file of rules at most.
const FILE_BYTES: u64 = 1 << 20;

/// Rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is out of reach.
    #[error("the rules in {path} cannot be read")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no file of rules.
    #[error("the rules in {path} are too large: at most {FILE_BYTES} bytes")]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// Something in it is wrong.
    #[error("the rules in {path} are not valid, line {line}: {reason}")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What: the field and the rule that it breaks.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Spanned<Rule>>,
}

/// The rules of this file, or those of the tree.
///
/// # Errors
/// See [`Error`].
pub fn load(path: Option<&Path>) -> Result<Rules, Error> {
    let Some(path) = path else {
        return read(Path::new("default.toml"), BUILT_IN);
    };
    let unreadable = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES {
        let path = path.to_owned();
        return Err(Error::TooLarge { path });
    }
    read(path, &std::fs::read_to_string(path).map_err(unreadable)?)
}

fn read(path: &Path, text: &str) -> Result<Rules, Error> {
    let line = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let invalid = |at, reason| Error::Invalid {
        path: path.to_owned(),
        line: line(at),
        reason,
    };
    let file: File = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        invalid(at, field_at(text, at) + error.message())
    })?;
    let starts: Vec<usize> = file.rule.iter().map(|rule| rule.span().start).collect();
    let rules = file.rule.into_iter().map(Spanned::into_inner).collect();
    Rules::new(rules).map_err(|problem| {
        let at = starts.get(problem.rule).copied().unwrap_or(0);
        invalid(at, problem.to_string())
    })
}

/// The key before this place on its line, where there is one, as a prefix of what is wrong with it.
fn field_at(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    match line.split_once('=') {
        Some((key, _)) => format!("{}: ", key.trim()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_the_tree_are_good() {
        load(None).expect("good rules");
    }

    #[test]
    fn a_bad_file_is_refused_with_line_field_and_rule() {
        let refused = |text: &str| match read(Path::new("rules.toml"), text) {
            Err(error @ Error::Invalid { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        };
        let start = "the rules in rules.toml are not valid, line ";
        let good = "[[rule]]\nname = \"a\"\nmodels = [\"*\"]\n";
        for (text, line, words) in [
            ("", 1, "rule: there is none"),
            ("[[rule]\n", 1, ""),
            (&format!("{good}chose = \"first\"\n"), 4, "chose"),
            (&format!("{good}choose = \"best\"\n"), 4, "choose: "),
            (
                &format!("{good}complexity = [\"hard\"]\n"),
                4,
                "complexity: ",
            ),
            (&format!("{good}min_tokens = -1\n"), 4, "min_tokens: "),
            (&format!("{good}[[rule]]\nname = \"b\"\n"), 4, "models"),
            (&format!("{good}{good}"), 4, "name: `a` is taken"),
            (
                &format!("{good}max_tokens = 1\nmin_tokens = 2\n"),
                1,
                "max_tokens: it is below",
            ),
        ] {
            let error = refused(text);
            let expected = format!("{start}{line}: ");
            assert!(
                error.starts_with(&expected) && error.contains(words),
                "{error}\n{text}"
            );
        }
        let nowhere = load(Some(Path::new("/nowhere/rules.toml")));
        assert!(matches!(nowhere, Err(Error::Read { .. })), "{nowhere:?}");
    }
}
