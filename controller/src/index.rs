//! The controller's state, and the questions that proxies ask of it.
//!
//! Plain data without locks: one task owns it. A change only notes what it may
//! have touched ([`Affected`]); answers are worked out for what somebody
//! subscribed to, and compared with what that proxy has, so a change that makes
//! no difference sends nothing.

mod attachments;
mod authentication;
mod authorization;
mod cluster;
mod configuration;
mod inbound;
mod locality;
mod mutual_tls;
mod overruled;
mod resolve;
mod telemetry;
mod verdicts;
mod view;

pub use attachments::RouteStatus;
pub use authentication::KeySources;
pub use resolve::Interest;
pub use view::Endpoints;

use crate::{
    compile::{Context, Scope},
    object::{Name, Object},
    source::Change,
};
use cluster::Cluster;
use configuration::Configurations;
pub(crate) use configuration::ROOTS;
use linnet_mesh::{SpiffeId, TrustDomain, authorization::PathNormalization};
use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

/// The controller's state.
#[derive(Debug)]
pub struct Index {
    context: Context,
    trust_domain: TrustDomain,
    path_normalization: PathNormalization,
    cluster: Cluster,
    configurations: Configurations,
    /// Keys that were fetched.
    keys: authentication::FetchedKeys,
    overruled: overruled::Overruled,
    problems: BTreeMap<String, String>,
    synced: bool,
    pods_are_told: bool,
    affected: Affected,
    /// Something that verdicts hang on has changed.
    judged: bool,
}

/// What changes may have touched.
#[derive(Debug, Default)]
pub struct Affected {
    /// Services whose ports, routes or endpoints may differ.
    pub services: HashSet<Name>,
    /// Services of which all ports and routes may differ, by pattern.
    pub scopes: HashSet<Scope>,
    /// Addresses that may be somebody else's.
    pub ips: HashSet<IpAddr>,
    /// Pods that may have to be called differently.
    pub pods: HashSet<Name>,
    /// Namespaces of which all pods may have to be called differently.
    pub pods_of: HashSet<Arc<str>>,
    /// All pods may have to be called differently.
    pub all_pods: bool,
    /// All services may have to be called differently.
    pub all_services: bool,
}

impl Affected {
    /// Whether nothing was touched.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.scopes.is_empty()
            && self.ips.is_empty()
            && !self.has_pods()
            && !self.all_services
    }

    /// Whether any pod may have to be called differently.
    pub fn has_pods(&self) -> bool {
        self.all_pods || !self.pods_of.is_empty() || !self.pods.is_empty()
    }

    /// Whether a pod may have to be called differently.
    pub fn pod(&self, name: &Name) -> bool {
        self.all_pods || self.pods_of.contains(&name.namespace) || self.pods.contains(name)
    }
}

impl Index {
    /// An empty index.
    pub fn new(context: Context, trust_domain: TrustDomain) -> Self {
        Self {
            context,
            path_normalization: PathNormalization::default(),
            configurations: Configurations::new(trust_domain.clone()),
            trust_domain,
            cluster: Cluster::default(),
            keys: authentication::FetchedKeys::default(),
            overruled: overruled::Overruled::default(),
            problems: BTreeMap::new(),
            synced: false,
            pods_are_told: false,
            affected: Affected::default(),
            judged: false,
        }
    }

    /// Says what else the trust domain is called.
    #[must_use]
    pub fn with_aliases(mut self, aliases: Vec<TrustDomain>) -> Self {
        self.configurations.trust_domains.extend(aliases);
        self
    }

    /// Says which readings of a path AuthorizationPolicies are asked about.
    #[must_use]
    pub fn with_path_normalization(mut self, normalization: PathNormalization) -> Self {
        self.path_normalization = normalization;
        self
    }

    /// Says that the source tells every pod. An endpoint whose pod is not known
    /// then waits for it: taken for unmeshed, it would be called in plaintext.
    #[must_use]
    pub fn with_all_pods(mut self) -> Self {
        self.pods_are_told = true;
        self
    }

