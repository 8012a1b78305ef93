//! A conversation to be answered.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::chat_template::Message;
use crate::generation::Priority;

/// One answer to give.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    /// What is asked, the same for every run: where no seed is wished, random numbers follow from
    /// it, so that a resumed run chooses as an uninterrupted one.
    pub id: u128,
    /// For whom: time is shared between owners, and nothing of one owner's prompts is used for
    /// another's.
    pub owner: u128,
    /// Whether it goes before others.
    pub priority: Priority,
    /// The conversation, at least one message.
    pub messages: Vec<Message>,
    /// Ids that an earlier run of this request has published, in order. Only for a provider that
    /// can resume; others refuse them.
    pub generated: Vec<u32>,
    /// Tokens of the answer at most, those in `generated` included; fewer where the context leaves
    /// no more room.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub wishes: Wishes,
    /// Texts that end the answer; neither they nor anything after them is given.
    pub stop: Vec<String>,
    /// Tell each token with its log-probability, and so many of the likeliest ones beside it.
    pub logprobs: Option<usize>,
    /// When to give up, however far it is: ends with [`Finish::Timeout`](crate::Finish::Timeout).
    pub deadline: Option<Instant>,
    /// Ends it with [`Finish::Cancelled`](crate::Finish::Cancelled).
    pub cancel: CancellationToken,
}

impl ChatRequest {
    /// Without wishes and without an end but its own or its length.
    pub fn new(messages: Vec<Message>, max_new_tokens: usize) -> Self {
        Self {
            id: 0,
            owner: 0,
            priority: Priority::default(),
            messages,
            generated: Vec::new(),
            max_new_tokens,
            wishes: Wishes::default(),
            stop: Vec::new(),
            logprobs: None,
            deadline: None,
            cancel: CancellationToken::new(),
        }
    }
}

/// How tokens are to be chosen; ranges are those of [`Sampling`](crate::Sampling). What is not said
/// is the provider's own choice; what it cannot keep, it refuses.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wishes {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: Option<f32>,
    /// The fewest likeliest tokens whose probabilities sum to at least this.
    pub top_p: Option<f32>,
    /// Only this many of the likeliest tokens; 0 keeps all.
    pub top_k: Option<u32>,
    /// Only tokens with at least this share of the likeliest one's probability.
    pub min_p: Option<f32>,
    /// Taken from the logit of every token generated before.
    pub presence_penalty: Option<f32>,
    /// Taken from a token's logit as often as it was generated before.
    pub frequency_penalty: Option<f32>,
    /// Added to the logits of these ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// Fixes the random numbers.
    pub seed: Option<u64>,
}
