//! What the resources in force take, by namespace and together.
//!
//! One namespace can't take another's room: each has its own, and only the regular
//! expressions of all have a bound besides, since the process's memory is one. Of these
//! each namespace has a little that no other can take.

use crate::compile::{Note, limits};
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
}

impl Cost {
    pub(super) fn new(spec: usize, regexes: usize) -> Self {
        Self {
            resources: 1,
            spec,
            regexes,
        }
    }
}

/// What is taken.
#[derive(Debug, Default)]
pub(super) struct Usage {
    namespaces: HashMap<Arc<str>, Cost>,
    regexes: usize,
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
        self.regexes += cost.regexes;
    }

    pub(super) fn remove(&mut self, namespace: &Arc<str>, cost: Cost) {
        let Some(own) = self.namespaces.get_mut(namespace) else {
            return;
        };
        own.resources = own.resources.saturating_sub(cost.resources);
        own.spec = own.spec.saturating_sub(cost.spec);
        own.regexes = own.regexes.saturating_sub(cost.regexes);
        self.regexes = self.regexes.saturating_sub(cost.regexes);
        if *own == Cost::default() {
            self.namespaces.remove(namespace);
        }
    }

    /// What one more resource of a namespace may take for its regular expressions.
    ///
    /// # Errors
    /// There is no room for a resource whose spec has so many bytes.
    pub(super) fn room(&self, namespace: &str, spec: usize) -> Result<Budget, Note> {
        let own = self.namespaces.get(namespace).copied().unwrap_or_default();
        for (what, count, most) in [
            (
                "resources",
                own.resources + 1,
                limits::RESOURCES_OF_NAMESPACE,
            ),
            (
                "bytes of specs",
                own.spec + spec,
                limits::SPECS_OF_NAMESPACE,
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
