use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;

const START: i64 = 1_800_000_000;

fn at(seconds: i64) -> OffsetDateTime {
    time_of(START + seconds)
}

const DAY: i64 = 24 * 3600;

fn judged(kept: &Kept, now: i64) -> Judgement {
    judge(kept, None, &Rules::default(), at(now)).unwrap()
}

/// Writes whatever is due, and says what is in force then.
fn settled(kept: &mut Kept, rules: &Rules, now: i64) -> Judgement {
    loop {
        let judgement = judge(kept, None, rules, at(now)).unwrap();
        match judgement.write {
            Some(next) => *kept = next,
            None => return judgement,
        }
    }
}

fn new() -> Kept {
    Kept::new(&Rules::default(), at(0)).unwrap()
}

fn anchors(judgement: &Judgement) -> usize {
    judgement.bundle_pem.matches("BEGIN").count()
}

#[test]
fn a_new_place_is_at_rest() {
    let kept = new();
    let first = judged(&kept, 1);
    assert_eq!((first.phase, anchors(&first)), (Phase::Steady, 1));
    assert!(first.write.is_none() && first.problem.is_none());
}

#[test]
fn a_rotation_makes_known_then_signs_then_retires() {
    let mut kept = new();
    let rules = Rules::default();
    let old = judged(&kept, 0).root.trusted_by().to_owned();
    kept.request = Some("first".to_owned());

    let known = settled(&mut kept, &rules, 10);
    let wait = DAY + SPREAD.whole_seconds();
    assert_eq!(known.phase, Phase::Distributing(at(10 + wait)));
    assert_eq!(
        (known.root.trusted_by(), anchors(&known)),
        (old.as_str(), 2)
    );
    assert_eq!(known.record.answered(), Some("first"));

    let waiting = settled(&mut kept, &rules, 9 + wait);
    assert_eq!(waiting.root.trusted_by(), old);

    let signing = settled(&mut kept, &rules, 10 + wait);
    assert_ne!(signing.root.trusted_by(), old);
    assert_eq!(signing.phase, Phase::Retiring(at(10 + 2 * wait)));
    assert_eq!(anchors(&signing), 2);

    // The same request again is no new one.
    let retired = settled(&mut kept, &rules, 10 + 2 * wait);
    assert_eq!((retired.phase, anchors(&retired)), (Phase::Steady, 1));
    assert_eq!(retired.root.trusted_by(), signing.root.trusted_by());
    assert!(!retired.bundle_pem.contains(&old));
}

#[test]
fn the_longest_lifetime_that_was_ever_given_is_waited_for() {
    let mut kept = new();
    let brief = Rules {
        leaf_lifetime: Duration::MINUTE,
        ..Rules::default()
    };
    // Certificates of a day are out; new ones live for a minute.
    kept.request = Some("first".to_owned());
    let known = settled(&mut kept, &brief, 0);
    assert_eq!(
        known.phase,
        Phase::Distributing(at(DAY + SPREAD.whole_seconds()))
    );
    settled(&mut kept, &brief, 2 * DAY);
    let retired = settled(&mut kept, &brief, 4 * DAY);
    assert_eq!(retired.phase, Phase::Steady);
    // Now none is left that lives longer.
    kept.request = Some("second".to_owned());
    let known = settled(&mut kept, &brief, 4 * DAY);
    let wait = 60 + SPREAD.whole_seconds();
    assert_eq!(known.phase, Phase::Distributing(at(4 * DAY + wait)));
}

#[test]
fn a_root_of_ours_is_replaced_by_itself_before_it_ends() {
    let mut kept = new();
    let rules = Rules::default();
    let eight_years = 8 * 365 * DAY;
    assert_eq!(
        settled(&mut kept, &rules, eight_years - 60 * DAY).phase,
        Phase::Steady
    );
    let due = settled(&mut kept, &rules, eight_years + 10 * DAY);
    assert!(
        matches!(due.phase, Phase::Distributing(_)),
        "{:?}",
        due.phase
    );
    assert!(
        due.root.not_after() > at(eight_years + 300 * DAY),
        "with time to spare"
    );
}

#[test]
fn somebody_elses_root_is_not_replaced() {
    let mut kept = Kept::default();
    let brought = Root::generate(&TrustDomain::default(), Duration::days(100), at(0)).unwrap();
    kept.want(&brought);
    let rules = Rules::default();
    assert_eq!(
        settled(&mut kept, &rules, 95 * DAY).phase,
        Phase::Steady,
        "not by itself"
    );
    kept.managed_by = Some("cert-manager's Certificate mesh".to_owned());
    kept.request = Some("please".to_owned());
    let refused = settled(&mut kept, &rules, 95 * DAY);
    assert_eq!(refused.phase, Phase::Steady);
    assert!(refused.record.refused().unwrap().contains("renew it there"));
}

