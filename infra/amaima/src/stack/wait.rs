//! Waiting for something to become true, with a deadline and the last reason why it was not.

use std::{fmt, time::Duration};
use tokio::time::{Instant, sleep, timeout_at};

/// Pause between two attempts: short enough that a start is not felt, long enough to leave the
/// processor to the server that is starting.
const PAUSE: Duration = Duration::from_millis(10);

/// Something did not happen in time.
#[derive(Debug, thiserror::Error)]
#[error("{what} did not happen within {:.1} s; last seen: {last}", after.as_secs_f64())]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// For how long.
    pub after: Duration,
    /// The failure of the last attempt.
    pub last: String,
}

/// Tries until an attempt succeeds. An attempt that hangs is cut off at the deadline.
///
/// # Errors
/// When the deadline passes; the error carries the last failure.
pub async fn wait_for<T, E, F>(
    what: &str,
    deadline: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T, TimedOut>
where
    E: fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let end = Instant::now() + deadline;
    let mut last = String::from("no attempt ended");
    loop {
        match timeout_at(end, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => {}
        }
        if Instant::now() + PAUSE > end {
            return Err(TimedOut {
                what: what.into(),
                after: deadline,
                last,
            });
        }
        sleep(PAUSE).await;
    }
}

/// Does work that blocks on a thread where that is no harm.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn carries_the_last_failure() {
        let mut attempts = 0;
        let outcome = wait_for("the third wish", Duration::from_millis(60), || {
            attempts += 1;
            std::future::ready(Err::<(), _>(format!("wish {}", attempts.min(2))))
        })
        .await;
        let text = outcome.map_err(|error| error.to_string()).unwrap_err();
        assert_eq!(
            text,
            "the third wish did not happen within 0.1 s; last seen: wish 2"
        );
    }

    #[tokio::test]
    async fn cuts_off_an_attempt_that_hangs() {
        let outcome = wait_for("an echo", Duration::from_millis(30), || {
            std::future::pending::<Result<(), String>>()
        })
        .await;
        assert!(outcome.is_err());
    }
}
