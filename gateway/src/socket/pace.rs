//! How fast a client may send: a token bucket that holds one second's worth.

use tokio::time::Instant;

/// A bucket.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Pace {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            left: per_second,
            at: now,
        }
    }

    /// Takes one message; false if it is one too many.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * self.per_second).min(self.per_second);
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn one_seconds_worth_may_come_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(50, start);
        assert!((0..50).all(|_| pace.take(start)));
        assert!(!pace.take(start));
        assert!(pace.take(start + Duration::from_millis(25)));
        assert!(!pace.take(start + Duration::from_millis(25)));
    }
}
