//! AuthorizationPolicy: who may call which workloads.
//!
//! A policy that can't be compiled must not leave open what it was written to
//! close. Its last good version stays in force; where there never was one,
//! [`closed`] stands in for it: what the policy selects, as far as that can be
//! read, is denied.

mod rules;

use super::{Note, spec};
use crate::{
    object::{Configuration, Name},
    resource::{AuthorizationPolicySpec, PolicyTargetReference},
};
use linnet_mesh::{
    ResourceRef,
    authorization::{Action, Policy, Rule},
};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// A policy and the workloads it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The workloads meant.
    pub target: Target,
    /// What it says.
    pub policy: Policy,
    /// It stands in for one that can't be compiled.
    pub stand_in: bool,
}

/// The workloads that a policy is for, within its namespace.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Those with these labels; none: all.
    Labels(BTreeMap<String, String>),
    /// Those behind one of these Services.
    Services(Vec<Name>),
}

pub(super) fn compile(
    configuration: &Configuration,
    notes: &mut Vec<Note>,
) -> Result<AuthorizationPolicy, Vec<Note>> {
    let (spec, unknown) = spec::read::<AuthorizationPolicySpec>(&configuration.spec)?;
    let mut errors = Vec::new();
    let action = match action(spec.action.as_deref()) {
        Some(action) => action,
        None => {
            errors.push(Note::new(
                "spec.action",
                format!(
                    "{:?} is not an action; use ALLOW, DENY, AUDIT or CUSTOM",
                    spec.action.as_deref().unwrap_or_default()
                ),
            ));
            Action::Deny
        }
    };
    let dry_run = dry_run(configuration, notes);
    let target = target(&spec, configuration, notes, &mut errors);
    let mut reader = rules::Reader {
        namespace: &configuration.name.namespace,
        allows: action == Action::Allow,
        unknown: &unknown,
        notes,
        errors: &mut errors,
    };
    let rules = reader.rules(&spec.rules);
    if action == Action::Custom {
        notes.push(Note::new(
            "spec.action",
            "CUSTOM has nobody to ask: requests that fit a rule are denied",
        ));
    }
    if rules.is_empty() && action != Action::Allow {
        notes.push(Note::new(
            "spec.rules",
            format!("is empty, so {} has no effect", action.as_str()),
        ));
    }
    let beside_rules = unknown
        .into_iter()
        .filter(|field| !field.starts_with("spec.rules"));
    notes.extend(beside_rules.map(Note::not_honoured));
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(AuthorizationPolicy {
        namespace: configuration.name.namespace.clone(),
        target,
        policy: Policy {
            source: ResourceRef::from(&configuration.reference()),
            action,
            dry_run,
            rules,
        },
        stand_in: false,
    })
}

fn action(text: Option<&str>) -> Option<Action> {
    match text {
        None | Some("ALLOW") => Some(Action::Allow),
        Some("DENY") => Some(Action::Deny),
        Some("AUDIT") => Some(Action::Audit),
        Some("CUSTOM") => Some(Action::Custom),
        Some(_) => None,
    }
}

fn dry_run(configuration: &Configuration, notes: &mut Vec<Note>) -> bool {
    match configuration.dry_run.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            notes.push(Note::new(
                "metadata.annotations[istio.io/dry-run]",
                format!("{other:?} is neither true nor false, so the policy is enforced"),
            ));
            false
        }
    }
}

fn target(
    spec: &AuthorizationPolicySpec,
    configuration: &Configuration,
    notes: &mut Vec<Note>,
    errors: &mut Vec<Note>,
) -> Target {
    let labels = spec
        .selector
        .as_ref()
        .map(|selector| selector.match_labels.clone())
        .unwrap_or_default();
    let one = spec
        .target_ref
        .iter()
        .map(|r| ("spec.targetRef".to_owned(), r));
    let several = spec.target_refs.iter().enumerate();
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
        return Target::Labels(labels);
    }
    if !labels.is_empty() {
        errors.push(Note::new(
            references[0].0.clone(),
            "stands beside spec.selector; a policy has one of them",
        ));
    }
    let services = references
        .into_iter()
        .filter_map(|(field, reference)| service(&field, reference, configuration, notes, errors));
    Target::Services(services.collect())
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

/// What stands in for a policy that can't be compiled: it denies all that it
/// might have denied. `None`: it would block nothing anyway.
pub(crate) fn closed(configuration: &Configuration) -> Option<AuthorizationPolicy> {
    let spec = &configuration.spec;
    let action = match spec.get("action") {
        None => Some(Action::Allow),
        Some(value) => action(value.as_str()),
    };
    let (action, rules) = match action {
        Some(Action::Audit) => return None,
        // Other ALLOW policies still allow what they allow.
        Some(Action::Allow) => (Action::Allow, Vec::new()),
        Some(Action::Deny | Action::Custom) | None => (Action::Deny, vec![Rule::default()]),
    };
    Some(AuthorizationPolicy {
        namespace: configuration.name.namespace.clone(),
        target: Target::Labels(readable_labels(spec)),
        policy: Policy {
            source: ResourceRef::from(&configuration.reference()),
            action,
            dry_run: dry_run(configuration, &mut Vec::new()),
            rules,
        },
        stand_in: true,
    })
}

/// The selector's labels if all of it can be read; or else none, which selects
/// the whole namespace.
fn readable_labels(spec: &Value) -> BTreeMap<String, String> {
    let Some(labels) = spec.pointer("/selector/matchLabels") else {
        return BTreeMap::new();
    };
    let labels: BTreeMap<String, String> =
        serde_json::from_value(labels.clone()).unwrap_or_default();
    if labels
        .iter()
        .any(|(k, v)| k.contains('*') || v.contains('*'))
    {
        return BTreeMap::new();
    }
    labels
}
