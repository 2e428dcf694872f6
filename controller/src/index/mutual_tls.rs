//! Which mode of mutual TLS is in force: mesh, then namespace, then workload,
//! then port; the oldest speaks for its level, and who says nothing inherits.

use super::{
    Index,
    configuration::{Configurations, ROOTS},
};
use crate::{
    compile::PeerAuthentication,
    object::{Name, Pod, carries},
};
use linnet_mesh::{MtlsMode, ResourceRef};
use std::collections::BTreeMap;

/// The modes of a workload.
#[derive(Debug, Default)]
pub(super) struct Modes<'a> {
    pub(super) mode: MtlsMode,
    pub(super) source: Option<&'a ResourceRef>,
    pub(super) ports: Option<&'a BTreeMap<u16, MtlsMode>>,
    pub(super) ports_source: Option<&'a ResourceRef>,
}

impl Modes<'_> {
    /// The mode of a port.
    pub(super) fn port(&self, port: u16) -> MtlsMode {
        self.ports
            .and_then(|ports| ports.get(&port).copied())
            .unwrap_or(self.mode)
    }
}

impl Configurations {
    /// The policy for the whole mesh among PeerAuthentications.
    pub(super) fn mesh_policy(&self) -> Option<&PeerAuthentication> {
        ROOTS
            .iter()
            .filter_map(|root| self.namespace_policy(root))
            .min_by_key(|policy| policy.created)
    }

    fn namespace_policy(&self, namespace: &str) -> Option<&PeerAuthentication> {
        self.policies_of(namespace)
            .find(|policy| policy.selector.is_none())
    }
}

impl Index {
    /// The modes of a workload.
    pub(super) fn modes(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Modes<'_> {
        let workload = self.configurations.policies_of(namespace).find(|policy| {
            let selector = policy.selector.as_ref();
            selector.is_some_and(|selector| carries(labels, selector))
        });
        let decisive = [
            workload,
            self.configurations.namespace_policy(namespace),
            self.configurations.mesh_policy(),
            self.configurations.policies_of("").next(),
        ]
        .into_iter()
        .flatten()
        .find_map(|policy| Some((policy.mode?, &policy.source)));
        Modes {
            mode: decisive.map_or_else(MtlsMode::default, |(mode, _)| mode),
            source: decisive.map(|(_, source)| source),
            ports: workload.map(|policy| &policy.ports),
            ports_source: workload
                .filter(|policy| !policy.ports.is_empty())
                .map(|policy| &policy.source),
        }
    }

    /// Whether a pod's sidecar is to be called with mutual TLS on a port.
    pub(super) fn takes_mutual_tls(&self, pod: &Pod, port: u16) -> bool {
        let Name { namespace, .. } = &pod.name;
        pod.sidecar
            .as_ref()
            .is_some_and(|ports| ports.contains(port))
            && self.modes(namespace, &pod.labels).port(port) != MtlsMode::Disable
    }
}
