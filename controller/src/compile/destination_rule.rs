//! DestinationRule: how a host's endpoints are called, and named sets of them.
//!
//! A rule says only a part of a policy; the whole is put together in `merge`,
//! from the rules in force for one caller and one port.

mod balance;
mod merge;
mod settings;

pub use merge::destination;
use settings::Inherits;
pub(crate) use settings::{Layer, Locality, Settings};

use super::{Context, Host, Note, Visibility, limits, spec};
use crate::{
    object::{Configuration, Name},
    resource::{DestinationRuleSpec, TrafficPolicy},
};
use linnet_mesh::ResourceRef;
use std::collections::BTreeMap;

/// A DestinationRule as far as it is honoured.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    /// The resource.
    pub source: ResourceRef,
    /// Whose endpoints it is about; `None`: nobody's.
    pub host: Option<RuleHost>,
    /// Whose calls it is for.
    pub visibility: Visibility,
    /// How endpoints are called, as far as it says.
    pub(crate) policy: Option<Box<Layer>>,
    /// Its subsets.
    pub subsets: Vec<Subset>,
}

/// What a rule's host names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleHost {
    /// One service.
    Service(Name),
    /// All whose full host name ends like this; empty: all.
    Ending(String),
}

/// A named set of endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    /// The name that routes refer to.
    pub name: String,
    /// The labels of the pods in it.
    pub labels: BTreeMap<String, String>,
    /// How they are called, as far as it differs.
    pub(crate) policy: Option<Layer>,
}

pub(super) fn compile(
    configuration: &Configuration,
    context: &Context,
    notes: &mut Vec<Note>,
) -> Result<DestinationRule, Vec<Note>> {
    let (spec, unknown) = spec::read::<DestinationRuleSpec>(&configuration.spec)?;
    let namespace = &*configuration.name.namespace;
    let mut errors = Vec::new();
    let mut host = host(&spec.host, namespace, context, notes, &mut errors);
    let mut layer = |field: &str, policy: Option<&TrafficPolicy>, inherits: Inherits| {
        policy.map(|policy| Layer::read(field, policy, inherits, notes, &mut errors))
    };
    let own = spec.traffic_policy.as_ref();
    let policy = layer("spec.trafficPolicy", own, Inherits::Nothing).map(Box::new);
    let inherits = match own {
        Some(own) if own.has_outlier_detection() => Inherits::OutlierDetection,
        _ => Inherits::NoOutlierDetection,
    };
    let mut subsets: Vec<Subset> = Vec::new();
    let mut bad_names = Vec::new();
    for (position, subset) in spec.subsets.into_iter().enumerate() {
        let field = format!("spec.subsets[{position}]");
        let policy = layer(
            &format!("{field}.trafficPolicy"),
            subset.traffic_policy.as_ref(),
            inherits,
        );
        let field = format!("{field}.name");
        if subset.name.is_empty() {
            bad_names.push(Note::new(
                field,
                "is missing; routes refer to a subset by its name",
            ));
        } else if subsets.iter().any(|known| known.name == subset.name) {
            bad_names.push(Note::new(
                field,
                format!("{} stands there twice", subset.name),
            ));
        } else {
            subsets.push(Subset {
                name: subset.name,
                labels: subset.labels,
                policy,
            });
        }
    }
    errors.extend(bad_names);
    errors.extend(too_large_tables(policy.as_deref(), &subsets));
    let selector = spec.workload_selector;
    if selector.is_some_and(|selector| !selector.match_labels.is_empty()) {
        notes.push(Note::new(
            "spec.workloadSelector",
            "is not honoured yet; what is meant for some workloads must not be done by all, so nobody follows the rule",
        ));
        host = None;
    }
    let visibility = Visibility::read(&spec.export_to, namespace, notes);
    notes.extend(unknown.into_iter().map(Note::not_honoured));
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(DestinationRule {
        source: ResourceRef::from(&configuration.reference()),
        host,
        visibility,
        policy,
        subsets,
    })
}

/// The first subset with which the hash tables of a rule are too large. A subset without a
/// table of its own has one like the rule's, over its own endpoints.
fn too_large_tables(policy: Option<&Layer>, subsets: &[Subset]) -> Option<Note> {
    let own = policy.map_or(0, |policy| policy.tables(0));
    let of_subset = |subset: &Subset| {
        let inherited = policy.map_or(0, |policy| policy.own.table().unwrap_or_default());
        let layer = subset.policy.as_ref();
        layer.map_or(inherited, |layer| layer.tables(inherited))
    };
    let mut sum = own;
    let first = subsets.iter().position(|subset| {
        sum += of_subset(subset);
        sum > limits::HASH_TABLES
    });
    let field = match first {
        Some(position) => format!("spec.subsets[{position}]"),
        None if sum > limits::HASH_TABLES => "spec.trafficPolicy.portLevelSettings".to_owned(),
        None => return None,
    };
    let text = format!(
        "with this the rule's consistentHash tables take {sum} bytes in each caller's sidecar; more than {} are not taken, so make minimumRingSize or tableSize smaller",
        limits::HASH_TABLES
    );
    Some(Note::new(field, text))
}

fn host(
    text: &str,
    namespace: &str,
    context: &Context,
    notes: &mut Vec<Note>,
    errors: &mut Vec<Note>,
) -> Option<RuleHost> {
    if !Host::is_valid(text) {
        errors.push(Note::new(
            "spec.host",
            format!("{text:?} is not a host; name the service whose endpoints are meant"),
        ));
        return None;
    }
    match Host::parse(text, namespace, context) {
        Host::Service(name) => Some(RuleHost::Service(name)),
        Host::Wildcard => {
            let ending = text.trim_start_matches('*').trim_end_matches('.');
            Some(RuleHost::Ending(ending.to_ascii_lowercase()))
        }
        Host::External => {
            notes.push(Note::new(
                "spec.host",
                format!(
                    "{text} is not a service of the cluster; hosts outside are not honoured yet"
                ),
            ));
            None
        }
    }
}
