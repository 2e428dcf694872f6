//! How the endpoints of a service are called: pools, ejection, balancing, TLS.
//!
//! A policy is whole: every default is filled in before it gets here, so that
//! who acts on it looks at one value and at nothing else.

mod balance;
mod locality;
mod outlier;
mod pool;
mod tls;

pub use balance::{Balance, ConsistentHash, HashAlgorithm, HashKey, Warmup};
pub use locality::{
    Distribution, Failover, Locality, LocalityPattern, LocalityPolicy, PriorityLabel,
};
pub use outlier::OutlierDetection;
pub use pool::{ConnectionPool, TcpKeepalive};
pub use tls::{ClientTls, Origination};

use crate::ResourceRef;
use std::{collections::BTreeMap, sync::Arc};

/// The policies of one service port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Destination {
    /// For calls to no subset.
    pub policy: Arc<DestinationPolicy>,
    /// For calls to a subset with a policy of its own; others have `policy`.
    pub subsets: BTreeMap<String, Arc<DestinationPolicy>>,
}

impl Destination {
    /// The policy for calls to a subset, or to none.
    pub fn policy(&self, subset: Option<&str>) -> &Arc<DestinationPolicy> {
        subset
            .and_then(|name| self.subsets.get(name))
            .unwrap_or(&self.policy)
    }
}

/// How endpoints are called.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DestinationPolicy {
    /// Limits on connections and requests.
    pub pool: ConnectionPool,
    /// When an endpoint that fails is left alone; `None`: never.
    pub outlier: Option<OutlierDetection>,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// What the places of caller and endpoint mean; `None`: nothing.
    pub locality: Option<LocalityPolicy>,
    /// How a new endpoint's share grows; `None`: it gets its share at once.
    pub warmup: Option<Warmup>,
    /// How connections are encrypted.
    pub tls: ClientTls,
    /// Which resources said so.
    pub sources: Sources,
}

/// The DestinationRule behind each part of a policy, for errors and `linnet
/// why`; `None`: the default. With several rules for one host they differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Of `trafficPolicy.connectionPool`.
    pub pool: Option<ResourceRef>,
    /// Of `trafficPolicy.outlierDetection`.
    pub outlier: Option<ResourceRef>,
    /// Of `trafficPolicy.loadBalancer`.
    pub balance: Option<ResourceRef>,
    /// Of `trafficPolicy.tls`.
    pub tls: Option<ResourceRef>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subset_without_a_policy_has_the_services() {
        let own = Arc::new(DestinationPolicy {
            balance: Balance::Random,
            ..DestinationPolicy::default()
        });
        let destination = Destination {
            policy: Arc::default(),
            subsets: BTreeMap::from([("v2".to_owned(), own.clone())]),
        };
        assert_eq!(destination.policy(Some("v2")), &own);
        assert_eq!(destination.policy(Some("v1")), &destination.policy);
        assert_eq!(destination.policy(None), &destination.policy);
    }
}
