//! The side of a generation that its consumer sees: text, limits, the stream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::plan::Arrival;
use crate::detokenizer::Detokenizer;
use crate::error::Error;
use crate::generation::{Finish, Generation, Item, Request, Sampling, Usage};
use crate::sampler::Choice;
use crate::tokenizer::Tokenizer;
use crate::wake::Wake;

pub(super) struct Query {
    prompt_tokens: usize,
    max_new_tokens: usize,
    /// Tokens generated, resumed ones included.
    pub(super) generated: usize,
    pub(super) sampling: Sampling,
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
    let refuse = |field, reason: String| Err(Error::Request { field, reason });
    let (prompt, max_new) = (request.prompt.len(), request.max_new_tokens);
    if prompt == 0 {
        return refuse("prompt", "has no ids".into());
    }
    if prompt.saturating_add(max_new) > context {
        return Err(Error::TooLong {
            prompt,
            max_new,
            context,
        });
    }
    if request.generated.len() > max_new {
        let count = request.generated.len();
        return refuse(
            "generated",
            format!("has {count} ids, max_new_tokens is {max_new}"),
        );
    }
    for (field, ids) in [
        ("prompt", &request.prompt),
        ("generated", &request.generated),
    ] {
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            return refuse(
                field,
                format!("id {id} is outside the vocabulary of {vocabulary}"),
            );
        }
    }
    let Sampling {
        temperature, top_p, ..
    } = request.sampling;
    if !(temperature.is_finite() && temperature >= 0.0) {
        return refuse(
            "temperature",
            format!("{temperature} is not a number from 0"),
        );
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return refuse("top_p", format!("{top_p} is not above 0 and at most 1"));
    }
    if request.stop.iter().any(String::is_empty) {
        return refuse("stop", "an empty string would stop everything".into());
    }
    Ok(())
}

impl Query {
    pub(super) fn new(
        request: Request,
        tokenizer: Arc<Tokenizer>,
        wake: Arc<Wake>,
        stream_capacity: usize,
    ) -> (Arrival, Self, Generation) {
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

        let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer), request.stop);
        let mut finished = (request.max_new_tokens == 0).then_some(Finish::Length);
        for (at, id) in request.generated.iter().enumerate() {
            let stopped = tokenizer.is_eos(*id) || detokenizer.push(*id).stopped;
            if stopped {
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
            sampling: request.sampling,
            compute: Duration::ZERO,
            deadline: request.deadline,
            detokenizer,
            finished,
            items,
            cancel: request.cancel,
            _cancelled: cancelled,
        };
        (arrival, query, Generation::new(receiver, wake, usage))
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

    /// Sends a token; says whether it was the last.
    pub(super) fn emit(&mut self, choice: Choice) -> Option<Finish> {
        let Choice { id, logprob } = choice;
        self.generated += 1;
        let piece = self.detokenizer.push(id);
        // There is room; a consumer that has gone is noticed before the next step.
        let _ = self.items.try_send(Item::Token {
            id,
            text: piece.text,
            logprob,
        });
        if piece.stopped {
            return Some(Finish::Stop);
        }
        (self.generated >= self.max_new_tokens).then_some(Finish::Length)
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
