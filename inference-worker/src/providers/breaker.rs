//! Keeps queries away from a provider that fails: after [`FAILURES`] in a row for [`PAUSE`], and then
//! until one query, the trial, gets an answer.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing::{info, warn};

/// Failures in a row that open it.
const FAILURES: u32 = 5;
/// How long it stays open before one query may try.
const PAUSE: Duration = Duration::from_secs(60);

/// What is known of a provider's health. Time comes from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breaker {
    /// Queries pass; so many have failed in a row.
    Closed { failures: u32 },
    /// None pass until then.
    Open { until: Instant },
    /// One is trying.
    Trial,
}

/// How a query that passed has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Succeeded,
    Failed,
    /// By the client's own wish, or in a way that says nothing of the provider.
    Abandoned,
}

impl Breaker {
    /// Whether a query may pass, and whether it is the trial.
    fn admit(&mut self, now: Instant) -> Option<bool> {
        match *self {
            Self::Closed { .. } => Some(false),
            Self::Open { until } if now >= until => {
                *self = Self::Trial;
                Some(true)
            }
            Self::Open { .. } | Self::Trial => None,
        }
    }

    fn told(&mut self, verdict: Verdict, is_trial: bool, now: Instant) {
        let open = Self::Open { until: now + PAUSE };
        *self = match (*self, verdict) {
            // An answer is an answer, also to somebody who came before it opened.
            (_, Verdict::Succeeded) => Self::Closed { failures: 0 },
            (Self::Closed { failures }, Verdict::Failed) if failures + 1 < FAILURES => {
                Self::Closed {
                    failures: failures + 1,
                }
            }
            (Self::Closed { .. }, Verdict::Failed) => open,
            (Self::Trial, Verdict::Failed) if is_trial => open,
            // Somebody else may try at once.
            (Self::Trial, Verdict::Abandoned) if is_trial => Self::Open { until: now },
            (same, Verdict::Failed | Verdict::Abandoned) => same,
        };
    }
}

/// The breaker of one provider, for all queries.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    provider: Arc<str>,
    breaker: Arc<Mutex<Breaker>>,
}

/// A query has passed; whoever holds this says how it ended, or drops it and says nothing.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Gate,
    is_trial: bool,
    verdict: Verdict,
}

impl Gate {
    pub(super) fn new(provider: &str) -> Self {
        Self {
            provider: provider.into(),
            breaker: Arc::new(Mutex::new(Breaker::Closed { failures: 0 })),
        }
    }

    pub(super) fn pass(&self) -> Option<Pass> {
        let is_trial = self.with(|breaker| breaker.admit(Instant::now()))?;
        if is_trial {
            info!(
                provider = &*self.provider,
                "one query tries the provider again"
            );
        }
        Some(Pass {
            gate: self.clone(),
            is_trial,
            verdict: Verdict::Abandoned,
        })
    }

    /// Whether queries are kept away.
    pub(super) fn is_open(&self) -> bool {
        self.with(|breaker| !matches!(breaker, Breaker::Closed { .. }))
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut Breaker) -> T) -> T {
        // A state is replaced as a whole, so that a panic leaves it whole.
        use_it(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Pass {
    /// The answer begins: a trial has shown enough, and the others need not wait for its end.
    pub(super) fn began(&mut self) {
        if std::mem::take(&mut self.is_trial) {
            self.tell(Verdict::Succeeded, true);
        }
    }

    pub(super) fn succeeded(mut self) {
        self.verdict = Verdict::Succeeded;
    }

    pub(super) fn failed(mut self) {
        self.verdict = Verdict::Failed;
    }

    fn tell(&self, verdict: Verdict, is_trial: bool) {
        let (before, after) = self.gate.with(|breaker| {
            let before = *breaker;
            breaker.told(verdict, is_trial, Instant::now());
            (before, *breaker)
        });
        let provider = &*self.gate.provider;
        match (before, after) {
            (Breaker::Closed { .. }, Breaker::Open { .. }) => {
                let pause_s = PAUSE.as_secs();
                warn!(
                    provider,
                    pause_s, "the provider keeps failing: no more queries for now"
                );
            }
            (Breaker::Trial | Breaker::Open { .. }, Breaker::Closed { .. }) => {
                info!(provider, "the provider answers again");
            }
            _ => {}
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.tell(self.verdict, self.is_trial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(breaker: &mut Breaker, times: u32, now: Instant) {
        for _ in 0..times {
            assert_eq!(breaker.admit(now), Some(false));
            breaker.told(Verdict::Failed, false, now);
        }
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_one_trial_closes_it() {
        let begin = Instant::now();
        let mut breaker = Breaker::Closed { failures: 0 };
        failing(&mut breaker, 4, begin);
        // A success in between begins the count anew; what says nothing does not.
        breaker.told(Verdict::Succeeded, false, begin);
        failing(&mut breaker, 2, begin);
        breaker.told(Verdict::Abandoned, false, begin);
        failing(&mut breaker, 2, begin);
        assert_eq!(breaker.admit(begin), Some(false));
        breaker.told(Verdict::Failed, false, begin);
        assert_eq!(breaker.admit(begin), None);
        let almost = begin + PAUSE - Duration::from_millis(1);
        assert_eq!(breaker.admit(almost), None);

        let later = begin + PAUSE;
        assert_eq!(breaker.admit(later), Some(true));
        assert_eq!(breaker.admit(later), None, "one trial at a time");
        // Older queries that fail now say nothing new.
        breaker.told(Verdict::Failed, false, later);
        breaker.told(Verdict::Abandoned, false, later);
        assert_eq!(breaker.admit(later), None);
        breaker.told(Verdict::Failed, true, later);
        assert_eq!(
            breaker.admit(later + PAUSE / 2),
            None,
            "open for as long again"
        );

        let latest = later + PAUSE;
        assert_eq!(breaker.admit(latest), Some(true));
        breaker.told(Verdict::Abandoned, true, latest);
        assert_eq!(breaker.admit(latest), Some(true), "the next one tries");
        breaker.told(Verdict::Succeeded, true, latest);
        failing(&mut breaker, 4, latest);
        assert_eq!(breaker.admit(latest), Some(false));
    }

    #[test]
    fn whoever_drops_its_pass_says_nothing() {
        let gate = Gate::new("test");
        for _ in 0..10 {
            drop(gate.pass().expect("closed"));
        }
        for _ in 0..5 {
            assert!(!gate.is_open());
            gate.pass().expect("closed").failed();
        }
        assert!(gate.is_open() && gate.pass().is_none());
    }
}
