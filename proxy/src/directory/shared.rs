//! One copy of what many endpoints say alike: the pods of a Deployment have one
//! identity and, but for their names, one workload.
//!
//! A service may have ten thousand endpoints; each costs its address, its
//! pod's name and two references, not the eight texts behind them.

use linnet_mesh::{Endpoint, SpiffeId, Workload, destination::Locality};
use std::{collections::HashSet, sync::Arc};

/// What is known, each once.
#[derive(Debug, Default)]
pub(super) struct Shared {
    workloads: HashSet<Arc<Workload>>,
    identities: HashSet<SpiffeId>,
    localities: HashSet<Arc<Locality>>,
}

impl Shared {
    /// Makes an endpoint refer to what is known. Its pod's name is left out of the
    /// workload, and stays the endpoint's.
    pub(super) fn share(&mut self, endpoint: &mut Arc<Endpoint>) {
        let endpoint = Arc::make_mut(endpoint);
        if !endpoint.workload.pod.is_empty() {
            Arc::make_mut(&mut endpoint.workload).pod = String::new();
        }
        match self.workloads.get(&endpoint.workload) {
            Some(known) => endpoint.workload = known.clone(),
            None => {
                self.workloads.insert(endpoint.workload.clone());
            }
        }
        match self.localities.get(&endpoint.locality) {
            Some(known) => endpoint.locality = known.clone(),
            None => {
                self.localities.insert(endpoint.locality.clone());
            }
        }
        if let Some(identity) = &mut endpoint.identity {
            match self.identities.get(identity) {
                Some(known) => *identity = known.clone(),
                None => {
                    self.identities.insert(identity.clone());
                }
            }
        }
    }

    /// Lets go of what nobody refers to any more.
    pub(super) fn expire(&mut self) {
        self.workloads
            .retain(|workload| Arc::strong_count(workload) > 1);
        self.identities.retain(SpiffeId::is_shared);
        self.localities
            .retain(|locality| Arc::strong_count(locality) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, account: &str, pod: &str) -> Arc<Endpoint> {
        let identity: SpiffeId = format!("spiffe://cluster.local/ns/default/sa/{account}")
            .parse()
            .unwrap();
        Arc::new(Endpoint {
            pod: pod.into(),
            workload: Arc::new(Workload {
                pod: pod.to_owned(),
                ..Workload::from_identity(&identity)
            }),
            identity: Some(identity),
            ..Endpoint::at(address.parse().unwrap())
        })
    }

    #[test]
    fn pods_of_one_workload_share_all_but_the_address_until_they_are_gone() {
        let mut shared = Shared::default();
        let mut endpoints = [
            endpoint("10.0.0.1:80", "a", "a-1"),
            endpoint("10.0.0.2:80", "a", "a-2"),
            endpoint("10.0.0.3:80", "b", "b-1"),
        ];
        endpoints.iter_mut().for_each(|e| shared.share(e));
        let [first, second, other] = &endpoints;
        assert!(Arc::ptr_eq(&first.workload, &second.workload));
        assert_eq!((&*first.pod, &*second.pod), ("a-1", "a-2"));
        let place = |e: &Endpoint| e.identity.as_ref().unwrap().as_str().as_ptr();
        assert_eq!(place(first), place(second));
        assert_ne!(first.identity, other.identity);
        assert_eq!(other.workload.name, "b");
        assert_eq!(second.address, "10.0.0.2:80".parse().unwrap());

        shared.expire();
        assert_eq!((shared.workloads.len(), shared.identities.len()), (2, 2));
        drop(endpoints);
        shared.expire();
        assert_eq!((shared.workloads.len(), shared.identities.len()), (0, 0));
    }
}
