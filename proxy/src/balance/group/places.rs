//! The places that serve a caller, the nearest first, each with its share and its
//! endpoints.

use super::super::{
    Candidate,
    locality::{Level, Place, distance, distance_by_labels, share, spill},
};
use linnet_mesh::destination::{DestinationPolicy, LocalityPolicy};
use std::{borrow::Cow, collections::BTreeMap, rc::Rc};

/// Who of the unavailable would serve if they were not: whoever is too far away to
/// be called anyhow need not be tried.
pub(super) fn to_probe(
    mut unavailable: Vec<Rc<Candidate>>,
    policy: &DestinationPolicy,
    own: Place<'_>,
    serving: &[Rc<Candidate>],
) -> Vec<Rc<Candidate>> {
    if unavailable.is_empty() || policy.locality.is_none() {
        return unavailable;
    }
    let places = places(policy, own, serving, &vec![true; serving.len()]);
    let served = places.iter().filter(|place| place.share > 0);
    let served: Vec<_> = served
        .flat_map(|place| place.members.iter().map(|(c, _)| Rc::as_ptr(c)))
        .collect();
    unavailable.retain(|candidate| served.contains(&Rc::as_ptr(candidate)));
    unavailable
}

/// Who is ever called, whoever can serve: `distribute` gives some places nothing at all.
/// They are nobody to go to when the others can't serve.
pub(super) fn with_share<'m>(
    members: &'m [Rc<Candidate>],
    policy: &DestinationPolicy,
    own: Place<'_>,
) -> Cow<'m, [Rc<Candidate>]> {
    let Some(LocalityPolicy::Distribute(_)) = &policy.locality else {
        return Cow::Borrowed(members);
    };
    let places = places(policy, own, members, &vec![true; members.len()]);
    let members = places.into_iter().flat_map(|place| place.members);
    members.map(|(candidate, _)| candidate).collect()
}

/// Endpoints with a share of the load, each with whether it can be used.
pub(super) struct InPlace {
    pub(super) share: u64,
    pub(super) members: Vec<(Rc<Candidate>, bool)>,
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
pub(super) fn places(
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
