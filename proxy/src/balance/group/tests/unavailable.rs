//! Endpoints that can't be reached.

use super::*;
use crate::{availability::Repeatable, balance::InFlight};
use proptest::prelude::{
    Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

impl World {
    fn lose(&self, position: usize, seconds: u64) {
        let availability = &self.candidates[position].health.availability;
        availability.mark_unavailable(self.at(seconds));
    }

    fn probed(&self, group: &Group, seconds: u64, asker: &Asker<'_>) -> Option<usize> {
        group.probe(self.at(seconds), asker).map(|c| number(c))
    }
}

const BALANCES: [Balance; 4] = [
    Balance::PeakEwma,
    Balance::LeastRequest,
    Balance::RoundRobin,
    Balance::Random,
];

#[test]
fn it_gets_nothing_but_a_probe_a_second() {
    for kind in BALANCES {
        let mut world = World::with(3, balance(kind));
        world.lose(1, 1);
        assert_eq!(world.drawn(1), [0, 2]);
        let group = world.group(1);
        let anyone = Asker::default();
        assert_eq!(world.probed(&group, 1, &anyone), None);
        assert_eq!(world.probed(&group, 2, &anyone), Some(1));
        assert_eq!(world.probed(&group, 2, &anyone), None);
        assert_eq!(world.probed(&group, 3, &anyone), None);
        assert_eq!(world.probed(&group, 4, &anyone), Some(1));
        world.candidates[1].health.availability.mark_available();
        assert_eq!(world.drawn(5), [0, 1, 2]);
    }
}

#[test]
fn all_threads_look_again_and_share_one_probe() {
    let standing = Arc::new(Standing::new(&ServicePort {
        namespace: "default".into(),
        name: "payment".into(),
        port: 80,
    }));
    let endpoints = [Arc::new(numbered(0)), Arc::new(numbered(1))];
    standing.follow(&[], &endpoints, true);
    let before = standing.version();
    let (one, other) = (
        standing.of(numbered(0).address),
        standing.of(numbered(0).address),
    );
    let now = Instant::now() + Duration::from_secs(1);
    one.availability.mark_unavailable(now);
    assert!(other.availability.is_unavailable());
    assert!(standing.version() > before);
    let later = now + Duration::from_secs(2);
    assert!(one.availability.claim_probe(later, Repeatable::Yes));
    assert!(!other.availability.claim_probe(later, Repeatable::Yes));
}

#[test]
fn when_all_are_unavailable_all_are_tried() {
    for kind in BALANCES {
        let mut world = World::with(3, balance(kind));
        for position in 0..3 {
            world.lose(position, 1);
        }
        assert_eq!(world.drawn(1), [0, 1, 2]);
        let group = world.group(1);
        assert!(group.desperate);
        let tried = [numbered(0).address, numbered(2).address];
        let last = group.choose(world.at(1), &tried, |_| None, &mut world.rng);
        assert_eq!(number(last.unwrap()), 1);
    }
}

#[test]
fn who_answers_with_failures_serves_before_who_does_not_answer() {
    let outlier = OutlierDetection {
        max_ejection_percent: 100,
        ..OutlierDetection::DEFAULT
    };
    let mut world = World::with(2, ejecting(outlier));
    world.fail(0, 5, 1);
    assert_eq!(world.drawn(1), [1]);
    world.lose(1, 1);
    assert_eq!(world.drawn(1), [0]);
}

#[test]
fn terminating_endpoints_serve_when_the_others_are_unavailable() {
    let going = Endpoint {
        terminating: true,
        ..numbered(0)
    };
    let mut world = World::of(vec![going, numbered(1)], DestinationPolicy::default());
    // Who fails at the one that serves now has another.
    assert_eq!(world.group(1).others, 1);
    world.lose(1, 1);
    assert_eq!(world.drawn(1), [0]);
    world.lose(0, 1);
    assert_eq!(world.drawn(1), [1]);
}

#[test]
fn keys_go_to_the_next_and_only_their_own_look_whether_it_is_back() {
    let mut world = World::with(5, hashing(HashAlgorithm::default()));
    let led = |world: &mut World, key: u64| {
        let group = world.group(1);
        let chosen = group.choose(world.at(1), &[], |_| Some(key), &mut world.rng);
        number(chosen.unwrap())
    };
    let sources: Vec<std::net::IpAddr> = (0..100).map(|n| [10, 1, 0, n].into()).collect();
    let key = |source: &std::net::IpAddr| {
        let asker = Asker::connection(Some(*source));
        asker.key(&HashKey::SourceIp).unwrap()
    };
    let before: Vec<_> = sources.iter().map(|s| led(&mut world, key(s))).collect();
    world.lose(3, 1);
    let group = world.group(1);
    for (source, before) in sources.iter().zip(before) {
        let now = led(&mut world, key(source));
        assert_ne!(now, 3);
        assert!(now == before || before == 3);
        let asker = Asker::connection(Some(*source));
        let wait = world.candidates[3].health.availability.next_probe();
        let probe = group.probe(wait, &asker).map(|c| number(c));
        assert_eq!(probe, (before == 3).then_some(3));
    }
}

#[test]
fn another_place_serves_when_the_near_one_is_unavailable() {
    let endpoints = vec![
        placed(0, "eu/a/1"),
        placed(1, "eu/a/1"),
        placed(2, "us/a/1"),
        placed(3, "us/a/1"),
    ];
    let mut world = World::of(endpoints, failover());
    world.lose(3, 1);
    assert_eq!(world.drawn(1), [0, 1]);
    // Too far away to be asked, it is not tried either.
    let group = world.group(1);
    assert_eq!(world.probed(&group, 5, &Asker::default()), None);
    world.lose(0, 1);
    world.lose(1, 1);
    assert_eq!(world.drawn(1), [2]);
    let group = world.group(1);
    assert!(
        world
            .probed(&group, 5, &Asker::default())
            .is_some_and(|n| n < 2)
    );
}

/// How an attempt ends: the endpoint can't be reached, or answers so.
fn attempts() -> impl Strategy<Value = Vec<Verdict>> {
    let attempt = prop_oneof![
        Just(Verdict::Failed),
        Just(Verdict::Status(500)),
        Just(Verdict::Status(503)),
        Just(Verdict::Status(200)),
    ];
    prop::collection::vec(attempt, 0..12)
}

impl World {
    fn note(&self, seconds: u64, verdict: Verdict) {
        let group = self.group(seconds);
        let watch = group.watch.as_ref().unwrap();
        watch.note(&self.candidates[1], verdict, self.at(seconds));
    }

    fn is_ejected(&self, seconds: u64) -> bool {
        let health = &self.candidates[1].health;
        health.ejected_until(self.at(seconds)).is_some()
    }
}

proptest! {
    /// However often it was tried in vain while it was away, and whatever was counted or
    /// done for that, an endpoint that is back is judged as one that was never away.
    #[test]
    fn an_absence_leaves_nothing_behind_for_outlier_detection(
        first_failures in 0usize..12,
        probes in 0usize..12,
        split in any::<bool>(),
        after in attempts(),
    ) {
        let outlier = OutlierDetection {
            split_local_origin: split,
            consecutive_local_origin_failures: Some(5),
            consecutive_gateway_errors: Some(3),
            ..OutlierDetection::DEFAULT
        };
        let [was_away, was_not] = [(); 2].map(|()| World::with(3, ejecting(outlier.clone())));
        was_away.lose(1, 1);
        for _ in 0..first_failures {
            was_away.note(1, Verdict::Failed);
        }
        let mut seconds = 1;
        for _ in 0..probes {
            seconds += 10;
            was_away.note(seconds, Verdict::Failed);
        }
        was_away.candidates[1].health.availability.mark_available();
        prop_assert!(!was_away.is_ejected(seconds));
        for verdict in after {
            seconds += 7;
            was_away.note(seconds, verdict);
            was_not.note(seconds, verdict);
            for ahead in [0, 29, 31, 61, 91] {
                let at = seconds + ahead;
                prop_assert_eq!(was_away.is_ejected(at), was_not.is_ejected(at));
            }
        }
    }
}

#[test]
fn an_ejection_for_what_was_answered_outlasts_an_absence() {
    let mut world = World::with(3, ejecting(OutlierDetection::DEFAULT));
    world.fail(1, 5, 1);
    world.lose(1, 1);
    world.candidates[1].health.availability.mark_available();
    assert_eq!(world.drawn(2), [0, 2]);
    assert_eq!(world.drawn(40), [0, 1, 2]);
}

/// What was on its way when the endpoint went away may fail long after it is back.
#[test]
fn what_began_before_a_return_tells_nothing_against_who_is_back() {
    let outlier = OutlierDetection {
        consecutive_5xx: Some(1),
        ..OutlierDetection::DEFAULT
    };
    let world = World::with(3, ejecting(outlier));
    let attempt = || {
        let candidate = world.candidates[1].clone();
        let pool = crate::pool::Pool::new(Arc::default());
        let returns = candidate.health.availability.returns();
        let mut attempt = InFlight::new(candidate, pool, world.at(1));
        attempt.watch = world.group(1).watch;
        attempt.returns = returns;
        attempt
    };
    let before = attempt();
    world.lose(1, 1);
    let probe = attempt();
    world.candidates[1].health.availability.mark_available();
    for late in [before, probe] {
        late.judge(Verdict::Failed);
        late.blame().unwrap().fall();
        assert!(!world.is_ejected(1));
    }
    let after = attempt();
    after.judge(Verdict::Failed);
    assert!(world.is_ejected(1));
}