    /// Whether the source has told all that was there at its start. Before
    /// that, an answer could take a service for something outside the mesh.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Takes a change.
    pub fn apply(&mut self, change: Change) {
        self.judged |= change.is_judged();
        match change {
            Change::Apply(Object::Service(service)) => {
                let name = service.name.clone();
                self.touch_dependents(&name);
                self.cluster.set_service(service, &mut self.affected);
                self.service_changed(&name);
            }
            Change::Apply(Object::EndpointSlice(slice)) => {
                let name = slice.name.clone();
                self.slice_changes(&name);
                self.cluster.set_slice(slice, &mut self.affected);
                self.slice_changes(&name);
            }
            Change::Apply(Object::Pod(pod)) => self.cluster.set_pod(pod, &mut self.affected),
            Change::Apply(Object::Node(node)) => self.cluster.set_node(node, &mut self.affected),
            Change::Apply(Object::Namespace(namespace)) => {
                self.cluster.set_namespace(namespace, &mut self.affected);
            }
            Change::Apply(Object::Configuration(configuration)) => {
                self.configurations
                    .set(&configuration, &self.context, &mut self.affected);
                self.keys.forget_unused();
            }
            Change::Delete(reference) => {
                use crate::object::Kind;
                let name = &reference.name;
                match reference.kind {
                    Kind::Service => {
                        self.touch_dependents(name);
                        self.cluster.remove_service(name, &mut self.affected);
                        self.service_changed(name);
                    }
                    Kind::EndpointSlice => {
                        self.slice_changes(name);
                        self.cluster.remove_slice(name, &mut self.affected);
                    }
                    Kind::Pod => self.cluster.remove_pod(name, &mut self.affected),
                    Kind::Node => self.cluster.remove_node(name, &mut self.affected),
                    Kind::Namespace => self.cluster.remove_namespace(name, &mut self.affected),
                    _ => {
                        self.configurations.remove(&reference, &mut self.affected);
                        self.keys.forget_unused();
                    }
                }
            }
            Change::Problem { origin, reason } => match reason {
                Some(reason) => {
                    self.problems.insert(origin, reason);
                }
                None => {
                    self.problems.remove(&origin);
                }
            },
            Change::Keys(source, fetched) => self.take_keys(&source, fetched),
            Change::Synced => self.synced = true,
        }
    }

    /// Services whose routes lead to a service depend on its being there.
    fn touch_dependents(&mut self, service: &Name) {
        self.configurations
            .touch_dependents(service, &mut self.affected);
    }

    /// Whether something that verdicts hang on has changed since this was asked
    /// last.
    pub fn take_judged(&mut self) -> bool {
        std::mem::take(&mut self.judged)
    }

    /// What has been touched since this was asked last, spread to what hangs on it.
    pub fn take_affected(&mut self) -> Affected {
        let mut affected = std::mem::take(&mut self.affected);
        if !affected.scopes.is_empty() {
            let scopes = &affected.scopes;
            let services = self.cluster.services().map(|service| &service.name);
            let services = services.filter(|name| scopes.iter().any(|scope| scope.includes(name)));
            affected.services.extend(services.cloned());
        }
        if affected.all_services {
            let services = self.cluster.services();
            let names = services.map(|service| service.name.clone());
            affected.services.extend(names);
        }
        if affected.all_pods || !affected.pods_of.is_empty() {
            let pods: Vec<_> = self
                .cluster
                .pods()
                .filter(|pod| affected.all_pods || affected.pods_of.contains(&pod.name.namespace))
                .map(|pod| pod.name.clone())
                .collect();
            affected.pods.extend(pods);
        }
        for pod in &affected.pods {
            affected
                .services
                .extend(self.cluster.services_of(pod).cloned());
            if let Some(pod) = self.cluster.pod(pod) {
                affected.ips.extend(&pod.ips);
            }
        }
        for ip in &affected.ips {
            affected
                .services
                .extend(self.cluster.services_by_ip(*ip).cloned());
        }
        affected
    }

    /// How many resources have been compiled so far.
    pub fn compilations(&self) -> u64 {
        self.configurations.compilations
    }

    /// Reports whether an identity is of the mesh's own trust domain, by one of its
    /// names. The namespace and service account of another one say nothing here.
    pub fn is_own(&self, identity: &SpiffeId) -> bool {
        let mut domains = self.configurations.trust_domains.iter();
        domains.any(|domain| domain.as_str() == identity.trust_domain())
    }

    /// A pod's service account, once the pod is known.
    pub fn service_account(&self, pod: &Name) -> Option<&str> {
        self.cluster
            .pod(pod)
            .map(|pod| pod.service_account.as_str())
    }
}

#[cfg(test)]
mod tests;
