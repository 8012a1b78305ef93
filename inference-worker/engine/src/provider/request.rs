//! A conversation to be answered.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::Card;
use crate::chat_template::Message;
use crate::error::Error;
use crate::generation::Priority;
use crate::grammar::ResponseFormat;
use crate::request::{Sampling, TOP_LOGPROBS, at_most, check_stop, refuse};

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
    /// What the text must be.
    pub response_format: ResponseFormat,
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
            response_format: ResponseFormat::Text,
            logprobs: None,
            deadline: None,
            cancel: CancellationToken::new(),
        }
    }

    /// Refuses what no provider takes, or one with this card does not. Each calls it first.
    ///
    /// # Errors
    /// [`Error::Request`] with the field.
    pub fn check(&self, card: &Card) -> Result<(), Error> {
        if self.messages.is_empty() {
            return refuse("messages", "there is none");
        }
        for message in &self.messages {
            if !["system", "user", "assistant"].contains(&message.role.as_str()) {
                let reason = format!("role `{}` is not known", message.role);
                return refuse("messages", reason);
            }
        }
        if self.max_new_tokens == 0 {
            return refuse("max_new_tokens", "0 is not at least 1");
        }
        self.wishes.over(Sampling::GREEDY).check()?;
        check_stop(&self.stop)?;
        at_most("logprobs", self.logprobs.unwrap_or(0), TOP_LOGPROBS)?;
        let (who, abilities) = (&card.provider, card.abilities);
        if !self.generated.is_empty() && !abilities.resume {
            return refuse("generated", format!("{who} cannot go on after ids"));
        }
        if self.logprobs.is_some() && !abilities.logprobs {
            return refuse("logprobs", format!("{who} does not tell them"));
        }
        if self.response_format != ResponseFormat::Text && !abilities.formats {
            return refuse("response_format", format!("{who} takes text alone"));
        }
        Ok(())
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

impl Wishes {
    /// What is not wished is as it usually is.
    pub(super) fn over(&self, usual: Sampling) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(usual.temperature),
            top_p: self.top_p.unwrap_or(usual.top_p),
            top_k: self.top_k.unwrap_or(usual.top_k),
            min_p: self.min_p.unwrap_or(usual.min_p),
            repetition_penalty: usual.repetition_penalty,
            presence_penalty: self.presence_penalty.unwrap_or(usual.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(usual.frequency_penalty),
            seed: self.seed.unwrap_or(usual.seed),
        }
    }
}
