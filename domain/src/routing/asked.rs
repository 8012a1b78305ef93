//! What a query needs of a model.

use super::rules::Operation;
use crate::{
    account::Tier,
    query::{Complexity, Options, Submission},
    wire::worker::Abilities,
};
use std::fmt;

/// Bytes of text that usually make a token.
const BYTES_PER_TOKEN: usize = 4;
/// Bytes of text that a token makes at most, so that a model is never refused which might do.
const MOST_BYTES_PER_TOKEN: usize = 32;

/// A query, as far as it matters which model answers.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    pub(super) model: Option<&'a str>,
    pub(super) operation: Operation,
    pub(super) complexity: Complexity,
    /// Known where a rule asks for it.
    pub(super) tier: Option<Tier>,
    /// Tokens of prompt and answer, as far as they can be known without a tokenizer.
    pub(super) tokens: u64,
    pub(super) needs: Needs,
}

/// What a model must be able to do.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    logprobs: bool,
    format: bool,
    /// The prompt has more tokens than this, whatever the tokenizer.
    least_tokens: u64,
}

/// Why a model cannot answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It does not tell log-probabilities.
    Logprobs,
    /// It does not keep to a format.
    Format,
    /// The prompt has more tokens than fit.
    Context {
        /// Tokens that fit.
        context: u32,
        /// Tokens that the prompt has at least.
        least: u64,
    },
}

impl<'a> Asked<'a> {
    /// What this submission asks for; `tier` is its owner's.
    pub fn new(submission: &'a Submission, tier: Option<Tier>) -> Self {
        let options = submission.options.as_deref();
        let bytes = bytes(submission);
        let wanted = options.and_then(|options| options.max_tokens).unwrap_or(0);
        let tokens = bytes.div_ceil(BYTES_PER_TOKEN) as u64;
        Self {
            model: options.and_then(|options| options.model.as_deref()),
            operation: Operation::of(&submission.operation),
            complexity: Complexity::of(submission),
            tier,
            tokens: tokens.saturating_add(wanted.into()),
            needs: Needs::of(submission),
        }
    }
}

impl Needs {
    /// Those of a submission.
    pub fn of(submission: &Submission) -> Self {
        let options = submission.options.as_deref();
        Self {
            logprobs: options.is_some_and(|options| options.logprobs.is_some()),
            format: options.is_some_and(|options| options.format.is_some()),
            least_tokens: (bytes(submission) / MOST_BYTES_PER_TOKEN) as u64,
        }
    }

    /// What stands against a model that can do this, if anything does.
    pub fn obstacle(&self, abilities: Abilities, context: Option<u32>) -> Option<Obstacle> {
        if self.logprobs && !abilities.logprobs {
            return Some(Obstacle::Logprobs);
        }
        if self.format && !abilities.format {
            return Some(Obstacle::Format);
        }
        let (context, least) = (context?, self.least_tokens);
        (u64::from(context) <= least).then_some(Obstacle::Context { context, least })
    }
}

fn bytes(submission: &Submission) -> usize {
    let texts = conversation(submission).map(str::len);
    texts.fold(0, usize::saturating_add)
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Logprobs => f.write_str("tells no log-probabilities"),
            Self::Format => f.write_str("keeps to no format"),
            Self::Context { context, least } => write!(
                f,
                "its context of {context} tokens is shorter than the prompt of at least {least}"
            ),
        }
    }
}

/// The texts that a model reads.
pub(super) fn conversation(submission: &Submission) -> impl Iterator<Item = &str> {
    let messages: &[_] = match submission.options.as_deref() {
        Some(Options { messages, .. }) => messages,
        None => &[],
    };
    let alone = messages.is_empty().then_some(submission.text.as_str());
    let messages = messages.iter().map(|message| message.content.as_str());
    messages.chain(alone)
}
