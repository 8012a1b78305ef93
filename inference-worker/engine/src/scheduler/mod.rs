//! Runs several generations side by side on the one thread that owns the backend.
//!
//! Step by step: [`plan`] says which ids of which generations are computed together, the backend
//! computes them, and each generation whose known ids are all computed gets its next token
//! ([`worker`]). Before each step those that were cancelled or are too late end, waiting or not. A
//! generation whose consumer lags is left out of the steps until there is room in its channel.
//! When nobody can move, the thread parks; submissions, consumers and cancellations wake it, and
//! the nearest deadline does. A step that does not end is noticed by the [`watchdog`].

mod masks;
mod outlet;
mod plan;
mod query;
mod watchdog;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::outlet::Outlet;
use self::plan::{Arrival, Planner, Ticket};
use self::query::Query;
use self::watchdog::{Pulse, Watchdog};
use self::worker::Worker;
use crate::backend::Backend;
use crate::engine::{ModelCard, Options};
use crate::error::Error;
use crate::generation::{Finish, Generation};
use crate::grammar::Grammars;
use crate::request::Request;
use crate::tokenizer::Tokenizer;
use crate::wake::Wake;

/// Where submitted generations wait for the thread.
#[derive(Default)]
struct Inbox {
    queue: Mutex<Queue>,
    wake: Arc<Wake>,
    /// Cancelled when a step did not end, or the backend is lost and everything has ended.
    stuck: CancellationToken,
    /// Why the backend is lost.
    lost: OnceLock<String>,
}

#[derive(Default)]
struct Queue {
    arrived: Vec<(Arrival, Query)>,
    /// Generations that the thread has taken and not ended.
    taken: BTreeMap<Ticket, Arc<Outlet>>,
    /// Those of them that are admitted.
    active: usize,
    /// Blocks that none of them holds.
    free_blocks: usize,
    closed: bool,
}

impl Queue {
    /// What the planner has in hand now.
    fn count(&mut self, planner: &Planner) {
        self.active = planner.active();
        self.free_blocks = planner.free_blocks();
    }
}

impl Inbox {
    /// Whether the backend cannot go on.
    fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    /// A panic while the lock is held leaves the queue whole.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything in the place of the thread, whose step has taken longer than the limit.
    /// Should it ever come back, it finds the streams ended and the inbox closed.
    fn give_up(&self, limit: Duration) {
        let (arrived, taken) = {
            let mut queue = self.queue();
            queue.closed = true;
            self.stuck.cancel();
            (
                std::mem::take(&mut queue.arrived),
                std::mem::take(&mut queue.taken),
            )
        };
        tracing::error!(
            limit_ms = limit.as_millis(),
            generations = arrived.len() + taken.len(),
            "a step did not end",
        );
        let finish = Finish::Error(Error::Stuck { limit }.to_string());
        let arrived = arrived.into_iter().map(|(_, query)| query.outlet);
        for outlet in taken.into_values().chain(arrived) {
            outlet.end(finish.clone());
        }
    }
}

/// The threads' owner.
pub(crate) struct Scheduler {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
    /// Hears from both threads when they end.
    ended: Mutex<Receiver<()>>,
    step_limit: Duration,
    _watchdog: Watchdog,
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
        let pulse = Arc::new(Pulse::default());
        let worker = Worker::new(
            Arc::clone(&inbox),
            Arc::clone(&pulse),
            backend,
            Arc::clone(&tokenizer),
            options,
        )?;
        let (end, ended) = channel();
        let (worker_ends, watchdog_ends) = (Ends(end.clone()), Ends(end));
        let limit = options.step_limit;
        let watchdog = Watchdog::start(limit, pulse, Arc::clone(&inbox), watchdog_ends)?;
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                let _ends = worker_ends;
                worker.run();
            })
            .map_err(Error::Thread)?;
        Ok(Self {
            inbox,
            thread: Some(thread),
            ended: Mutex::new(ended),
            step_limit: limit,
            _watchdog: watchdog,
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
            return Err(self.closed());
        }
        // Full means that the caller is told at once; nothing waits outside this queue.
        let held = queue.arrived.len() + queue.taken.len();
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
        (queue.arrived.len() + queue.taken.len(), queue.free_blocks)
    }

    /// Completes when a step did not end or the backend is lost, else never.
    pub(crate) async fn stuck(&self) -> Error {
        self.inbox.stuck.cancelled().await;
        match self.inbox.lost.get() {
            Some(reason) => Error::Device(reason.clone()),
            None => self.closed(),
        }
    }

    fn closed(&self) -> Error {
        match self.inbox.stuck.is_cancelled() && !self.inbox.is_lost() {
            true => Error::Stuck {
                limit: self.step_limit,
            },
            false => Error::Stopped,
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.inbox.queue().closed = true;
        self.inbox.wake.wake();
        // Whichever comes first: the end of the step in hand, or that it does not end.
        let ended = self.ended.get_mut();
        let _ = ended.unwrap_or_else(PoisonError::into_inner).recv();
        if self.inbox.stuck.is_cancelled() {
            return;
        }
        if let Some(thread) = self.thread.take() {
            // The thread tells its generations about a panic itself.
            let _ = thread.join();
        }
    }
}

/// Tells that a thread ends, by a panic too.
struct Ends(Sender<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        // Nobody waits before the owner is dropped.
        let _ = self.0.send(());
    }
}

#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod tests;
