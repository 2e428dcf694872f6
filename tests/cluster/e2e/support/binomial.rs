//! The interval that a count of a weighted choice must lie in.

/// The narrowest `low..=high` of successes in `trials` with probability `p` that
/// leaves at most half of `1 - confidence` on either side, exactly (summed
/// probabilities, no normal approximation).
pub(crate) fn interval(trials: u64, p: f64, confidence: f64) -> std::ops::RangeInclusive<u64> {
    let tail = (1.0 - confidence) / 2.0;
    let probabilities = probabilities(trials, p);
    let inside = |below: &mut f64, probability: &f64| {
        *below += probability;
        Some(*below > tail)
    };
    let outside = |counts: &mut dyn Iterator<Item = &f64>| {
        let mut below = 0.0;
        counts
            .map_while(|probability| inside(&mut below, probability))
            .take_while(|inside| !inside)
            .count() as u64
    };
    let low = outside(&mut probabilities.iter());
    let high = trials - outside(&mut probabilities.iter().rev());
    low..=high
}

/// The probability of each count, by logarithms: 0.1 to the 2,000th is no number.
fn probabilities(trials: u64, p: f64) -> Vec<f64> {
    let mut logarithm = trials as f64 * (1.0 - p).ln();
    let odds = (p / (1.0 - p)).ln();
    (0..=trials)
        .map(|count| {
            let probability = logarithm.exp();
            logarithm += ((trials - count) as f64 / (count + 1) as f64).ln() + odds;
            probability
        })
        .collect()
}

#[test]
fn interval_of_known_distributions() {
    // Ten fair coins: 0 or 10 heads have probability 1/1024 each.
    assert_eq!(interval(10, 0.5, 0.99), 1..=9);
    assert_eq!(interval(10, 0.5, 0.999), 0..=10);
    // 90/10 over 2,000: mean 200, deviation 13.4, 3.29 of them at 99.9 %.
    let interval = interval(2000, 0.1, 0.999);
    assert!((155..=158).contains(interval.start()), "{interval:?}");
    assert!((244..=247).contains(interval.end()), "{interval:?}");
}
