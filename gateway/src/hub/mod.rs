//! Following token streams: once per query and node, however many clients listen.
//!
//! A [`feed::Feed`] holds what is known of one query's stream as frames that are encoded once. Its
//! task subscribes to live messages, reads the history, opens both with the query's key ([`key`]),
//! merges them by `seq` ([`merge`]), and wakes its followers. A follower has a cursor into the
//! feed, not a queue.

mod feed;
mod frame;
mod key;
mod merge;

pub(crate) use feed::Follower;
pub(crate) use frame::{Entry, encode, terminal_of};

use crate::{
    consistency::Consistency,
    metrics::{Metrics, QueryKind},
};
use async_nats::connection::State;
use domain::id::{AccountId, QueryId};
use feed::Feed;
use futures_util::StreamExt;
use infra::{
    lifecycle::Lifecycle,
    nats::connects,
    sealing::QueryKeys,
    telemetry,
    tokens::{self, Envelope, Live, Tokens},
};
use key::FeedKey;
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
    keys: QueryKeys,
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
        keys: QueryKeys,
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
            keys,
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

    /// Follows a query; `wake` is notified of everything new. Whether this user may is for the
    /// caller to find out, see [`Follower::owner`].
    pub(crate) fn follow(&self, query: QueryId, user: AccountId, wake: Arc<Notify>) -> Follower {
        let mut shelf = self.shelf();
        let feed = self.open(&mut shelf, query, user);
        // Attached under the lock, so that the feed is not dropped in between.
        Follower::attach(feed, wake)
    }

    /// Follows a query that this user submitted here to its end, for the metrics.
    pub(crate) fn count(&self, query: QueryId, user: AccountId, kind: QueryKind) {
        let mut shelf = self.shelf();
        self.open(&mut shelf, query, user).count(kind);
    }

    fn open(&self, shelf: &mut Shelf, query: QueryId, user: AccountId) -> Arc<Feed> {
        if let Some(feed) = shelf.finished.get(&query) {
            return feed.clone();
        }
        if let Some(feed) = shelf.running.get(&query) {
            return feed.clone();
        }
        let feed = Arc::new(Feed::new(query, user, self.0.writes.clone()));
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
        let mut reading = Reading::of(FeedKey::new(self.0.keys.clone(), feed.query));
        let mut connection = self.connection();
        let mut retry_at = Some(started);
        let mut left_at = None;
        loop {
            if retry_at.is_some_and(|at| at <= Instant::now()) {
                retry_at = match self.read(&feed, &mut reading).await {
                    Read::All => None,
                    Read::Again(at) => Some(at),
                    Read::Gone => return self.give_up(&feed),
                };
            }
            if self.publish(&feed, &mut reading.merge) {
                return self.finish(&feed, started);
            }
            if reading.merge.has_gap() && retry_at.is_none() {
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
                envelope = next(&mut reading.live) => match envelope {
                    Some(envelope) => {
                        let mut complete = reading.offer(&envelope);
                        while let Some(envelope) = ready(&mut reading.live) {
                            complete &= reading.offer(&envelope);
                        }
                        if !complete {
                            // Not before it is due, if it is to be tried again anyway.
                            retry_at.get_or_insert_with(Instant::now);
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

    /// Subscribes if that is not done, reads the history, and has the key.
    async fn read(&self, feed: &Feed, reading: &mut Reading) -> Read {
        let Reading {
            merge,
            live,
            key,
            patience,
        } = reading;
        if live.is_none() {
            // Live first: what is stored between the two steps arrives twice rather than never.
            match self.0.tokens.live(feed.query).await {
                Ok(subscription) => *live = Some(subscription),
                Err(error) => {
                    warn!(query.id = %feed.query, %error, "live messages are missing");
                    return Read::Again(patience.next());
                }
            }
        }
        // Whoever came first is most likely the owner: the key is asked for meanwhile.
        let guess = (!key.is_known()).then_some(feed.opener);
        let asked = async {
            if let Some(person) = guess {
                key.ask(person).await;
            }
        };
        let (stored, ()) = tokio::join!(self.0.tokens.stored(feed.query), asked);
        let opened = async {
            let stored = stored?;
            let person = match (stored.person()?, feed.owner()) {
                // What was told is not there any more: perhaps its owner was erased.
                (None, Some(owner)) => {
                    if guess.is_none() {
                        key.forget();
                    }
                    Some(owner)
                }
                (person, _) => person,
            };
            if let Some(person) = person {
                if guess != Some(person) {
                    key.ask(person).await;
                }
                if key.is_erased(person) {
                    return Ok(None);
                }
            }
            stored.open(key.key()).map(Some)
        };
        match opened.await {
            Ok(Some(history)) => {
                merge.history(history.messages);
                feed.mark_read();
                if merge.has_gap() {
                    return Read::Again(patience.next());
                }
                patience.reset();
                Read::All
            }
            Ok(None) => Read::Gone,
            Err(error) => {
                let reason = telemetry::chain(&error);
                warn!(query.id = %feed.query, reason, "the history is missing");
                if matches!(error, tokens::Error::NoKey { .. }) {
                    key.forget();
                }
                Read::Again(patience.next())
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

    /// Nobody can read the stream any more: for its followers there is none.
    fn give_up(&self, feed: &Feed) {
        self.shelf().running.remove(&feed.query);
        feed.mark_gone();
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

/// How a stream is read.
struct Reading {
    merge: Merge,
    live: Option<Live>,
    key: FeedKey,
    patience: Patience,
}

/// What came of reading the history.
enum Read {
    /// It is there, without a gap.
    All,
    /// It has to be tried again then.
    Again(Instant),
    /// Nobody can read it any more.
    Gone,
}

impl Reading {
    fn of(key: FeedKey) -> Self {
        Self {
            merge: Merge::default(),
            live: None,
            key,
            patience: Patience::default(),
        }
    }

    /// Takes a live message; false if the history has to be read for it, once its key is there.
    fn offer(&mut self, envelope: &Envelope) -> bool {
        match envelope.open(self.key.key()) {
            Ok(message) => self.merge.offer(message),
            Err(tokens::Error::NoKey { .. }) => return false,
            Err(error) => {
                let reason = telemetry::chain(&error);
                warn!(reason, "a live message cannot be read");
            }
        }
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

async fn next(live: &mut Option<Live>) -> Option<Envelope> {
    match live {
        Some(subscription) => {
            let envelope = subscription.next().await;
            if envelope.is_none() {
                *live = None;
            }
            envelope
        }
        None => std::future::pending().await,
    }
}

/// A message that has arrived already.
fn ready(live: &mut Option<Live>) -> Option<Envelope> {
    use futures_util::FutureExt;
    live.as_mut()?.next().now_or_never().flatten()
}
