//! Latencies in buckets that grow with the value: less than one percent wrong
//! at any size, a few kilobytes however long a run lasts.

use std::time::Duration;

use super::Latency;

/// Buckets between a power of two and the next: 1/128 is the error's bound.
const STEPS: u64 = 128;

#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    highest: u64,
}

impl Histogram {
    pub(super) fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let index = index(micros);
        if index >= self.buckets.len() {
            self.buckets.resize(index + 1, 0);
        }
        self.buckets[index] += 1;
        self.count += 1;
        self.highest = self.highest.max(micros);
    }

    pub(super) fn summary(&self) -> Latency {
        Latency {
            p50: self.quantile(0.50),
            p90: self.quantile(0.90),
            p99: self.quantile(0.99),
            max: self.highest as f64 / 1000.0,
        }
    }

    /// In milliseconds; 0 without any latency.
    fn quantile(&self, quantile: f64) -> f64 {
        let rank = (quantile * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return (value(index).min(self.highest)) as f64 / 1000.0;
            }
        }
        0.0
    }
}

/// Values below [`STEPS`] have a bucket each; above, every doubling has `STEPS`.
fn index(micros: u64) -> usize {
    let doublings = u64::from((micros / STEPS).checked_ilog2().map_or(0, |log| log + 1));
    let position = match doublings {
        0 => micros,
        _ => doublings * STEPS + (micros >> (doublings - 1)) - STEPS,
    };
    position as usize
}

/// The highest value of a bucket.
fn value(index: usize) -> u64 {
    let index = index as u64;
    match index / STEPS {
        0 => index,
        doublings => ((index % STEPS + STEPS + 1) << (doublings - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_within_one_percent_of_what_it_holds() {
        for micros in (0..100_000).chain([1_000_000, 60_000_000, 3_600_000_000]) {
            let shown = value(index(micros));
            assert!(shown >= micros, "{shown} for {micros}");
            assert!((shown - micros) as f64 <= micros as f64 / 100.0, "{micros}");
        }
    }

    #[test]
    fn buckets_follow_one_another() {
        for index in 0..40 * STEPS as usize {
            assert_eq!(super::index(value(index)), index);
            assert_eq!(super::index(value(index) + 1), index + 1);
        }
    }

    #[test]
    fn quantiles_of_a_known_series() {
        let mut histogram = Histogram::default();
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        let summary = histogram.summary();
        assert!((summary.p50 - 0.500).abs() < 0.005, "{summary:?}");
        assert!((summary.p99 - 0.990).abs() < 0.010, "{summary:?}");
        assert_eq!(summary.max, 1.0);
        assert_eq!(Histogram::default().summary(), Latency::default());
    }
}
