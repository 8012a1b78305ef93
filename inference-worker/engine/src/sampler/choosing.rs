//! How one generation chooses: what its request asks for, and what that makes of its ids so far.

use std::collections::HashMap;

use crate::request::{Request, Sampling};

/// The rules of one generation. They follow from the request and its ids alone, so that those of
/// a resumed generation are those of an uninterrupted one.
#[derive(Debug)]
pub struct Choosing {
    pub(super) sampling: Sampling,
    pub(super) top_logprobs: usize,
    /// Tokens generated, resumed ones included: the index of the next one.
    pub(super) index: u64,
    logit_bias: Vec<(u32, f32)>,
    /// Every id of the prompt, and how often each was generated; empty where no penalty asks.
    seen: HashMap<u32, u32>,
}

impl Choosing {
    /// After the prompt and the ids that were generated already.
    pub fn new(request: &Request) -> Self {
        let mut choosing = Self {
            sampling: request.sampling,
            top_logprobs: request.top_logprobs,
            index: 0,
            logit_bias: request.logit_bias.clone(),
            seen: HashMap::new(),
        };
        if choosing.penalises() {
            choosing
                .seen
                .extend(request.prompt.iter().map(|id| (*id, 0)));
        }
        request.generated.iter().for_each(|id| choosing.push(*id));
        choosing
    }

    /// One more id was generated.
    pub fn push(&mut self, id: u32) {
        self.index += 1;
        if self.penalises() {
            *self.seen.entry(id).or_default() += 1;
        }
    }

    /// What scores are divided by before one is drawn; 1 where none is drawn.
    pub fn temperature(&self) -> f32 {
        match self.sampling.temperature {
            0.0 => 1.0,
            temperature => temperature,
        }
    }

    fn penalises(&self) -> bool {
        let sampling = &self.sampling;
        sampling.repetition_penalty != 1.0
            || sampling.presence_penalty != 0.0
            || sampling.frequency_penalty != 0.0
    }

    /// Whether [`adjust`](Self::adjust) leaves logits as they are.
    pub(super) fn is_neutral(&self) -> bool {
        self.logit_bias.is_empty() && self.seen.is_empty()
    }

    /// Biases and penalties. No id is touched twice by either, so their order does not show.
    pub(super) fn adjust(&self, logits: &mut [f32]) {
        for (id, bias) in &self.logit_bias {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit += bias;
            }
        }
        let sampling = &self.sampling;
        for (id, generated) in &self.seen {
            let Some(logit) = logits.get_mut(*id as usize) else {
                continue;
            };
            match *logit > 0.0 {
                true => *logit /= sampling.repetition_penalty,
                false => *logit *= sampling.repetition_penalty,
            }
            if *generated > 0 {
                *logit -= sampling.frequency_penalty * *generated as f32;
                *logit -= sampling.presence_penalty;
            }
        }
    }
}
