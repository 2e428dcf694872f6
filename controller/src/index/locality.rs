//! What a Service itself says about near and far endpoints.

use crate::object::Service;
use linnet_mesh::{
    destination::{LocalityPolicy, PriorityLabel},
    names::label,
};

/// `trafficDistribution`, in force where no rule says what places mean: same
/// zone, then same region, then anywhere. Unlike a rule's failover it needs no
/// outlier detection.
pub(super) fn near(service: &Service) -> Option<LocalityPolicy> {
    service.prefers_close.then(|| {
        let label = |key: &str| PriorityLabel {
            key: key.to_owned(),
            value: None,
        };
        LocalityPolicy::FailoverPriority(vec![label(label::REGION), label(label::ZONE)])
    })
}
