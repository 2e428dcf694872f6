//! DestinationRule: named sets of a service's endpoints.

use super::{Context, Host, Note, Visibility, spec};
use crate::{
    object::{Configuration, Name},
    resource::DestinationRuleSpec,
};
use std::collections::BTreeMap;

/// A DestinationRule as far as it is honoured.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    /// The service whose endpoints it divides.
    pub host: Option<Name>,
    /// Whose calls it is for.
    pub visibility: Visibility,
    /// Its subsets.
    pub subsets: Vec<Subset>,
}

/// A named set of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// The name that routes refer to.
    pub name: String,
    /// The labels of the pods in it.
    pub labels: BTreeMap<String, String>,
}

pub(super) fn compile(
    configuration: &Configuration,
    context: &Context,
    notes: &mut Vec<Note>,
) -> Result<DestinationRule, Vec<Note>> {
    let (spec, unknown) = spec::read::<DestinationRuleSpec>(&configuration.spec)?;
    let namespace = &*configuration.name.namespace;
    let mut errors = Vec::new();
    if !Host::is_valid(&spec.host) {
        errors.push(Note::new(
            "spec.host",
            format!(
                "{:?} is not a host; name the service whose endpoints are meant",
                spec.host
            ),
        ));
    }
    let host = match Host::parse(&spec.host, namespace, context) {
        Host::Service(name) => Some(name),
        Host::Wildcard => {
            notes.push(Note::not_honoured("spec.host"));
            None
        }
        Host::External => {
            notes.push(Note::new(
                "spec.host",
                format!(
                    "{} is not a service of the cluster; hosts outside are not honoured yet",
                    spec.host
                ),
            ));
            None
        }
    };
    let mut subsets: Vec<Subset> = Vec::new();
    for (position, subset) in spec.subsets.into_iter().enumerate() {
        let field = format!("spec.subsets[{position}].name");
        if subset.name.is_empty() {
            errors.push(Note::new(
                field,
                "is missing; routes refer to a subset by its name",
            ));
        } else if subsets.iter().any(|known| known.name == subset.name) {
            errors.push(Note::new(
                field,
                format!("{} stands there twice", subset.name),
            ));
        } else {
            subsets.push(Subset {
                name: subset.name,
                labels: subset.labels,
            });
        }
    }
    let visibility = Visibility::read(&spec.export_to, namespace, notes);
    notes.extend(unknown.into_iter().map(Note::not_honoured));
    if errors.is_empty() {
        Ok(DestinationRule {
            host,
            visibility,
            subsets,
        })
    } else {
        Err(errors)
    }
}
