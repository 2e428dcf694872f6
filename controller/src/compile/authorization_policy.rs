//! AuthorizationPolicy: who may call which workloads.
//!
//! A policy that can't be compiled must not leave open what it was written to
//! close. Its last good version stays in force; where there never was one,
//! [`closed`] stands in for it: what the policy selects, as far as that can be
//! read, is denied.

mod rules;

use super::{Note, Target, spec};
use crate::{object::Configuration, resource::AuthorizationPolicySpec};
use linnet_mesh::{
    ResourceRef,
    authorization::{Action, Policy, Rule},
};
use std::sync::Arc;

/// A policy and the workloads it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The workloads meant.
    pub target: Target,
    /// What it says, shared by all workloads that it is for.
    pub policy: Arc<Policy>,
    /// It stands in for one that can't be compiled.
    pub stand_in: bool,
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
    let target = Target::read(
        spec.selector.as_ref(),
        (&spec.target_refs, spec.target_ref.as_ref()),
        configuration,
        notes,
        &mut errors,
    );
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
        policy: Arc::new(Policy {
            source: ResourceRef::from(&configuration.reference()),
            action,
            dry_run,
            rules,
        }),
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
        target: Target::readable(spec),
        policy: Arc::new(Policy {
            source: ResourceRef::from(&configuration.reference()),
            action,
            dry_run: dry_run(configuration, &mut Vec::new()),
            rules,
        }),
        stand_in: true,
    })
}
