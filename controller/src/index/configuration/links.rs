//! From a key to the resources in force that have it, kept as they come and go; and whom a
//! change of a resource concerns.

use super::{Configurations, Entry, ROOTS};
use crate::{
    compile::{Compiled, Key},
    index::Affected,
    object::{Kind, Name, ObjectRef},
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, LazyLock},
};

/// A resource under a key, in the order in which it counts there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Link {
    /// When it was made, where the oldest counts first, in seconds since 1970; else 0.
    created: i64,
    name: Name,
    kind: Kind,
}

/// The resources of each key: one ordered set, since most keys have one resource and a set
/// of its own for each would take ten times the memory.
#[derive(Debug, Default)]
pub(super) struct Links(BTreeSet<(Key, Link)>);

impl Links {
    /// Returns the resources of a key, in the order in which they count.
    pub(super) fn of<'a>(&'a self, key: &Key) -> impl Iterator<Item = (Kind, &'a Name)> + use<'a> {
        static NOBODY: LazyLock<Name> = LazyLock::new(|| Name::new("", ""));
        let first = Link {
            created: i64::MIN,
            name: NOBODY.clone(),
            kind: Kind::Service,
        };
        let key = key.clone();
        let links = self.0.range((key.clone(), first)..);
        links
            .take_while(move |(other, _)| *other == key)
            .map(|(_, link)| (link.kind, &link.name))
    }

    fn insert(&mut self, reference: &ObjectRef, created: i64, key: Key) {
        let link = Link::new(reference, created, &key);
        self.0.insert((key, link));
    }

    fn remove(&mut self, reference: &ObjectRef, created: i64, key: Key) {
        let link = Link::new(reference, created, &key);
        self.0.remove(&(key, link));
    }
}

impl Link {
    fn new(reference: &ObjectRef, created: i64, key: &Key) -> Self {
        Self {
            created: if key.is_by_age() { created } else { 0 },
            name: reference.name.clone(),
            kind: reference.kind,
        }
    }
}

/// Takes a value from a key's set, and the set with its last value.
pub(in crate::index) fn drop_from<K: Eq + std::hash::Hash, V: Ord>(
    map: &mut HashMap<K, BTreeSet<V>>,
    key: &K,
    value: &V,
) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

impl Configurations {
    pub(super) fn link(&mut self, reference: &ObjectRef, entry: &Entry, affected: &mut Affected) {
        let Some(compiled) = &entry.compiled else {
            return;
        };
        let keys = compiled.keys();
        for key in &keys {
            self.links.insert(reference, entry.created, key.clone());
        }
        if let Compiled::RequestAuthentication(policy) = compiled {
            self.key_users.link(&reference.name, policy);
        }
        self.touch(&reference.name, compiled, keys, affected);
    }

    pub(super) fn unlink(&mut self, reference: &ObjectRef, entry: &Entry, affected: &mut Affected) {
        let Some(compiled) = &entry.compiled else {
            return;
        };
        let keys = compiled.keys();
        for key in &keys {
            self.links.remove(reference, entry.created, key.clone());
        }
        if let Compiled::RequestAuthentication(policy) = compiled {
            self.key_users.unlink(&reference.name, policy);
        }
        self.touch(&reference.name, compiled, keys, affected);
    }

    /// Notes whom a resource concerns that comes or goes.
    fn touch(&self, name: &Name, compiled: &Compiled, keys: Vec<Key>, affected: &mut Affected) {
        for key in keys {
            match key {
                Key::RoutedHost(_) | Key::RoutedScope(_) | Key::RouteParent(_) => {
                    touch_routed(key, affected);
                }
                Key::RuleHost(host) => {
                    self.touch_dependents(&host, affected);
                    affected.services.insert(host);
                }
                Key::RulePattern => affected.all_services = true,
                Key::AuthorizationPolicies(namespace)
                | Key::RequestAuthentications(namespace)
                | Key::PeerAuthentications(namespace)
                | Key::Telemetries(namespace) => touch_pods(&namespace, affected),
                Key::Delegate(_) | Key::Destination(_) | Key::RouteBackend(_) => {}
            }
        }
        if let Compiled::VirtualService(_) = compiled {
            self.touch_all(&Key::Delegate(name.clone()), affected);
        }
    }

    /// Notes the services whose routes lead to a service.
    pub(in crate::index) fn touch_dependents(&self, service: &Name, affected: &mut Affected) {
        self.touch_all(&Key::RouteBackend(service.clone()), affected);
        let routes = Key::Destination(service.clone());
        self.touch_all(&routes, affected);
        for (_, name) in self.links.of(&routes) {
            self.touch_all(&Key::Delegate(name.clone()), affected);
        }
    }

    /// Notes the services that the routes of a key are for.
    fn touch_all(&self, key: &Key, affected: &mut Affected) {
        for (kind, name) in self.links.of(key) {
            if let Some(compiled) = self.compiled(kind, name) {
                for key in compiled.keys() {
                    touch_routed(key, affected);
                }
            }
        }
    }
}

/// Notes the services that a resource has routes for, by one of its keys.
fn touch_routed(key: Key, affected: &mut Affected) {
    match key {
        Key::RoutedHost(service) | Key::RouteParent(service) => {
            affected.services.insert(service);
        }
        Key::RoutedScope(scope) => {
            affected.scopes.insert(scope);
        }
        _ => {}
    }
}

/// Notes the pods that a namespace's policies are for.
pub(in crate::index) fn touch_pods(namespace: &Arc<str>, affected: &mut Affected) {
    if namespace.is_empty() || ROOTS.contains(&&**namespace) {
        affected.all_pods = true;
    } else {
        affected.pods_of.insert(namespace.clone());
    }
}
