//! How requests are shared, by a simulated clock and latencies with noise.

use super::*;
use rand::Rng;

/// Sends requests one after the other, and returns how many each endpoint got of
/// the last `counted`. `latency`: an endpoint's, by the request's number.
fn simulate(
    count: u8,
    (sent, counted): (usize, usize),
    seed: u64,
    latency: impl Fn(usize, usize) -> f64,
) -> Vec<usize> {
    let mut world = World::with(count, DestinationPolicy::default());
    world.rng = StdRng::seed_from_u64(seed);
    let group = world.group(0);
    let mut now = world.start;
    let mut counts = vec![0; count.into()];
    let mut fresh = vec![true; count.into()];
    for request in 0..sent {
        let chosen = group.choose(now, &[], |_| None, &mut world.rng).unwrap();
        let number = number(chosen);
        if request >= sent - counted {
            counts[number] += 1;
        }
        // Four uniform draws are nearly a normal one; one answer in a hundred waits for
        // the machine, and the first for its connection.
        let normal: f64 = (0..4).map(|_| world.rng.random::<f64>() - 0.5).sum();
        let mut took = latency(number, request) * (normal * 0.6).exp();
        if world.rng.random::<f64>() < 0.01 {
            took += world.rng.random_range(1.0..20.0);
        }
        if std::mem::take(&mut fresh[number]) {
            took += 10.0;
        }
        now += Duration::from_secs_f64(took / 1e3);
        chosen.observe(took, now);
    }
    counts
}

#[test]
fn equal_endpoints_share_evenly() {
    for count in [2, 3, 5] {
        for milliseconds in [0.2, 1.0, 30.0] {
            for seed in 0..12 {
                let counts = simulate(count, (1_000, 1_000), seed, |_, _| milliseconds);
                let even = 1_000 / usize::from(count);
                let fair = even * 9 / 10..=even * 11 / 10;
                assert!(
                    counts.iter().all(|count| fair.contains(count)),
                    "{milliseconds} ms, seed {seed}: {counts:?}"
                );
            }
        }
    }
}

#[test]
fn a_slow_endpoint_gets_markedly_less() {
    for seed in 0..12 {
        let latency = |number, _| if number == 0 { 30.0 } else { 3.0 };
        for count in [2, 3, 5] {
            let counts = simulate(count, (1_000, 1_000), seed, latency);
            let even = 1_000 / usize::from(count);
            assert!(counts[0] < even / 3, "seed {seed}: {counts:?}");
            assert!(counts[0] > 0, "seed {seed}: {counts:?}");
        }
    }
}

#[test]
fn who_has_recovered_is_found_again() {
    for seed in 0..12 {
        let latency = |number, request| {
            if number == 0 && request < 500 {
                100.0
            } else {
                1.0
            }
        };
        let counts = simulate(2, (2_500, 1_000), seed, latency);
        assert!((450..=550).contains(&counts[0]), "seed {seed}: {counts:?}");
    }
}

#[test]
fn equals_of_least_request_share_evenly() {
    let mut world = World::with(2, balance(Balance::LeastRequest));
    let counts = world.draws(0, 1_000);
    assert!((450..=550).contains(&counts[0]), "{counts:?}");
}
