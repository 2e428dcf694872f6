//! Updates as they go over the wire, encoded once for all proxies that are told
//! the same: an edit of a route that a thousand proxies use costs one encoding and a
//! thousand references to it. An encoding lives until the last proxy has taken it, and
//! whoever is told the same meanwhile shares it. So what slow proxies have yet to take
//! is there once, however many they are.

use crate::index::Endpoints;
use linnet_discovery::{EndpointsUpdate, InboundPiece, Update, proto};
use linnet_mesh::{
    Endpoint, Inbound, Service, ServicePort, authentication::JwtRule, authorization::Policy,
};
use std::{collections::HashMap, net::SocketAddr, sync::Arc};

/// An encoded update, shared by the messages that carry it.
pub(super) type Bytes = tonic::codegen::Bytes;

/// A message, whose updates are shared with other messages.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The message without its updates.
    pub(super) head: proto::ControllerMessage,
    /// Its updates, each in pieces.
    pub(super) updates: Vec<Vec<Bytes>>,
}

#[cfg(test)]
impl From<Outgoing> for proto::ControllerMessage {
    fn from(outgoing: Outgoing) -> Self {
        let updates = outgoing.updates.iter();
        Self {
            updates: updates.map(|pieces| pieces.concat().into()).collect(),
            ..outgoing.head
        }
    }
}

/// Updates that were encoded in this round, or that some message still holds. Values are
/// known by their place in memory, and held so that the place is not given to another.
#[derive(Debug, Default)]
pub(super) struct Encoding {
    services: HashMap<usize, (Arc<Service>, Bytes)>,
    policies: HashMap<usize, (Arc<Policy>, Bytes)>,
    rules: HashMap<usize, (Arc<JwtRule>, Bytes)>,
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

    /// How a pod is to be called: a piece of its own, and a piece for each policy and
    /// each rule, shared by all pods that they are for.
    pub(super) fn inbound(&mut self, inbound: &Inbound) -> Vec<Bytes> {
        let mut pieces = vec![InboundPiece::Own(inbound).encode()];
        let policies = inbound.authorization.iter().flat_map(|all| all.shared());
        pieces.extend(policies.map(|policy| {
            let known = self.policies.entry(place(policy));
            let encoded = || (policy.clone(), InboundPiece::Policy(policy).encode());
            known.or_insert_with(encoded).1.clone()
        }));
        let rules = inbound.authentication.iter().flat_map(|all| all.rules());
        pieces.extend(rules.map(|rule| {
            let known = self.rules.entry(place(rule));
            let encoded = || (rule.clone(), InboundPiece::Rule(rule).encode());
            known.or_insert_with(encoded).1.clone()
        }));
        pieces
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

    /// The round is over: forgets what no message holds.
    pub(super) fn clear(&mut self) {
        self.services.retain(|_, (_, bytes)| !bytes.is_unique());
        self.policies.retain(|_, (_, bytes)| !bytes.is_unique());
        self.rules.retain(|_, (_, bytes)| !bytes.is_unique());
        self.endpoints.retain(|_, difference| {
            let held = difference.update.as_ref();
            held.is_some_and(|bytes| !bytes.is_unique())
        });
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
