//! How much of the gateway's work may be under way on the bus at once. What comes above is turned
//! away at once: a queue that grows would make everybody wait, and answer nobody in time.
//!
//! A subscription of command-svc and of projection-svc holds 65,536 messages before the client
//! library drops any; the defaults here keep 64 gateways below that, whatever happens behind it.

use domain::wire::error::Failure;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Whoever is turned away comes back after this time and up to twice as much more, so that they
/// do not come together.
const RETRY_AFTER_MILLIS: u32 = 1_000;

/// Places for commands and for questions.
pub(crate) struct Limits {
    commands: Semaphore,
    questions: Semaphore,
}

impl Limits {
    pub(crate) fn new(commands: usize, questions: usize) -> Self {
        Self {
            commands: Semaphore::new(commands.min(Semaphore::MAX_PERMITS)),
            questions: Semaphore::new(questions.min(Semaphore::MAX_PERMITS)),
        }
    }

    /// A place for a command, for as long as it is held.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn command(&self) -> Result<SemaphorePermit<'_>, Failure> {
        self.commands.try_acquire().map_err(|_| turned_away())
    }

    /// A place for a question, for as long as it is held.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn question(&self) -> Result<SemaphorePermit<'_>, Failure> {
        self.questions.try_acquire().map_err(|_| turned_away())
    }
}

fn turned_away() -> Failure {
    // The low bits of a fresh id are random.
    let random = infra::clock::fresh_id().as_u128() as u32;
    Failure::overloaded(RETRY_AFTER_MILLIS + random % (2 * RETRY_AFTER_MILLIS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_above_the_limit_is_turned_away_at_once() {
        let limits = Limits::new(1, 0);
        let place = limits.command().unwrap();
        let failure = limits.command().unwrap_err();
        assert_eq!(failure.code.status(), 503);
        assert!(
            failure
                .retry_after_secs
                .is_some_and(|secs| (1..=3).contains(&secs))
        );
        drop(place);
        assert!(limits.command().is_ok());
        assert!(limits.question().is_err());
    }
}
