//! The work that everybody does: queries that are submitted, started and completed.

use uuid::Uuid;

/// Characters of a question.
pub const QUESTION: usize = 70;
/// Characters of an answer.
pub const ANSWER: usize = 400;
/// Events of one query: one for each [`Step`].
pub const EVENTS: u64 = 3;

/// What every query is asked to do.
pub const OPERATION: &str = "general";
/// The model that answers.
pub const MODEL: &str = "peer-model";
/// Who works.
pub const WORKER: &str = "peer-worker";

/// Namespace of the ids of queries and their owners.
const NAMESPACE: Uuid = Uuid::from_u128(0x1f2b_9a40_77c1_4e0b_8d55_0c1e_5a7b_92f3);

/// Words of questions and answers. They are drawn at random, so that compression finds as much in
/// them as in anybody's words.
const WORDS: [&str; 48] = [
    "the",
    "log",
    "keeps",
    "every",
    "event",
    "in",
    "order",
    "and",
    "nothing",
    "is",
    "lost",
    "when",
    "a",
    "server",
    "stops",
    "projection",
    "reads",
    "from",
    "its",
    "checkpoint",
    "writes",
    "rows",
    "one",
    "transaction",
    "client",
    "asks",
    "again",
    "with",
    "same",
    "key",
    "gets",
    "first",
    "answer",
    "aggregate",
    "decides",
    "about",
    "command",
    "by",
    "what",
    "has",
    "happened",
    "so",
    "far",
    "stream",
    "follows",
    "query",
    "until",
    "done",
];

/// One of the three commands that each query is given, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its owner asks.
    Submit,
    /// A worker takes it.
    Start,
    /// The worker answers.
    Complete,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Submit, Self::Start, Self::Complete];
}

/// One query, made from its number: the same for all contestants and in every round.
#[derive(Clone, Debug)]
pub struct Task {
    /// The aggregate's id.
    pub query: Uuid,
    /// Who asks.
    pub owner: Uuid,
    /// What, in [`QUESTION`] characters.
    pub question: String,
    /// The answer, in [`ANSWER`] characters.
    pub answer: String,
}

impl Task {
    /// The query of this number.
    pub fn new(number: u64) -> Self {
        let mut seed = number.wrapping_add(1);
        Self {
            query: Uuid::new_v5(&NAMESPACE, format!("query {number}").as_bytes()),
            owner: Uuid::new_v5(&NAMESPACE, format!("owner {number}").as_bytes()),
            question: words(&mut seed, QUESTION, '?'),
            answer: words(&mut seed, ANSWER, '.'),
        }
    }
}

/// Random words, exactly `length` characters with the mark at their end.
fn words(seed: &mut u64, length: usize, mark: char) -> String {
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        // Knuth's MMIX generator; its high bits are the good ones.
        *seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        text.push_str(WORDS[(*seed >> 33) as usize % WORDS.len()]);
        text.push(' ');
    }
    text.truncate(length - 1);
    text.push(mark);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_the_same_every_time_and_another_for_each_number() {
        let (task, again, other) = (Task::new(7), Task::new(7), Task::new(8));
        assert_eq!(task.question.len(), QUESTION);
        assert_eq!(task.answer.len(), ANSWER);
        assert_eq!((task.query, &task.answer), (again.query, &again.answer));
        assert_ne!(task.query, other.query);
        assert_ne!(task.answer, other.answer);
    }
}
