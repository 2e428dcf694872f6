//! Services, EndpointSlices and Pods, and the ways to find one from another.

use super::Affected;
use crate::object::{AccessLogSetting, EndpointSlice, Name, Namespace, Node, Pod, Service};
use linnet_mesh::destination::Locality;
use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    net::IpAddr,
};

#[derive(Debug, Default)]
pub(super) struct Cluster {
    services: HashMap<Name, Service>,
    slices: HashMap<Name, EndpointSlice>,
    pods: HashMap<Name, Pod>,
    nodes: HashMap<Name, Locality>,
    /// Of namespaces that say something of it.
    access_logs: HashMap<Name, AccessLogSetting>,
    pods_of_node: Relation<Name>,
    service_by_ip: HashMap<IpAddr, Name>,
    pods_by_ip: Relation<IpAddr>,
    slices_of_service: Relation<Name>,
    slices_of_pod: Relation<Name>,
    /// Of endpoints that name no pod.
    slices_of_ip: Relation<IpAddr>,
}

/// From a key to the names that hang on it; keys without any go.
#[derive(Debug)]
struct Relation<K>(HashMap<K, BTreeSet<Name>>);

impl<K> Default for Relation<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone> Relation<K> {
    fn insert(&mut self, key: K, name: &Name) {
        self.0.entry(key).or_default().insert(name.clone());
    }

    fn remove(&mut self, key: &K, name: &Name) {
        if let Some(names) = self.0.get_mut(key) {
            names.remove(name);
            if names.is_empty() {
                self.0.remove(key);
            }
        }
    }

    fn of<'a>(&'a self, key: &K) -> impl Iterator<Item = &'a Name> + use<'a, K> {
        self.0.get(key).into_iter().flatten()
    }
}

impl Cluster {
    pub(super) fn service(&self, name: &Name) -> Option<&Service> {
        self.services.get(name)
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    pub(super) fn pod(&self, name: &Name) -> Option<&Pod> {
        self.pods.get(name)
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    pub(super) fn service_at(&self, ip: IpAddr) -> Option<&Service> {
        self.services.get(self.service_by_ip.get(&ip)?)
    }

    /// The pod at an address. `None` also where several share it: on loopback,
    /// or for a moment when an address is given to another pod.
    pub(super) fn pod_at(&self, ip: IpAddr) -> Option<&Pod> {
        let mut names = self.pods_by_ip.of(&ip);
        match (names.next(), names.next()) {
            (Some(only), None) => self.pods.get(only),
            _ => None,
        }
    }

    pub(super) fn slices_of_service(&self, service: &Name) -> impl Iterator<Item = &EndpointSlice> {
        self.slices_of_service
            .of(service)
            .filter_map(|name| self.slices.get(name))
    }

    pub(super) fn slice(&self, name: &Name) -> Option<&EndpointSlice> {
        self.slices.get(name)
    }

    pub(super) fn slices_of_pod(&self, pod: &Name) -> impl Iterator<Item = &EndpointSlice> {
        self.slices_of_pod
            .of(pod)
            .filter_map(|name| self.slices.get(name))
    }

    /// The services with an endpoint at an address that names no pod.
    pub(super) fn services_by_ip(&self, ip: IpAddr) -> impl Iterator<Item = &Name> {
        self.slices_of_ip
            .of(&ip)
            .filter_map(|name| Some(&self.slices.get(name)?.service))
    }

    /// The services that a pod is an endpoint of.
    pub(super) fn services_of(&self, pod: &Name) -> impl Iterator<Item = &Name> {
        self.slices_of_pod(pod).map(|slice| &slice.service)
    }

    pub(super) fn set_service(&mut self, service: Service, affected: &mut Affected) {
        if self.services.get(&service.name) == Some(&service) {
            return;
        }
        self.remove_service(&service.name.clone(), affected);
        affected.ips.extend(&service.cluster_ips);
        affected.services.insert(service.name.clone());
        for ip in &service.cluster_ips {
            self.service_by_ip.insert(*ip, service.name.clone());
        }
        self.services.insert(service.name.clone(), service);
    }

    pub(super) fn remove_service(&mut self, name: &Name, affected: &mut Affected) {
        let Some(service) = self.services.remove(name) else {
            return;
        };
        for ip in &service.cluster_ips {
            // The address may have been given to another service meanwhile.
            if self.service_by_ip.get(ip) == Some(name) {
                self.service_by_ip.remove(ip);
            }
        }
        affected.ips.extend(service.cluster_ips);
        affected.services.insert(name.clone());
        self.touch_pods_of(name, affected);
    }

    /// A service says which of its pods' ports are its.
    fn touch_pods_of(&self, service: &Name, affected: &mut Affected) {
        let pods = self
            .slices_of_service(service)
            .flat_map(|slice| &slice.endpoints)
            .filter_map(|endpoint| endpoint.pod.clone());
        affected.pods.extend(pods);
    }

    pub(super) fn set_slice(&mut self, slice: EndpointSlice, affected: &mut Affected) {
        if self.slices.get(&slice.name) == Some(&slice) {
            return;
        }
        self.remove_slice(&slice.name.clone(), affected);
        affected.services.insert(slice.service.clone());
        self.slices_of_service
            .insert(slice.service.clone(), &slice.name);
        for pod in slice
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.pod.as_ref())
        {
            self.slices_of_pod.insert(pod.clone(), &slice.name);
            affected.pods.insert(pod.clone());
        }
        for ip in unnamed(&slice) {
            self.slices_of_ip.insert(ip, &slice.name);
        }
        self.slices.insert(slice.name.clone(), slice);
    }

    pub(super) fn remove_slice(&mut self, name: &Name, affected: &mut Affected) {
        let Some(slice) = self.slices.remove(name) else {
            return;
        };
        affected.services.insert(slice.service.clone());
        self.slices_of_service.remove(&slice.service, name);
        for pod in slice
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.pod.as_ref())
        {
            self.slices_of_pod.remove(pod, name);
            affected.pods.insert(pod.clone());
        }
        for ip in unnamed(&slice) {
            self.slices_of_ip.remove(&ip, name);
        }
    }

