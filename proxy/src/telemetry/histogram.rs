//! A histogram of fixed buckets: two relaxed atomic additions an observation,
//! constant memory however long nobody scrapes.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

const BUCKETS: usize = 19;

/// Istio's (Envoy's) bucket bounds, as they are written.
const BOUNDS: [&str; BUCKETS] = [
    "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000",
    "30000", "60000", "300000", "600000", "1800000", "3600000",
];

/// What is counted, in the whole number that is added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Microseconds, shown as milliseconds.
    Time,
    /// Bytes.
    Size,
}

/// The bounds in microseconds.
const TIME: [u64; BUCKETS] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];
/// The bounds in bytes; what is at most half a byte is none.
const SIZE: [u64; BUCKETS] = [
    0, 1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000,
    600_000, 1_800_000, 3_600_000,
];

#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Observations by bucket, not cumulated; the last is above all bounds.
    counts: [AtomicU64; BUCKETS + 1],
    sum: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, unit: Unit, value: u64) {
        let bounds = match unit {
            Unit::Time => &TIME,
            Unit::Size => &SIZE,
        };
        let bucket = bounds.partition_point(|&bound| bound < value);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Writes the lines of one label set. The count is the sum of the buckets as
    /// they were read, so that the lines agree with each other.
    pub(super) fn render(&self, out: &mut String, name: &str, labels: &str, unit: Unit) {
        let mut cumulated = 0;
        for (count, bound) in self.counts.iter().zip(BOUNDS.into_iter().chain(["+Inf"])) {
            cumulated += count.load(Relaxed);
            // Writing to a String can't fail, here and below.
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {cumulated}");
        }
        let sum = self.sum.load(Relaxed);
        let _ = match unit {
            Unit::Time => writeln!(
                out,
                "{name}_sum{{{labels}}} {}.{:03}",
                sum / 1_000,
                sum % 1_000
            ),
            Unit::Size => writeln!(out, "{name}_sum{{{labels}}} {sum}"),
        };
        let _ = writeln!(out, "{name}_count{{{labels}}} {cumulated}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_agree_with_their_text() {
        for index in 0..BUCKETS {
            let bound: f64 = BOUNDS[index].parse().unwrap();
            assert_eq!(TIME[index] as f64, bound * 1_000.0);
            assert_eq!(SIZE[index], bound.floor() as u64);
        }
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::default();
        for micros in [500, 501, 1_000, 3_600_000_001] {
            histogram.observe(Unit::Time, micros);
        }
        let mut out = String::new();
        histogram.render(&mut out, "t", "a=\"b\"", Unit::Time);
        for line in [
            "t_bucket{a=\"b\",le=\"0.5\"} 1\n",
            "t_bucket{a=\"b\",le=\"1\"} 3\n",
            "t_bucket{a=\"b\",le=\"3600000\"} 3\n",
            "t_bucket{a=\"b\",le=\"+Inf\"} 4\n",
            "t_sum{a=\"b\"} 3600002.002\n",
            "t_count{a=\"b\"} 4\n",
        ] {
            assert!(out.contains(line), "{line} in\n{out}");
        }
    }

    #[test]
    fn no_bytes_are_in_the_first_bucket() {
        let histogram = Histogram::default();
        histogram.observe(Unit::Size, 0);
        histogram.observe(Unit::Size, 1);
        let mut out = String::new();
        histogram.render(&mut out, "s", "a=\"b\"", Unit::Size);
        assert!(out.contains("s_bucket{a=\"b\",le=\"0.5\"} 1\n"));
        assert!(out.contains("s_bucket{a=\"b\",le=\"1\"} 2\n"));
        assert!(out.contains("s_sum{a=\"b\"} 1\n"));
    }
}
