use super::*;

fn candidate(address: &str) -> Rc<Candidate> {
    let endpoint = Endpoint::at(address.parse().unwrap());
    Rc::new(Candidate::new(Arc::new(endpoint)))
}

#[test]
fn what_is_in_flight_and_how_long_answers_take_both_count() {
    let (busy, idle) = (candidate("10.0.0.1:80"), candidate("10.0.0.2:80"));
    let now = Instant::now();
    let held: Vec<_> = (0..5)
        .map(|_| InFlight::new(busy.clone(), Pool::new(Arc::default()), now))
        .collect();
    assert!(busy.cost(now) > idle.cost(now));
    drop(held);
    assert!(busy.cost(now) <= idle.cost(now));
    busy.observe(20.0, now);
    assert!(busy.cost(now) > idle.cost(now));
}

#[test]
fn a_peak_counts_at_once_and_fades() {
    let slow = candidate("10.0.0.1:80");
    let now = Instant::now();
    slow.observe(500.0, now);
    assert!(slow.cost(now) > 400.0);
    assert!(slow.cost(now + DECAY * 10) < NOISE + UNKNOWN_LATENCY + 0.1);
    slow.observe(1.0, now);
    assert!(
        slow.cost(now) > 400.0,
        "one good answer does not undo a peak"
    );
}

#[test]
fn in_flight_ends_with_its_guard() {
    let one = candidate("10.0.0.1:80");
    let guard = InFlight::new(one.clone(), Pool::new(Arc::default()), Instant::now());
    assert_eq!(one.in_flight(), 1);
    drop(guard);
    assert_eq!(one.in_flight(), 0);
}
