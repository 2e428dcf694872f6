//! The workloads that a policy of requests is for: by their labels, or as those
//! behind Services.

use super::{Note, limits};
use crate::{
    object::{Configuration, Name},
    resource::{PolicyTargetReference, WorkloadSelector},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// The workloads that a policy is for, within its namespace.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Those with these labels; none: all.
    Labels(BTreeMap<String, String>),
    /// Those behind one of these Services.
    Services(Vec<Name>),
}

impl Target {
    /// Reads a selector and the references that may stand in its place.
    pub(super) fn read(
        selector: Option<&WorkloadSelector>,
        (several, one): (&[PolicyTargetReference], Option<&PolicyTargetReference>),
        configuration: &Configuration,
        notes: &mut Vec<Note>,
        errors: &mut Vec<Note>,
    ) -> Self {
        let labels = selector
            .map(|selector| selector.match_labels.clone())
            .unwrap_or_default();
        let one = one.map(|r| ("spec.targetRef".to_owned(), r));
        let several = several.iter().enumerate();
        let references: Vec<_> = several
            .map(|(at, r)| (format!("spec.targetRefs[{at}]"), r))
            .chain(one)
            .collect();
        for (key, value) in &labels {
            if key.contains('*') || value.contains('*') {
                errors.push(Note::new(
                    format!("spec.selector.matchLabels.{key}"),
                    "holds a \"*\", which labels don't know; name the label's value",
                ));
            }
        }
        if references.is_empty() {
            return Self::Labels(labels);
        }
        if !labels.is_empty() {
            errors.push(Note::new(
                references[0].0.clone(),
                "stands beside spec.selector; a policy has one of them",
            ));
        }
        let services = references.into_iter().filter_map(|(field, reference)| {
            service(&field, reference, configuration, notes, errors)
        });
        Self::Services(services.collect())
    }

    /// The selector's labels if all of it can be read and is not overlong; or else none, which selects
    /// the whole namespace.
    pub(super) fn readable(spec: &Value) -> Self {
        let Some(labels) = spec.pointer("/selector/matchLabels") else {
            return Self::Labels(BTreeMap::new());
        };
        if limits::size(labels) > limits::STAND_IN {
            return Self::Labels(BTreeMap::new());
        }
        let labels: BTreeMap<String, String> =
            serde_json::from_value(labels.clone()).unwrap_or_default();
        if labels
            .iter()
            .any(|(k, v)| k.contains('*') || v.contains('*'))
        {
            return Self::Labels(BTreeMap::new());
        }
        Self::Labels(labels)
    }
}

fn service(
    field: &str,
    reference: &PolicyTargetReference,
    configuration: &Configuration,
    notes: &mut Vec<Note>,
    errors: &mut Vec<Note>,
) -> Option<Name> {
    let own = &configuration.name.namespace;
    if reference.namespace.as_deref().is_some_and(|n| *n != **own) {
        errors.push(Note::new(
            format!("{field}.namespace"),
            format!("must be {own}, the policy's own"),
        ));
        return None;
    }
    if reference.kind == "Service" && matches!(reference.group.as_str(), "" | "core") {
        return Some(Name::new(own.clone(), reference.name.as_str()));
    }
    notes.push(Note::new(
        field,
        format!(
            "{} has no workload with a sidecar of this mesh, so nothing is enforced there; name a Service, or use spec.selector",
            reference.kind
        ),
    ));
    None
}
