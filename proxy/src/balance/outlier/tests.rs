use super::*;

const RULES: OutlierDetection = OutlierDetection::DEFAULT;

struct Set {
    court: Court,
    members: Vec<Health>,
    start: Instant,
}

impl Set {
    fn of(count: usize) -> Self {
        let start = Instant::now();
        Self {
            court: Court::default(),
            members: (0..count)
                .map(|_| Health::new(start, None, Arc::default()))
                .collect(),
            start,
        }
    }

    fn eject(&self, position: usize, rules: &OutlierDetection, seconds: u64) -> Option<u64> {
        let now = self.start + Duration::from_secs(seconds);
        let accused = &self.members[position];
        let time = self.court.eject(accused, self.members.iter(), rules, now);
        time.map(|time| time.as_secs())
    }

    fn ejected(&self, seconds: u64) -> Vec<usize> {
        let now = self.start + Duration::from_secs(seconds);
        let all = self.members.iter().enumerate();
        all.filter(|(_, member)| member.ejected_until(now).is_some())
            .map(|(position, _)| position)
            .collect()
    }
}

fn notes(rules: &OutlierDetection, verdicts: &[Verdict]) -> Vec<Option<Cause>> {
    let health = Health::new(Instant::now(), None, Arc::default());
    verdicts.iter().map(|&v| health.note(v, rules)).collect()
}

#[test]
fn the_fifth_error_in_a_row() {
    use Verdict::Status;
    let mut verdicts = vec![Status(500); 4];
    verdicts.push(Status(404));
    verdicts.extend([Status(500), Status(503), Verdict::Failed, Status(599)]);
    assert!(notes(&RULES, &verdicts).iter().all(Option::is_none));
    verdicts.push(Status(500));
    assert_eq!(
        notes(&RULES, &verdicts).last(),
        Some(&Some(Cause::ServerErrors))
    );
}

#[test]
fn gateway_errors_are_counted_by_themselves() {
    use Verdict::{Failed, Status};
    let rules = OutlierDetection {
        consecutive_5xx: None,
        consecutive_gateway_errors: Some(3),
        ..RULES
    };
    let last = |verdicts: &[Verdict]| *notes(&rules, verdicts).last().unwrap();
    assert_eq!(last(&[Status(500); 20]), None);
    assert_eq!(
        last(&[Status(503), Status(503), Status(500), Status(503)]),
        None
    );
    assert_eq!(
        last(&[Status(502), Failed, Status(504)]),
        Some(Cause::GatewayErrors)
    );
}

#[test]
fn connections_apart_from_answers() {
    use Verdict::{Connected, Failed, Status};
    let rules = OutlierDetection {
        consecutive_local_origin_failures: Some(2),
        split_local_origin: true,
        ..RULES
    };
    let last = |verdicts: &[Verdict]| *notes(&rules, verdicts).last().unwrap();
    assert_eq!(last(&[Failed, Failed]), Some(Cause::LocalFailures));
    assert_eq!(last(&[Failed, Connected, Failed]), None);
    // An error's answer came over a connection.
    assert_eq!(last(&[Failed, Status(500), Failed]), None);
    // A failed connection neither counts as an error nor ends a run of them.
    let mixed = [Status(500), Status(500), Status(500), Failed, Status(500)];
    assert_eq!(last(&mixed), None);
    let fifth: Vec<_> = mixed.into_iter().chain([Status(500)]).collect();
    assert_eq!(last(&fifth), Some(Cause::ServerErrors));
}

#[test]
fn zero_switches_off() {
    let rules = OutlierDetection {
        consecutive_5xx: Some(0),
        ..RULES
    };
    assert!(
        notes(&rules, &[Verdict::Failed; 50])
            .iter()
            .all(Option::is_none)
    );
}

#[test]
fn an_ejection_ends_by_the_clock_and_the_next_is_longer() {
    let set = Set::of(2);
    assert_eq!(set.eject(0, &RULES, 100), Some(30));
    assert_eq!(set.ejected(100), [0]);
    assert_eq!(set.ejected(129), [0]);
    assert_eq!(set.ejected(130), [0; 0]);
    // At once again: twice as long, then thrice.
    assert_eq!(set.eject(0, &RULES, 131), Some(60));
    assert_eq!(set.ejected(190), [0]);
    assert_eq!(set.eject(0, &RULES, 191), Some(90));
    // Two healthy intervals make up for two of them.
    assert_eq!(set.eject(0, &RULES, 191 + 90 + 20), Some(60));
    // A long time makes up for all.
    assert_eq!(set.eject(0, &RULES, 10_000), Some(30));
}

#[test]
fn ejections_have_a_longest_time() {
    let set = Set::of(2);
    let mut at = 0;
    for _ in 0..20 {
        at += set.eject(0, &RULES, at).unwrap();
    }
    assert_eq!(set.eject(0, &RULES, at), Some(300));
    let patient = OutlierDetection {
        base_ejection_time: Duration::from_secs(1000),
        ..RULES
    };
    assert_eq!(Set::of(2).eject(0, &patient, 0), Some(1000));
}

#[test]
fn as_many_as_allowed_one_at_least_never_the_last() {
    for (count, percent, expected) in [
        (1, 100, 0),
        (2, 10, 1),
        (2, 100, 1),
        (3, 10, 1),
        (3, 100, 2),
        (10, 10, 1),
        (29, 10, 2),
        (10, 50, 5),
        (10, 0, 0),
    ] {
        let set = Set::of(count);
        let rules = OutlierDetection {
            max_ejection_percent: percent,
            ..RULES
        };
        let ejected = (0..count).filter(|&m| set.eject(m, &rules, 1).is_some());
        assert_eq!(ejected.count(), expected, "{percent} % of {count}");
        assert_eq!(set.ejected(2).len(), expected);
    }
}

#[test]
fn who_is_out_is_not_ejected_again() {
    let set = Set::of(10);
    let rules = OutlierDetection {
        max_ejection_percent: 100,
        ..RULES
    };
    assert_eq!(set.eject(3, &rules, 1), Some(30));
    assert_eq!(set.eject(3, &rules, 2), None);
    assert_eq!(set.ejected(30), [3]);
    assert_eq!(set.ejected(31), [0; 0]);
}

#[test]
fn panic_is_a_matter_of_the_threshold() {
    let rules = |least| OutlierDetection {
        min_health_percent: least,
        ..RULES
    };
    assert!(!panics(0, 10, &rules(0)));
    assert!(panics(4, 10, &rules(50)));
    assert!(!panics(5, 10, &rules(50)));
    assert!(!panics(10, 10, &rules(100)));
}

#[test]
fn threads_that_eject_at_once_don_t_eject_too_many() {
    let set = Set::of(8);
    let rules = OutlierDetection {
        max_ejection_percent: 50,
        ..RULES
    };
    std::thread::scope(|scope| {
        for member in 0..8 {
            let (set, rules) = (&set, &rules);
            scope.spawn(move || set.eject(member, rules, 1));
        }
    });
    assert_eq!(set.ejected(2).len(), 4);
}
