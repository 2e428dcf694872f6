//! Updates as they go over the wire, encoded once for all proxies that are told
//! the same in one round: an edit of a route that a thousand proxies use costs
//! one encoding and a thousand references to it.

use crate::index::Endpoints;
use linnet_discovery::{EndpointsUpdate, Update};
use linnet_mesh::{Endpoint, Service, ServicePort};
use std::{collections::HashMap, net::SocketAddr, sync::Arc};

/// An encoded update, shared by the messages that carry it.
pub(super) type Bytes = tonic::codegen::Bytes;

/// The updates of a round. Values are known by their place in memory, and held
/// so that the place is not given to another.
#[derive(Debug, Default)]
pub(super) struct Encoding {
    services: HashMap<usize, (Arc<Service>, Bytes)>,
    endpoints: HashMap<(usize, usize), Difference>,
}

#[derive(Debug)]
struct Difference {
    _between: (Option<Arc<Endpoints>>, Arc<Endpoints>),
    /// `None`: there is none.
    update: Option<Bytes>,
}

fn place<T>(value: &Arc<T>) -> usize {
    Arc::as_ptr(value) as usize
}

impl Encoding {
    /// A service as it is.
    pub(super) fn service(&mut self, service: &Arc<Service>) -> Bytes {
        let entry = self.services.entry(place(service));
        let encoded = || Update::Service(service.clone()).encode();
        let known = entry.or_insert_with(|| (service.clone(), encoded()));
        known.1.clone()
    }

    /// A service's endpoints, whole or as the difference to older ones.
    pub(super) fn endpoints(
        &mut self,
        service: &ServicePort,
        old: Option<&Arc<Endpoints>>,
        new: &Arc<Endpoints>,
    ) -> Option<Bytes> {
        let key = (old.map_or(0, place), place(new));
        let difference = self.endpoints.entry(key).or_insert_with(|| Difference {
            _between: (old.cloned(), new.clone()),
            update: match old {
                Some(old) => difference(service, old, new),
                None => Some(whole(service, new)),
            }
            .map(|update| Update::Endpoints(update).encode()),
        });
        difference.update.clone()
    }

    /// The round is over.
    pub(super) fn clear(&mut self) {
        self.services.clear();
        self.endpoints.clear();
    }
}

fn whole(service: &ServicePort, endpoints: &Endpoints) -> EndpointsUpdate {
    EndpointsUpdate {
        service: service.clone(),
        replace: true,
        upserts: endpoints.values().cloned().collect(),
        removed: Vec::new(),
    }
}

fn difference(service: &ServicePort, old: &Endpoints, new: &Endpoints) -> Option<EndpointsUpdate> {
    let upserts: Vec<Arc<Endpoint>> = new
        .iter()
        .filter(|(address, endpoint)| old.get(*address) != Some(*endpoint))
        .map(|(_, endpoint)| endpoint.clone())
        .collect();
    let removed: Vec<SocketAddr> = old
        .keys()
        .filter(|address| !new.contains_key(*address))
        .copied()
        .collect();
    (!upserts.is_empty() || !removed.is_empty()).then(|| EndpointsUpdate {
        service: service.clone(),
        replace: false,
        upserts,
        removed,
    })
}