#[test]
fn a_root_that_is_brought_is_made_known_before_it_signs() {
    let mut kept = new();
    let rules = Rules::default();
    let old = judged(&kept, 0).root.trusted_by().to_owned();
    let brought = Root::generate(&TrustDomain::default(), Duration::days(1000), at(0)).unwrap();
    kept.want(&brought);
    let known = settled(&mut kept, &rules, 100);
    assert_eq!(
        (known.root.trusted_by(), anchors(&known)),
        (old.as_str(), 2)
    );
    let signing = settled(&mut kept, &rules, 2 * DAY);
    assert_eq!(signing.root.trusted_by(), brought.trusted_by());
    // cert-manager writes the whole Secret anew: what is remembered counts.
    let mut wiped = Kept::default();
    wiped.want(&Root::generate(&TrustDomain::default(), Duration::days(1000), at(0)).unwrap());
    let judgement = judge(&wiped, Some(&signing.record), &rules, at(2 * DAY)).unwrap();
    assert_eq!(judgement.root.trusted_by(), brought.trusted_by());
    assert_eq!(
        judgement
            .write
            .unwrap()
            .record()
            .unwrap()
            .unwrap()
            .anchors
            .len(),
        3
    );
}

#[test]
fn a_root_that_is_expired_is_replaced_without_a_wait() {
    let mut kept = Kept::default();
    kept.want(&Root::generate(&TrustDomain::default(), Duration::days(10), at(0)).unwrap());
    let rules = Rules::default();
    settled(&mut kept, &rules, 0);
    let next = Root::generate(&TrustDomain::default(), Duration::days(1000), at(11 * DAY)).unwrap();
    kept.want(&next);
    let judgement = settled(&mut kept, &rules, 11 * DAY);
    assert_eq!(judgement.root.trusted_by(), next.trusted_by());
}

#[test]
fn what_cannot_be_used_leaves_what_is_in_force() {
    let kept = new();
    let old = judged(&kept, 0);
    let other = new();
    let broken = |change: &dyn Fn(&mut Kept)| {
        let mut kept = kept.clone();
        change(&mut kept);
        kept
    };
    let cases: [(&str, Kept); 5] = [
        (
            "tls.key: not the key",
            broken(&|kept| {
                kept.fields
                    .insert(KEY.to_owned(), other.text(KEY).to_owned());
            }),
        ),
        (
            "ca.crt: no certificate in it",
            broken(&|kept| {
                kept.fields.remove(CA_CERTIFICATE);
            }),
        ),
        (
            "ca.crt: no certificate in it is",
            broken(&|kept| {
                kept.fields.insert(
                    CA_CERTIFICATE.to_owned(),
                    other.text(CA_CERTIFICATE).to_owned(),
                );
            }),
        ),
        (
            "tls.crt: not PEM",
            broken(&|kept| {
                let damaged = "-----BEGIN CERTIFICATE-----\n?".to_owned();
                kept.fields.insert(CERTIFICATE.to_owned(), damaged);
            }),
        ),
        (
            "tls.key: not a private key",
            broken(&|kept| {
                kept.fields.insert(KEY.to_owned(), String::new());
            }),
        ),
    ];
    for (reason, kept) in cases {
        let judgement = judged(&kept, 1);
        let problem = judgement.problem.unwrap();
        assert!(problem.contains(reason), "{problem}");
        assert_eq!(judgement.root.trusted_by(), old.root.trusted_by());
        assert_eq!(judgement.bundle_pem, old.bundle_pem);
        assert!(judgement.write.is_none(), "what the operator wrote stays");
        // Without anything in force there is nothing to fall back on.
        let mut nothing = kept.clone();
        nothing.fields.remove(STATE);
        assert!(judge(&nothing, None, &Rules::default(), at(1)).is_err());
    }
    let mut damaged = kept.clone();
    damaged.fields.insert(STATE.to_owned(), "{".to_owned());
    let judgement = judged(&damaged, 1);
    assert!(judgement.problem.unwrap().contains("state.json"));
    assert_eq!(judgement.root.trusted_by(), old.root.trusted_by());
}

/// What may happen to two replicas.
#[derive(Clone, Copy, Debug)]
enum Event {
    Read(usize),
    Write(usize),
    Crash(usize),
    Issue(usize),
    Request,
    Bring(usize),
    Pass(i64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..2_usize).prop_map(Event::Read),
        5 => (0..2_usize).prop_map(Event::Write),
        1 => (0..2_usize).prop_map(Event::Crash),
        5 => (0..2_usize).prop_map(Event::Issue),
        1 => Just(Event::Request),
        1 => (0..3_usize).prop_map(Event::Bring),
        3 => (0..40_i64).prop_map(Event::Pass),
        4 => (0..DAY / 2).prop_map(Event::Pass),
    ]
}

