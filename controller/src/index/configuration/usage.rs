//! What the resources in force take, by namespace and together.
//!
//! One namespace can't take another's room: each has its own, and only the regular
//! expressions of all have a bound besides, since the process's memory is one. Of these
//! each namespace has a little that no other can take.

use crate::{
    compile::{Note, limits},
    object::{Configuration, Kind},
};
use linnet_mesh::regexes::{self, Budget};
use std::{collections::HashMap, sync::Arc};

/// What a resource takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::index) struct Cost {
    /// Resources: one, or none for what is not in force.
    resources: usize,
    /// Bytes of its spec.
    spec: usize,
    /// Bytes of its compiled regular expressions.
    regexes: usize,
    /// Bytes that it takes compiled, these aside.
    compiled: usize,
    /// The same, if each sidecar that it is for holds it.
    policies: usize,
    /// Bytes of the remarks on it.
    notes: usize,
}

impl Cost {
    /// What a resource takes, refused: its remarks, and at most what stands in for it.
    pub(super) fn refused(configuration: &Configuration) -> Self {
        Self {
            resources: 1,
            spec: limits::size(&configuration.spec),
            ..Self::default()
        }
    }

    /// What a resource takes in force, its regular expressions aside.
    /// An AuthorizationPolicy has its principals under each name of the trust domain.
    pub(super) fn compiled(configuration: &Configuration, trust_domains: usize) -> Self {
        let compiled = match configuration.kind {
            Kind::AuthorizationPolicy => limits::compiled(configuration) * trust_domains.max(1),
            _ => limits::compiled(configuration),
        };
        let is_policy = limits::is_policy(configuration.kind);
        Self {
            compiled,
            policies: if is_policy { compiled } else { 0 },
            ..Self::refused(configuration)
        }
    }

    /// The same with what its remarks take.
    pub(super) fn with_notes(self, notes: &[Note]) -> Self {
        let notes = limits::of_notes(notes);
        Self { notes, ..self }
    }

    /// The same with what its regular expressions take.
    pub(super) fn with_regexes(self, regexes: usize) -> Self {
        Self { regexes, ..self }
    }
}

/// What is taken.
#[derive(Debug, Default)]
pub(super) struct Usage {
    namespaces: HashMap<Arc<str>, Cost>,
    regexes: usize,
    compiled: usize,
}

impl Usage {
    pub(super) fn add(&mut self, namespace: &Arc<str>, cost: Cost) {
        if cost == Cost::default() {
            return;
        }
        let own = self.namespaces.entry(namespace.clone()).or_default();
        own.resources += cost.resources;
        own.spec += cost.spec;
        own.regexes += cost.regexes;
        own.compiled += cost.compiled;
        own.policies += cost.policies;
        own.notes += cost.notes;
        self.regexes += cost.regexes;
        self.compiled += cost.compiled + cost.notes;
    }

    pub(super) fn remove(&mut self, namespace: &Arc<str>, cost: Cost) {
        let Some(own) = self.namespaces.get_mut(namespace) else {
            return;
        };
        own.resources = own.resources.saturating_sub(cost.resources);
        own.spec = own.spec.saturating_sub(cost.spec);
        own.regexes = own.regexes.saturating_sub(cost.regexes);
        own.compiled = own.compiled.saturating_sub(cost.compiled);
        own.policies = own.policies.saturating_sub(cost.policies);
        own.notes = own.notes.saturating_sub(cost.notes);
        self.regexes = self.regexes.saturating_sub(cost.regexes);
        self.compiled = self.compiled.saturating_sub(cost.compiled + cost.notes);
        if *own == Cost::default() {
            self.namespaces.remove(namespace);
        }
    }

    /// What one more resource of a namespace may take for its regular expressions.
    ///
    /// # Errors
    /// There is no room for a resource that takes so much.
    pub(super) fn room(&self, namespace: &str, cost: Cost) -> Result<Budget, Note> {
        let own = self.namespaces.get(namespace).copied().unwrap_or_default();
        let of_mesh = limits::COMPILED_OF_MESH.saturating_sub(self.compiled);
        let floor = limits::COMPILED_FLOOR_OF_NAMESPACE.saturating_sub(own.compiled);
        if cost.compiled > of_mesh.max(floor) {
            let text = format!(
                "takes {} bytes once it is compiled; {} are left of the mesh's {}, so remove or shrink others and apply it again",
                cost.compiled,
                of_mesh.max(floor),
                limits::COMPILED_OF_MESH
            );
            return Err(Note::new("spec", text));
        }
        for (what, count, most) in [
            (
                "resources",
                own.resources + cost.resources,
                limits::RESOURCES_OF_NAMESPACE,
            ),
            (
                "bytes of specs",
                own.spec + cost.spec,
                limits::SPECS_OF_NAMESPACE,
            ),
            (
                "bytes of compiled AuthorizationPolicies and RequestAuthentications",
                own.policies + cost.policies,
                limits::COMPILED_POLICIES_OF_NAMESPACE,
            ),
            (
                "bytes of compiled resources",
                own.compiled + own.notes + cost.compiled,
                limits::COMPILED_OF_NAMESPACE,
            ),
        ] {
            if count > most {
                let text = format!(
                    "would make {count} {what} in force in the namespace; more than {most} are not taken, so remove or shrink others and apply it again"
                );
                return Err(Note::new("spec", text));
            }
        }
        let of_mesh = regexes::OF_CONTROLLER.saturating_sub(self.regexes);
        let floor = regexes::FLOOR_OF_NAMESPACE.saturating_sub(own.regexes);
        let budgets = [
            (regexes::OF_RESOURCE, 0, "left of the resource's"),
            (
                regexes::OF_NAMESPACE,
                own.regexes,
                "left of the namespace's",
            ),
            (of_mesh.max(floor), 0, "left of the mesh's"),
        ];
        let left = budgets.map(|(most, used, of)| (most.saturating_sub(used), of));
        let least = left.into_iter().min_by_key(|(left, _)| *left);
        let (left, of) = least.unwrap_or_default();
        Ok(Budget::new(left, of))
    }
}