    /// Where a pod runs; nothing of what is not known.
    pub(super) fn locality(&self, pod: &Pod) -> Locality {
        let of_node = || self.nodes.get(pod.node.as_ref()?).cloned();
        let said = pod.locality.clone();
        said.or_else(of_node).unwrap_or_default()
    }

    pub(super) fn set_node(&mut self, node: Node, affected: &mut Affected) {
        if self.nodes.get(&node.name) == Some(&node.locality) {
            return;
        }
        affected
            .pods
            .extend(self.pods_of_node.of(&node.name).cloned());
        self.nodes.insert(node.name, node.locality);
    }

    pub(super) fn remove_node(&mut self, name: &Name, affected: &mut Affected) {
        if self.nodes.remove(name).is_some() {
            affected.pods.extend(self.pods_of_node.of(name).cloned());
        }
    }

    /// What a namespace's annotation says.
    pub(super) fn access_log(&self, namespace: &str) -> Option<&AccessLogSetting> {
        // Few namespaces have one, and most clusters none.
        let mut known = self.access_logs.iter();
        let found = known.find(|(name, _)| *name.name == *namespace);
        found.map(|(_, setting)| setting)
    }

    /// The namespaces that say something of the access log.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = (&Name, &AccessLogSetting)> {
        self.access_logs.iter()
    }

    pub(super) fn set_namespace(&mut self, namespace: Namespace, affected: &mut Affected) {
        let Namespace { name, access_log } = namespace;
        if self.access_logs.get(&name) == access_log.as_ref() {
            return;
        }
        affected.pods_of.insert(name.name.clone());
        match access_log {
            Some(setting) => self.access_logs.insert(name, setting),
            None => self.access_logs.remove(&name),
        };
    }

    pub(super) fn remove_namespace(&mut self, name: &Name, affected: &mut Affected) {
        if self.access_logs.remove(name).is_some() {
            affected.pods_of.insert(name.name.clone());
        }
    }

    pub(super) fn set_pod(&mut self, pod: Pod, affected: &mut Affected) {
        if self.pods.get(&pod.name) == Some(&pod) {
            return;
        }
        self.remove_pod(&pod.name.clone(), affected);
        affected.ips.extend(&pod.ips);
        affected.pods.insert(pod.name.clone());
        for ip in &pod.ips {
            self.pods_by_ip.insert(*ip, &pod.name);
        }
        if let Some(node) = &pod.node {
            self.pods_of_node.insert(node.clone(), &pod.name);
        }
        self.pods.insert(pod.name.clone(), pod);
    }

    pub(super) fn remove_pod(&mut self, name: &Name, affected: &mut Affected) {
        let Some(pod) = self.pods.remove(name) else {
            return;
        };
        for ip in &pod.ips {
            self.pods_by_ip.remove(ip, name);
        }
        if let Some(node) = &pod.node {
            self.pods_of_node.remove(node, name);
        }
        affected.ips.extend(pod.ips);
        affected.pods.insert(name.clone());
    }
}

/// The addresses of endpoints that name no pod.
fn unnamed(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> {
    slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.pod.is_none())
        .flat_map(|endpoint| endpoint.addresses.iter().copied())
}
