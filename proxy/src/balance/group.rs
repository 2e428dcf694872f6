//! Endpoints to choose from, and the choice.
//!
//! All that depends on endpoints, policy and ejections is worked out when one
//! of them changes. A choice allocates nothing.

use super::{
    Candidate,
    hash::{Key, Member, Table},
    locality::{Level, Place, distance, distance_by_labels, share, spill, warmth},
    outlier::{Health, Verdict, panics},
    standing::Standing,
};
use linnet_mesh::{
    ResourceRef,
    destination::{Balance, DestinationPolicy, HashKey, LocalityPolicy, OutlierDetection, Warmup},
};
use rand::Rng;
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

/// Draws before whoever comes next is taken.
const DRAWS: usize = 16;

/// What a group is made with, besides its endpoints.
pub(super) struct Settings<'a> {
    pub(super) policy: &'a Arc<DestinationPolicy>,
    pub(super) own: Place<'a>,
    pub(super) standing: &'a Arc<Standing>,
    pub(super) now: Instant,
}

/// The endpoints of a subset, or of the whole service.
pub(super) struct Group {
    policy: Arc<DestinationPolicy>,
    pools: Vec<Pool>,
    /// Who watches over them, where the policy says so.
    pub(super) watch: Option<Rc<Watch>>,
    /// Who is passed over.
    pub(super) ejected: Vec<Rc<Candidate>>,
    /// When the first of those is back.
    pub(super) expires: Option<Instant>,
}

/// Outlier detection over a group.
pub(crate) struct Watch {
    rules: OutlierDetection,
    source: Option<ResourceRef>,
    standing: Arc<Standing>,
    members: Vec<Arc<Health>>,
}

impl Watch {
    /// Takes note of how an attempt went.
    pub(super) fn note(&self, candidate: &Candidate, verdict: Verdict, now: Instant) {
        let Some(cause) = candidate.health.note(verdict, &self.rules) else {
            return;
        };
        let members = self.members.iter().map(AsRef::as_ref);
        let accused = &candidate.health;
        if let Some(time) = self.standing.eject(accused, members, &self.rules, now) {
            tracing::debug!(
                endpoint = %candidate.endpoint.address,
                pod = %candidate.endpoint.pod,
                rule = self.source.as_ref().map(tracing::field::display),
                cause = cause.field(),
                seconds = time.as_secs(),
                "ejected: it failed again and again"
            );
        }
    }
}

impl Group {
    pub(super) fn new(members: &[Rc<Candidate>], settings: &Settings<'_>) -> Self {
        let policy = settings.policy.clone();
        let (serving, terminating): (Vec<_>, Vec<_>) = members
            .iter()
            .cloned()
            .partition(|c| !c.endpoint.terminating);
        // They serve only when there are no others.
        let serving = if serving.is_empty() {
            &terminating
        } else {
            &serving
        };
        let until = |c: &Rc<Candidate>| {
            let rules = policy.outlier.as_ref()?;
            rules_heed(rules, serving, settings.now)
                .then(|| c.health.ejected_until(settings.now))?
        };
        let mut usable: Vec<bool> = serving.iter().map(|c| until(c).is_none()).collect();
        let expires = serving
            .iter()
            .filter(|_| policy.outlier.is_some())
            .filter_map(|c| c.health.ejected_until(settings.now))
            .min();
        if !usable.contains(&true) {
            // Nobody else is left: better somebody who failed than nobody.
            usable.fill(true);
        }
        let out = serving.iter().zip(&usable).filter(|(_, usable)| !**usable);
        let ejected = out.map(|(candidate, _)| candidate.clone()).collect();
        let places = places(&policy, settings.own, serving, &usable);
        let mut upto = 0;
        let pools = places
            .into_iter()
            .map(|place| {
                upto += place.share;
                Pool::new(upto, place.members, settings)
            })
            .filter(|pool| !pool.list.is_empty())
            .collect();
        let watch = policy.outlier.as_ref().map(|rules| {
            Rc::new(Watch {
                rules: rules.clone(),
                source: policy.sources.outlier.clone(),
                standing: settings.standing.clone(),
                members: serving.iter().map(|c| c.health.clone()).collect(),
            })
        });
        Self {
            policy,
            pools,
            watch,
            ejected,
            expires,
        }
    }

