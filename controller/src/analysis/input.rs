//! What is analysed: manifests from files or from a cluster.
//!
//! Of workloads (a Deployment, a Job) only the labels of their pods are taken,
//! so that a directory which was never applied says which pods there will be.

use super::path;
use crate::{
    compile::{Note, Status, Verdict},
    manifest::{self, documents},
    object::{Kind, Name, Object, ObjectRef, Service},
};
use linnet_mesh::{ResourceRef, access_log::AccessLog, names::annotation};
use serde_json::Value;
use std::collections::{BTreeMap, btree_map::Entry};

/// Pods, or what will be some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pods {
    pub(super) namespace: String,
    pub(super) labels: BTreeMap<String, String>,
}

/// A set of resources.
#[derive(Clone, Debug, Default)]
pub struct Input {
    objects: BTreeMap<ObjectRef, Object>,
    pods: Vec<Pods>,
    /// The selector of each Service that has one.
    selectors: BTreeMap<Name, BTreeMap<String, String>>,
    problems: Vec<Verdict>,
}

impl Input {
    /// Takes all manifests of a text. `origin` names it in verdicts;
    /// `namespace` is where those go that name none.
    pub fn add_yaml(&mut self, text: &str, origin: &str, namespace: &str) {
        for (document, manifests) in documents(text) {
            let origin = format!("{origin}, {document}");
            match manifests {
                Ok(manifests) => {
                    for manifest in manifests {
                        self.add(manifest, Some(&origin), namespace);
                    }
                }
                Err(reason) => self.problem(&origin, "content", reason),
            }
        }
    }

    /// Takes a manifest.
    pub fn add(&mut self, mut manifest: Value, origin: Option<&str>, namespace: &str) {
        if let Some(fields) = manifest.as_object_mut() {
            let metadata = fields
                .entry("metadata")
                .or_insert_with(|| Value::Object(serde_json::Map::new()));
            if let Some(metadata) = metadata.as_object_mut() {
                metadata
                    .entry("namespace")
                    .or_insert_with(|| namespace.into());
            }
        }
        self.take_pods(&manifest);
        let selector = path::labels(manifest.pointer("/spec/selector"));
        match manifest::parse(manifest, origin) {
            Ok(None) => {}
            Ok(Some(object)) => self.take(object, selector, origin),
            Err(error) => {
                let reason = format!("{}: {}", error.resource, error.reason);
                self.problem(origin.unwrap_or("cluster"), &error.field, reason);
            }
        }
    }

    /// Notes that something could not be read at all.
    pub fn problem(&mut self, origin: &str, field: &str, reason: impl Into<String>) {
        self.problems.push(Verdict {
            resource: ResourceRef {
                kind: "File".to_owned(),
                namespace: String::new(),
                name: origin.to_owned(),
            },
            origin: None,
            generation: 0,
            status: Status::Rejected,
            messages: vec![Note::new(field, reason).error()],
        });
    }

    fn take(&mut self, object: Object, selector: BTreeMap<String, String>, origin: Option<&str>) {
        let reference = object.reference();
        if let Object::Service(service) = &object
            && !selector.is_empty()
        {
            self.selectors.insert(service.name.clone(), selector);
        }
        match self.objects.entry(reference) {
            Entry::Vacant(place) => {
                place.insert(object);
            }
            Entry::Occupied(place) => {
                let reason = format!(
                    "{} stands in the input twice; the first counts",
                    place.key()
                );
                self.problem(origin.unwrap_or("cluster"), "metadata.name", reason);
            }
        }
    }

    fn take_pods(&mut self, manifest: &Value) {
        let template = match path::text(manifest, "kind") {
            "Pod" => Some(manifest),
            "Deployment"
            | "StatefulSet"
            | "DaemonSet"
            | "ReplicaSet"
            | "Job"
            | "ReplicationController" => manifest.pointer("/spec/template"),
            "CronJob" => manifest.pointer("/spec/jobTemplate/spec/template"),
            _ => None,
        };
        let Some(template) = template else {
            return;
        };
        let ended = matches!(
            manifest.pointer("/status/phase").and_then(Value::as_str),
            Some("Succeeded" | "Failed")
        );
        if ended {
            return;
        }
        let namespace = manifest
            .pointer("/metadata/namespace")
            .and_then(Value::as_str);
        if path::text(manifest, "kind") != "Pod" {
            self.check_annotation(manifest, template);
        }
        self.pods.push(Pods {
            namespace: namespace.unwrap_or_default().to_owned(),
            labels: path::labels(template.pointer("/metadata/labels")),
        });
    }

    /// An annotation of pods to come that can't be read; of a pod's own there is a
    /// verdict.
    fn check_annotation(&mut self, manifest: &Value, template: &Value) {
        let annotations = path::labels(template.pointer("/metadata/annotations"));
        let name = annotation::ACCESS_LOG;
        let text = annotations.get(name);
        let Some(Err(error)) = text.map(|text| text.parse::<AccessLog>()) else {
            return;
        };
        let metadata = manifest.get("metadata").unwrap_or(&Value::Null);
        self.problems.push(Verdict {
            resource: ResourceRef {
                kind: path::text(manifest, "kind").to_owned(),
                namespace: path::text(metadata, "namespace").to_owned(),
                name: path::text(metadata, "name").to_owned(),
            },
            origin: None,
            generation: 0,
            status: Status::Rejected,
            messages: vec![
                Note::new(
                    format!("spec.template.metadata.annotations[{name}]"),
                    format!("{error}; it counts as if it were not there"),
                )
                .error(),
            ],
        });
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = &Verdict> {
        self.problems.iter()
    }

    pub(super) fn pods(&self) -> &[Pods] {
        &self.pods
    }

    pub(super) fn selector(&self, service: &Name) -> Option<&BTreeMap<String, String>> {
        self.selectors.get(service)
    }

    pub(super) fn service(&self, name: &Name) -> Option<&Service> {
        let reference = ObjectRef {
            kind: Kind::Service,
            name: name.clone(),
        };
        match self.objects.get(&reference)? {
            Object::Service(service) => Some(service),
            _ => None,
        }
    }

    /// Whether the input speaks of services at all.
    pub(super) fn has_services(&self) -> bool {
        self.objects()
            .any(|object| matches!(object, Object::Service(_)))
    }
}
