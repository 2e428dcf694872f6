use super::*;
use proptest::prelude::*;

/// An answer or a failure after so many milliseconds, so long after the one before.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    after: Duration,
    milliseconds: f64,
    failed: bool,
}

/// What a request costs after such outcomes, and a while.
fn cost_after(outcomes: &[Outcome], quiet: Duration) -> f64 {
    let mut now = Instant::now();
    let latency = Latency::new(now);
    let mut known = UNKNOWN_LATENCY;
    for outcome in outcomes {
        now += outcome.after;
        known = match outcome.failed {
            true => latency.after_failure(known, outcome.milliseconds, now),
            false => latency.after_answer(known, outcome.milliseconds, now),
        };
    }
    cost(latency.now(known, now + quiet), 0)
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let times = (0u64..5_000_000, 0.0..4.0f64, any::<bool>());
    times.prop_map(|(micros, magnitude, failed)| Outcome {
        after: Duration::from_micros(micros),
        milliseconds: 10f64.powf(magnitude) / 10.0,
        failed,
    })
}

proptest! {
    #[test]
    fn a_failure_in_an_answers_place_makes_no_endpoint_cheaper(
        outcomes in prop::collection::vec(outcome(), 1..30),
        position in any::<prop::sample::Index>(),
        quiet in 0u64..10_000,
    ) {
        let mut answered = outcomes.clone();
        let mut failed = outcomes;
        let position = position.index(answered.len());
        answered[position].failed = false;
        failed[position].failed = true;
        let quiet = Duration::from_millis(quiet);
        let (answered, failed) = (cost_after(&answered, quiet), cost_after(&failed, quiet));
        // Multiplying in another order may differ in the last digit.
        prop_assert!(failed >= answered * (1.0 - 1e-9), "{failed} after a failure, {answered} without");
    }
}

fn steady(milliseconds: f64, times: usize) -> Vec<Outcome> {
    let outcome = Outcome {
        after: Duration::from_millis(1),
        milliseconds,
        failed: false,
    };
    vec![outcome; times]
}

#[test]
fn fast_failures_cost_more_than_slow_answers() {
    let failures: Vec<_> = steady(0.1, 5)
        .into_iter()
        .map(|outcome| Outcome {
            failed: true,
            ..outcome
        })
        .collect();
    let failing = [steady(20.0, 20), failures].concat();
    let slow = steady(100.0, 20);
    assert!(cost_after(&failing, Duration::ZERO) > cost_after(&slow, Duration::ZERO));
}

#[test]
fn one_outlier_is_noise_and_three_are_news() {
    let after = |outliers| {
        let outcomes = [steady(1.0, 20), steady(100.0, outliers)].concat();
        cost_after(&outcomes, Duration::ZERO)
    };
    assert!(after(1) < 3.0 * after(0), "{}", after(1));
    assert!(after(3) > 5.0 * after(0), "{}", after(3));
    // What had been slow for long is not fast after one answer.
    let outcomes = [steady(500.0, 20), steady(1.0, 1)].concat();
    assert!(cost_after(&outcomes, Duration::ZERO) > 300.0);
}

#[test]
fn what_has_not_been_asked_lately_seems_better() {
    let outcomes = steady(500.0, 20);
    assert!(cost_after(&outcomes, 10 * DECAY) < 1.0);
}
