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
    // But for what the unasked one has faded in between.
    assert!(busy.cost(now) <= idle.cost(now) * 1.01);
    busy.observe(20.0, now);
    assert!(busy.cost(now) > idle.cost(now));
}

#[test]
fn who_gives_up_soon_makes_nobody_faster() {
    let slow = candidate("10.0.0.1:80");
    let now = Instant::now();
    for _ in 0..20 {
        slow.observe(500.0, now);
    }
    let known = slow.cost(now);
    slow.observe_at_least(1.0, now);
    assert!(slow.cost(now) >= known);
    slow.observe_at_least(900.0, now);
    assert!(slow.cost(now) > known);
}

#[test]
fn a_failure_that_a_grpc_call_ends_with_counts() {
    let one = candidate("10.0.0.1:80");
    let now = Instant::now();
    one.observe(20.0, now);
    let known = one.cost(now);
    one.one_more();
    one.ended(Some((StatusCode::OK, Some(0))));
    assert_eq!(one.cost(now), known);
    one.one_more();
    one.ended(Some((StatusCode::OK, Some(14))));
    assert!(one.cost(now) > 1.5 * known);
}

#[test]
fn in_flight_ends_with_its_guard() {
    let one = candidate("10.0.0.1:80");
    let guard = InFlight::new(one.clone(), Pool::new(Arc::default()), Instant::now());
    assert_eq!(one.in_flight(), 1);
    drop(guard);
    assert_eq!(one.in_flight(), 0);
}
