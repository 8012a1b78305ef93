//! Group commit: the commits of many commands in few writes.
//!
//! With `sync_interval: always` the server syncs its disk for each plain append, and about as often
//! for a whole atomic batch. So while appends are under way, later ones gather, and once there are
//! enough to win by it, they go out together as one batch. One at a time: what comes meanwhile
//! makes the next one larger.
//!
//! Who comes while little is under way appends alone, from its own task and without a detour:
//! [`gate`] has a few slots for that. Under light load this is all that happens, and it costs what
//! a plain append costs. Only when the slots are taken does a unit go into the queue, which one
//! task empties ([`GroupCommit::start`]): in groups ([`round`]), or one by one as slots come free.
//! The queue is bounded; what does not fit is refused at once.
//!
//! A unit is one command's commits. Its parts lie next to each other in the log, whichever way
//! they went.

mod gate;
mod round;
mod unit;

use crate::{
    append::{self, NotSent},
    clock, config,
    lifecycle::Lifecycle,
};
use async_nats::{Client, RequestErrorKind};
use gate::{Gate, Slot};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
pub use unit::Unit;

/// Units that wait for the committer. Another one is refused at once: its sender is told to come
/// again later, which is better than an answer after its deadline.
const QUEUE: usize = 4_096;
/// Longest wait for those that a group has just answered to come back with their next.
const LINGER: Duration = Duration::from_millis(2);

/// From how many units on a batch costs less than as many plain appends. A batch costs the server
/// a file of its own and, where every write is synced, a few syncs, however large it is; a plain
/// append costs one sync. Where nothing is synced, plain appends win at any size, and a batch is
/// only for what does not fit otherwise.
const fn worth_a_batch(sync: config::Sync) -> usize {
    match sync {
        config::Sync::Always => 10,
        config::Sync::Relaxed => unit::MOST_PARTS,
    }
}

/// Appends units to the log, together where that is cheaper. Clones share it.
#[derive(Clone, Debug)]
pub struct GroupCommit {
    client: Client,
    gate: Arc<Gate>,
    queue: mpsc::Sender<Waiting>,
    counts: Arc<Counts>,
}

/// What has been done so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Units that were appended alone.
    pub alone: AtomicU64,
    /// Batches of several units.
    pub groups: AtomicU64,
    /// Units that went out in such a batch.
    pub grouped: AtomicU64,
    /// Batches of several units that the server refused.
    pub refused: AtomicU64,
    /// Units that found the queue full.
    pub overloaded: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    unit: Unit,
    answer: oneshot::Sender<Verdict>,
}

impl AsRef<Unit> for Waiting {
    fn as_ref(&self) -> &Unit {
        &self.unit
    }
}

impl Waiting {
    /// The sender may have gone; then nobody wants to know.
    fn answer(self, result: Result<u64, append::Error>) {
        self.answer.send(Verdict::Done(result)).ok();
    }
}

/// What becomes of a unit that waited.
#[derive(Debug)]
enum Verdict {
    /// It has been appended, or not.
    Done(Result<u64, append::Error>),
    /// It is to be appended alone by who waits for it.
    Go(Unit, Slot),
}

impl GroupCommit {
    /// Begins; the task that makes groups ends with the lifecycle, once nothing waits any more.
    pub fn start(client: Client, sync: config::Sync, lifecycle: &Lifecycle) -> Self {
        let most = worth_a_batch(sync);
        let (queue, waiting) = mpsc::channel(QUEUE);
        let commits = Self {
            client,
            gate: Gate::new(most),
            queue,
            counts: Arc::default(),
        };
        let committer = Committer {
            client: commits.client.clone(),
            gate: commits.gate.clone(),
            counts: commits.counts.clone(),
            most,
            queue: waiting,
            waiting: VecDeque::new(),
        };
        lifecycle.spawn("group commit", committer.run());
        commits
    }