    /// Chooses an endpoint, other than those to avoid where there are others.
    /// `key` is asked for what requests that are alike have in common.
    pub(super) fn choose(
        &self,
        now: Instant,
        avoid: &[SocketAddr],
        key: impl FnOnce(&HashKey) -> Option<u64>,
        rng: &mut impl Rng,
    ) -> Option<&Rc<Candidate>> {
        let key = match &self.policy.balance {
            Balance::ConsistentHash(hash) => key(&hash.key).or_else(|| Some(rng.random())),
            _ => None,
        };
        let chance = Chance {
            balance: &self.policy.balance,
            warmup: self.policy.warmup.as_ref(),
            now,
            avoid,
            key,
        };
        let pool = self.draw(key, rng)?;
        if avoid.is_empty() {
            return pool.choose(&chance, rng);
        }
        let fresh = pool.choose(&chance, rng);
        let fresh = fresh.or_else(|| self.pools.iter().find_map(|p| p.choose(&chance, rng)));
        fresh.or_else(|| {
            pool.choose(
                &Chance {
                    avoid: &[],
                    ..chance
                },
                rng,
            )
        })
    }

    fn draw(&self, key: Option<u64>, rng: &mut impl Rng) -> Option<&Pool> {
        let (last, more) = self.pools.split_last()?;
        if more.is_empty() || last.upto == 0 {
            return self.pools.first();
        }
        let point = match key {
            // Not the bits that say where in the table.
            Some(key) => key.rotate_left(32) % last.upto,
            None => rng.random_range(0..last.upto),
        };
        self.pools.iter().find(|pool| point < pool.upto)
    }
}

/// Whether ejections count, with so few healthy ones.
fn rules_heed(rules: &OutlierDetection, serving: &[Rc<Candidate>], now: Instant) -> bool {
    let healthy = serving
        .iter()
        .filter(|c| c.health.ejected_until(now).is_none());
    !panics(healthy.count(), serving.len(), rules)
}

/// Endpoints with a share of the load, each with whether it can be used.
struct InPlace {
    share: u64,
    members: Vec<(Rc<Candidate>, bool)>,
}

impl InPlace {
    fn level(&self) -> Level {
        Level {
            usable: self.members.iter().filter(|(_, usable)| *usable).count(),
            total: self.members.len(),
        }
    }
}

/// Divides endpoints by place, the nearest first.
fn places(
    policy: &DestinationPolicy,
    own: Place<'_>,
    serving: &[Rc<Candidate>],
    usable: &[bool],
) -> Vec<InPlace> {
    let all = || serving.iter().cloned().zip(usable.iter().copied());
    let far = |other: &Candidate| match &policy.locality {
        Some(LocalityPolicy::Failover(named)) => {
            distance(own.locality, &other.endpoint.locality, named)
        }
        Some(LocalityPolicy::FailoverPriority(labels)) => {
            distance_by_labels(own, Place::of(&other.endpoint), labels)
        }
        Some(LocalityPolicy::Distribute(_)) | None => 0,
    };
    if let Some(LocalityPolicy::Distribute(rules)) = &policy.locality
        && let Some(rule) = rules.iter().find(|rule| rule.from.matches(own.locality))
    {
        let mut rest: Vec<_> = all().collect();
        let mut places = Vec::new();
        for (place, percent) in &rule.to {
            let (members, others) = std::mem::take(&mut rest)
                .into_iter()
                .partition(|(c, _)| place.matches(&c.endpoint.locality));
            rest = others;
            let mut place = InPlace { share: 0, members };
            place.share = share(*percent, place.level());
            places.push(place);
        }
        places.retain(|place| place.share > 0);
        return places;
    }
    let mut levels: BTreeMap<usize, Vec<_>> = BTreeMap::new();
    for member in all() {
        levels.entry(far(&member.0)).or_default().push(member);
    }
    let levels = levels.into_values();
    let mut places: Vec<_> = levels
        .map(|members| InPlace { share: 0, members })
        .collect();
    let loads = spill(&places.iter().map(InPlace::level).collect::<Vec<_>>());
    for (place, load) in places.iter_mut().zip(loads) {
        place.share = load.into();
    }
    places
}

