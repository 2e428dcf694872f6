//! What a workload's sidecar writes of requests and connections. The most
//! specific word counts: the pod's annotation, a Telemetry that selects the
//! pod, the namespace's annotation, the namespace's Telemetry, the mesh's.

use super::{
    Index,
    configuration::{Configurations, ROOTS},
};
use crate::{
    compile::{Compiled, Key, Logging, Note, STDOUT, Status, Telemetry, Verdict},
    object::{AccessLogSetting, Pod, carries},
};
use linnet_mesh::{
    ResourceRef,
    access_log::{self, AccessLog, AccessLogs, Filter, Scope},
    names::annotation,
};
use std::{collections::BTreeMap, sync::Arc};

impl Configurations {
    /// The Telemetries of a namespace that are for workloads, oldest first.
    fn telemetries_of(&self, namespace: &str) -> impl Iterator<Item = &Telemetry> {
        self.all(&Key::Telemetries(namespace.into()), Compiled::telemetry)
            .map(|(_, telemetry)| telemetry)
            .filter(|telemetry| !telemetry.nowhere)
    }

    fn namespace_telemetry(&self, namespace: &str) -> Option<&Telemetry> {
        self.telemetries_of(namespace)
            .find(|telemetry| telemetry.selector.is_none())
    }

    fn workload_telemetry(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Option<&Telemetry> {
        self.telemetries_of(namespace).find(|telemetry| {
            let selector = telemetry.selector.as_ref();
            selector.is_some_and(|selector| carries(labels, selector))
        })
    }

    /// Of the whole mesh; the first root that says something.
    fn mesh_telemetry(&self) -> Option<&Telemetry> {
        ROOTS.iter().find_map(|root| self.namespace_telemetry(root))
    }
}

impl Index {
    /// What a pod's sidecar writes.
    pub(super) fn access_logs(&self, pod: &Pod) -> AccessLogs {
        if let Some(log) = setting(pod.access_log.as_ref()) {
            return log.clone().into();
        }
        let namespace = &*pod.name.namespace;
        let annotated = setting(self.cluster.access_log(namespace));
        let configurations = &self.configurations;
        let workload = configurations.workload_telemetry(namespace, &pod.labels);
        let wider = [
            configurations.mesh_telemetry(),
            configurations.namespace_telemetry(namespace),
        ];
        let wider = wider.into_iter().flatten().filter(|_| annotated.is_none());
        let mut levels: Vec<&Telemetry> = wider.chain(workload).collect();
        // Who is of a root namespace is told the same thing once.
        levels.dedup_by(|a, b| a.source == b.source);
        let base = annotated.cloned().unwrap_or_default();
        AccessLogs {
            server: merged(&levels, &base, |entry| entry.server),
            client: merged(&levels, &base, |entry| entry.client),
        }
    }

    /// Verdicts on annotations that can't be read.
    pub(super) fn bad_annotations(&self) -> impl Iterator<Item = Verdict> {
        let pods = self.cluster.pods();
        let pods = pods.filter_map(|pod| Some(("Pod", &pod.name, pod.access_log.as_ref()?)));
        let namespaces = self.cluster.namespaces();
        let namespaces = namespaces.map(|(name, setting)| ("Namespace", name, setting));
        let bad = pods.chain(namespaces).filter_map(|(kind, name, setting)| {
            let reason = setting.as_ref().as_ref().err()?;
            let field = format!("metadata.annotations[{}]", annotation::ACCESS_LOG);
            Some(Verdict {
                resource: ResourceRef {
                    kind: kind.to_owned(),
                    namespace: name.namespace.to_string(),
                    name: name.name.to_string(),
                },
                origin: None,
                generation: 0,
                status: Status::Rejected,
                messages: vec![
                    Note::new(
                        field,
                        format!("{reason}; it counts as if it were not there"),
                    )
                    .error(),
                ],
            })
        });
        let mut bad: Vec<_> = bad.collect();
        bad.sort_by_key(|verdict| verdict.resource.to_string());
        bad.into_iter()
    }

    /// Who goes before a Telemetry.
    pub(super) fn older_telemetry(&self, telemetry: &Telemetry) -> Vec<Note> {
        if telemetry.nowhere {
            return Vec::new();
        }
        let first = self
            .configurations
            .telemetries_of(&telemetry.namespace)
            .find(|other| other.selector == telemetry.selector);
        if let Some(other) = first.filter(|other| other.source != telemetry.source) {
            let text = format!(
                "{} is older and for the same workloads: it counts",
                other.source
            );
            return vec![Note::new("spec", text)];
        }
        let annotated = setting(self.cluster.access_log(&telemetry.namespace)).is_some();
        let silent = telemetry.selector.is_some() || telemetry.logging.is_empty();
        if annotated && !silent {
            let text = format!(
                "the annotation {} of namespace {} goes first there",
                annotation::ACCESS_LOG,
                telemetry.namespace
            );
            return vec![Note::new("spec.accessLogging", text)];
        }
        Vec::new()
    }
}

/// An annotation, if it can be read.
fn setting(annotated: Option<&AccessLogSetting>) -> Option<&AccessLog> {
    annotated.and_then(|setting| setting.as_ref().as_ref().ok())
}

/// What entries say of one direction, the widest level first; `base` where they
/// say nothing.
fn merged(levels: &[&Telemetry], base: &AccessLog, of: fn(&Logging) -> bool) -> AccessLog {
    let entries = || levels.iter().flat_map(|level| &level.logging);
    let names = |level: &&&Telemetry| level.logging.iter().any(|e| !e.providers.is_empty());
    // Of the levels that name providers, the last says which there are.
    let in_scope: Vec<&str> = levels.iter().rev().find(names).map_or_else(
        || vec![STDOUT],
        |level| {
            level
                .logging
                .iter()
                .flat_map(|e| &e.providers)
                .map(String::as_str)
                .collect()
        },
    );
    let mut before = vec![STDOUT];
    let mut enabled: BTreeMap<&str, Option<&Arc<Filter>>> = BTreeMap::new();
    let mut said = false;
    for entry in entries() {
        if !entry.providers.is_empty() {
            before = entry.providers.iter().map(String::as_str).collect();
        }
        for provider in before
            .iter()
            .filter(|name| of(entry) && in_scope.contains(name))
        {
            said = true;
            if entry.disabled {
                enabled.remove(provider);
            } else {
                enabled.insert(provider, entry.filter.as_ref());
            }
        }
    }
    if !said {
        return base.clone();
    }
    AccessLog {
        scope: if enabled.is_empty() {
            Scope::Off
        } else {
            Scope::All
        },
        sample: access_log::ALL,
        filter: any_of(enabled.values().copied()),
        format: base.format,
    }
}

/// All providers' lines go to one place: what one of them is to have is written.
fn any_of<'a>(filters: impl Iterator<Item = Option<&'a Arc<Filter>>>) -> Option<Arc<Filter>> {
    let filters: Option<Vec<&Arc<Filter>>> = filters.collect();
    let mut filters = filters?;
    filters.dedup();
    match filters.as_slice() {
        [] => None,
        [only] => Some((*only).clone()),
        several => {
            let parts: Vec<String> = several.iter().map(|filter| format!("({filter})")).collect();
            // Too long or too deep together: everything is written.
            parts.join(" || ").parse().ok().map(Arc::new)
        }
    }
}

#[cfg(test)]
mod tests;
