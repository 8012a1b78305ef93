//! The thread: rounds of turns.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::Inbox;
use super::query::Query;
use crate::backend::Backend;
use crate::engine::Options;
use crate::error::Error;
use crate::generation::Finish;
use crate::sampler::Sampler;
use crate::tokenizer::Tokenizer;

pub(super) struct Worker {
    inbox: Arc<Inbox>,
    backend: Box<dyn Backend>,
    tokenizer: Arc<Tokenizer>,
    sampler: Sampler,
    logits: Vec<f32>,
    active: Vec<Query>,
    max_active: usize,
    prefill_chunk: usize,
}

/// What came of a turn.
enum Turn {
    Moved,
    Paused,
    Ended(Finish),
}

impl Worker {
    pub(super) fn new(
        inbox: Arc<Inbox>,
        backend: Box<dyn Backend>,
        tokenizer: Arc<Tokenizer>,
        options: &Options,
    ) -> Self {
        Self {
            inbox,
            backend,
            tokenizer,
            sampler: Sampler::default(),
            logits: Vec::new(),
            active: Vec::new(),
            max_active: options.max_active.get(),
            prefill_chunk: options.prefill_chunk.get(),
        }
    }

    /// Until the inbox is closed.
    pub(super) fn run(mut self) {
        self.inbox.wake.adopt_current_thread();
        while self.admit() {
            if !self.round() {
                self.park();
            }
        }
    }

    /// Takes waiting generations while there are places, in order, and ends those that are
    /// cancelled or too late; false when the inbox is closed.
    fn admit(&mut self) -> bool {
        let mut ended = Vec::new();
        {
            let mut queue = self.inbox.queue();
            if queue.closed {
                return false;
            }
            for query in std::mem::take(&mut queue.waiting) {
                if let Some(finish) = query.ended() {
                    ended.push((query, finish));
                } else if self.active.len() < self.max_active {
                    self.active.push(query);
                    queue.active += 1;
                } else {
                    queue.waiting.push_back(query);
                }
            }
        }
        for (query, finish) in ended {
            query.end(finish);
        }
        true
    }

    /// One turn for each; says whether any moved.
    fn round(&mut self) -> bool {
        let mut moved = false;
        for mut query in std::mem::take(&mut self.active) {
            match self.turn(&mut query) {
                Turn::Moved => {
                    moved = true;
                    self.active.push(query);
                }
                Turn::Paused => self.active.push(query),
                Turn::Ended(finish) => {
                    moved = true;
                    self.end(query, finish);
                }
            }
        }
        moved
    }

    fn turn(&mut self, query: &mut Query) -> Turn {
        if let Some(finish) = query.ended() {
            return Turn::Ended(finish);
        }
        if !query.has_room() {
            return Turn::Paused;
        }
        let began = Instant::now();
        // A panic costs the generation that met it; every step begins from its sequence and ids.
        let step = catch_unwind(AssertUnwindSafe(|| self.step(query)))
            .unwrap_or_else(|_| Err(Error::Backend("a step panicked".into())));
        query.compute += began.elapsed();
        match step {
            Ok(None) => Turn::Moved,
            Ok(Some(finish)) => Turn::Ended(finish),
            Err(error) => {
                tracing::error!(error = %error, "a generation failed");
                Turn::Ended(Finish::Error(error.to_string()))
            }
        }
    }

    /// Feeds the next known ids, and chooses a token once all are fed. A prompt, resumed ids and
    /// the token of the previous turn are all the same here, which is why a resumed generation
    /// continues bit-equally.
    fn step(&mut self, query: &mut Query) -> Result<Option<Finish>, Error> {
        let sequence = match query.sequence {
            Some(sequence) => sequence,
            None => *query.sequence.insert(self.backend.open(query.positions())?),
        };
        let end = query.ids.len().min(query.fed + self.prefill_chunk);
        let complete = end == query.ids.len();
        let logits = complete.then_some(&mut self.logits);
        self.backend
            .extend(sequence, &query.ids[query.fed..end], logits)?;
        query.fed = end;
        if !complete {
            return Ok(None);
        }
        let index = query.generated() as u64;
        let choice = self.sampler.choose(&self.logits, &query.sampling, index)?;
        if self.tokenizer.is_eos(choice.id) {
            return Ok(Some(Finish::Stop));
        }
        Ok(query.emit(choice))
    }

    /// The place is free before the consumer hears of the end, so that it can submit at once.
    fn end(&mut self, query: Query, finish: Finish) {
        if let Some(sequence) = query.sequence {
            self.backend.close(sequence);
        }
        self.inbox.queue().active -= 1;
        query.end(finish);
    }

    fn park(&self) {
        let deadline = {
            let queue = self.inbox.queue();
            queue
                .waiting
                .iter()
                .chain(&self.active)
                .filter_map(|query| query.deadline)
                .min()
        };
        match deadline {
            Some(deadline) => {
                std::thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
            }
            None => std::thread::park(),
        }
    }
}

impl Drop for Worker {
    /// The inbox was closed, or this thread panics; nothing may wait for it any longer.
    fn drop(&mut self) {
        let waiting = {
            let mut queue = self.inbox.queue();
            queue.closed = true;
            queue.active = 0;
            std::mem::take(&mut queue.waiting)
        };
        let finish = match std::thread::panicking() {
            true => Finish::Error("the engine's thread panicked".into()),
            false => Finish::Cancelled,
        };
        for query in self.active.drain(..).chain(waiting) {
            query.end(finish.clone());
        }
    }
}
