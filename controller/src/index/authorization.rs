//! Which policies are for a workload: those of the root namespaces, of its own
//! namespace, and of these the ones that select it.

use super::{Index, configuration::ROOTS};
use crate::{
    compile::Target,
    object::{Name, carries},
};
use linnet_mesh::authorization::Policies;
use std::{collections::BTreeMap, sync::Arc};

impl Index {
    /// Who may call a pod; `None`: no policy speaks of it.
    pub(super) fn authorization(
        &self,
        pod: &Name,
        labels: &BTreeMap<String, String>,
    ) -> Option<Arc<Policies>> {
        let roots = ROOTS.into_iter().filter(|root| **root != *pod.namespace);
        let policies = Policies::new(
            roots
                .chain([&*pod.namespace])
                .flat_map(|namespace| self.configurations.authorization_of(namespace))
                .filter(|policy| self.is_for(&policy.target, pod, labels))
                .map(|policy| policy.policy.clone()),
        )
        .with_normalization(self.path_normalization);
        (!policies.is_empty()).then(|| Arc::new(policies))
    }

    /// Whether a policy of the pod's namespace, or of a root, is for it.
    pub(super) fn is_for(
        &self,
        target: &Target,
        pod: &Name,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        match target {
            Target::Labels(wanted) => carries(labels, wanted),
            Target::Services(services) => self
                .cluster
                .services_of(pod)
                .any(|service| services.contains(service)),
        }
    }
}
