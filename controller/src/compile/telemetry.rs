//! Telemetry: what sidecars write of requests and connections.
//!
//! A sidecar has one place to write to, its standard output. Providers count as
//! in Istio for which entries are in force; where the lines go, they don't say.
//! A filter that is not understood leaves everything to be written.

use super::{Note, spec};
use crate::{
    object::Configuration,
    resource::{AccessLogging, TelemetrySpec},
};
use linnet_mesh::{ResourceRef, access_log::Filter};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Istio's own name for a sidecar's standard output.
pub(crate) const STDOUT: &str = "envoy";

/// What is written of a set of workloads.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// The resource.
    pub source: ResourceRef,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The labels of the workloads meant; `None`: all.
    pub selector: Option<BTreeMap<String, String>>,
    /// It is for what this mesh has not, and applies to nothing.
    pub nowhere: bool,
    /// The entries, each on top of those before; none: it says nothing.
    pub logging: Vec<Logging>,
}

/// An entry about the access log.
#[derive(Clone, Debug, PartialEq)]
pub struct Logging {
    /// Of what the workload asks others.
    pub client: bool,
    /// Of what the workload is asked.
    pub server: bool,
    /// Where to; none: as before.
    pub providers: Vec<String>,
    /// Nothing is written.
    pub disabled: bool,
    /// What is written has to fit this.
    pub filter: Option<Arc<Filter>>,
}

/// Sections of which nothing is honoured, and why.
const NOT_HONOURED: [(&str, &str); 2] = [
    (
        "spec.metrics",
        "is not honoured: the sidecar always counts Istio's standard metrics with all their labels, and has no others",
    ),
    (
        "spec.tracing",
        "is not honoured: the sidecar makes no spans yet; trace headers pass through it unchanged",
    ),
];

pub(super) fn compile(
    configuration: &Configuration,
    notes: &mut Vec<Note>,
) -> Result<Telemetry, Vec<Note>> {
    let (spec, unknown) = spec::read::<TelemetrySpec>(&configuration.spec)?;
    let mut errors = Vec::new();
    let mut foreign = BTreeSet::new();
    let mut logging = Vec::new();
    for (position, entry) in spec.access_logging.iter().enumerate() {
        let field = format!("spec.accessLogging[{position}]");
        match compile_entry(&field, entry, &mut foreign, notes) {
            Ok(entry) => logging.push(entry),
            Err(error) => errors.push(error),
        }
    }
    let has = |field: &str| configuration.spec.get(field).is_some();
    let nowhere = has("targetRef") || has("targetRefs");
    if nowhere {
        let field = if has("targetRefs") {
            "spec.targetRefs"
        } else {
            "spec.targetRef"
        };
        notes.push(Note::new(
            field,
            "names gateways and waypoints, which this mesh has none of, so the resource applies to nothing; use spec.selector",
        ));
    }
    for (section, reason) in NOT_HONOURED {
        if unknown.iter().any(|field| field == section) {
            notes.push(Note::new(section, reason));
        }
    }
    let told = |field: &String| {
        NOT_HONOURED.iter().any(|(section, _)| field == section)
            || field.starts_with("spec.targetRef")
    };
    let others = unknown.into_iter().filter(|field| !told(field));
    notes.extend(others.map(Note::not_honoured));
    if !errors.is_empty() {
        return Err(errors);
    }
    let labels = spec.selector.map(|selector| selector.match_labels);
    Ok(Telemetry {
        source: ResourceRef::from(&configuration.reference()),
        namespace: configuration.name.namespace.clone(),
        selector: labels.filter(|labels| !labels.is_empty()),
        nowhere,
        logging,
    })
}

/// `foreign` are the providers that were remarked on already.
fn compile_entry(
    field: &str,
    entry: &AccessLogging,
    foreign: &mut BTreeSet<String>,
    notes: &mut Vec<Note>,
) -> Result<Logging, Note> {
    let mode = entry.matches.as_ref().and_then(|m| m.mode.as_deref());
    let (client, server) = match mode {
        None | Some("CLIENT_AND_SERVER") => (true, true),
        Some("CLIENT") => (true, false),
        Some("SERVER") => (false, true),
        Some(other) => {
            return Err(Note::new(
                format!("{field}.match.mode"),
                format!("{other:?} is not a mode; use CLIENT, SERVER or CLIENT_AND_SERVER"),
            ));
        }
    };
    for (position, provider) in entry.providers.iter().enumerate() {
        if provider.name != STDOUT && foreign.insert(provider.name.clone()) {
            notes.push(Note::new(
                format!("{field}.providers[{position}].name"),
                format!(
                    "{:?} is not known here: what it is to have goes to the sidecar's standard output",
                    provider.name
                ),
            ));
        }
    }
    let disabled = entry.disabled == Some(true);
    let expression = entry.filter.as_ref().map(|filter| filter.expression.trim());
    let expression = expression.filter(|text| !text.is_empty() && !disabled);
    let filter = expression.and_then(|text| {
        let at = format!("{field}.filter.expression");
        match text.parse::<Filter>() {
            Ok(filter) => {
                notes.push(Note::new(
                    at,
                    "decides about what was let through; what a policy denies, would deny or audits is written in any case",
                ));
                Some(Arc::new(filter))
            }
            Err(reason) => {
                notes.push(Note::new(
                    at,
                    format!("is not understood, so everything is written: {reason}"),
                ));
                None
            }
        }
    });
    Ok(Logging {
        client,
        server,
        providers: entry.providers.iter().map(|p| p.name.clone()).collect(),
        disabled,
        filter,
    })
}
