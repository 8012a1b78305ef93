//! How much work a question is taken for, by its length, its files and its wording.

use super::{Operation, asked::conversation};
use crate::query::{Complexity, Submission};

/// A conversation of fewer characters may be simple.
const SHORT: usize = 300;
/// One of so many characters is complex.
const LONG: usize = 2_000;
/// So many tasks in one question are complex.
const MANY_TASKS: usize = 3;

/// Words that ask for more than a fact.
const DEMANDING: [&str; 20] = [
    "analyse",
    "analyze",
    "argue",
    "assess",
    "compare",
    "contrast",
    "critique",
    "debug",
    "derive",
    "design",
    "evaluate",
    "implement",
    "justify",
    "optimise",
    "optimize",
    "prove",
    "refactor",
    "rewrite",
    "summarise",
    "summarize",
];

impl Complexity {
    /// Of a question: complex with files, at 2,000 characters of conversation or with three tasks;
    /// simple below 300 characters with one task at most. A question mark, an item of a list and a
    /// demanding word count as a task each. An analysis is never simple.
    pub fn of(submission: &Submission) -> Self {
        let characters = conversation(submission)
            .map(|text| text.chars().count())
            .fold(0, usize::saturating_add);
        let tasks = tasks(&submission.text);
        if !submission.file_ids.is_empty() || characters >= LONG || tasks >= MANY_TASKS {
            return Self::Complex;
        }
        let analysis = Operation::of(&submission.operation) == Operation::Analysis;
        match characters < SHORT && tasks <= 1 && !analysis {
            true => Self::Simple,
            false => Self::Moderate,
        }
    }
}

fn tasks(text: &str) -> usize {
    let marks = text.chars().filter(|c| matches!(c, '?' | '？' | '؟'));
    let items = text.lines().filter(|line| is_item(line.trim_start()));
    let words = text.split(|c: char| !c.is_alphanumeric());
    let demanding =
        words.filter(|word| DEMANDING.iter().any(|each| word.eq_ignore_ascii_case(each)));
    marks.count() + items.count() + demanding.count()
}

/// `- a`, `* a`, `• a`, `1. a`, `2) a`
fn is_item(line: &str) -> bool {
    let after = match line.strip_prefix(['-', '*', '•']) {
        Some(after) => after,
        None => {
            let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
            match rest.strip_prefix(['.', ')']) {
                Some(after) if rest.len() < line.len() => after,
                _ => return false,
            }
        }
    };
    after.starts_with([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::{
        Options,
        options::{Message, Role},
    };

    fn of(text: &str) -> Complexity {
        Complexity::of(&Submission {
            text: text.into(),
            operation: "general".into(),
            ..Submission::default()
        })
    }

    #[test]
    fn length_files_and_wording_decide() {
        let cases = [
            ("Why is the sky blue?", Complexity::Simple),
            ("Compare tea with coffee", Complexity::Simple),
            ("Why is the sky blue? And the sea?", Complexity::Moderate),
            (
                "Compare tea with coffee: which is better?",
                Complexity::Moderate,
            ),
            ("Compare, contrast and SUMMARISE both", Complexity::Complex),
            ("Do this:\n1. wash\n2) dry\n- iron", Complexity::Complex),
            // Neither a range nor a number makes a list.
            ("From -1 to 2.5\n-1\n3.5", Complexity::Simple),
        ];
        for (text, complexity) in cases {
            assert_eq!(of(text), complexity, "{text}");
        }
        assert_eq!(of(&"a".repeat(SHORT)), Complexity::Moderate);
        assert_eq!(of(&"ä".repeat(LONG - 1)), Complexity::Moderate);
        assert_eq!(of(&"ä".repeat(LONG)), Complexity::Complex);
    }

    #[test]
    fn files_earlier_messages_and_the_operation_count() {
        let mut asked = Submission {
            text: "Why?".into(),
            operation: "analysis".into(),
            ..Submission::default()
        };
        assert_eq!(Complexity::of(&asked), Complexity::Moderate);
        asked.operation = "poetry".into();
        assert_eq!(Complexity::of(&asked), Complexity::Simple);
        let message = Message {
            role: Role::User,
            content: "a".repeat(LONG),
        };
        asked.options = Some(Box::new(Options {
            messages: vec![message],
            ..Options::default()
        }));
        assert_eq!(Complexity::of(&asked), Complexity::Complex);
        asked.options = None;
        asked.file_ids = vec!["f".into()];
        assert_eq!(Complexity::of(&asked), Complexity::Complex);
    }
}
