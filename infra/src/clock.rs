//! The clock and fresh ids, which [`domain`] does not have.

use domain::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Now, in milliseconds.
pub fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A fresh id that sorts by time (UUID version 7).
pub fn fresh_id() -> Uuid {
    Uuid::now_v7()
}
