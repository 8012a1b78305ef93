//! What a socket follows, and how far it has been told.

use crate::hub::{Entry, Follower};
use axum::extract::ws::Utf8Bytes;
use domain::id::QueryId;
use lru::LruCache;
use std::num::NonZeroUsize;

/// So many queries may be followed at once.
pub(super) const MOST: usize = 256;
/// For so many queries that are not followed any more it is known how far the socket was told.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1_024).expect("not zero");

/// The subscriptions of one socket.
pub(super) struct Subscriptions {
    running: Vec<Subscription>,
    /// How far the socket was told about queries that ended or that it left.
    told: LruCache<QueryId, u32>,
}

struct Subscription {
    follower: Follower,
    cursor: u32,
    /// What the query had when it was subscribed to: a replay is not the fault of a slow reader.
    begin: u32,
    ended: bool,
}

impl Subscriptions {
    pub(super) fn new() -> Self {
        Self {
            running: vec![],
            told: LruCache::new(REMEMBERED),
        }
    }

    /// Whether the query is followed.
    pub(super) fn knows(&self, query: QueryId) -> bool {
        self.running.iter().any(|one| one.follower.query() == query)
    }

    pub(super) fn is_full(&self) -> bool {
        self.running.len() >= MOST
    }

    /// Begins after `from_seq`, or after what the socket was told before, since it never gets a
    /// number twice.
    pub(super) fn add(&mut self, follower: Follower, from_seq: u32) {
        let query = follower.query();
        if self.knows(query) {
            return;
        }
        let told = self.told.pop(&query).unwrap_or(0);
        let begin = follower.head();
        self.running.push(Subscription {
            follower,
            cursor: from_seq.max(told),
            begin,
            ended: false,
        });
    }

    pub(super) fn remove(&mut self, query: QueryId) {
        let found = self
            .running
            .iter()
            .position(|one| one.follower.query() == query);
        if let Some(index) = found {
            let gone = self.running.swap_remove(index);
            self.told.put(query, gone.cursor);
        }
    }

    /// How far the socket was told about a query that it does not follow; notes that it is told
    /// up to `seq` now. False if it knew that already.
    pub(super) fn tell_once(&mut self, query: QueryId, seq: u32) -> bool {
        let told = self.told.get_or_insert_mut(query, || 0);
        let news = seq > *told;
        *told = seq.max(*told);
        news
    }

    /// Takes at most `max` entries that are new to the socket, a share from each query. True if
    /// there may be more.
    pub(super) fn collect(&mut self, max: usize, into: &mut Vec<Utf8Bytes>) -> bool {
        let share = (max / self.running.len().max(1)).max(1);
        let mut more = false;
        for one in &mut self.running {
            if one.follower.head() > one.cursor {
                let entries = one.follower.after(one.cursor, share);
                more |= entries.len() == share;
                for entry in entries {
                    one.cursor = entry.seq;
                    push(entry, into);
                }
            }
            one.ended = one.follower.is_over() && one.cursor >= one.follower.head();
        }
        self.forget_ended();
        more
    }

    /// Messages that wait for the client to read, without what it asked to be
    /// replayed.
    pub(super) fn backlog(&self) -> usize {
        let waiting = self.running.iter().map(|one| {
            let told = one.cursor.max(one.begin);
            one.follower.head().saturating_sub(told) as usize
        });
        waiting.sum()
    }

    fn forget_ended(&mut self) {
        let mut index = 0;
        while let Some(one) = self.running.get(index) {
            if one.ended {
                let gone = self.running.swap_remove(index);
                self.told.put(gone.follower.query(), gone.cursor);
            } else {
                index += 1;
            }
        }
    }
}

/// An error goes before the update that it explains.
pub(super) fn push(entry: Entry, into: &mut Vec<Utf8Bytes>) {
    into.extend(entry.error);
    into.push(entry.frame);
}
