//! The engine of this process as a provider.

use futures_util::stream;

use super::{Abilities, Alternative, Answer, Card, ChatRequest, End, Item, Load, Provider, Token};
use crate::calibration::Calibration;
use crate::engine::Engine;
use crate::error::Error;
use crate::generation::{self, Generation, TopLogprob};
use crate::kv::BLOCK;
use crate::request::{Request, Sampling};

/// An engine behind the promises that all providers keep. Clones share the engine.
#[derive(Debug, Clone)]
pub struct Local {
    engine: Engine,
    card: Card,
}

impl Local {
    /// With the engine's model.
    pub fn new(engine: Engine) -> Self {
        let model = engine.model();
        let card = Card {
            model: model.id.clone(),
            provider: "engine".into(),
            context: Some(model.context_length),
            abilities: Abilities {
                logprobs: true,
                resume: true,
                formats: true,
                demo: model.demo,
            },
        };
        Self { engine, card }
    }

    /// Greedy suits the demo model, whose answers are learnt by heart.
    fn sampling(&self, request: &ChatRequest) -> Sampling {
        let greedy = Sampling {
            // The low bits of an id are as random as the whole.
            seed: request.id as u64,
            ..Sampling::GREEDY
        };
        request.wishes.over(match self.card.abilities.demo {
            true => greedy,
            false => Sampling {
                temperature: 0.7,
                top_p: 0.95,
                ..greedy
            },
        })
    }

    fn item(&self, item: generation::Item, tell: bool) -> Item {
        match item {
            generation::Item::Token {
                id,
                text,
                logprob,
                top_logprobs,
            } => Item::Text {
                text,
                tokens: vec![Token {
                    id: Some(id),
                    logprob,
                    bytes: match tell {
                        true => self.engine.token_bytes(id),
                        false => Vec::new(),
                    },
                    top: top_logprobs.into_iter().map(|top| self.top(top)).collect(),
                }],
            },
            generation::Item::End {
                finish,
                text,
                usage,
                compute,
            } => Item::End(End {
                finish,
                text,
                usage: Some(usage),
                model: self.card.model.clone(),
                compute,
            }),
        }
    }

    fn top(&self, top: TopLogprob) -> Alternative {
        Alternative {
            bytes: self.engine.token_bytes(top.id),
            logprob: top.logprob,
        }
    }
}

impl Provider for Local {
    fn card(&self) -> &Card {
        &self.card
    }

    fn load(&self) -> Load {
        let (running, free_blocks) = self.engine.in_hand();
        Load {
            running,
            free_tokens: Some(free_blocks * BLOCK),
        }
    }

    fn calibration(&self) -> Option<Calibration> {
        self.engine.calibration()
    }

    fn answer(&self, request: ChatRequest) -> Result<Answer, Error> {
        request.check(&self.card)?;
        let sampling = self.sampling(&request);
        let prompt = self.engine.chat_prompt(&request.messages)?;
        let context = self.engine.model().context_length;
        let room = context.saturating_sub(prompt.len());
        if room == 0 {
            return Err(Error::TooLong {
                prompt: prompt.len(),
                max_new: 1,
                context,
            });
        }
        let tell = request.logprobs.is_some();
        let generation = self.engine.submit(Request {
            owner: request.owner,
            cache_salt: request.owner,
            priority: request.priority,
            prompt,
            generated: request.generated,
            sampling,
            logit_bias: request.wishes.logit_bias,
            top_logprobs: request.logprobs.unwrap_or(0),
            max_new_tokens: request.max_new_tokens.min(room),
            stop: request.stop,
            stop_ids: Vec::new(),
            response_format: request.response_format,
            deadline: request.deadline,
            cancel: request.cancel,
        })?;
        let this = self.clone();
        let next = move |mut generation: Generation| {
            let this = this.clone();
            async move {
                let item = generation.next().await?;
                Some((this.item(item, tell), generation))
            }
        };
        Ok(Answer::new(stream::unfold(generation, next)))
    }
}
