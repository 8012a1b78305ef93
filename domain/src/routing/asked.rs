//! What a query needs of a model.

use crate::{
    account::Tier,
    query::{Complexity, Options, Submission},
};

use super::rules::Operation;

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
    /// The prompt has more tokens than this, whatever the tokenizer.
    pub(super) least_tokens: u64,
    pub(super) logprobs: bool,
    pub(super) format: bool,
}

impl<'a> Asked<'a> {
    /// What this submission asks for; `tier` is its owner's.
    pub fn new(submission: &'a Submission, tier: Option<Tier>) -> Self {
        let options = submission.options.as_deref();
        let bytes = conversation(submission)
            .map(str::len)
            .fold(0, usize::saturating_add);
        let wanted = options.and_then(|options| options.max_tokens).unwrap_or(0);
        let tokens = bytes.div_ceil(BYTES_PER_TOKEN) as u64;
        Self {
            model: options.and_then(|options| options.model.as_deref()),
            operation: Operation::of(&submission.operation),
            complexity: Complexity::of(submission),
            tier,
            tokens: tokens.saturating_add(wanted.into()),
            least_tokens: (bytes / MOST_BYTES_PER_TOKEN) as u64,
            logprobs: options.is_some_and(|options| options.logprobs.is_some()),
            format: options.is_some_and(|options| options.format.is_some()),
        }
    }

    /// Tokens that the conversation has at least, whatever the model's words are.
    pub const fn least_tokens(&self) -> u64 {
        self.least_tokens
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