/// What a choice depends on.
struct Chance<'a> {
    balance: &'a Balance,
    warmup: Option<&'a Warmup>,
    now: Instant,
    avoid: &'a [SocketAddr],
    key: Option<u64>,
}

impl Chance<'_> {
    fn is_free(&self, candidate: &Candidate) -> bool {
        !self.avoid.contains(&candidate.endpoint.address)
    }

    fn warmth(&self, candidate: &Candidate) -> f64 {
        match (self.warmup, candidate.health.appeared) {
            (Some(warmup), Some(appeared)) => {
                warmth(warmup, self.now.saturating_duration_since(appeared))
            }
            _ => 1.0,
        }
    }
}

/// Endpoints among which there is nothing but the policy's choice.
struct Pool {
    /// Its share, and those of the pools before it.
    upto: u64,
    list: Vec<Rc<Candidate>>,
    /// Weights, each with all before it; `None`: all have the same.
    weights: Option<Vec<u64>>,
    /// Until when somebody warms up.
    warming: Option<Instant>,
    next: Cell<usize>,
    /// Of a round with weights, what each has in hand.
    credit: RefCell<Vec<f64>>,
    hashed: Option<Hashed>,
}

/// A table, with who its members are; `None`: not to be used now.
struct Hashed {
    table: Arc<Table>,
    members: Vec<Option<Rc<Candidate>>>,
}

impl Pool {
    fn new(upto: u64, members: Vec<(Rc<Candidate>, bool)>, settings: &Settings<'_>) -> Self {
        let hashed = match &settings.policy.balance {
            Balance::ConsistentHash(hash) => {
                let member = |(c, _): &(Rc<Candidate>, bool)| Member {
                    address: c.endpoint.address,
                    weight: c.endpoint.weight,
                };
                let key = Key {
                    algorithm: hash.algorithm,
                    members: members.iter().map(member).collect(),
                };
                let table = settings.standing.table(key);
                let usable = |(c, usable): &(Rc<Candidate>, bool)| usable.then(|| c.clone());
                let members = members.iter().map(usable).collect();
                Some(Hashed { table, members })
            }
            _ => None,
        };
        let usable = members.into_iter().filter(|(_, usable)| *usable);
        let list: Vec<_> = usable.map(|(candidate, _)| candidate).collect();
        let even = list
            .windows(2)
            .all(|pair| pair[0].endpoint.weight == pair[1].endpoint.weight);
        let weights = (!even).then(|| {
            let weights = list.iter().scan(0, |sum, candidate| {
                *sum += u64::from(candidate.endpoint.weight.max(1));
                Some(*sum)
            });
            weights.collect()
        });
        let warm = |candidate: &Rc<Candidate>| {
            let duration = settings.policy.warmup.as_ref()?.duration;
            candidate.health.appeared?.checked_add(duration)
        };
        let warming = list.iter().filter_map(warm).max();
        Self {
            upto,
            weights,
            warming: warming.filter(|until| settings.now < *until),
            // Threads that started at the same one would go round together.
            next: Cell::new(rand::random_range(0..list.len().max(1))),
            credit: RefCell::default(),
            hashed,
            list,
        }
    }

