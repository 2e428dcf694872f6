use super::*;
use linnet_mesh::{
    Endpoint, ServicePort,
    destination::{
        ConsistentHash, Distribution, HashAlgorithm, Locality, LocalityPattern, LocalityPolicy,
        Warmup,
    },
};
use rand::{SeedableRng, rngs::StdRng};
use std::collections::BTreeMap;
use std::time::Duration;

mod shares;
mod unavailable;

/// A service with endpoints that a test has in hand.
struct World {
    standing: Arc<Standing>,
    candidates: Vec<Rc<Candidate>>,
    policy: Arc<DestinationPolicy>,
    own: Locality,
    start: Instant,
    rng: StdRng,
}

fn locality(text: &str) -> Locality {
    let mut parts = text.split('/').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    Locality {
        region: part(),
        zone: part(),
        subzone: part(),
    }
}

impl World {
    fn of(endpoints: Vec<Endpoint>, policy: DestinationPolicy) -> Self {
        let standing = Arc::new(Standing::new(&ServicePort {
            namespace: "default".into(),
            name: "payment".into(),
            port: 80,
        }));
        let start = Instant::now();
        let candidate = |endpoint: Endpoint| {
            let health = Arc::new(Health::new(start, None, Arc::default()));
            Rc::new(Candidate::with_health(Arc::new(endpoint), health))
        };
        Self {
            standing,
            candidates: endpoints.into_iter().map(candidate).collect(),
            policy: Arc::new(policy),
            own: locality("eu/a/1"),
            start,
            rng: StdRng::seed_from_u64(7),
        }
    }

