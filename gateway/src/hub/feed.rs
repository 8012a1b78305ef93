//! One query's stream as this gateway knows it, and those who follow it.

use super::Entry;
use crate::{consistency::Consistency, metrics::QueryKind};
use domain::{
    id::{AccountId, QueryId},
    wire::token::{Body, Message, Terminal},
};
use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, RwLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};
use tokio::sync::{Notify, watch};

/// What is known of one query's stream.
pub(crate) struct Feed {
    pub(crate) query: QueryId,
    /// Who followed first, and is likely to be the owner.
    pub(super) opener: AccountId,
    writes: Arc<Consistency>,
    state: RwLock<State>,
    head: AtomicU32,
    read: watch::Sender<bool>,
    /// Each follower's bell, by its number.
    followers: Mutex<Vec<(u64, Arc<Notify>)>>,
    next_follower: AtomicU64,
    abandoned: Notify,
    counted: Mutex<Option<QueryKind>>,
}

#[derive(Default)]
struct State {
    owner: Option<AccountId>,
    entries: Vec<Entry>,
    terminal: Option<Arc<Ended>>,
    /// Nobody can read the stream any more.
    is_gone: bool,
}

/// How a query ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) terminal: Terminal,
    /// The sequence in the log that shows the end.
    pub(crate) log_seq: Option<u64>,
}

impl Ended {
    /// For the metrics: the status, and the model where there is one.
    pub(super) fn outcome(&self) -> (&'static str, Option<&str>) {
        match &self.terminal {
            Terminal::Completed { answer } => ("success", Some(&answer.model_used)),
            Terminal::Failed { .. } => ("error", None),
            Terminal::Cancelled => ("cancelled", None),
        }
    }
}

impl Feed {
    pub(super) fn new(query: QueryId, opener: AccountId, writes: Arc<Consistency>) -> Self {
        Self {
            query,
            opener,
            writes,
            state: RwLock::default(),
            head: AtomicU32::new(0),
            read: watch::Sender::new(false),
            followers: Mutex::default(),
            next_follower: AtomicU64::new(0),
            abandoned: Notify::new(),
            counted: Mutex::new(None),
        }
    }

    /// Adds messages, which follow those before without a gap, and wakes the followers. True if
    /// nothing more will come.
    pub(super) fn append(&self, messages: &[Message]) -> bool {
        let entries: Vec<Entry> = messages
            .iter()
            .map(|message| Entry::of(self.query, message))
            .collect();
        let ended = {
            let mut state = self
                .state
                .write()
                .unwrap_or_else(|error| error.into_inner());
            for message in messages {
                match &message.body {
                    Body::Queued { owner } => state.owner = Some(*owner),
                    Body::Chunk(_) => {}
                    Body::Terminal(terminal) => {
                        state.terminal = Some(Arc::new(Ended {
                            terminal: terminal.clone(),
                            log_seq: message.log_seq,
                        }));
                        // Whoever hears of the end finds it in the next read.
                        if let (Some(owner), Some(seq)) = (state.owner, message.log_seq) {
                            self.writes.record(owner, seq);
                        }
                    }
                }
            }
            state.entries.extend(entries);
            if let Some(last) = messages.last() {
                self.head.store(last.seq, Ordering::Release);
            }
            state.terminal.is_some()
        };
        self.wake();
        ended
    }

    fn wake(&self) {
        for (_, bell) in self.followers().iter() {
            bell.notify_one();
        }
    }

    /// Nobody can read the stream any more, since its owner was erased.
    pub(super) fn mark_gone(&self) {
        self.state
            .write()
            .unwrap_or_else(|error| error.into_inner())
            .is_gone = true;
        self.mark_read();
        self.wake();
    }

    /// The history has been read once.
    pub(super) fn mark_read(&self) {
        self.read.send_replace(true);
    }

    pub(super) fn owner(&self) -> Option<AccountId> {
        self.state().owner
    }

    pub(super) fn terminal(&self) -> Option<Arc<Ended>> {
        self.state().terminal.clone()
    }

    pub(super) fn has_followers(&self) -> bool {
        !self.followers().is_empty()
    }

    /// Completes when the last follower has left.
    pub(super) async fn abandoned(&self) {
        self.abandoned.notified().await;
    }

    pub(super) fn count(&self, kind: QueryKind) {
        *self.counted_slot() = Some(kind);
    }

    pub(super) fn counted(&self) -> Option<QueryKind> {
        *self.counted_slot()
    }

    fn counted_slot(&self) -> MutexGuard<'_, Option<QueryKind>> {
        self.counted
            .lock()
            .unwrap_or_else(|error| error.into_inner())
    }

    fn followers(&self) -> MutexGuard<'_, Vec<(u64, Arc<Notify>)>> {
        self.followers
            .lock()
            .unwrap_or_else(|error| error.into_inner())
    }

    fn state(&self) -> impl Deref<Target = State> + '_ {
        self.state.read().unwrap_or_else(|error| error.into_inner())
    }
}

