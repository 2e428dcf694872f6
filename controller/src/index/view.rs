//! Services and their endpoints as workloads of one namespace see them:
//! routes and subsets can be meant for some namespaces only.

use super::{Index, configuration::Configurations, locality};
use crate::{
    compile::{DestinationRule, Subset, Surroundings, VirtualService, destination, limits},
    object::{Name, Pod, SliceEndpoint, carries},
};
use linnet_mesh::{
    Endpoint, MtlsMode, Service, ServicePort, SpiffeId, Workload,
    destination::{Destination, LocalityPolicy},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// The endpoints of a service port.
pub type Endpoints = BTreeMap<SocketAddr, Arc<Endpoint>>;

/// What routes have to know of other resources, for one namespace's callers.
struct Seen<'a> {
    index: &'a Index,
    client: &'a str,
}

impl Surroundings for Seen<'_> {
    fn ports(&self, service: &Name) -> Option<Vec<u16>> {
        let service = self.index.cluster.service(service)?;
        Some(service.ports.iter().map(|port| port.port).collect())
    }

    fn port_named(&self, service: &Name, name: &str) -> Option<u16> {
        let service = self.index.cluster.service(service)?;
        let port = service.ports.iter().find(|port| port.name == name)?;
        Some(port.port)
    }

    fn virtual_service(&self, name: &Name) -> Option<&VirtualService> {
        self.index.configurations.virtual_service(name)
    }

    fn has_subset(&self, service: &Name, subset: &str) -> bool {
        let rules = self.index.rules(service, self.client);
        let mut subsets = rules.iter().flat_map(|rule| &rule.subsets);
        subsets.any(|known| known.name == subset)
    }
}

fn service_name(of: &ServicePort) -> Name {
    Name::new(of.namespace.clone(), of.name.clone())
}

impl Index {
    pub(super) fn seen_by<'a>(&'a self, client: &'a str) -> impl Surroundings + 'a {
        Seen {
            index: self,
            client,
        }
    }

    /// The DestinationRules in force for callers of a namespace, oldest first.
    pub(super) fn rules(&self, service: &Name, client: &str) -> Vec<&DestinationRule> {
        let host = self.hostname(service);
        self.configurations.rules_for(service, client, &host)
    }

    fn hostname(&self, service: &Name) -> String {
        let Name { namespace, name } = service;
        format!("{name}.{namespace}.svc.{}", self.context.cluster_domain)
    }

    /// A service port as callers of a namespace see it; `None`: there is none.
    pub fn service(&self, of: &ServicePort, client: &str) -> Option<Service> {
        let name = service_name(of);
        let service = self.cluster.service(&name)?;
        let port = service.ports.iter().find(|port| port.port == of.port)?;
        let seen = Seen {
            index: self,
            client,
        };
        let mut services = self.configurations.routes_of(&name);
        let routes = services
            .find(|(_, routes)| routes.visibility.includes(client))
            .map(|(_, routes)| routes);
        let http = self
            .attached_routes(of, client, &seen)
            .or_else(|| routes?.routes(of, client, &seen));
        let tcp = routes.and_then(|routes| routes.connections(of, client, &seen));
        let rules = self.rules(&name, client);
        let subsets = Configurations::subsets(&rules);
        let near = locality::near(service);
        Some(Service {
            key: of.clone(),
            hostname: self.hostname(&name),
            protocol: port.protocol,
            http: http.map(Arc::new),
            tcp: tcp.map(Arc::new),
            subsets: subsets.iter().map(|subset| subset.name.clone()).collect(),
            destination: destination(&rules, of.port, near.as_ref()).map(Arc::new),
        })
    }

    /// The endpoints of a service port as callers of a namespace see them.
    pub fn endpoints(&self, of: &ServicePort, client: &str) -> Endpoints {
        let name = service_name(of);
        let Some(service) = self.cluster.service(&name) else {
            return Endpoints::new();
        };
        let Some(port) = service.ports.iter().find(|port| port.port == of.port) else {
            return Endpoints::new();
        };
        let rules = self.rules(&name, client);
        let mut subsets = Configurations::subsets(&rules);
        if self.has_too_many_memberships(&name, &subsets) {
            subsets.clear();
        }
        let compared = destination(&rules, of.port, None).map(|of| compared_labels(&of));
        let compared = compared.unwrap_or_default();
        let mut endpoints = Endpoints::new();
        for slice in self.cluster.slices_of_service(&name) {
            let target = slice.ports.iter().find(|(name, _)| *name == port.name);
            let Some(&(_, target)) = target else {
                continue;
            };
            let members = slice.endpoints.iter();
            for member in members.filter(|member| self.takes_requests(member)) {
                for &ip in &member.addresses {
                    let address = SocketAddr::new(ip, target);
                    let mut endpoint = self.member(member, address, &subsets);
                    self.tell_labels(&mut endpoint, member, &compared);
                    // While an endpoint moves between slices, both hold it.
                    let known = endpoints.get(&endpoint.address);
                    if known.is_none_or(|known: &Arc<Endpoint>| known.terminating) {
                        endpoints.insert(endpoint.address, Arc::new(endpoint));
                    }
                }
            }
        }
        one_family(&mut endpoints, service.cluster_ips.first().copied());
        endpoints
    }