    fn choose(&self, chance: &Chance<'_>, rng: &mut impl Rng) -> Option<&Rc<Candidate>> {
        if let (Some(hashed), Some(key)) = (&self.hashed, chance.key) {
            let members = &hashed.members;
            let usable = |m: usize| members[m].as_ref().is_some_and(|c| chance.is_free(c));
            let found = hashed.table.find(key, usable)?;
            return members[found].as_ref();
        }
        if let [only] = &*self.list {
            return chance.is_free(only).then_some(only);
        }
        match chance.balance {
            Balance::RoundRobin => self.in_turn(chance),
            Balance::Random | Balance::ConsistentHash(_) => {
                let drawn = self.draw(chance, None, rng)?;
                Some(&self.list[drawn])
            }
            Balance::LeastRequest => {
                self.of_two(chance, rng, |candidate| f64::from(candidate.in_flight()))
            }
            Balance::PeakEwma | Balance::Passthrough => {
                self.of_two(chance, rng, |candidate| candidate.cost(chance.now))
            }
        }
    }

    /// Whether everybody has the same share now.
    fn is_even(&self, chance: &Chance<'_>) -> bool {
        self.weights.is_none() && self.warming.is_none_or(|until| chance.now >= until)
    }

    /// The cheaper of two that are drawn.
    fn of_two(
        &self,
        chance: &Chance<'_>,
        rng: &mut impl Rng,
        cost: impl Fn(&Candidate) -> f64,
    ) -> Option<&Rc<Candidate>> {
        let list = &self.list;
        let (first, second) = if list.len() > 1 && chance.avoid.is_empty() && self.is_even(chance) {
            let first = rng.random_range(0..list.len());
            let step = rng.random_range(1..list.len());
            (first, (first + step) % list.len())
        } else {
            let first = self.draw(chance, None, rng)?;
            match self.draw(chance, Some(first), rng) {
                Some(second) => (first, second),
                None => return Some(&list[first]),
            }
        };
        let (first, second) = (&list[first], &list[second]);
        let first_is_cheaper = cost(first) <= cost(second);
        Some(if first_is_cheaper { first } else { second })
    }

    /// Draws one by weight and warmth, other than `drawn`.
    fn draw(&self, chance: &Chance<'_>, drawn: Option<usize>, rng: &mut impl Rng) -> Option<usize> {
        let list = &self.list;
        if list.is_empty() {
            return None;
        }
        let even = self.is_even(chance);
        let eligible = |position| drawn != Some(position) && chance.is_free(&list[position]);
        for _ in 0..DRAWS {
            let position = match &self.weights {
                None => rng.random_range(0..list.len()),
                Some(weights) => {
                    let point = rng.random_range(0..weights[weights.len() - 1]);
                    weights.partition_point(|&upto| upto <= point)
                }
            };
            let warm = even || rng.random::<f64>() < chance.warmth(&list[position]);
            if warm && eligible(position) {
                return Some(position);
            }
        }
        let start = rng.random_range(0..list.len());
        let mut around = (start..list.len()).chain(0..start);
        around.find(|&position| eligible(position))
    }

    /// The next in turn.
    fn in_turn(&self, chance: &Chance<'_>) -> Option<&Rc<Candidate>> {
        let list = &self.list;
        if self.is_even(chance) {
            let start = self.next.get() % list.len().max(1);
            let mut around = (start..list.len()).chain(0..start);
            let position = around.find(|&position| chance.is_free(&list[position]))?;
            self.next.set(position + 1);
            return Some(&list[position]);
        }
        // Each turn earns everybody its weight; the richest pays for all.
        let mut credit = self.credit.borrow_mut();
        credit.resize(list.len(), 0.0);
        let mut total = 0.0;
        let mut best: Option<usize> = None;
        for (position, candidate) in list.iter().enumerate() {
            let weight = f64::from(candidate.endpoint.weight.max(1)) * chance.warmth(candidate);
            if !chance.is_free(candidate) {
                continue;
            }
            credit[position] += weight;
            total += weight;
            if best.is_none_or(|best| credit[position] > credit[best]) {
                best = Some(position);
            }
        }
        let best = best?;
        credit[best] -= total;
        Some(&list[best])
    }
}

#[cfg(test)]
mod tests;
