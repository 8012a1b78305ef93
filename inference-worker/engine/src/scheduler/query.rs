//! What one generation asks for beside its ids: limits, rules, the stream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::masks::Shared;
use super::outlet::Outlet;
use super::plan::Arrival;
use crate::detokenizer::Detokenizer;
use crate::error::Error;
use crate::generation::{Finish, Generation, Usage};
use crate::grammar::Grammar;
use crate::request::Request;
use crate::sampler::{Choice, Choosing};
use crate::tokenizer::Tokenizer;
use crate::wake::Wake;

pub(super) struct Query {
    max_new_tokens: usize,
    pub(super) choosing: Choosing,
    /// Where the text is in the format that it must have.
    pub(super) grammar: Option<Shared>,
    stop_ids: Vec<u32>,
    pub(super) deadline: Option<Instant>,
    /// Known before the first step where the resumed ids already end the generation.
    finished: Option<Finish>,
    pub(super) outlet: Arc<Outlet>,
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
            max_new_tokens: request.max_new_tokens,
            choosing,
            grammar: grammar.map(Shared::new),
            stop_ids: request.stop_ids,
            deadline: request.deadline,
            finished,
            outlet: Arc::new(Outlet::new(items, detokenizer, usage)),
            cancel: request.cancel,
            _cancelled: cancelled,
        };
        Ok((arrival, query, Generation::new(receiver, wake, usage)))
    }

    /// Why it must end without another step.
    pub(super) fn ended(&self) -> Option<Finish> {
        if self.cancel.is_cancelled() || self.outlet.is_closed() {
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
        self.choosing.push(choice.id);
        // Where another thread ended it meanwhile, the reason is told already.
        let Some(sent) = self.outlet.send(choice) else {
            return Ok(Some(Finish::Cancelled));
        };
        if sent.stopped || complete {
            return Ok(Some(Finish::Stop));
        }
        Ok((sent.generated >= self.max_new_tokens).then_some(Finish::Length))
    }
}

fn is_complete(grammar: Option<&Grammar>) -> bool {
    grammar.is_some_and(Grammar::is_complete)
}
