//! Following token streams: once per query and node, however many clients listen.
//!
//! A [`feed::Feed`] holds what is known of one query's stream as frames that are encoded once. Its
//! task subscribes to live messages, reads the history, merges both by `seq` ([`merge`]), and
//! wakes its followers. A follower has a cursor into the feed, not a queue.

mod feed;
mod frame;
mod merge;

pub(crate) use feed::Follower;
pub(crate) use frame::{Entry, encode};

use crate::{
    consistency::Consistency,
    metrics::{Metrics, QueryKind},
};
use async_nats::connection::State;
use domain::id::QueryId;
use feed::Feed;
use futures_util::StreamExt;
use infra::{
    lifecycle::Lifecycle,
    nats::connects,
    tokens::{Live, Tokens},
};
use lru::LruCache;
use merge::Merge;
use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::warn;

/// So many ended queries are kept for those who come late; more are read again.
const FINISHED: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// How long a feed without followers is kept: reconnecting clients come back soon.
const LINGER: Duration = Duration::from_secs(15);
/// A submitted query is counted if it ends within this time, followers or not.
const COUNTED: Duration = Duration::from_secs(600);
/// Silence after which the history is read, in case that the last messages were lost on the way.
const SILENCE: Duration = Duration::from_secs(10);
/// How often the state of the connection is looked at.
const PULSE: Duration = Duration::from_millis(200);

/// All feeds of this gateway. Clones share them.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Shared>);

struct Shared {
    tokens: Tokens,
    metrics: Arc<Metrics>,
    writes: Arc<Consistency>,
    lifecycle: Lifecycle,
    shelf: Mutex<Shelf>,
    connection: watch::Sender<Connection>,
}

/// The state of the connection to NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) is_up: bool,
    /// How many times it was made; a new one may have missed messages.
    times: u64,
}

struct Shelf {
    running: HashMap<QueryId, Arc<Feed>>,
    finished: LruCache<QueryId, Arc<Feed>>,
}

impl Hub {
    pub(crate) fn new(
        client: async_nats::Client,
        tokens: Tokens,
        metrics: Arc<Metrics>,
        writes: Arc<Consistency>,
        lifecycle: Lifecycle,
    ) -> Self {
        let connection = watch::Sender::new(look(&client));
        lifecycle.spawn("hub pulse", {
            let (lifecycle, report) = (lifecycle.clone(), connection.clone());
            async move {
                let pulse = async {
                    loop {
                        sleep(PULSE).await;
                        let now = look(&client);
                        report.send_if_modified(|last| std::mem::replace(last, now) != now);
                    }
                };
                tokio::select! {
                    () = pulse => {}
                    () = lifecycle.stopping() => {}
                }
            }
        });
        Self(Arc::new(Shared {
            tokens,
            metrics,
            writes,
            lifecycle,
            shelf: Mutex::new(Shelf {
                running: HashMap::new(),
                finished: LruCache::new(FINISHED),
            }),
            connection,
        }))
    }

    /// The state of the connection, and its changes.
    pub(crate) fn connection(&self) -> watch::Receiver<Connection> {
        self.0.connection.subscribe()
    }

    /// Follows a query; `wake` is notified of everything new. Whether the caller may is for the
    /// caller to find out, see [`Follower::owner`].
    pub(crate) fn follow(&self, query: QueryId, wake: Arc<Notify>) -> Follower {
        let mut shelf = self.shelf();
        let feed = self.open(&mut shelf, query);
        // Attached under the lock, so that the feed is not dropped in between.
        Follower::attach(feed, wake)
    }

    /// Follows a query that was submitted here to its end, for the metrics.
    pub(crate) fn count(&self, query: QueryId, kind: QueryKind) {
        let mut shelf = self.shelf();
        self.open(&mut shelf, query).count(kind);
    }

    fn open(&self, shelf: &mut Shelf, query: QueryId) -> Arc<Feed> {
        if let Some(feed) = shelf.finished.get(&query) {
            return feed.clone();
        }
        if let Some(feed) = shelf.running.get(&query) {
            return feed.clone();
        }
        let feed = Arc::new(Feed::new(query, self.0.writes.clone()));
        shelf.running.insert(query, feed.clone());
        let task = self.clone().run(feed.clone());
        self.0.lifecycle.spawn("feed", task);
        feed
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0
            .shelf
            .lock()
            .unwrap_or_else(|error| error.into_inner())
    }

