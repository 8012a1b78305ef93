//! Folded aggregates in memory.

use domain::Aggregate;
use infra::event_store::Loaded;
use lru::LruCache;
use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};
use uuid::Uuid;

/// Aggregates of one kind that are kept folded in memory.
const CACHED: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Folded aggregates of one kind. Stale ones do no harm: the expected sequence refuses what was
/// decided on them.
pub struct Cache<A>(Mutex<LruCache<Uuid, Loaded<A>>>);

impl<A: Aggregate> Default for Cache<A> {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(CACHED)))
    }
}

impl<A: Aggregate> Cache<A> {
    pub(super) fn get(&self, id: Uuid) -> Option<Loaded<A>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    pub(super) fn put(&self, id: Uuid, loaded: Loaded<A>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(id, loaded);
    }
}
