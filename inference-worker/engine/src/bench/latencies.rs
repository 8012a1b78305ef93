//! Times of any number of events in memory that does not grow.

use std::time::Duration;

use serde::Serialize;

/// Each bucket ends so many times as late as the one before.
const STEP: f64 = 1.02;
/// Buckets from a microsecond to some hours; what takes longer counts as that.
const BUCKETS: usize = 1_200;

/// How often something took how long, to one percent.
#[derive(Debug, Clone)]
pub(super) struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    sum: Duration,
}

/// What most, and what nearly all, took at most, in milliseconds; to one percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Milliseconds {
    /// Half of them.
    pub p50: f64,
    /// 95 of a hundred.
    pub p95: f64,
    /// 99 of a hundred.
    pub p99: f64,
    /// The mean, which is exact.
    pub mean: f64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            count: 0,
            sum: Duration::ZERO,
        }
    }
}

impl Latencies {
    pub(super) fn record(&mut self, took: Duration) {
        let microseconds = (took.as_secs_f64() * 1e6).max(1.0);
        let bucket = (microseconds.ln() / STEP.ln()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.count += 1;
        self.sum += took;
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += more;
        }
        self.count += other.count;
        self.sum += other.sum;
    }

    /// None where nothing was recorded.
    pub(super) fn milliseconds(&self) -> Option<Milliseconds> {
        (self.count > 0).then(|| Milliseconds {
            p50: self.at(0.5),
            p95: self.at(0.95),
            p99: self.at(0.99),
            mean: self.sum.as_secs_f64() * 1e3 / self.count as f64,
        })
    }

    /// The middle of the bucket in which this share of them is reached.
    fn at(&self, share: f64) -> f64 {
        let rank = (share * self.count as f64).ceil() as u64;
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        STEP.powf(bucket.unwrap_or(BUCKETS - 1) as f64 + 0.5) / 1e3
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn percentiles_are_within_one_percent_and_the_mean_is_exact(
            took in prop::collection::vec(1u64..20_000_000, 1..300),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut all = Latencies::default();
            // Recorded by two, and added up.
            let (left, right) = took.split_at(cut.index(took.len()));
            for part in [left, right] {
                let mut each = Latencies::default();
                for microseconds in part {
                    each.record(Duration::from_micros(*microseconds));
                }
                all.add(&each);
            }
            let found = all.milliseconds().expect("some");
            let mut sorted = took.clone();
            sorted.sort_unstable();
            for (share, found) in [(0.5, found.p50), (0.95, found.p95), (0.99, found.p99)] {
                let rank = (share * sorted.len() as f64).ceil() as usize;
                let exact = sorted[rank - 1] as f64 / 1e3;
                prop_assert!((found / exact - 1.0).abs() < 0.0101, "{share}: {found} for {exact}");
            }
            let mean = took.iter().sum::<u64>() as f64 / 1e3 / took.len() as f64;
            prop_assert!((found.mean / mean - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn nothing_has_no_percentiles_and_the_longest_has_a_place() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.milliseconds(), None);
        latencies.record(Duration::MAX / 2);
        latencies.record(Duration::ZERO);
        let found = latencies.milliseconds().expect("some");
        assert!(found.p50 < 0.002 && found.p99 > 3.6e6, "{found:?}");
    }
}
