//! Endpoints to choose from, and the choice.
//!
//! All that depends on endpoints, policy and ejections is worked out when one
//! of them changes. A choice allocates nothing.

mod places;
mod pool;

use super::{
    Asker, Candidate,
    locality::Place,
    outlier::{Health, Verdict, panics},
    standing::Standing,
};
use linnet_mesh::{
    ResourceRef,
    destination::{Balance, DestinationPolicy, HashKey, OutlierDetection},
};
use places::{places, to_probe, with_share};
use pool::{Chance, Pool};
use rand::Rng;
use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc, time::Instant};

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
    /// Who is unavailable, and would serve otherwise.
    unavailable: Vec<Rc<Candidate>>,
    /// When the first of those is to be tried.
    next_probe: Cell<Instant>,
    /// All are unavailable, and so none is passed over.
    pub(super) desperate: bool,
    /// Endpoints besides the one that is chosen.
    pub(super) others: usize,
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
        let members = &*with_share(members, &policy, settings.own);
        let (serving, terminating): (Vec<_>, Vec<_>) = members
            .iter()
            .cloned()
            .partition(|c| !c.endpoint.terminating);
        let can_serve = |c: &Rc<Candidate>| !c.is_unavailable();
        // They serve only when there are no others, or none of those can.
        let serving = if serving.is_empty() {
            &terminating
        } else if !serving.iter().any(can_serve) && terminating.iter().any(can_serve) {
            members
        } else {
            &serving
        };
        let until = |c: &Rc<Candidate>| {
            let rules = policy.outlier.as_ref()?;
            rules_heed(rules, serving, settings.now)
                .then(|| c.health.ejected_until(settings.now))?
        };
        let available: Vec<bool> = serving.iter().map(can_serve).collect();
        let mut usable: Vec<bool> = serving.iter().map(|c| until(c).is_none()).collect();
        for (usable, available) in usable.iter_mut().zip(&available) {
            *usable &= available;
        }
        let expires = serving
            .iter()
            .filter(|_| policy.outlier.is_some())
            .filter_map(|c| c.health.ejected_until(settings.now))
            .min();
        let desperate = !available.contains(&true);
        if !usable.contains(&true) {
            // Nobody else is left: better somebody who failed than nobody, and whoever
            // answers with failures than who can't be reached.
            match desperate {
                true => usable.fill(true),
                false => usable.copy_from_slice(&available),
            }
        }
        let out = serving.iter().zip(&usable).filter(|(_, usable)| !**usable);
        let out = out.map(|(candidate, _)| candidate.clone());
        let (ejected, unavailable) = out.partition::<Vec<_>, _>(can_serve);
        let places = places(&policy, settings.own, serving, &usable);
        let unavailable = to_probe(unavailable, &policy, settings.own, serving);
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
            unavailable,
            next_probe: Cell::new(settings.now),
            desperate,
            // Those too that serve once none of these can.
            others: members.len().saturating_sub(1),
        }
    }

    /// The unavailable endpoint that a request is to try now, if one is due.
    pub(super) fn probe(&self, now: Instant, asker: &Asker<'_>) -> Option<&Rc<Candidate>> {
        if self.unavailable.is_empty() || now < self.next_probe.get() {
            return None;
        }
        let key = match &self.policy.balance {
            Balance::ConsistentHash(hash) => asker.key(&hash.key),
            _ => None,
        };
        let repeatable = asker.repeatable();
        let due = |candidate: &&Rc<Candidate>| {
            let pool = key.and_then(|_| self.pool(key, &mut rand::rng()));
            pool.is_none_or(|pool| pool.leads_to(key, candidate))
                && candidate.health.availability.claim_probe(now, repeatable)
        };
        let found = self.unavailable.iter().find(due);
        if found.is_none() {
            let times = self.unavailable.iter();
            let times = times.map(|c| c.health.availability.next_probe());
            // What is due and not for this request may be for the next.
            self.next_probe.set(times.min().unwrap_or(now));
        }
        found
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
        let pool = self.pool(key, rng)?;
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

    /// Draws a place by its share.
    fn pool(&self, key: Option<u64>, rng: &mut impl Rng) -> Option<&Pool> {
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

#[cfg(test)]
mod tests;
