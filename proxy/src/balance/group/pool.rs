//! Endpoints among which nothing but the policy's choice decides: in turn, at
//! random, by key, or the better of two that are drawn.
//!
//! Drawing two and comparing them costs the same with two endpoints and with ten
//! thousand.

use super::{
    super::{
        Candidate,
        hash::{Key, Member, Table},
        locality::warmth,
        standing::Standing,
    },
    Settings,
};
use linnet_mesh::destination::{Balance, Warmup};
use rand::Rng;
use std::{
    cell::{Cell, OnceCell, RefCell},
    cmp::Ordering,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

/// The part of its share that a new endpoint has at least.
const MIN_WARMTH: f64 = 0.001;
/// Draws before whoever comes next is taken.
const DRAWS: usize = 16;

/// What a choice depends on.
pub(super) struct Chance<'a> {
    pub(super) balance: &'a Balance,
    pub(super) warmup: Option<&'a Warmup>,
    pub(super) now: Instant,
    pub(super) avoid: &'a [SocketAddr],
    pub(super) key: Option<u64>,
}

impl Chance<'_> {
    fn is_free(&self, candidate: &Candidate) -> bool {
        !self.avoid.contains(&candidate.endpoint.address)
    }

    /// The candidate's share by weight and warmth.
    fn part(&self, candidate: &Candidate) -> f64 {
        let weight = f64::from(candidate.endpoint.weight.max(1));
        weight * self.warmth(candidate).max(MIN_WARMTH)
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
pub(super) struct Pool {
    /// Its share, and those of the pools before it.
    pub(super) upto: u64,
    pub(super) list: Vec<Rc<Candidate>>,
    /// Weights, each with all before it; `None`: all have the same.
    weights: Option<Vec<u64>>,
    /// Until when somebody warms up.
    warming: Option<Instant>,
    next: Cell<usize>,
    /// Of a round with weights, what each has in hand.
    credit: RefCell<Vec<f64>>,
    pub(super) hashed: Option<Hashed>,
}

/// A table, with who its members are and whether they are to be used now.
pub(super) struct Hashed {
    /// Made for the first request: a rule may have many subsets that nobody asks for.
    table: OnceCell<Arc<Table>>,
    pub(super) key: Key,
    pub(super) standing: Arc<Standing>,
    members: Vec<(Rc<Candidate>, bool)>,
}

impl Hashed {
    pub(super) fn table(&self) -> &Arc<Table> {
        self.table.get_or_init(|| self.standing.table(&self.key))
    }
}

impl Pool {
    pub(super) fn new(
        upto: u64,
        members: Vec<(Rc<Candidate>, bool)>,
        settings: &Settings<'_>,
    ) -> Self {
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
                let standing = settings.standing.clone();
                // What is there already stays while the view before is there.
                let made = standing.table_if_made(&key);
                Some(Hashed {
                    table: made.map_or_else(OnceCell::new, OnceCell::from),
                    key,
                    standing,
                    members: members.clone(),
                })
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

    pub(super) fn choose(&self, chance: &Chance<'_>, rng: &mut impl Rng) -> Option<&Rc<Candidate>> {
        if let (Some(hashed), Some(key)) = (&self.hashed, chance.key) {
            let members = &hashed.members;
            let usable = |m: usize| members[m].1 && chance.is_free(&members[m].0);
            let found = hashed.table().find(key, usable)?;
            return Some(&members[found].0);
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
            Balance::LeastRequest => self.of_two(chance, rng, Self::idler),
            Balance::PeakEwma | Balance::Passthrough => self.of_two(chance, rng, Self::cheaper),
        }
    }

    /// Whether a key would lead to an unavailable endpoint if it were not.
    pub(super) fn leads_to(&self, key: Option<u64>, candidate: &Rc<Candidate>) -> bool {
        let (Some(hashed), Some(key)) = (&self.hashed, key) else {
            return true;
        };
        let members = &hashed.members;
        let usable = |m: usize| members[m].1 || Rc::ptr_eq(&members[m].0, candidate);
        let found = hashed.table().find(key, usable);
        found.is_some_and(|found| Rc::ptr_eq(&members[found].0, candidate))
    }

    /// Whether everybody has the same share now.
    fn is_even(&self, chance: &Chance<'_>) -> bool {
        self.weights.is_none() && self.warming.is_none_or(|until| chance.now >= until)
    }

    /// One of two that are drawn.
    fn of_two<'a, R: Rng>(
        &'a self,
        chance: &Chance<'_>,
        rng: &mut R,
        pick: impl Fn(&Self, &Chance<'_>, [&'a Rc<Candidate>; 2]) -> &'a Rc<Candidate>,
    ) -> Option<&'a Rc<Candidate>> {
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
        Some(pick(self, chance, [&list[first], &list[second]]))
    }

    /// The one that will have spent less after the request. So each gets the more
    /// the cheaper it is, equals get as many to one, and a dear one is never left
    /// without a request that could show that it is dear no longer.
    fn cheaper<'a>(&self, chance: &Chance<'_>, two: [&'a Rc<Candidate>; 2]) -> &'a Rc<Candidate> {
        let even = self.is_even(chance);
        charge(
            two,
            two.map(|candidate| {
                let cost = candidate.cost(chance.now);
                if even {
                    cost
                } else {
                    cost / chance.part(candidate)
                }
            }),
        )
    }

    /// The one with fewer requests in flight, to which recent failures count; of equals, the
    /// one that had fewer.
    fn idler<'a>(&self, chance: &Chance<'_>, two: [&'a Rc<Candidate>; 2]) -> &'a Rc<Candidate> {
        let [first, second] = two.map(|candidate| candidate.busy(chance.now));
        match first.total_cmp(&second) {
            Ordering::Less => two[0],
            Ordering::Greater => two[1],
            Ordering::Equal => charge(two, two.map(|candidate| 1.0 / chance.part(candidate))),
        }
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

/// Of two, the one that will have spent less after paying its price; it pays.
fn charge(two: [&Rc<Candidate>; 2], prices: [f64; 2]) -> &Rc<Candidate> {
    let spent = two.map(|candidate| candidate.spent.get());
    // Who was not there, or not chosen, has no claim to more than one request ahead.
    let least = spent[0].max(spent[1]) - prices[0].max(prices[1]);
    let after = [0, 1].map(|n| spent[n].max(least) + prices[n]);
    let chosen = usize::from(after[1] < after[0]);
    two[chosen].spent.set(after[chosen]);
    two[chosen]
}
