//! A request for tokens, and what is refused before anything is computed for it.

use std::collections::HashSet;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::generation::Priority;
use crate::grammar::ResponseFormat;

/// Stop strings of one request at most, and bytes in each.
const STOPS: usize = 32;
const STOP_BYTES: usize = 1_024;
/// Stop ids of one request at most.
const STOP_IDS: usize = 256;
/// Biased ids of one request at most.
const BIASED_IDS: usize = 1_024;
/// Likeliest tokens told beside each token at most.
pub(crate) const TOP_LOGPROBS: usize = 20;

/// How the next token is chosen from the distribution.
///
/// In this order: the request's logit bias, the repetition penalty, the frequency and presence
/// penalties, the response format, the temperature, `min_p`, `top_k`, `top_p`. All of it follows from the request and
/// the ids so far, so a resumed generation chooses as an uninterrupted one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token (the lowest id among equals), and then
    /// `min_p`, `top_k`, `top_p` and `seed` mean nothing. Finite and not negative.
    pub temperature: f32,
    /// Nucleus: the fewest likeliest tokens whose probabilities sum to at least this, in (0, 1];
    /// 1 keeps all (Holtzman et al., 2020, <https://arxiv.org/abs/1904.09751>).
    pub top_p: f32,
    /// Only this many of the likeliest tokens; 0 keeps all. Applied before `top_p`.
    pub top_k: u32,
    /// Only tokens with at least this share of the likeliest one's probability, in [0, 1]; 0 keeps
    /// all (Nguyen et al., 2024, <https://arxiv.org/abs/2407.01082>).
    pub min_p: f32,
    /// Divides positive logits of ids in the prompt or among the generated ones, and multiplies
    /// negative ones, in [0.1, 10]; 1 changes nothing (Keskar et al., 2019,
    /// <https://arxiv.org/abs/1909.05858>).
    pub repetition_penalty: f32,
    /// Taken from the logit of every id generated before, in [-2, 2].
    pub presence_penalty: f32,
    /// Taken from the logit of an id as often as it was generated before, in [-2, 2].
    pub frequency_penalty: f32,
    /// Together with a token's index this alone fixes the random number drawn for that token, so
    /// that the same request gives the same tokens, also when it is resumed midway.
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        seed: 0,
    };
}

/// One generation to run.
#[derive(Debug, Clone)]
pub struct Request {
    /// For whom: the machine's time is shared fairly, by tokens, between owners, not between
    /// generations.
    pub owner: u128,
    /// Only generations with equal salts share what is computed of equal beginnings. Whoever knows
    /// how long an answer took can tell whether its beginning was known, so different users have
    /// different salts.
    pub cache_salt: u128,
    /// Whether it goes before others.
    pub priority: Priority,
    /// Token ids of the prompt, at least one, as [`Engine::chat_prompt`](crate::Engine::chat_prompt)
    /// gives them.
    pub prompt: Vec<u32>,
    /// Ids that an earlier, interrupted run of this very request has already published, in order;
    /// empty for a fresh one. The run goes on after them exactly as an uninterrupted one would:
    /// same ids, same log-probabilities, and the first text emitted is what follows the text that
    /// those ids had made final. They are not emitted again.
    pub generated: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Added to the logits of these ids before anything else; each id once, each bias in
    /// [-100, 100], at most 1,024.
    pub logit_bias: Vec<(u32, f32)>,
    /// How many of the likeliest tokens are told with each token, at most 20.
    pub top_logprobs: usize,
    /// Tokens to generate at most, those in `generated` included.
    pub max_new_tokens: usize,
    /// Texts that end the generation; neither they nor anything after them is emitted. At most 32
    /// of at most 1,024 bytes; empty ones are refused.
    pub stop: Vec<String>,
    /// Ids that end the generation as the model's own end-of-sequence ids do; at most 256.
    pub stop_ids: Vec<u32>,
    /// What the text must be.
    pub response_format: ResponseFormat,
    /// When to give up, whether running or still waiting: ends with
    /// [`Finish::Timeout`](crate::Finish::Timeout).
    pub deadline: Option<Instant>,
    /// Ends the generation with [`Finish::Cancelled`](crate::Finish::Cancelled), whether running,
    /// waiting or paused; it is seen before the next step.
    pub cancel: CancellationToken,
}

