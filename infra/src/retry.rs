//! Waiting between attempts: longer each time, with jitter, so that many do not come at once.

use std::time::Duration;

/// Delays that double from `first` up to `most`, each with up to a quarter of jitter.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    /// Begins with `first`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, most }
    }

    /// The next delay.
    pub fn delay(&mut self) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(self.most);
        let quarter = u64::try_from(base.as_micros() / 4)
            .unwrap_or(u64::MAX)
            .max(1);
        // The low bits of a fresh id are random.
        let random = crate::clock::fresh_id().as_u128() as u64;
        base + Duration::from_micros(random % quarter)
    }

    /// Waits for the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.delay()).await;
    }
}
