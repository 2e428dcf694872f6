//! What a Service itself says about near and far endpoints.

use crate::object::Service;
use linnet_mesh::{
    destination::{Destination, DestinationPolicy, LocalityPolicy, PriorityLabel},
    names::label,
};
use std::sync::Arc;

/// Fills in `trafficDistribution`, where no rule says what places mean: same
/// zone, then same region, then anywhere. Unlike a rule's failover it needs no
/// outlier detection.
pub(super) fn fill_in(
    destination: Option<Arc<Destination>>,
    service: &Service,
) -> Option<Arc<Destination>> {
    if !service.prefers_close {
        return destination;
    }
    let mut destination = destination.unwrap_or_default();
    let filled = Arc::make_mut(&mut destination);
    let subsets = filled.subsets.values_mut();
    for policy in std::iter::once(&mut filled.policy).chain(subsets) {
        if policy.locality.is_none() {
            let policy: &mut DestinationPolicy = Arc::make_mut(policy);
            policy.locality = Some(near());
        }
    }
    Some(destination)
}

fn near() -> LocalityPolicy {
    let label = |key: &str| PriorityLabel {
        key: key.to_owned(),
        value: None,
    };
    LocalityPolicy::FailoverPriority(vec![label(label::REGION), label(label::ZONE)])
}