impl Request {
    /// A fresh, greedy one that ends by itself or by its length alone.
    pub fn new(prompt: Vec<u32>, max_new_tokens: usize) -> Self {
        Self {
            owner: 0,
            cache_salt: 0,
            priority: Priority::default(),
            prompt,
            generated: Vec::new(),
            sampling: Sampling::GREEDY,
            logit_bias: Vec::new(),
            top_logprobs: 0,
            max_new_tokens,
            stop: Vec::new(),
            stop_ids: Vec::new(),
            response_format: ResponseFormat::Text,
            deadline: None,
            cancel: CancellationToken::new(),
        }
    }

    /// Refuses a field that no model with this vocabulary can serve, whatever its context.
    pub(crate) fn check(&self, vocabulary: usize) -> Result<(), Error> {
        if self.prompt.is_empty() {
            return refuse("prompt", "has no ids");
        }
        let known = |field: &'static str, id: u32| match (id as usize) < vocabulary {
            true => Ok(()),
            false => refuse(
                field,
                format!("id {id} is outside the vocabulary of {vocabulary}"),
            ),
        };
        for (field, ids) in [
            ("prompt", &self.prompt),
            ("generated", &self.generated),
            ("stop_ids", &self.stop_ids),
        ] {
            ids.iter().try_for_each(|id| known(field, *id))?;
        }
        self.sampling.check()?;
        at_most("logit_bias", self.logit_bias.len(), BIASED_IDS)?;
        let mut biased = HashSet::new();
        for (id, bias) in &self.logit_bias {
            known("logit_bias", *id)?;
            within("logit_bias", *bias, -100.0, 100.0)?;
            if !biased.insert(*id) {
                return refuse("logit_bias", format!("has id {id} twice"));
            }
        }
        at_most("top_logprobs", self.top_logprobs, TOP_LOGPROBS)?;
        at_most("stop_ids", self.stop_ids.len(), STOP_IDS)?;
        check_stop(&self.stop)
    }
}

impl Sampling {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Self {
            temperature, top_p, ..
        } = *self;
        if !(temperature.is_finite() && temperature >= 0.0) {
            let reason = format!("{temperature} is not a finite number from 0");
            return refuse("temperature", reason);
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return refuse("top_p", format!("{top_p} is not above 0 and at most 1"));
        }
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.1, 10.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
    }
}

pub(crate) fn check_stop(stop: &[String]) -> Result<(), Error> {
    at_most("stop", stop.len(), STOPS)?;
    for stop in stop {
        if stop.is_empty() {
            return refuse("stop", "an empty string would stop everything");
        }
        if stop.len() > STOP_BYTES {
            let reason = format!("a string has {} bytes, at most {STOP_BYTES}", stop.len());
            return refuse("stop", reason);
        }
    }
    Ok(())
}

pub(crate) fn refuse<T>(field: &'static str, reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::Request {
        field,
        reason: reason.into(),
    })
}

/// A NaN is in no range.
fn within(field: &'static str, value: f32, low: f32, high: f32) -> Result<(), Error> {
    match (low..=high).contains(&value) {
        true => Ok(()),
        false => refuse(field, format!("{value} is not from {low} to {high}")),
    }
}