/// A place at a feed, given up when dropped.
pub(crate) struct Follower {
    feed: Arc<Feed>,
    number: u64,
    bell: Arc<Notify>,
}

impl Follower {
    pub(super) fn attach(feed: Arc<Feed>, bell: Arc<Notify>) -> Self {
        let number = feed.next_follower.fetch_add(1, Ordering::Relaxed);
        feed.followers().push((number, bell.clone()));
        Self { feed, number, bell }
    }

    pub(crate) fn query(&self) -> QueryId {
        self.feed.query
    }

    /// Completes when the history has been read once.
    pub(crate) async fn read(&self) {
        // The sender lives as long as the feed, which we hold.
        self.feed.read.subscribe().wait_for(|read| *read).await.ok();
    }

    /// Who may follow, if the stream says so.
    pub(crate) fn owner(&self) -> Option<AccountId> {
        self.feed.owner()
    }

    /// The latest `seq`; zero if there is none.
    pub(crate) fn head(&self) -> u32 {
        self.feed.head.load(Ordering::Acquire)
    }

    /// At most `max` entries after `cursor`.
    pub(crate) fn after(&self, cursor: u32, max: usize) -> Vec<Entry> {
        let state = self.feed.state();
        let begin = state.entries.partition_point(|entry| entry.seq <= cursor);
        state
            .entries
            .iter()
            .skip(begin)
            .take(max)
            .cloned()
            .collect()
    }

    pub(crate) fn terminal(&self) -> Option<Arc<Ended>> {
        self.feed.terminal()
    }

    /// Whether nobody can read the stream any more, since its owner was erased.
    pub(crate) fn is_gone(&self) -> bool {
        self.feed.state().is_gone
    }

    /// Whether nothing more will come.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.feed.state();
        state.is_gone || state.terminal.is_some()
    }

    /// Waits for the end of the query; `None` if its stream is gone. Only for a follower with a
    /// bell of its own.
    pub(crate) async fn ended(&self) -> Option<Arc<Ended>> {
        loop {
            if self.is_over() {
                return self.terminal();
            }
            self.bell.notified().await;
        }
    }

    /// Waits for something new. Only for a follower with a bell of its own.
    pub(crate) async fn news(&self) {
        self.bell.notified().await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut followers = self.feed.followers();
        followers.retain(|(number, _)| *number != self.number);
        if followers.is_empty() {
            self.feed.abandoned.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Timestamp;

    fn message(seq: u32, body: Body) -> Message {
        Message {
            seq,
            at: Timestamp::from_millis(0),
            body,
            log_seq: Some(u64::from(seq) + 40),
        }
    }

    #[tokio::test]
    async fn followers_read_from_their_cursors_and_are_woken() {
        let owner = AccountId::new(uuid::Uuid::from_u128(1));
        let writes = Arc::new(Consistency::new());
        let query = QueryId::new(uuid::Uuid::from_u128(2));
        let feed = Arc::new(Feed::new(query, owner, writes.clone()));
        let bell = Arc::new(Notify::new());
        let follower = Follower::attach(feed.clone(), bell.clone());
        assert!(!feed.append(&[message(1, Body::Queued { owner })]));
        bell.notified().await;
        assert_eq!(follower.owner(), Some(owner));
        assert!(feed.append(&[message(2, Body::Terminal(Terminal::Cancelled))]));
        assert_eq!(follower.head(), 2);
        assert_eq!(writes.of(owner), 42, "the owner's next read shows the end");
        let seqs = |cursor, max| -> Vec<u32> {
            follower.after(cursor, max).iter().map(|e| e.seq).collect()
        };
        assert_eq!(seqs(0, 9), [1, 2]);
        assert_eq!(seqs(0, 1), [1]);
        assert_eq!(seqs(1, 9), [2]);
        assert_eq!(seqs(2, 9), [] as [u32; 0]);
        let ended = follower.ended().await.unwrap();
        assert_eq!(ended.terminal, Terminal::Cancelled);
        assert!(follower.is_over() && !follower.is_gone());
        drop(follower);
        assert!(!feed.has_followers());
        feed.abandoned().await;
    }

    #[tokio::test]
    async fn a_stream_that_is_gone_is_over_and_has_no_end() {
        let owner = AccountId::new(uuid::Uuid::from_u128(1));
        let query = QueryId::new(uuid::Uuid::from_u128(2));
        let feed = Arc::new(Feed::new(query, owner, Arc::new(Consistency::new())));
        let bell = Arc::new(Notify::new());
        let follower = Follower::attach(feed.clone(), bell.clone());
        let ending = tokio::join!(follower.ended(), async { feed.mark_gone() }).0;
        assert!(ending.is_none() && follower.is_gone());
        follower.read().await;
    }
}