    /// Reports whether a service's endpoints are in so many subsets that none applies. What
    /// endpoints there are is nobody's field, so it is looked at here.
    pub(super) fn has_too_many_memberships(&self, service: &Name, subsets: &[&Subset]) -> bool {
        let ports = self.cluster.service(service).map_or(0, |of| of.ports.len());
        let members = || {
            let slices = self.cluster.slices_of_service(service);
            slices.flat_map(|slice| &slice.endpoints)
        };
        let addresses: usize = members().map(|member| member.addresses.len()).sum();
        if addresses * ports * subsets.len() <= limits::MEMBERSHIPS {
            return false;
        }
        let mut left = limits::MEMBERSHIPS / ports;
        for member in members() {
            for &ip in &member.addresses {
                let Some(pod) = self.pod_of(member, ip) else {
                    continue;
                };
                let held = subsets.iter().filter(|of| carries(&pod.labels, &of.labels));
                match left.checked_sub(held.count()) {
                    Some(rest) => left = rest,
                    None => return true,
                }
            }
        }
        false
    }

    fn pod_of(&self, member: &SliceEndpoint, ip: IpAddr) -> Option<&Pod> {
        match &member.pod {
            Some(name) => self.cluster.pod(name),
            None => self.cluster.pod_at(ip),
        }
    }

    fn takes_requests(&self, member: &SliceEndpoint) -> bool {
        let waits_for_pod = self.pods_are_told
            && member
                .pod
                .as_ref()
                .is_some_and(|pod| self.cluster.pod(pod).is_none());
        (member.ready || member.draining) && !waits_for_pod
    }

    fn member(&self, member: &SliceEndpoint, address: SocketAddr, subsets: &[&Subset]) -> Endpoint {
        let pod = self.pod_of(member, address.ip());
        let mut endpoint = self.pod_endpoint(pod, address);
        endpoint.terminating = !member.ready;
        if endpoint.locality.is_unknown() {
            Arc::make_mut(&mut endpoint.locality).zone = member.zone.clone().unwrap_or_default();
        }
        if let Some(pod) = pod {
            endpoint.subsets = subsets
                .iter()
                .filter(|subset| carries(&pod.labels, &subset.labels))
                .map(|subset| subset.name.clone())
                .collect();
        }
        endpoint
    }

    /// Tells those of a pod's labels that a failover priority compares.
    fn tell_labels(&self, endpoint: &mut Endpoint, member: &SliceEndpoint, compared: &[String]) {
        let pod = member.pod.as_ref().and_then(|name| self.cluster.pod(name));
        if let Some(pod) = pod.filter(|_| !compared.is_empty()) {
            let label = |key: &String| Some((key.clone(), pod.labels.get(key)?.clone()));
            endpoint.labels = compared.iter().filter_map(label).collect();
        }
    }

    /// A pod as an endpoint.
    pub(super) fn pod_endpoint(&self, pod: Option<&Pod>, address: SocketAddr) -> Endpoint {
        let identity = pod
            .filter(|pod| self.takes_mutual_tls(pod, address.port()))
            .and_then(|pod| {
                let namespace = &pod.name.namespace;
                SpiffeId::new(&self.trust_domain, namespace, &pod.service_account).ok()
            });
        let mtls_only = identity.is_some()
            && pod.is_some_and(|pod| {
                let modes = self.modes(&pod.name.namespace, &pod.labels);
                modes.port(address.port()) == MtlsMode::Strict
            });
        Endpoint {
            identity,
            mtls_only,
            workload: pod.map_or_else(|| Arc::new(Workload::default()), |pod| pod.workload.clone()),
            pod: pod.map_or_else(Arc::default, |pod| pod.name.name.clone()),
            locality: pod.map_or_else(Arc::default, |pod| Arc::new(self.cluster.locality(pod))),
            ..Endpoint::at(address)
        }
    }
}

/// The labels that a policy's failover priority compares.
fn compared_labels(destination: &Destination) -> Vec<String> {
    let policies = [&destination.policy].into_iter();
    let policies = policies.chain(destination.subsets.values());
    let mut keys = Vec::new();
    for policy in policies {
        if let Some(LocalityPolicy::FailoverPriority(labels)) = &policy.locality {
            keys.extend(labels.iter().map(|label| label.key.clone()));
        }
    }
    keys
}

/// In a dual-stack cluster every pod is in two slices; the family of the
/// service's first address counts, so that no pod is drawn twice.
fn one_family(endpoints: &mut Endpoints, service: Option<IpAddr>) {
    let v4 = match service {
        Some(ip) => ip.is_ipv4(),
        None => endpoints.keys().any(SocketAddr::is_ipv4),
    };
    if endpoints.keys().any(|address| address.is_ipv4() == v4) {
        endpoints.retain(|address, _| address.is_ipv4() == v4);
    }
}
