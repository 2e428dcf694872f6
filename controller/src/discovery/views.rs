//! What proxies are told of services, worked out once for all proxies of a
//! namespace and kept while somebody subscribes.

use super::stream::StreamId;
use crate::{
    index::{Endpoints, Index},
    object::Name,
};
use linnet_mesh::{Service, ServicePort};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// A service port as it is told.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    pub(super) service: Arc<Service>,
    pub(super) endpoints: Arc<Endpoints>,
}

impl View {
    /// The services that its routes lead to.
    pub(super) fn destinations(&self) -> impl Iterator<Item = &ServicePort> {
        self.service.backends().map(|backend| &backend.service)
    }
}

#[derive(Debug, Default)]
struct Entry {
    /// By the callers' namespace; `None`: there is no such service port.
    views: HashMap<Arc<str>, Option<View>>,
    subscribers: HashMap<StreamId, Arc<str>>,
}

#[derive(Debug, Default)]
pub(super) struct Views(BTreeMap<ServicePort, Entry>);

impl Views {
    /// A service port as callers of a namespace see it.
    pub(super) fn subscribe(
        &mut self,
        index: &Index,
        of: &ServicePort,
        client: &Arc<str>,
        stream: StreamId,
    ) {
        let entry = self.0.entry(of.clone()).or_default();
        entry.subscribers.insert(stream, client.clone());
        if !entry.views.contains_key(client) {
            let view = compute(index, of, client, entry.views.values().flatten());
            entry.views.insert(client.clone(), view);
        }
    }

    /// A proxy does not need a service port any more.
    pub(super) fn unsubscribe(&mut self, of: &ServicePort, stream: StreamId) {
        let Some(entry) = self.0.get_mut(of) else {
            return;
        };
        if let Some(client) = entry.subscribers.remove(&stream)
            && !entry.subscribers.values().any(|other| *other == client)
        {
            entry.views.remove(&client);
        }
        if entry.subscribers.is_empty() {
            self.0.remove(of);
        }
    }

    /// A service port as last worked out.
    pub(super) fn view(&self, of: &ServicePort, client: &str) -> Option<&View> {
        self.0.get(of)?.views.get(client)?.as_ref()
    }

    /// Works out a service's ports anew; calls back for every proxy to which
    /// one of them is another than before.
    pub(super) fn refresh(
        &mut self,
        index: &Index,
        service: &Name,
        mut changed: impl FnMut(StreamId, &ServicePort),
    ) {
        let port = |port| ServicePort {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            port,
        };
        for (of, entry) in self.0.range_mut(port(0)..=port(u16::MAX)) {
            let mut fresh: HashMap<Arc<str>, Option<View>> = HashMap::new();
            let mut different: HashSet<Arc<str>> = HashSet::new();
            for (client, old) in &entry.views {
                let known = old.iter().chain(fresh.values().flatten());
                let view = compute(index, of, client, known);
                if view != *old {
                    different.insert(client.clone());
                }
                fresh.insert(client.clone(), view);
            }
            entry.views = fresh;
            for (stream, client) in &entry.subscribers {
                if different.contains(client) {
                    changed(*stream, of);
                }
            }
        }
    }
}

/// Works out a view; what equals a known one shares its memory.
fn compute<'a>(
    index: &Index,
    of: &ServicePort,
    client: &str,
    known: impl Iterator<Item = &'a View> + Clone,
) -> Option<View> {
    let service = index.service(of, client)?;
    let endpoints = index.endpoints(of, client);
    let same_service = known
        .clone()
        .map(|view| &view.service)
        .find(|known| ***known == service);
    let same_endpoints = known
        .map(|view| &view.endpoints)
        .find(|known| ***known == endpoints);
    Some(View {
        service: same_service.cloned().unwrap_or_else(|| Arc::new(service)),
        endpoints: same_endpoints
            .cloned()
            .unwrap_or_else(|| Arc::new(endpoints)),
    })
}
