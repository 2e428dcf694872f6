//! A pod as typed values, for reading only.
//!
//! What is written goes to the pod's JSON by [`crate::patch`]: a field that this
//! build's Kubernetes types don't know survives there and would be lost here.

use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use linnet_admission::review::shorten;
use serde::Deserialize;
use serde_json::Value;

/// The longest name that a message repeats, in bytes; Kubernetes has no longer one.
const LONGEST_NAME: usize = 253;

/// The metadata and the spec of a pod, or of a pod template.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PodView {
    /// Labels, annotations, names.
    #[serde(default, deserialize_with = "null_as_default")]
    pub metadata: ObjectMeta,
    /// The spec.
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: PodSpec,
}

/// The JSON is not a pod's.
#[derive(Debug, thiserror::Error)]
#[error("not a pod: {0}")]
pub struct NotAPod(#[from] serde_json::Error);

impl PodView {
    /// Reads a pod's JSON.
    pub fn parse(pod: &Value) -> Result<Self, NotAPod> {
        Ok(Self::deserialize(pod)?)
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        let labels = self.metadata.labels.as_ref()?;
        labels.get(name).map(String::as_str)
    }

    /// The value of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        let annotations = self.metadata.annotations.as_ref()?;
        annotations.get(name).map(String::as_str)
    }

    /// The init containers; none if absent.
    pub fn init_containers(&self) -> &[Container] {
        self.spec.init_containers.as_deref().unwrap_or_default()
    }

    /// Containers and init containers.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers().iter().chain(&self.spec.containers)
    }

    /// Whether a container or init container has this name.
    pub fn has_container(&self, name: &str) -> bool {
        self.all_containers()
            .any(|container| container.name == name)
    }

    /// The name to call the pod by in a message; a pod of a controller has none
    /// yet while it is being created.
    pub fn display_name(&self) -> String {
        let short = |name: &str| shorten(name, LONGEST_NAME).into_owned();
        match (&self.metadata.name, &self.metadata.generate_name) {
            (Some(name), _) if !name.is_empty() => short(name),
            (_, Some(prefix)) => format!("{}<generated>", short(prefix)),
            _ => "<unnamed>".to_owned(),
        }
    }
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
