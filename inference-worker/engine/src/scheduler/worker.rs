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
use crate::backend::{Backend, Run};
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
    logits: Vec<f32>,
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
            queries: BTreeMap::new(),
        })
    }

    /// Until the inbox is closed.
    pub(super) fn run(mut self) {
        self.inbox.wake.adopt_current_thread();
        while self.receive() {
            self.end_ended();
            let queries = &self.queries;
            let parts = self.planner.plan(Instant::now(), |ticket| {
                queries
                    .get(&ticket)
                    .is_some_and(|query| query.outlet.has_room())
            });
            {
                let mut queue = self.inbox.queue();
                queue.active = self.planner.active();
                queue.free_blocks = self.planner.free_blocks();
            }
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
        for part in parts.iter().filter(|part| part.last) {
            let query = self.queries.get(&part.ticket);
            if let Some(grammar) = query.and_then(|query| query.grammar.as_ref()) {
                self.masks.ask(grammar);
            }
        }
        let (backend, logits) = (&mut self.backend, &mut self.logits);
        survive(|| backend.step(&runs, logits))
    }

    /// Takes note of what was computed, and chooses a token where all known ids are. A prompt,
    /// resumed ids and the token of the step before are all the same here, which is why a resumed
    /// generation continues bit-equally.
    fn choose(&mut self, parts: &[Part], took: Duration) {
        let tokens: usize = parts.iter().map(|part| part.range.len()).sum();
        let wanted = parts.iter().filter(|part| part.last).count().max(1);
        let logits = std::mem::take(&mut self.logits);
        let mut rows = logits.chunks_exact((logits.len() / wanted).max(1));
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
                None => self.choose_one(part.ticket, row),
                Some(_) => constrained.push((part.ticket, row)),
            }
        }
        for (ticket, row) in constrained {
            self.choose_one(ticket, row);
        }
        self.logits = logits;
    }

    fn choose_one(&mut self, ticket: Ticket, row: &[f32]) {
        let Some(query) = self.queries.get_mut(&ticket) else {
            return;
        };
        let (sampler, planner, tokenizer) =
            (&mut self.sampler, &mut self.planner, &*self.tokenizer);
        let chosen = survive(|| {
            let allowed = match &query.grammar {
                None => None,
                Some(grammar) => Some(grammar.lock().mask()?),
            };
            let choice = sampler.choose(row, &query.choosing, allowed.as_deref())?;
            if tokenizer.is_eos(choice.id) || query.stops_at(choice.id) {
                return Ok(Some(Finish::Stop));
            }
            planner.push(ticket, choice.id);
            query.emit(choice)
        });
        match chosen {
            Ok(None) => {}
            Ok(Some(finish)) => self.end(ticket, finish),
            Err(error) => self.fail(ticket, &error),
        }
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
            queue.active = self.planner.active();
            queue.free_blocks = self.planner.free_blocks();
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
    /// The inbox was closed, or this thread panics; nothing may wait for it any longer.
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
    }
}