    fn with(count: u8, policy: DestinationPolicy) -> Self {
        Self::of((0..count).map(numbered).collect(), policy)
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn group(&self, seconds: u64) -> Group {
        let labels = BTreeMap::new();
        let settings = Settings {
            policy: &self.policy,
            own: Place {
                locality: &self.own,
                labels: &labels,
            },
            standing: &self.standing,
            now: self.at(seconds),
        };
        Group::new(&self.candidates, &settings)
    }

    /// How often each endpoint is drawn, by its number.
    fn draws(&mut self, seconds: u64, draws: usize) -> Vec<usize> {
        let group = self.group(seconds);
        let now = self.at(seconds);
        let mut counts = vec![0; self.candidates.len()];
        for _ in 0..draws {
            let chosen = group.choose(now, &[], |_| None, &mut self.rng).unwrap();
            counts[number(chosen)] += 1;
        }
        counts
    }

    /// Who can be drawn at all.
    fn drawn(&mut self, seconds: u64) -> Vec<usize> {
        let counts = self.draws(seconds, 200 * self.candidates.len());
        (0..counts.len()).filter(|&n| counts[n] > 0).collect()
    }

    fn fail(&self, position: usize, times: usize, seconds: u64) {
        let group = self.group(seconds);
        let watch = group.watch.as_ref().unwrap();
        for _ in 0..times {
            let verdict = Verdict::Status(503);
            watch.note(&self.candidates[position], verdict, self.at(seconds));
        }
    }
}

fn numbered(number: u8) -> Endpoint {
    Endpoint::at(([10, 0, 0, number], 80).into())
}

fn number(candidate: &Candidate) -> usize {
    let std::net::IpAddr::V4(ip) = candidate.endpoint.address.ip() else {
        unreachable!("the tests have no others")
    };
    ip.octets()[3].into()
}

fn placed(number: u8, place: &str) -> Endpoint {
    Endpoint {
        locality: Arc::new(locality(place)),
        ..numbered(number)
    }
}

fn balance(balance: Balance) -> DestinationPolicy {
    DestinationPolicy {
        balance,
        ..DestinationPolicy::default()
    }
}

fn ejecting(outlier: OutlierDetection) -> DestinationPolicy {
    DestinationPolicy {
        outlier: Some(outlier),
        ..DestinationPolicy::default()
    }
}

fn hashing(algorithm: HashAlgorithm) -> DestinationPolicy {
    balance(Balance::ConsistentHash(ConsistentHash {
        key: HashKey::SourceIp,
        algorithm,
    }))
}

/// Pearson's chi-square of counts against shares.
fn chi_square(counts: &[usize], shares: &[f64]) -> f64 {
    let all: usize = counts.iter().sum();
    let whole: f64 = shares.iter().sum();
    let terms = counts.iter().zip(shares).map(|(&count, share)| {
        let expected = all as f64 * share / whole;
        (count as f64 - expected).powi(2) / expected
    });
    terms.sum()
}

/// Of 4 degrees of freedom, what one of a thousand fair draws exceeds.
const UNLIKELY: f64 = 18.47;

#[test]
fn draws_are_fair() {
    for kind in [
        Balance::Random,
        Balance::PeakEwma,
        Balance::LeastRequest,
        Balance::Passthrough,
        Balance::RoundRobin,
    ] {
        let mut world = World::with(5, balance(kind.clone()));
        let counts = world.draws(0, 10_000);
        let off = chi_square(&counts, &[1.0; 5]);
        assert!(off < UNLIKELY, "{kind:?}: {counts:?}");
    }
}

#[test]
fn draws_follow_weights() {
    let endpoint = |(number, weight)| Endpoint {
        weight,
        ..numbered(number)
    };
    let weights = [1, 2, 3, 4, 10];
    let shares: Vec<_> = weights.iter().map(|&weight| f64::from(weight)).collect();
    for kind in [Balance::Random, Balance::RoundRobin] {
        let endpoints = (0..).zip(weights).map(endpoint).collect();
        let mut world = World::of(endpoints, balance(kind.clone()));
        let counts = world.draws(0, 10_000);
        let off = chi_square(&counts, &shares);
        assert!(off < UNLIKELY, "{kind:?}: {counts:?}");
        if kind == Balance::RoundRobin {
            assert_eq!(counts, [500, 1000, 1500, 2000, 5000]);
        }
    }
}

#[test]
fn round_robin_takes_turns() {
    let mut world = World::with(3, balance(Balance::RoundRobin));
    let group = world.group(0);
    let mut next = |avoid: &[SocketAddr]| {
        let chosen = group.choose(world.start, avoid, |_| None, &mut world.rng);
        number(chosen.unwrap())
    };
    let first = next(&[]);
    let turns: Vec<_> = (0..5).map(|_| next(&[])).collect();
    let expected: Vec<_> = (1..6).map(|step| (first + step) % 3).collect();
    assert_eq!(turns, expected);
    let avoided = numbered((next(&[]) as u8 + 1) % 3).address;
    assert_ne!(numbered(next(&[avoided]) as u8).address, avoided);
}

#[test]
fn least_request_looks_at_nothing_but_requests() {
    let mut world = World::with(2, balance(Balance::LeastRequest));
    // Slow, but idle.
    world.candidates[0].observe(900.0, world.start);
    let busy = super::super::InFlight::new(
        world.candidates[1].clone(),
        crate::pool::Pool::new(Arc::default()),
        world.start,
    );
    assert_eq!(world.drawn(0), [0]);
    drop(busy);
    assert_eq!(world.drawn(0), [0, 1]);
}

#[test]
fn five_errors_eject_and_thirty_seconds_bring_back() {
    let mut world = World::with(3, ejecting(OutlierDetection::DEFAULT));
    world.fail(1, 4, 0);
    assert_eq!(world.drawn(0), [0, 1, 2]);
    let before = world.standing.version();
    world.fail(1, 1, 0);
    assert!(world.standing.version() > before, "all threads look again");
    assert_eq!(world.drawn(0), [0, 2]);
    let group = world.group(10);
    assert_eq!(group.expires, Some(world.at(30)));
    assert_eq!(group.ejected.len(), 1);
    assert_eq!(world.drawn(29), [0, 2]);
    assert_eq!(world.drawn(30), [0, 1, 2]);
    // Failing again at once it is out for twice as long.
    world.fail(1, 5, 30);
    assert_eq!(world.drawn(89), [0, 2]);
    assert_eq!(world.drawn(90), [0, 1, 2]);
}

#[test]
fn a_tenth_is_ejected_and_the_last_never() {
    let mut world = World::with(20, ejecting(OutlierDetection::DEFAULT));
    for position in 0..20 {
        world.fail(position, 50, 0);
    }
    assert_eq!(world.drawn(0).len(), 18);
    let all = OutlierDetection {
        max_ejection_percent: 100,
        ..OutlierDetection::DEFAULT
    };
    for count in [1, 2, 7] {
        let mut world = World::with(count, ejecting(all.clone()));
        for position in 0..count.into() {
            world.fail(position, 50, 0);
        }
        assert_eq!(world.drawn(0).len(), 1);
    }
}

#[test]
fn when_the_others_are_gone_the_ejected_serve() {
    let mut world = World::with(2, ejecting(OutlierDetection::DEFAULT));
    world.fail(1, 5, 0);
    assert_eq!(world.drawn(0), [0]);
    // Discovery takes the healthy one away.
    let healthy = world.candidates.remove(0);
    let group = world.group(1);
    let chosen = group.choose(world.at(1), &[], |_| None, &mut world.rng);
    assert_eq!(number(chosen.unwrap()), 1);
    // And the next one: nobody is left.
    world.candidates.clear();
    let group = world.group(1);
    assert!(
        group
            .choose(world.at(1), &[], |_| None, &mut world.rng)
            .is_none()
    );
    drop(healthy);
}

#[test]
fn below_min_health_percent_ejections_are_not_heeded() {
    let mut world = World::with(
        4,
        ejecting(OutlierDetection {
            max_ejection_percent: 100,
            min_health_percent: 50,
            ..OutlierDetection::DEFAULT
        }),
    );
    world.fail(0, 5, 0);
    assert_eq!(world.drawn(0), [1, 2, 3]);
    world.fail(1, 5, 0);
    assert_eq!(world.drawn(0), [2, 3]);
    world.fail(2, 5, 0);
    assert_eq!(world.drawn(0), [0, 1, 2, 3]);
    assert_eq!(world.drawn(30), [0, 1, 2, 3]);
}

#[test]
fn a_policy_without_detection_heeds_no_ejection() {
    let mut world = World::with(2, ejecting(OutlierDetection::DEFAULT));
    world.fail(1, 5, 0);
    world.policy = Arc::default();
    assert_eq!(world.drawn(0), [0, 1]);
    assert_eq!(world.group(0).expires, None);
}

#[test]
fn keys_stick_through_ejection_and_return() {
    for algorithm in [
        HashAlgorithm::default(),
        HashAlgorithm::Maglev { table_size: 2_039 },
    ] {
        let policy = DestinationPolicy {
            outlier: Some(OutlierDetection::DEFAULT),
            ..hashing(algorithm)
        };
        let mut world = World::with(5, policy);
        let led = |world: &mut World, seconds| -> Vec<usize> {
            let group = world.group(seconds);
            let led = |key: u64| {
                let key = super::super::hash::hash(&key.to_le_bytes());
                let now = world.start + Duration::from_secs(seconds);
                let chosen = group.choose(now, &[], |_| Some(key), &mut world.rng);
                number(chosen.unwrap())
            };
            (0..500).map(led).collect()
        };
        let before = led(&mut world, 0);
        world.fail(3, 5, 0);
        let during = led(&mut world, 1);
        for (before, during) in before.iter().zip(&during) {
            assert_ne!(*during, 3);
            assert!(before == during || *before == 3);
        }
        assert_eq!(led(&mut world, 30), before);
    }
}

#[test]
fn a_hash_without_a_key_goes_anywhere() {
    let mut world = World::with(5, hashing(HashAlgorithm::default()));
    assert_eq!(world.drawn(0), [0, 1, 2, 3, 4]);
}

#[test]
fn threads_share_their_tables() {
    let world = World::with(5, hashing(HashAlgorithm::default()));
    let (one, other) = (world.group(0), world.group(1));
    let table = |group: &Group| group.pools[0].hashed.as_ref().unwrap().table().clone();
    assert!(Arc::ptr_eq(&table(&one), &table(&other)));
}

/// A rule may have a thousand subsets, each with a table of its own, and a caller that asks
/// for none of them.
#[test]
fn a_table_is_made_for_the_first_request_and_kept_by_the_next_group() {
    let world = World::with(5, hashing(HashAlgorithm::default()));
    let hashed = |group: &Group| {
        let hashed = group.pools[0].hashed.as_ref().unwrap();
        (hashed.key.clone(), hashed.standing.clone())
    };
    let group = world.group(0);
    let (key, standing) = hashed(&group);
    assert!(standing.table_if_made(&key).is_none(), "nobody has asked");
    let asked = world.group(0);
    let table = asked.pools[0].hashed.as_ref().unwrap().table().clone();
    let known = standing.table_if_made(&key).unwrap();
    assert!(Arc::ptr_eq(&known, &table));
    drop((known, table));
    let next = world.group(1);
    drop(asked);
    assert!(standing.table_if_made(&hashed(&next).0).is_some());
}

fn failover() -> DestinationPolicy {
    DestinationPolicy {
        outlier: Some(OutlierDetection {
            max_ejection_percent: 100,
            ..OutlierDetection::DEFAULT
        }),
        locality: Some(LocalityPolicy::Failover(vec![])),
        ..DestinationPolicy::default()
    }
}

#[test]
fn the_near_ones_serve_until_they_fail_and_when_they_are_back() {
    let endpoints = vec![
        placed(0, "eu/a/1"),
        placed(1, "eu/a/1"),
        placed(2, "eu/b/1"),
        placed(3, "us/a/1"),
    ];
    let mut world = World::of(endpoints, failover());
    assert_eq!(world.drawn(0), [0, 1]);
    world.fail(0, 5, 0);
    // Half of the near ones, with Envoy's 1.4, take 70 %.
    let counts = world.draws(1, 10_000);
    assert_eq!(counts[0], 0);
    assert!((6_800..7_200).contains(&counts[1]), "{counts:?}");
    assert!((2_800..3_200).contains(&counts[2]), "{counts:?}");
    assert_eq!(counts[3], 0);
    world.fail(1, 5, 1);
    assert_eq!(world.drawn(1), [2]);
    world.fail(2, 5, 1);
    assert_eq!(world.drawn(1), [3]);
    // The first returns at 30, the others at 31.
    assert_eq!(world.drawn(31), [0, 1]);
}

#[test]
fn nowhere_is_near_for_who_does_not_know_where_it_is() {
    let endpoints = vec![placed(0, "eu/a/1"), placed(1, "us/a/1")];
    let mut world = World::of(endpoints, failover());
    world.own = Locality::default();
    assert_eq!(world.drawn(0), [0, 1]);
}

#[test]
fn a_retry_goes_further_than_the_first_attempt() {
    let endpoints = vec![placed(0, "eu/a/1"), placed(1, "us/a/1")];
    let mut world = World::of(endpoints, failover());
    let group = world.group(0);
    let tried = [numbered(0).address];
    let chosen = group.choose(world.start, &tried, |_| None, &mut world.rng);
    assert_eq!(number(chosen.unwrap()), 1);
    let tried = [numbered(0).address, numbered(1).address];
    let chosen = group.choose(world.start, &tried, |_| None, &mut world.rng);
    assert_eq!(number(chosen.unwrap()), 0);
}

fn distributing(shares: &[(&str, u32)]) -> DestinationPolicy {
    let to = shares.iter().map(|(place, percent)| {
        let place = LocalityPattern::parse(place).unwrap();
        (place, *percent)
    });
    DestinationPolicy {
        locality: Some(LocalityPolicy::Distribute(vec![Distribution {
            from: LocalityPattern::parse("eu/*").unwrap(),
            to: to.collect(),
        }])),
        ..failover()
    }
}

#[test]
fn shares_by_place() {
    let endpoints = || {
        vec![
            placed(0, "eu/a/1"),
            placed(1, "eu/a/1"),
            placed(2, "eu/b/1"),
            placed(3, "us/a/1"),
        ]
    };
    let mut world = World::of(endpoints(), distributing(&[("eu/a/*", 80), ("eu/b/*", 20)]));
    let counts = world.draws(0, 10_000);
    // One degree of freedom fewer than `UNLIKELY` is for.
    let off = chi_square(&counts[..3], &[40.0, 40.0, 20.0]);
    assert!(off < UNLIKELY, "{counts:?}");
    assert_eq!(counts[3], 0, "a place without a share gets nothing");
    // All of one place are out: the other has all.
    world.fail(2, 5, 0);
    assert_eq!(world.drawn(1), [0, 1]);
    // The rule is not for callers elsewhere.
    let mut world = World::of(endpoints(), distributing(&[("eu/a/*", 100)]));
    world.own = locality("us/a/1");
    assert_eq!(world.drawn(0), [0, 1, 2, 3]);
}

#[test]
fn a_new_endpoint_warms_up() {
    for kind in [Balance::Random, Balance::PeakEwma, Balance::RoundRobin] {
        let policy = DestinationPolicy {
            warmup: Some(Warmup {
                duration: Duration::from_secs(100),
                minimum_percent: 10.0,
                aggression: 1.0,
            }),
            ..balance(kind.clone())
        };
        let mut world = World::with(4, policy);
        let health = Arc::new(Health::new(world.start, Some(world.start), Arc::default()));
        let new = Candidate::with_health(Arc::new(numbered(3)), health);
        world.candidates[3] = Rc::new(new);
        for (seconds, warmth) in [(0, 0.1), (50, 0.5), (100, 1.0), (1_000, 1.0)] {
            let counts = world.draws(seconds, 10_000);
            let share = counts[3] as f64 / 10_000.0;
            let expected = warmth / (3.0 + warmth);
            assert!(
                (share - expected).abs() < 0.02,
                "{kind:?} {seconds}: {share}"
            );
        }
    }
}

#[test]
fn terminating_endpoints_serve_only_when_alone_and_avoided_ones_likewise() {
    let going = |number| Endpoint {
        terminating: true,
        ..numbered(number)
    };
    let mut world = World::of(vec![going(0), numbered(1)], DestinationPolicy::default());
    assert_eq!(world.drawn(0), [1]);
    let mut world = World::of(vec![going(0)], DestinationPolicy::default());
    assert_eq!(world.drawn(0), [0]);
    let group = world.group(0);
    let tried = [numbered(0).address];
    assert!(
        group
            .choose(world.start, &tried, |_| None, &mut world.rng)
            .is_some()
    );
}
