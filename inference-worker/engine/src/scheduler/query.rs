//! The side of a generation that its consumer sees: text, limits, the stream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::masks::Shared;
use super::plan::Arrival;
use crate::detokenizer::Detokenizer;
use crate::error::Error;
use crate::generation::{Finish, Generation, Item, Usage};
use crate::grammar::Grammar;
use crate::request::Request;
use crate::sampler::{Choice, Choosing};
use crate::tokenizer::Tokenizer;
use crate::wake::Wake;

pub(super) struct Query {
    prompt_tokens: usize,
    max_new_tokens: usize,
    /// Tokens generated, resumed ones included.
    pub(super) generated: usize,
    pub(super) choosing: Choosing,
    /// Where the text is in the format that it must have.
    pub(super) grammar: Option<Shared>,
    stop_ids: Vec<u32>,
    pub(super) compute: Duration,
    pub(super) deadline: Option<Instant>,
    detokenizer: Detokenizer,
    /// Known before the first step where the resumed ids already end the generation.
    finished: Option<Finish>,
    items: mpsc::Sender<Item>,
    cancel: CancellationToken,
    /// Polled once: keeps the scheduler's waker registered with the token.
    _cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Refuses a request that cannot be served.
pub(super) fn check(request: &Request, context: usize, vocabulary: usize) -> Result<(), Error> {
    request.check(vocabulary)?;
    let (prompt, max_new) = (request.prompt.len(), request.max_new_tokens);
    if prompt.saturating_add(max_new) > context {
        return Err(Error::TooLong {
            prompt,
            max_new,
            context,
        });
    }
    if request.generated.len() > max_new {
        let count = request.generated.len();
        return Err(Error::Request {
            field: "generated",
            reason: format!("has {count} ids, max_new_tokens is {max_new}"),
        });
    }
    Ok(())
}

impl Query {
    /// `grammar` is at the beginning of the text.
    ///
    /// # Errors
    /// [`Error::Request`] for resumed ids that the grammar does not allow.
    pub(super) fn new(
        request: Request,
        mut grammar: Option<Grammar>,
        tokenizer: Arc<Tokenizer>,
        wake: Arc<Wake>,
        stream_capacity: usize,
    ) -> Result<(Arrival, Self, Generation), Error> {
        // Full of tokens, it pauses this generation; the place more is kept for the end.
        let (items, receiver) = mpsc::channel(stream_capacity.saturating_add(1));
        let usage = Usage {
            prompt_tokens: request.prompt.len(),
            completion_tokens: request.generated.len(),
        };
        let mut cancelled = Box::pin(request.cancel.clone().cancelled_owned());
        let waker = Waker::from(Arc::clone(&wake));
        // Whether it is cancelled already is asked before the first step.
        let _ = cancelled.as_mut().poll(&mut Context::from_waker(&waker));

        let choosing = Choosing::new(&request);
        let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer), request.stop);
        let mut finished = (request.max_new_tokens == 0).then_some(Finish::Length);
        if is_complete(grammar.as_ref()) {
            finished = Some(Finish::Stop);
        }
        for (at, id) in request.generated.iter().enumerate() {
            let ends = tokenizer.is_eos(*id) || request.stop_ids.contains(id);
            if !ends && let Some(grammar) = &mut grammar {
                grammar.push(*id).map_err(|error| Error::Request {
                    field: "generated",
                    reason: format!("the id {id} at {at}: {error}"),
                })?;
            }
            if ends || detokenizer.push(*id).stopped || is_complete(grammar.as_ref()) {
                finished = Some(Finish::Stop);
                break;
            }
            if at + 1 == request.max_new_tokens {
                finished = Some(Finish::Length);
            }
        }
        let mut ids = request.prompt;
        ids.extend(request.generated);
        let arrival = Arrival {
            owner: request.owner,
            cache_salt: request.cache_salt,
            priority: request.priority,
            since: Instant::now(),
            ids,
            positions: usage.prompt_tokens + request.max_new_tokens,
        };
        let query = Self {
            prompt_tokens: usage.prompt_tokens,
            max_new_tokens: request.max_new_tokens,
            generated: usage.completion_tokens,
            choosing,
            grammar: grammar.map(Shared::new),
            stop_ids: request.stop_ids,
            compute: Duration::ZERO,
            deadline: request.deadline,
            detokenizer,
            finished,
            items,
            cancel: request.cancel,
            _cancelled: cancelled,
        };
        Ok((arrival, query, Generation::new(receiver, wake, usage)))
    }

    /// Why it must end without another step.
    pub(super) fn ended(&self) -> Option<Finish> {
        if self.cancel.is_cancelled() || self.items.is_closed() {
            return Some(Finish::Cancelled);
        }
        if self
            .deadline
            .is_some_and(|deadline| deadline <= Instant::now())
        {
            return Some(Finish::Timeout);
        }
        self.finished.clone()
    }

    /// Whether a token can be sent and a place is left for the end. Only the scheduler sends, so
    /// room does not vanish.
    pub(super) fn has_room(&self) -> bool {
        self.items.capacity() >= 2
    }

    /// Whether the request names this id as an end.
    pub(super) fn stops_at(&self, id: u32) -> bool {
        self.stop_ids.contains(&id)
    }

    /// Sends a token; says whether it was the last.
    ///
    /// # Errors
    /// [`Error::Grammar`] for one that must not follow; it is not sent then.
    pub(super) fn emit(&mut self, choice: Choice) -> Result<Option<Finish>, Error> {
        let complete = match &self.grammar {
            None => false,
            Some(grammar) => {
                let mut grammar = grammar.lock();
                grammar.push(choice.id)?;
                grammar.is_complete()
            }
        };
        let Choice {
            id,
            logprob,
            top_logprobs,
        } = choice;
        self.generated += 1;
        self.choosing.push(id);
        let piece = self.detokenizer.push(id);
        // There is room; a consumer that has gone is noticed before the next step.
        let _ = self.items.try_send(Item::Token {
            id,
            text: piece.text,
            logprob,
            top_logprobs,
        });
        if piece.stopped || complete {
            return Ok(Some(Finish::Stop));
        }
        Ok((self.generated >= self.max_new_tokens).then_some(Finish::Length))
    }

    /// Sends the end.
    pub(super) fn end(mut self, finish: Finish) {
        let usage = Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.generated,
        };
        let text = self.detokenizer.finish();
        let end = Item::End {
            finish,
            text,
            usage,
            compute: self.compute,
        };
        // The reserved place is free; a consumer that has gone needs no end.
        let _ = self.items.try_send(end);
    }
}

fn is_complete(grammar: Option<&Grammar>) -> bool {
    grammar.is_some_and(Grammar::is_complete)
}
