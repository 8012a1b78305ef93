//! The thread: step after step.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::masks::Masks;
use super::plan::{Part, Planner, Ticket};
use super::query::Query;
use super::watchdog::Pulse;
use super::{Inbox, Queue};
use crate::backend::{Backend, Run, Summary};
use crate::engine::Options;
use crate::error::Error;
use crate::generation::Finish;
use crate::sampler::Sampler;
use crate::tokenizer::Tokenizer;

pub(super) struct Worker {
    inbox: Arc<Inbox>,
    pulse: Arc<Pulse>,
    backend: Box<dyn Backend>,
    tokenizer: Arc<Tokenizer>,
    sampler: Sampler,
    masks: Masks,
    /// Of the latest step: all scores, or a summary of those of each part that wanted them.
    logits: Vec<f32>,
    summaries: Vec<Summary>,
    planner: Planner,
    /// All that the planner knows, waiting and active.
    queries: BTreeMap<Ticket, Query>,
}

impl Worker {
    pub(super) fn new(
        inbox: Arc<Inbox>,
        pulse: Arc<Pulse>,
        backend: Box<dyn Backend>,
        tokenizer: Arc<Tokenizer>,
        options: &Options,
    ) -> Result<Self, Error> {
        let (max_active, step_tokens) = (options.max_active.get(), options.step_tokens.get());
        Ok(Self {
            inbox,
            pulse,
            planner: Planner::new(backend.blocks(), max_active, step_tokens),
            backend,
            tokenizer,
            sampler: Sampler::default(),
            masks: Masks::start(max_active)?,
            logits: Vec::new(),
            summaries: Vec::new(),
            queries: BTreeMap::new(),
        })
    }

    /// Until the inbox is closed, or the backend is lost.
    pub(super) fn run(mut self) {
        self.inbox.wake.adopt_current_thread();
        while !self.inbox.is_lost() && self.receive() {
            self.end_ended();
            let queries = &self.queries;
            let parts = self.planner.plan(Instant::now(), |ticket| {
                queries
                    .get(&ticket)
                    .is_some_and(|query| query.outlet.has_room())
            });
            self.inbox.queue().count(&self.planner);
            match parts.is_empty() {
                true => self.park(),
                false => self.step(&parts),
            }
        }
    }

    /// Takes what was submitted; false when the inbox is closed.
    fn receive(&mut self) -> bool {
        let mut queue = self.inbox.queue();
        if queue.closed {
            return false;
        }
        let Queue { arrived, taken, .. } = &mut *queue;
        for (arrival, query) in arrived.drain(..) {
            let ticket = self.planner.add(arrival);
            taken.insert(ticket, Arc::clone(&query.outlet));
            self.queries.insert(ticket, query);
        }
        true
    }

    /// Ends those that are cancelled, late, or complete without another step.
    fn end_ended(&mut self) {
        let ended: Vec<(Ticket, Finish)> = self
            .queries
            .iter()
            .filter_map(|(ticket, query)| Some((*ticket, query.ended()?)))
            .collect();
        for (ticket, finish) in ended {
            self.end(ticket, finish);
        }
    }

    fn step(&mut self, parts: &[Part]) {
        let _step = self.pulse.step();
        let began = Instant::now();
        match (self.compute(parts), parts) {
            (Ok(()), _) => self.choose(parts, began.elapsed()),
            // Nobody is at fault, and nobody can go on here.
            (Err(Error::Device(reason)), _) => self.lose(reason),
            (Err(error), [part]) => self.fail(part.ticket, &error),
            // One of them is at fault; alone, each finds out for itself.
            (Err(_), parts) => {
                for part in parts.chunks(1) {
                    self.step(part);
                }
            }
        }
    }

    fn compute(&mut self, parts: &[Part]) -> Result<(), Error> {
        let runs: Vec<Run<'_>> = parts
            .iter()
            .filter_map(|part| self.planner.run(part))
            .collect();
        let mut temperatures = Vec::new();
        let last = parts.iter().filter(|part| part.last);
        for query in last.filter_map(|part| self.queries.get(&part.ticket)) {
            if let Some(grammar) = &query.grammar {
                self.masks.ask(grammar);
            }
            temperatures.push(query.choosing.temperature());
        }
        let (backend, logits) = (&mut self.backend, &mut self.logits);
        let summaries = &mut self.summaries;
        survive(|| match backend.summarising() {
            Some(backend) => backend.step(&runs, &temperatures, summaries),
            None => backend.step(&runs, logits),
        })
    }