    /// One feed's task.
    async fn run(self, feed: Arc<Feed>) {
        let started = Instant::now();
        let mut merge = Merge::default();
        let mut connection = self.connection();
        let mut live = None;
        let mut patience = Patience::default();
        let mut retry_at = Some(started);
        let mut left_at = None;
        loop {
            if retry_at.is_some_and(|at| at <= Instant::now()) {
                retry_at = self.read(&feed, &mut merge, &mut live, &mut patience).await;
            }
            if self.publish(&feed, &mut merge) {
                return self.finish(&feed, started);
            }
            if merge.has_gap() && retry_at.is_none() {
                retry_at = Some(Instant::now());
                continue;
            }
            if feed.has_followers() {
                left_at = None;
            } else if self.leave(&feed, started, *left_at.get_or_insert_with(Instant::now)) {
                return;
            }
            let wait = match (retry_at, left_at) {
                (Some(at), _) => at,
                (None, Some(_)) => Instant::now() + Duration::from_secs(1),
                (None, None) => Instant::now() + SILENCE,
            };
            tokio::select! {
                message = next(&mut live) => match message {
                    Some(message) => {
                        merge.offer(message);
                        while let Some(message) = ready(&mut live) {
                            merge.offer(message);
                        }
                    }
                    None => retry_at = Some(Instant::now()),
                },
                Ok(()) = connection.changed() => {
                    if connection.borrow_and_update().is_up {
                        retry_at = Some(Instant::now());
                    }
                }
                () = sleep_until(wait) => {
                    if left_at.is_none() {
                        retry_at = Some(Instant::now());
                    }
                }
                () = feed.abandoned() => {}
            }
        }
    }

    /// Subscribes if that is not done, and reads the history. Answers when to try again.
    async fn read(
        &self,
        feed: &Feed,
        merge: &mut Merge,
        live: &mut Option<Live>,
        patience: &mut Patience,
    ) -> Option<Instant> {
        if live.is_none() {
            // Live first: what is stored between the two steps arrives twice rather than never.
            match self.0.tokens.live(feed.query).await {
                Ok(subscription) => *live = Some(subscription),
                Err(error) => {
                    warn!(query.id = %feed.query, %error, "live messages are missing");
                    return Some(patience.next());
                }
            }
        }
        match self.0.tokens.history(feed.query).await {
            Ok(history) => {
                merge.history(history.messages);
                feed.mark_read();
                if merge.has_gap() {
                    return Some(patience.next());
                }
                patience.reset();
                None
            }
            Err(error) => {
                warn!(query.id = %feed.query, %error, "the history is missing");
                Some(patience.next())
            }
        }
    }

    /// Moves what is in order to the followers; true after the terminal.
    fn publish(&self, feed: &Feed, merge: &mut Merge) -> bool {
        let messages: Vec<_> = std::iter::from_fn(|| merge.pop()).collect();
        !messages.is_empty() && feed.append(&messages)
    }

    fn finish(&self, feed: &Arc<Feed>, started: Instant) {
        if let (Some(kind), Some(terminal)) = (feed.counted(), feed.terminal()) {
            let (status, model) = terminal.outcome();
            self.0
                .metrics
                .query_ended(kind, status, model, started.elapsed());
        }
        let mut shelf = self.shelf();
        shelf.running.remove(&feed.query);
        shelf.finished.put(feed.query, feed.clone());
    }

    /// Forgets a feed that nobody follows any more; true if nobody began to meanwhile.
    fn leave(&self, feed: &Feed, started: Instant, left_at: Instant) -> bool {
        let stopping = self.0.lifecycle.is_stopping();
        let counts = feed.counted().is_some() && started.elapsed() < COUNTED;
        if !stopping && (counts || left_at.elapsed() < LINGER) {
            return false;
        }
        let mut shelf = self.shelf();
        if feed.has_followers() {
            return false;
        }
        shelf.running.remove(&feed.query);
        true
    }
}

/// Growing pauses between attempts.
#[derive(Default)]
struct Patience(u32);

impl Patience {
    fn next(&mut self) -> Instant {
        let pause = Duration::from_millis(25 << self.0.min(5));
        self.0 += 1;
        Instant::now() + pause
    }

    fn reset(&mut self) {
        self.0 = 0;
    }
}

fn look(client: &async_nats::Client) -> Connection {
    Connection {
        is_up: client.connection_state() == State::Connected,
        times: connects(client),
    }
}

async fn next(live: &mut Option<Live>) -> Option<domain::wire::token::Message> {
    match live {
        Some(subscription) => {
            let message = subscription.next().await;
            if message.is_none() {
                *live = None;
            }
            message
        }
        None => std::future::pending().await,
    }
}

/// A message that has arrived already.
fn ready(live: &mut Option<Live>) -> Option<domain::wire::token::Message> {
    use futures_util::FutureExt;
    live.as_mut()?.next().now_or_never().flatten()
}
