//! One command at a time per aggregate, within this process.
//!
//! Without it, many callers of one aggregate would all decide on the same sequence, one would win
//! and the others would read and decide again, over and over. The expected sequence stays the only
//! guard: other instances write too. There are as many entries as commands in work, at most.

use domain::subject::Aggregate;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

type Lock = Arc<AsyncMutex<()>>;
type Locks = Arc<Mutex<HashMap<Aggregate, Lock>>>;

/// Who is at work on which aggregate. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Locks);

/// The right to change an aggregate, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    aggregate: Aggregate,
    locks: Locks,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits until nobody else of this process is at work on the aggregate, in the order of
    /// arrival.
    pub(super) async fn take(&self, aggregate: Aggregate) -> Turn {
        let lock = entries(&self.0).entry(aggregate).or_default().clone();
        // Made first, so that the entry goes even if the wait is given up.
        let mut turn = Turn {
            aggregate,
            locks: self.0.clone(),
            held: None,
        };
        turn.held = Some(lock.lock_owned().await);
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut entries = entries(&self.locks);
        self.held = None;
        // Whoever waits or works holds a clone, and clones are made under the lock of the entries.
        if entries
            .get(&self.aggregate)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            entries.remove(&self.aggregate);
        }
    }
}

fn entries(locks: &Locks) -> MutexGuard<'_, HashMap<Aggregate, Lock>> {
    locks.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::subject::Kind;
    use futures_util::FutureExt;
    use uuid::Uuid;

    fn aggregate(n: u128) -> Aggregate {
        Aggregate::new(Kind::Query, Uuid::from_u128(n))
    }

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left_behind() {
        let turns = Turns::default();
        let first = turns.take(aggregate(1)).await;
        let _other = turns.take(aggregate(2)).await;
        let mut second = Box::pin(turns.take(aggregate(1)));
        assert!((&mut second).now_or_never().is_none());
        // A wait that is given up takes nothing with it.
        assert!(turns.take(aggregate(1)).now_or_never().is_none());
        drop(first);
        let second = second.await;
        assert_eq!(entries(&turns.0).len(), 2);
        drop(second);
        assert_eq!(entries(&turns.0).len(), 1);
    }
}
