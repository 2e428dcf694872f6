//! A Kubernetes object as data: what is rendered, changed and applied.

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Resource,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use linnet_mesh::ResourceRef;
use serde_json::Value;

/// An object with at least `apiVersion`, `kind` and `metadata.name`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object(Value);

impl Object {
    /// Takes a value for an object if it is one.
    pub(crate) fn new(value: Value) -> Option<Self> {
        let named = |pointer| value.pointer(pointer).is_some_and(Value::is_string);
        (named("/apiVersion") && named("/kind") && named("/metadata/name")).then_some(Self(value))
    }

    pub(crate) fn kind(&self) -> &str {
        self.text("/kind")
    }

    pub(crate) fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// Empty for a cluster-scoped object.
    pub(crate) fn namespace(&self) -> &str {
        self.text("/metadata/namespace")
    }

    fn text(&self, pointer: &str) -> &str {
        self.0
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    pub(crate) fn value(&self) -> &Value {
        &self.0
    }

    pub(crate) fn value_mut(&mut self) -> &mut Value {
        &mut self.0
    }

    pub(crate) fn reference(&self) -> ResourceRef {
        ResourceRef {
            kind: self.kind().to_owned(),
            namespace: self.namespace().to_owned(),
            name: self.name().to_owned(),
        }
    }

    /// The API that serves it.
    pub(crate) fn api_resource(&self) -> ApiResource {
        let api_version = self.text("/apiVersion");
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, self.kind()))
    }

    /// Sets a label.
    pub(crate) fn label(&mut self, key: &str, value: &str) {
        self.0["metadata"]["labels"][key] = Value::from(value);
    }

    /// The containers of a workload's pod template.
    pub(crate) fn containers_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        self.0
            .pointer_mut("/spec/template/spec/containers")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
    }
}

/// How a person knows an object of the cluster.
pub(crate) fn reference(object: &DynamicObject, kind: &str) -> ResourceRef {
    ResourceRef {
        kind: kind.to_owned(),
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
    }
}

/// The value of a label of any object.
pub(crate) fn label<'a, K: Resource>(object: &'a K, key: &str) -> Option<&'a str> {
    let labels = object.meta().labels.as_ref()?;
    labels.get(key).map(String::as_str)
}

/// The name of any object.
pub(crate) fn name<K: Resource>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

/// Whether a namespace is one whose pods are injected.
pub(crate) fn is_injected(namespace: &Namespace) -> bool {
    use linnet_mesh::names::label;
    let ours = self::label(namespace, label::INJECT);
    let istio = self::label(namespace, label::ISTIO_INJECTION);
    ours != Some("disabled")
        && istio != Some("disabled")
        && (ours == Some("enabled") || istio == Some("enabled"))
}
