//! Runs several generations side by side on the one thread that owns the backend.
//!
//! Step by step: [`plan`] says which ids of which generations are computed together, the backend
//! computes them, and each generation whose known ids are all computed gets its next token
//! ([`worker`]). Before each step those that were cancelled or are too late end, waiting or not. A
//! generation whose consumer lags is left out of the steps until there is room in its channel.
//! When nobody can move, the thread parks; submissions, consumers and cancellations wake it, and
//! the nearest deadline does.

mod masks;
mod plan;
mod query;
mod worker;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use self::plan::Arrival;
use self::query::Query;
use self::worker::Worker;
use crate::backend::Backend;
use crate::engine::{ModelCard, Options};
use crate::error::Error;
use crate::generation::Generation;
use crate::grammar::Grammars;
use crate::request::Request;
use crate::tokenizer::Tokenizer;
use crate::wake::Wake;

/// Where submitted generations wait for the thread.
#[derive(Default)]
struct Inbox {
    queue: Mutex<Queue>,
    wake: Arc<Wake>,
}

#[derive(Default)]
struct Queue {
    arrived: Vec<(Arrival, Query)>,
    /// Generations that the thread has taken and not ended.
    taken: usize,
    /// Those of them that are admitted.
    active: usize,
    /// Blocks that none of them holds.
    free_blocks: usize,
    closed: bool,
}

impl Inbox {
    /// A panic while the lock is held leaves the queue whole.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's owner.
pub(crate) struct Scheduler {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
    tokenizer: Arc<Tokenizer>,
    grammars: Grammars,
    context: usize,
    vocabulary: usize,
    places: usize,
    stream_capacity: usize,
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler")
            .field("places", &self.places)
            .finish_non_exhaustive()
    }
}

impl Scheduler {
    pub(crate) fn start(
        backend: Box<dyn Backend>,
        tokenizer: Arc<Tokenizer>,
        card: &ModelCard,
        options: &Options,
    ) -> Result<Self, Error> {
        let inbox = Arc::new(Inbox::default());
        inbox.queue().free_blocks = backend.blocks() as usize;
        let grammars = Grammars::new(&tokenizer, card.vocabulary)?;
        let worker = Worker::new(Arc::clone(&inbox), backend, Arc::clone(&tokenizer), options)?;
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || worker.run())
            .map_err(Error::Thread)?;
        Ok(Self {
            inbox,
            thread: Some(thread),
            tokenizer,
            grammars,
            context: card.context_length,
            vocabulary: card.vocabulary,
            places: options.max_active.get().saturating_add(options.max_waiting),
            stream_capacity: options.stream_capacity.get(),
        })
    }

    pub(crate) fn submit(&self, request: Request) -> Result<Generation, Error> {
        query::check(&request, self.context, self.vocabulary)?;
        let grammar = self.grammars.compile(&request.response_format)?;
        let wake = Arc::clone(&self.inbox.wake);
        let (arrival, query, generation) = Query::new(
            request,
            grammar,
            Arc::clone(&self.tokenizer),
            wake,
            self.stream_capacity,
        )?;
        let mut queue = self.inbox.queue();
        if queue.closed {
            return Err(Error::Stopped);
        }
        // Full means that the caller is told at once; nothing waits outside this queue.
        let held = queue.arrived.len() + queue.taken;
        if held >= self.places {
            return Err(Error::Busy {
                waiting: held - queue.active,
            });
        }
        queue.arrived.push((arrival, query));
        drop(queue);
        self.inbox.wake.wake();
        Ok(generation)
    }

    /// Generations in hand, waiting ones included, and blocks that none of them holds.
    pub(crate) fn load(&self) -> (usize, usize) {
        let queue = self.inbox.queue();
        (queue.arrived.len() + queue.taken, queue.free_blocks)
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.inbox.queue().closed = true;
        self.inbox.wake.wake();
        if let Some(thread) = self.thread.take() {
            // The thread tells its generations about a panic itself.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