    /// Takes note of what was computed, and chooses a token where all known ids are. A prompt,
    /// resumed ids and the token of the step before are all the same here, which is why a resumed
    /// generation continues bit-equally.
    fn choose(&mut self, parts: &[Part], took: Duration) {
        let tokens: usize = parts.iter().map(|part| part.range.len()).sum();
        let wanted = parts.iter().filter(|part| part.last).count().max(1);
        let mut rows = 0..wanted;
        let mut constrained = Vec::new();
        for part in parts {
            self.planner.computed(part);
            let Some(query) = self.queries.get_mut(&part.ticket) else {
                continue;
            };
            let share = part.range.len() as f64 / tokens as f64;
            query.outlet.computed(took.mul_f64(share));
            if !part.last {
                continue;
            }
            let row = rows.next().unwrap_or_default();
            match query.grammar {
                // They do not wait for the masks of others.
                None => self.choose_one(part.ticket, row, wanted),
                Some(_) => constrained.push((part.ticket, row)),
            }
        }
        for (ticket, row) in constrained {
            self.choose_one(ticket, row, wanted);
        }
    }

    /// `row` of the `wanted` ones.
    fn choose_one(&mut self, ticket: Ticket, row: usize, wanted: usize) {
        let Some(query) = self.queries.get_mut(&ticket) else {
            return;
        };
        let (sampler, planner, tokenizer) =
            (&mut self.sampler, &mut self.planner, &*self.tokenizer);
        let (backend, logits) = (&mut self.backend, &mut self.logits);
        let summaries = &self.summaries;
        let chosen = survive(|| {
            let allowed = match &query.grammar {
                None => None,
                Some(grammar) => Some(grammar.lock().mask()?),
            };
            let choice = match backend.summarising() {
                None => {
                    let each = logits.len() / wanted;
                    let scores = &logits[row * each..][..each];
                    sampler.choose(scores, &query.choosing, allowed.as_deref())?
                }
                Some(backend) => {
                    let summarised = match (&allowed, summaries.get(row)) {
                        (None, Some(summary)) => {
                            sampler.choose_summarised(summary, &query.choosing)?
                        }
                        _ => None,
                    };
                    match summarised {
                        Some(choice) => choice,
                        None => {
                            backend.scores(row, logits)?;
                            sampler.choose(logits, &query.choosing, allowed.as_deref())?
                        }
                    }
                }
            };
            if tokenizer.is_eos(choice.id) || query.stops_at(choice.id) {
                return Ok(Some(Finish::Stop));
            }
            planner.push(ticket, choice.id);
            query.emit(choice)
        });
        match chosen {
            Ok(None) => {}
            Ok(Some(finish)) => self.end(ticket, finish),
            // The others too are given to somebody else.
            Err(Error::Device(reason)) => self.lose(reason),
            Err(error) => self.fail(ticket, &error),
        }
    }

    fn lose(&self, reason: String) {
        // The first reason counts.
        self.inbox.lost.get_or_init(|| {
            tracing::error!(reason, "the engine stops, since its device cannot go on");
            reason
        });
    }

    fn fail(&mut self, ticket: Ticket, error: &Error) {
        tracing::error!(error = %error, "a generation failed");
        self.end(ticket, Finish::Error(error.to_string()));
    }

    /// The place is free before the consumer hears of the end, so that it can submit at once.
    fn end(&mut self, ticket: Ticket, finish: Finish) {
        self.planner.remove(ticket);
        let Some(query) = self.queries.remove(&ticket) else {
            return;
        };
        {
            let mut queue = self.inbox.queue();
            queue.taken.remove(&ticket);
            queue.count(&self.planner);
        }
        query.outlet.end(finish);
    }

    fn park(&self) {
        match self
            .queries
            .values()
            .filter_map(|query| query.deadline)
            .min()
        {
            Some(deadline) => {
                std::thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
            }
            None => std::thread::park(),
        }
    }
}

/// A panic costs the generations that met it, not the thread.
fn survive<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::Backend("a step panicked".into())))
}

impl Drop for Worker {
    /// The inbox was closed, the backend is lost, or this thread panics; nothing may wait for it any
    /// longer. Whoever was cancelled here can go on elsewhere.
    fn drop(&mut self) {
        let arrived = {
            let mut queue = self.inbox.queue();
            queue.closed = true;
            queue.active = 0;
            queue.taken.clear();
            std::mem::take(&mut queue.arrived)
        };
        let finish = match std::thread::panicking() {
            true => Finish::Error("the engine's thread panicked".into()),
            false => Finish::Cancelled,
        };
        let taken = std::mem::take(&mut self.queries).into_values();
        for query in taken.chain(arrived.into_iter().map(|(_, query)| query)) {
            query.outlet.end(finish.clone());
        }
        if self.inbox.is_lost() {
            self.inbox.stuck.cancel();
        }
    }
}
