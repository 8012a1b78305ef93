//! Read your own writes: what each user last wrote through this gateway.

use domain::id::AccountId;
use lru::LruCache;
use std::{num::NonZeroUsize, sync::Mutex};

/// So many users are remembered; who wrote longest ago is forgotten first, long after the
/// projection has caught up.
const USERS: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// Each user's last write, as a sequence of the log.
pub(crate) struct LastWrites(Mutex<LruCache<AccountId, u64>>);

impl LastWrites {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::new(USERS)))
    }

    pub(crate) fn record(&self, user: AccountId, seq: u64) {
        let mut users = self.0.lock().unwrap_or_else(|error| error.into_inner());
        let last = users.get_or_insert_mut(user, || 0);
        *last = seq.max(*last);
    }

    /// What an answer to this user must reflect.
    pub(crate) fn of(&self, user: AccountId) -> u64 {
        let mut users = self.0.lock().unwrap_or_else(|error| error.into_inner());
        users.get(&user).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_write_counts() {
        let user = AccountId::new(uuid::Uuid::from_u128(1));
        let writes = LastWrites::new();
        assert_eq!(writes.of(user), 0);
        writes.record(user, 7);
        writes.record(user, 5);
        assert_eq!(writes.of(user), 7);
    }
}