pub(crate) fn at_most(field: &'static str, count: usize, limit: usize) -> Result<(), Error> {
    match count <= limit {
        true => Ok(()),
        false => refuse(field, format!("{count} is more than {limit}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_out_of_its_range_is_named_with_the_rule() {
        let good = || Request::new(vec![1], 3);
        let sampled = |sampling| Request { sampling, ..good() };
        let greedy = Sampling::GREEDY;
        let biased = |logit_bias| Request {
            logit_bias,
            ..good()
        };
        let stopped = |stop| Request { stop, ..good() };
        let ending = |stop_ids| Request { stop_ids, ..good() };
        #[rustfmt::skip]
        let cases = [
            ("prompt", "has no ids", Request::new(vec![], 3)),
            ("prompt", "id 9 is outside the vocabulary of 9", Request::new(vec![9], 3)),
            ("generated", "id 10 is outside", Request { generated: vec![10], ..good() }),
            ("temperature", "-1 is not a finite number from 0", sampled(Sampling { temperature: -1.0, ..greedy })),
            ("temperature", "NaN", sampled(Sampling { temperature: f32::NAN, ..greedy })),
            ("temperature", "inf", sampled(Sampling { temperature: f32::INFINITY, ..greedy })),
            ("top_p", "0 is not above 0 and at most 1", sampled(Sampling { top_p: 0.0, ..greedy })),
            ("top_p", "1.5", sampled(Sampling { top_p: 1.5, ..greedy })),
            ("top_p", "NaN", sampled(Sampling { top_p: f32::NAN, ..greedy })),
            ("min_p", "-0.1 is not from 0 to 1", sampled(Sampling { min_p: -0.1, ..greedy })),
            ("min_p", "1.1 is not from 0 to 1", sampled(Sampling { min_p: 1.1, ..greedy })),
            ("min_p", "NaN", sampled(Sampling { min_p: f32::NAN, ..greedy })),
            ("repetition_penalty", "0 is not from 0.1 to 10", sampled(Sampling { repetition_penalty: 0.0, ..greedy })),
            ("repetition_penalty", "NaN", sampled(Sampling { repetition_penalty: f32::NAN, ..greedy })),
            ("presence_penalty", "2.5 is not from -2 to 2", sampled(Sampling { presence_penalty: 2.5, ..greedy })),
            ("frequency_penalty", "-3 is not from -2 to 2", sampled(Sampling { frequency_penalty: -3.0, ..greedy })),
            ("logit_bias", "id 9 is outside", biased(vec![(9, 0.0)])),
            ("logit_bias", "101 is not from -100 to 100", biased(vec![(1, 101.0)])),
            ("logit_bias", "NaN", biased(vec![(1, f32::NAN)])),
            ("logit_bias", "has id 1 twice", biased(vec![(1, 1.0), (1, 1.0)])),
            ("logit_bias", "1025 is more than 1024", biased(vec![(1, 1.0); 1_025])),
            ("top_logprobs", "21 is more than 20", Request { top_logprobs: 21, ..good() }),
            ("stop", "an empty string", stopped(vec![String::new()])),
            ("stop", "33 is more than 32", stopped(vec!["a".into(); 33])),
            ("stop", "a string has 1025 bytes, at most 1024", stopped(vec!["a".repeat(1_025)])),
            ("stop_ids", "id 9 is outside", ending(vec![9])),
            ("stop_ids", "257 is more than 256", ending(vec![1; 257])),
        ];
        for (expected, rule, request) in cases {
            match request.check(9) {
                Err(Error::Request { field, reason }) => {
                    assert_eq!(field, expected);
                    assert!(reason.contains(rule), "{field}: {reason}, not {rule}");
                }
                other => panic!("{expected} {rule}: {other:?}"),
            }
        }
        let all = Request {
            generated: vec![8],
            sampling: Sampling {
                temperature: 2.0,
                top_p: 0.5,
                top_k: 4,
                min_p: 1.0,
                repetition_penalty: 10.0,
                presence_penalty: -2.0,
                frequency_penalty: 2.0,
                seed: u64::MAX,
            },
            logit_bias: vec![(0, -100.0), (8, 100.0)],
            top_logprobs: 20,
            stop: vec!["a".repeat(1_024); 32],
            stop_ids: vec![0; 256],
            ..good()
        };
        all.check(9).expect("every field at its bound");
    }
}
