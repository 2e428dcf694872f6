//! Injection into a manifest: `linnet inject -f`.
//!
//! A workload's pod template is patched by the same function that patches pods
//! at admission. What has no pod template passes through unchanged.

use linnet_mesh::ResourceRef;
use serde_json::{Map, Value, json};

use crate::{
    decision::{Namespace, SkipReason},
    inject::{InjectError, Verdict, inject},
    injection::InjectionConfig,
};

/// A manifest after injection.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The manifest.
    pub value: Value,
    /// What became of it, or of each item of a List.
    pub items: Vec<Item>,
}

/// What became of one resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The resource.
    pub resource: ResourceRef,
    /// What became of it.
    pub verdict: ItemVerdict,
    /// What its owner should know.
    pub warnings: Vec<String>,
}

/// What became of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemVerdict {
    /// Its pods get a sidecar.
    Injected,
    /// Left as it is.
    Skipped(SkipReason),
    /// It makes no pods.
    NoPods,
}

/// A resource that can't be injected.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Its pod can't be injected.
    #[error("{resource}: {source}")]
    Inject {
        /// The resource.
        resource: ResourceRef,
        /// Why.
        source: Box<InjectError>,
    },
    /// A workload without a pod template.
    #[error("{resource}: {path} is missing; a {} needs a pod template", resource.kind)]
    NoTemplate {
        /// The resource.
        resource: ResourceRef,
        /// Where the template belongs.
        path: String,
    },
    /// A List without items.
    #[error("{0}: items is missing or not a list")]
    NoItems(ResourceRef),
}

/// Injects a Pod, a workload with a pod template, or each item of a List. Other
/// kinds pass unchanged. The resource's own namespace overrides the name of
/// `namespace`, so that a system namespace stays untouched.
pub fn inject_document(
    document: &Value,
    namespace: &Namespace,
    config: &InjectionConfig,
) -> Result<Document, DocumentError> {
    let resource = reference(document, namespace);
    if is_list(&resource.kind, document) {
        return inject_list(document, &resource, namespace, config);
    }
    let Some(path) = template_path(&resource.kind) else {
        return Ok(unchanged(document, resource));
    };
    let Some(template) = document.pointer(path).filter(|found| found.is_object()) else {
        let path = path.replace('/', ".").trim_start_matches('.').to_owned();
        return Err(DocumentError::NoTemplate { resource, path });
    };
    let own_namespace = Namespace::new(resource.namespace.clone(), namespace.labels.clone());
    let pod = pod_of(template);
    let outcome = match inject(&pod, &own_namespace, config) {
        Ok(outcome) => outcome,
        Err(error) => {
            let source = Box::new(error);
            return Err(DocumentError::Inject { resource, source });
        }
    };
    let mut value = document.clone();
    let verdict = match outcome.verdict {
        Verdict::Skipped(reason) => ItemVerdict::Skipped(reason),
        Verdict::Injected { pod, .. } => {
            if let (Some(Value::Object(target)), Value::Object(pod)) =
                (value.pointer_mut(path), pod)
            {
                target.extend(pod);
            }
            ItemVerdict::Injected
        }
    };
    Ok(Document {
        value,
        items: vec![Item {
            resource,
            verdict,
            warnings: outcome.warnings,
        }],
    })
}

fn inject_list(
    document: &Value,
    resource: &ResourceRef,
    namespace: &Namespace,
    config: &InjectionConfig,
) -> Result<Document, DocumentError> {
    let Some(items) = document.get("items").and_then(Value::as_array) else {
        return Err(DocumentError::NoItems(resource.clone()));
    };
    let mut values = Vec::with_capacity(items.len());
    let mut outcomes = Vec::new();
    for item in items {
        let done = inject_document(item, namespace, config)?;
        values.push(done.value);
        outcomes.extend(done.items);
    }
    let mut value = document.clone();
    value["items"] = Value::Array(values);
    Ok(Document {
        value,
        items: outcomes,
    })
}

fn unchanged(document: &Value, resource: ResourceRef) -> Document {
    Document {
        value: document.clone(),
        items: vec![Item {
            resource,
            verdict: ItemVerdict::NoPods,
            warnings: Vec::new(),
        }],
    }
}

fn is_list(kind: &str, document: &Value) -> bool {
    kind == "List" || (kind.ends_with("List") && document.get("items").is_some())
}

fn template_path(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        "Deployment"
        | "DaemonSet"
        | "StatefulSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job" => Some("/spec/template"),
        _ => None,
    }
}

/// The members that make a pod of a template; what else is there stays there.
fn pod_of(template: &Value) -> Value {
    let mut pod = Map::new();
    for member in ["metadata", "spec"] {
        if let Some(value) = template.get(member) {
            pod.insert(member.to_owned(), value.clone());
        }
    }
    json!(pod)
}

fn reference(document: &Value, namespace: &Namespace) -> ResourceRef {
    let text = |pointer: &str| {
        let found = document.pointer(pointer).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    };
    let own = text("/metadata/namespace");
    ResourceRef {
        kind: text("/kind"),
        namespace: if own.is_empty() {
            namespace.name.clone()
        } else {
            own
        },
        name: text("/metadata/name"),
    }
}

#[cfg(test)]
mod tests;
