//! Never reading backwards: which log this is, what each user last wrote through this gateway, and
//! what a client says that it has seen.

use domain::{
    id::AccountId,
    wire::consistency::{Epoch, Token},
};
use infra::{lifecycle::Lifecycle, telemetry};
use lru::LruCache;
use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::sleep};
use tracing::{debug, info, warn};

/// So many users are remembered; who wrote longest ago is forgotten first, long after the
/// projection has caught up.
const USERS: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");
/// How often it is looked whether the log is still the same one.
const LOOK: Duration = Duration::from_secs(10);
/// The same for as long as the log could not be found.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long a call waits for the log to be found at the start.
const EPOCH_WAIT: Duration = Duration::from_secs(2);

/// What the gateway knows of the log.
pub(crate) struct Consistency {
    epoch: watch::Sender<Option<Epoch>>,
    writes: Mutex<LruCache<AccountId, u64>>,
}

impl Consistency {
    pub(crate) fn new() -> Self {
        Self {
            epoch: watch::Sender::new(None),
            writes: Mutex::new(LruCache::new(USERS)),
        }
    }

    /// Looks which log it is, again and again: somebody may make it anew while we run.
    pub(crate) fn watch(self: &Arc<Self>, client: async_nats::Client, lifecycle: &Lifecycle) {
        let (this, life) = (self.clone(), lifecycle.clone());
        lifecycle.spawn("epoch", async move {
            let looking = async {
                loop {
                    match infra::epoch::of_log(&client).await {
                        Ok(epoch) => this.found(epoch),
                        Err(error) => debug!(reason = telemetry::chain(&error), "no epoch"),
                    }
                    sleep(if this.now().is_some() {
                        LOOK
                    } else {
                        LOOK_AGAIN
                    })
                    .await;
                }
            };
            tokio::select! {
                () = looking => {}
                () = life.stopping() => {}
            }
        });
    }

    fn found(&self, epoch: Epoch) {
        let before = *self.epoch.borrow();
        if before == Some(epoch) {
            return;
        }
        // Sequences of another log would be waited for in vain.
        self.users().clear();
        self.epoch.send_replace(Some(epoch));
        match before {
            None => info!(%epoch, "found the log"),
            Some(_) => warn!(%epoch, "the log was made anew"),
        }
    }

    /// The log's epoch, if it is known.
    pub(crate) fn now(&self) -> Option<Epoch> {
        *self.epoch.borrow()
    }

    /// The log's epoch; waits a little where the gateway has only just started.
    pub(crate) async fn epoch(&self) -> Option<Epoch> {
        let mut epoch = self.epoch.subscribe();
        let known = epoch.wait_for(Option::is_some);
        *tokio::time::timeout(EPOCH_WAIT, known).await.ok()?.ok()?
    }

    /// Notes what a user wrote.
    pub(crate) fn record(&self, user: AccountId, seq: u64) {
        let mut users = self.users();
        let last = users.get_or_insert_mut(user, || 0);
        *last = seq.max(*last);
    }

    /// What an answer to this user must reflect, without a token.
    pub(crate) fn of(&self, user: AccountId) -> u64 {
        self.users().get(&user).copied().unwrap_or(0)
    }

    fn users(&self) -> MutexGuard<'_, LruCache<AccountId, u64>> {
        self.writes
            .lock()
            .unwrap_or_else(|error| error.into_inner())
    }
}

/// What one call has seen of the log, for the token in its response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(Arc<AtomicU64>);

impl Seen {
    /// The answer reflects this sequence.
    pub(crate) fn note(&self, seq: u64) {
        self.0.fetch_max(seq, Ordering::Relaxed);
    }

    /// The token to answer with: nothing if the call did not touch the log. A client that hands
    /// each token on never gets one that lies before its own.
    pub(crate) fn token(&self, epoch: Option<Epoch>, sent: Option<Token>) -> Option<Token> {
        let (seq, epoch) = (self.0.load(Ordering::Relaxed), epoch?);
        let floor = sent.filter(|sent| sent.epoch == epoch);
        (seq > 0).then(|| Token {
            epoch,
            seq: floor.map_or(seq, |floor| floor.seq.max(seq)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_write_counts_until_the_log_is_another() {
        let user = AccountId::new(uuid::Uuid::from_u128(1));
        let known = Consistency::new();
        assert_eq!((known.of(user), known.now()), (0, None));
        known.found(Epoch::of_log(1));
        known.record(user, 7);
        known.record(user, 5);
        known.found(Epoch::of_log(1));
        assert_eq!(known.of(user), 7);
        known.found(Epoch::of_log(2));
        assert_eq!(known.of(user), 0);
        assert_eq!(known.now(), Some(Epoch::of_log(2)));
    }

    #[test]
    fn a_token_never_lies_before_the_clients_own() {
        let (one, other) = (Epoch::of_log(1), Epoch::of_log(2));
        let at = |epoch, seq| Some(Token { epoch, seq });
        let seen = Seen::default();
        assert_eq!(seen.token(Some(one), at(one, 9)), None);
        seen.note(5);
        seen.note(3);
        assert_eq!(seen.token(None, None), None);
        assert_eq!(seen.token(Some(one), None), at(one, 5));
        assert_eq!(seen.token(Some(one), at(one, 9)), at(one, 9));
        assert_eq!(seen.token(Some(one), at(other, 9)), at(one, 5));
    }
}