#[derive(Default)]
struct Replica {
    remembered: Option<Record>,
    pending: Option<Kept>,
    in_force: Option<(String, Vec<String>, i64)>,
}

/// A workload's certificate: the root it hangs on, and the roots it trusts.
struct Leaf {
    root: String,
    trusts: Vec<String>,
    expires: i64,
}

struct World {
    place: Option<Kept>,
    version: u64,
    now: i64,
    replicas: [Replica; 2],
    leaves: Vec<Leaf>,
    requests: u32,
}

impl World {
    fn new() -> Self {
        Self {
            place: None,
            version: 0,
            now: 0,
            replicas: Default::default(),
            leaves: Vec::new(),
            requests: 0,
        }
    }

    fn happens(&mut self, event: Event) {
        let rules = Rules::default();
        match event {
            Event::Read(replica) => self.read(replica, &rules),
            Event::Write(replica) => self.write(replica),
            Event::Crash(replica) => self.replicas[replica] = Replica::default(),
            Event::Issue(replica) => {
                let Some((root, trusts, read)) = &self.replicas[replica].in_force else {
                    return;
                };
                if self.now - read <= rules.freshness().whole_seconds() {
                    self.leaves.push(Leaf {
                        root: root.clone(),
                        trusts: trusts.clone(),
                        expires: self.now + DAY,
                    });
                }
            }
            Event::Request => {
                self.requests += 1;
                let request = self.requests.to_string();
                self.edit(|kept| kept.request = Some(request));
            }
            Event::Bring(which) => {
                static BROUGHT: LazyLock<Vec<Root>> = LazyLock::new(|| {
                    let life = Duration::days(1000);
                    let root = |_| Root::generate(&TrustDomain::default(), life, at(0)).unwrap();
                    (0..3).map(root).collect()
                });
                self.edit(|kept| kept.want(&BROUGHT[which]));
            }
            Event::Pass(seconds) => self.now += seconds,
        }
        self.check();
    }

    fn edit(&mut self, change: impl FnOnce(&mut Kept)) {
        if let Some(kept) = &mut self.place {
            change(kept);
            self.version += 1;
            kept.version = Some(self.version.to_string());
        }
    }

    fn read(&mut self, replica: usize, rules: &Rules) {
        let own = &mut self.replicas[replica];
        let Some(kept) = &self.place else {
            own.pending = Some(Kept::new(rules, at(self.now)).unwrap());
            return;
        };
        let judgement = judge(kept, own.remembered.as_ref(), rules, at(self.now)).unwrap();
        assert_eq!(judgement.problem, None);
        let trusts = judgement
            .record
            .anchors
            .iter()
            .map(|a| a.fingerprint.clone());
        let in_force = (
            judgement.root.trusted_by().to_owned(),
            trusts.collect(),
            self.now,
        );
        own.remembered = Some(judgement.record);
        own.pending = judgement.write;
        if own.pending.is_none() {
            own.in_force = Some(in_force);
        }
    }

    /// Optimistic locking, as the API server does it.
    fn write(&mut self, replica: usize) {
        let Some(mut next) = self.replicas[replica].pending.take() else {
            return;
        };
        if next.version == self.place.as_ref().and_then(|kept| kept.version.clone()) {
            self.version += 1;
            next.version = Some(self.version.to_string());
            self.place = Some(next);
        }
    }

    /// Everybody whose certificate is valid takes everybody else's.
    fn check(&mut self) {
        let now = self.now;
        self.leaves.retain(|leaf| leaf.expires > now);
        for one in &self.leaves {
            for other in &self.leaves {
                assert!(
                    other.trusts.contains(&one.root),
                    "{} is not trusted by a leaf of {}",
                    one.root,
                    other.root
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    /// Whoever dies wherever, and in whatever order two replicas read and write:
    /// no two valid certificates ever refuse one another, and in the end both
    /// replicas sign under one root.
    #[test]
    fn trust_never_forks(events in proptest::collection::vec(event(), 1..80)) {
        let mut world = World::new();
        for event in events {
            world.happens(event);
        }
        for _ in 0..42 {
            for replica in [0, 1] {
                for event in [Event::Read(replica), Event::Write(replica), Event::Read(replica), Event::Issue(replica)] {
                    world.happens(event);
                }
            }
            world.happens(Event::Pass(DAY / 4));
        }
        let [one, two] = world.replicas;
        let (one, two) = (one.in_force.unwrap(), two.in_force.unwrap());
        prop_assert_eq!((&one.0, &one.1), (&two.0, &two.1));
        prop_assert_eq!(one.1.len(), 1, "the roots before are retired");
    }
}