    /// What has been done so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Appends a unit, whole or not at all, and answers with the sequence of its last part.
    ///
    /// # Errors
    /// See [`append::Error`]; after `NoAnswer` look whether it is there before trying again.
    pub async fn commit(&self, unit: Unit) -> Result<u64, append::Error> {
        unit.check(clock::now())?;
        if let Some(slot) = self.gate.enter(unit.parts.len()) {
            return self.alone(unit, slot).await;
        }
        let subject = unit.subject();
        let (answer, verdict) = oneshot::channel();
        if let Err(error) = self.queue.try_send(Waiting { unit, answer }) {
            self.counts.overloaded.fetch_add(1, Ordering::Relaxed);
            let refused = match error {
                mpsc::error::TrySendError::Full(waiting)
                | mpsc::error::TrySendError::Closed(waiting) => waiting.unit,
            };
            return Err(refused.not_sent(NotSent::Overloaded));
        }
        match verdict.await {
            Ok(Verdict::Done(result)) => result,
            Ok(Verdict::Go(unit, slot)) => self.alone(unit, slot).await,
            // The committer was dropped on a hard stop, perhaps after sending.
            Err(_) => Err(append::Error::NoAnswer {
                subject,
                source: RequestErrorKind::Other.into(),
            }),
        }
    }

    async fn alone(&self, unit: Unit, slot: Slot) -> Result<u64, append::Error> {
        self.counts.alone.fetch_add(1, Ordering::Relaxed);
        let result = round::alone(&self.client, unit).await;
        drop(slot);
        result
    }
}

/// The task that makes groups of what waits.
struct Committer {
    client: Client,
    gate: Arc<Gate>,
    counts: Arc<Counts>,
    most: usize,
    queue: mpsc::Receiver<Waiting>,
    waiting: VecDeque<Waiting>,
}

impl Committer {
    async fn run(mut self) {
        loop {
            if self.waiting.is_empty() {
                self.gate.close(false);
                match self.queue.recv().await {
                    Some(next) => self.waiting.push_back(next),
                    // Nobody is left who could send.
                    None => return,
                }
                self.gate.close(true);
            }
            self.gather();
            self.drop_late();
            if self.is_worth_a_batch() {
                self.together().await;
            } else if !self.let_go() {
                tokio::select! {
                    next = self.queue.recv() => self.waiting.extend(next),
                    () = self.gate.freed() => {}
                }
            }
        }
    }

    /// Takes what has come, up to one batch: the rest stays in the bounded queue.
    fn gather(&mut self) {
        while self.waiting.len() < unit::MOST_PARTS
            && let Ok(next) = self.queue.try_recv()
        {
            self.waiting.push_back(next);
        }
    }

    /// Answers those whose deadline passed while they waited.
    fn drop_late(&mut self) {
        let now = clock::now();
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.unit.deadline < now {
                let late = waiting.unit.not_sent(NotSent::TooLate);
                waiting.answer(Err(late));
            } else {
                self.waiting.push_back(waiting);
            }
        }
    }

    /// Enough units wait, or several that are batches anyway.
    fn is_worth_a_batch(&self) -> bool {
        let several = |waiting: &&Waiting| waiting.unit.parts.len() > 1;
        self.waiting.len() >= self.most || self.waiting.iter().filter(several).nth(1).is_some()
    }

    /// Lets the first one append alone, if there is a slot.
    fn let_go(&mut self) -> bool {
        let Some(first) = self.waiting.pop_front() else {
            return true;
        };
        match self.gate.admit(first.unit.parts.len()) {
            Some(slot) => {
                first.answer.send(Verdict::Go(first.unit, slot)).ok();
                true
            }
            None => {
                self.waiting.push_front(first);
                false
            }
        }
    }

    /// Sends the next group, and waits a little for more if it was one.
    async fn together(&mut self) {
        let group = unit::cut(&mut self.waiting);
        let (size, began) = (group.len(), Instant::now());
        round::together(&self.client, &self.counts, self.most, group).await;
        if size < self.most {
            return;
        }
        // Those that were answered come back, if many clients wait for their answers one after
        // the other. Without this wait they would fall into two halves that take turns.
        let awaited = (self.waiting.len() + self.queue.len() + size).min(unit::MOST_PARTS);
        let until = tokio::time::Instant::now() + (began.elapsed() / 2).min(LINGER);
        while self.waiting.len() < awaited {
            match tokio::time::timeout_at(until, self.queue.recv()).await {
                Ok(Some(next)) => self.waiting.push_back(next),
                Ok(None) | Err(_) => return,
            }
        }
    }
}
