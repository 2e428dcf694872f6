//! What leads from a name to the resources that speak of it, kept as they come
//! and go; and whom a change of each concerns.

use super::{Configurations, Entry, ROOTS};
use crate::{
    compile::{Compiled, RuleHost, VirtualService},
    index::Affected,
    object::{Name, ObjectRef},
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

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
        let name = &reference.name;
        let age = || (entry.created, name.clone());
        match &entry.compiled {
            Some(Compiled::VirtualService(service)) => {
                for host in &service.hosts {
                    self.routes_by_host
                        .entry(host.clone())
                        .or_default()
                        .insert(age());
                }
                for scope in &service.scopes {
                    let routes = self.routes_by_scope.entry(scope.clone());
                    routes.or_default().insert(age());
                }
                for delegate in service.delegates() {
                    let roots = self.roots.entry(delegate.clone());
                    roots.or_default().insert(name.clone());
                }
                for destination in service.destinations() {
                    let routes = self
                        .routes_by_destination
                        .entry(destination.clone())
                        .or_default();
                    routes.insert(name.clone());
                }
            }
            Some(Compiled::DestinationRule(rule)) => match &rule.host {
                Some(RuleHost::Service(host)) => {
                    let rules = self.rules_by_host.entry(host.clone());
                    rules.or_default().insert(age());
                }
                Some(RuleHost::Ending(_)) => {
                    self.wide_rules.insert(age());
                }
                None => {}
            },
            Some(Compiled::Route(route)) => {
                self.attachments.link(reference, entry.created, route);
            }
            Some(Compiled::AuthorizationPolicy(policy)) => {
                let policies = self.authorization.entry(policy.namespace.clone());
                policies.or_default().insert(name.clone());
            }
            Some(Compiled::RequestAuthentication(policy)) => {
                let policies = self.authentication.entry(policy.namespace.clone());
                policies.or_default().insert(name.clone());
                self.key_users.link(name, policy);
            }
            Some(Compiled::PeerAuthentication(policy)) => {
                let policies = self.policies.entry(policy.namespace.clone()).or_default();
                policies.insert((entry.created, reference.clone()));
            }
            Some(Compiled::Telemetry(telemetry)) => {
                let telemetries = self.telemetries.entry(telemetry.namespace.clone());
                telemetries.or_default().insert(age());
            }
            _ => {}
        }
        self.touch(name, entry, affected);
    }

    pub(super) fn unlink(&mut self, reference: &ObjectRef, entry: &Entry, affected: &mut Affected) {
        let name = &reference.name;
        let age = (entry.created, name.clone());
        match &entry.compiled {
            Some(Compiled::VirtualService(service)) => {
                for host in &service.hosts {
                    drop_from(&mut self.routes_by_host, host, &age);
                }
                for scope in &service.scopes {
                    drop_from(&mut self.routes_by_scope, scope, &age);
                }
                for delegate in service.delegates() {
                    drop_from(&mut self.roots, delegate, name);
                }
                for destination in service.destinations() {
                    drop_from(&mut self.routes_by_destination, destination, name);
                }
            }
            Some(Compiled::DestinationRule(rule)) => match &rule.host {
                Some(RuleHost::Service(host)) => drop_from(&mut self.rules_by_host, host, &age),
                Some(RuleHost::Ending(_)) => {
                    self.wide_rules.remove(&age);
                }
                None => {}
            },
            Some(Compiled::Route(route)) => {
                self.attachments.unlink(reference, entry.created, route);
            }
            Some(Compiled::AuthorizationPolicy(policy)) => {
                drop_from(&mut self.authorization, &policy.namespace, name);
            }
            Some(Compiled::RequestAuthentication(policy)) => {
                drop_from(&mut self.authentication, &policy.namespace, name);
                self.key_users.unlink(name, policy);
            }
            Some(Compiled::PeerAuthentication(policy)) => {
                let key = (entry.created, reference.clone());
                drop_from(&mut self.policies, &policy.namespace, &key);
            }
            Some(Compiled::Telemetry(telemetry)) => {
                drop_from(&mut self.telemetries, &telemetry.namespace, &age);
            }
            _ => {}
        }
        self.touch(name, entry, affected);
    }

    fn touch(&self, name: &Name, entry: &Entry, affected: &mut Affected) {
        match &entry.compiled {
            Some(Compiled::VirtualService(service)) => {
                self.touch_routed(name, service, affected);
            }
            Some(Compiled::DestinationRule(rule)) => match &rule.host {
                Some(RuleHost::Service(host)) => {
                    affected.services.insert(host.clone());
                    self.touch_dependents(host, affected);
                }
                Some(RuleHost::Ending(_)) => affected.all_services = true,
                None => {}
            },
            Some(Compiled::Route(route)) => {
                let parents = route.parents.iter();
                let services = parents.map(|parent| parent.service.clone());
                affected.services.extend(services);
            }
            Some(Compiled::AuthorizationPolicy(policy)) => {
                touch_pods(&policy.namespace, affected);
            }
            Some(Compiled::RequestAuthentication(policy)) => {
                touch_pods(&policy.namespace, affected);
            }
            Some(Compiled::PeerAuthentication(policy)) => {
                touch_pods(&policy.namespace, affected);
            }
            Some(Compiled::Telemetry(telemetry)) => {
                touch_pods(&telemetry.namespace, affected);
            }
            None => {}
        }
    }

    /// Notes the services whose routes lead to a service.
    pub(in crate::index) fn touch_dependents(&self, service: &Name, affected: &mut Affected) {
        self.attachments.touch_dependents(service, affected);
        let routes = self
            .routes_by_destination
            .get(service)
            .into_iter()
            .flatten();
        for route in routes {
            if let Some(service) = self.virtual_service(route) {
                self.touch_routed(route, service, affected);
            }
        }
    }

    /// Notes the services that a VirtualService routes, itself or for others.
    fn touch_routed(&self, name: &Name, service: &VirtualService, affected: &mut Affected) {
        let roots = self.roots_of(name);
        for service in roots.chain([service]) {
            affected.services.extend(service.hosts.iter().cloned());
            affected.scopes.extend(service.scopes.iter().cloned());
        }
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
