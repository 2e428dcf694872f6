use super::*;

fn candidate(address: &str, terminating: bool) -> Rc<Candidate> {
    Rc::new(Candidate::new(Arc::new(Endpoint {
        terminating,
        ..Endpoint::at(address.parse().unwrap())
    })))
}

fn group(candidates: &[Rc<Candidate>]) -> Group {
    let mut group = Group::default();
    for candidate in candidates {
        group.push(candidate);
    }
    group
}

#[test]
fn the_less_loaded_of_two_is_chosen() {
    let busy = candidate("10.0.0.1:80", false);
    let idle = candidate("10.0.0.2:80", false);
    let now = Instant::now();
    let _held: Vec<_> = (0..5).map(|_| InFlight::new(busy.clone(), now)).collect();
    let group = group(&[busy, idle.clone()]);
    for _ in 0..20 {
        let chosen = group.choose(now, &[]).unwrap();
        assert_eq!(chosen.endpoint.address, idle.endpoint.address);
    }
}

#[test]
fn a_peak_counts_at_once_and_fades() {
    let slow = candidate("10.0.0.1:80", false);
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
    let one = candidate("10.0.0.1:80", false);
    let guard = InFlight::new(one.clone(), Instant::now());
    assert_eq!(one.in_flight.get(), 1);
    drop(guard);
    assert_eq!(one.in_flight.get(), 0);
}

#[test]
fn terminating_endpoints_serve_only_when_alone_and_avoided_ones_likewise() {
    let going = candidate("10.0.0.1:80", true);
    let staying = candidate("10.0.0.2:80", false);
    let now = Instant::now();
    let both = group(&[going.clone(), staying.clone()]);
    for _ in 0..20 {
        assert_eq!(
            both.choose(now, &[]).unwrap().endpoint.address,
            staying.endpoint.address
        );
    }
    let alone = group(std::slice::from_ref(&going));
    assert!(alone.choose(now, &[]).is_some());
    assert!(alone.choose(now, &[going.endpoint.address]).is_some());
    assert!(Group::default().choose(now, &[]).is_none());
}
