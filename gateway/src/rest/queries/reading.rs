//! Reading a query's stream at the pace of one client.

use super::Source;
use crate::{
    app::App,
    hub::{Entry, Follower, terminal_of},
};
use domain::wire::token::Terminal;
use std::collections::VecDeque;

/// Entries taken from the feed at once.
const BATCH: usize = 64;

/// A place in a stream.
pub(crate) struct Reading {
    app: App,
    follower: Option<Follower>,
    /// How it ended, where the stream has expired.
    ended: Option<Terminal>,
    ready: VecDeque<Entry>,
    cursor: u32,
}

impl Reading {
    /// From behind `from_seq` on. Only with a bell of the caller's own.
    pub(crate) fn of(app: App, source: Source, from_seq: u32) -> Self {
        let (follower, item) = match source {
            Source::Stream(follower) => (Some(follower), None),
            Source::Ended(item) => (None, Some(item)),
        };
        Self {
            app,
            follower,
            ended: item.as_deref().map(terminal_of),
            ready: item
                .map(|item| Entry::ending(&item, from_seq))
                .into_iter()
                .collect(),
            cursor: from_seq,
        }
    }

    /// The next entry; none after the last one, or when the gateway stops. Nothing is lost when
    /// this is dropped.
    pub(crate) async fn next(&mut self) -> Option<Entry> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                self.cursor = entry.seq;
                return Some(entry);
            }
            let follower = self.follower.as_ref()?;
            let ended = follower.is_over();
            self.ready = follower.after(self.cursor, BATCH).into();
            if !self.ready.is_empty() {
                continue;
            }
            if ended {
                return None;
            }
            tokio::select! {
                () = follower.news() => {}
                () = self.app.lifecycle.stopping() => return None,
            }
        }
    }

    /// Whether the pieces are there, and not the end alone.
    pub(crate) fn is_live(&self) -> bool {
        self.follower.is_some()
    }

    /// How the query ended, once that is known.
    pub(crate) fn terminal(&self) -> Option<Terminal> {
        let end = self.follower.as_ref().and_then(Follower::terminal);
        end.map(|end| end.terminal.clone()).or(self.ended.clone())
    }
}
