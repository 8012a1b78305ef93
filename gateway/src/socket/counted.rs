//! How many sockets each user has.

use domain::id::AccountId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

/// Open sockets by user; those without any are not in it.
pub(crate) struct Counted {
    limit: usize,
    users: Mutex<HashMap<AccountId, usize>>,
}

/// A socket's place, given up when dropped.
pub(super) struct Place {
    counted: Arc<Counted>,
    user: AccountId,
}

impl Counted {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            users: Mutex::default(),
        }
    }

    /// A place, unless the user has as many as are allowed.
    pub(super) fn enter(self: &Arc<Self>, user: AccountId) -> Option<Place> {
        let mut users = self.users();
        let count = users.entry(user).or_insert(0);
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Place {
            counted: self.clone(),
            user,
        })
    }

    fn users(&self) -> MutexGuard<'_, HashMap<AccountId, usize>> {
        self.users.lock().unwrap_or_else(|error| error.into_inner())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.counted.users();
        if let Some(count) = users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_after_its_socket() {
        let counted = Arc::new(Counted::new(2));
        let user = AccountId::new(uuid::Uuid::from_u128(1));
        let first = counted.enter(user);
        let second = counted.enter(user);
        assert!(first.is_some() && second.is_some());
        assert!(counted.enter(user).is_none());
        assert!(
            counted
                .enter(AccountId::new(uuid::Uuid::from_u128(2)))
                .is_some()
        );
        drop(first);
        let third = counted.enter(user);
        assert!(third.is_some());
        drop((second, third));
        assert!(counted.users().is_empty());
    }
}
