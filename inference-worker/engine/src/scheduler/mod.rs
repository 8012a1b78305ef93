//! Runs several generations side by side on the one thread that owns the backend.
//!
//! In rounds, every active generation gets one turn: its next chunk of known ids (prompt and
//! resumed ones), or the one token that follows them. So a long prompt delays the others by one
//! chunk at most. A generation whose consumer lags has no turn until there is room in its channel.
//! When nobody can move, the thread parks; submissions, consumers and cancellations wake it, and
//! the nearest deadline does.
//!
//! Batching several generations into one step would replace the loop over turns in `worker`.

mod query;
mod worker;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use self::query::Query;
use self::worker::Worker;
use crate::backend::Backend;
use crate::engine::{ModelCard, Options};
use crate::error::Error;
use crate::generation::{Generation, Request};
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
    waiting: VecDeque<Query>,
    /// Generations that the thread has taken and not ended.
    active: usize,
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
        let worker = Worker::new(Arc::clone(&inbox), backend, Arc::clone(&tokenizer), options);
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || worker.run())
            .map_err(Error::Thread)?;
        Ok(Self {
            inbox,
            thread: Some(thread),
            tokenizer,
            context: card.context_length,
            vocabulary: card.vocabulary,
            places: options.max_active.get().saturating_add(options.max_waiting),
            stream_capacity: options.stream_capacity.get(),
        })
    }

    pub(crate) fn submit(&self, request: Request) -> Result<Generation, Error> {
        query::check(&request, self.context, self.vocabulary)?;
        let wake = Arc::clone(&self.inbox.wake);
        let (query, generation) = Query::new(
            request,
            Arc::clone(&self.tokenizer),
            wake,
            self.stream_capacity,
        );
        let mut queue = self.inbox.queue();
        if queue.closed {
            return Err(Error::Stopped);
        }
        // Full means that the caller is told at once; nothing waits outside this queue.
        if queue.waiting.len() + queue.active >= self.places {
            return Err(Error::Busy {
                waiting: queue.waiting.len(),
            });
        }
        queue.waiting.push_back(query);
        drop(queue);
        self.inbox.wake.wake();
        Ok(generation)
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
