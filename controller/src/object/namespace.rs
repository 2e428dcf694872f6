//! Namespaces: what their annotations say of all their pods.

use super::{AccessLogSetting, Name, cluster::access_log};
use k8s_openapi::api::core::v1 as core;

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name, in no namespace.
    pub name: Name,
    /// What its pods' sidecars are to write of requests and connections, if it
    /// says so.
    pub access_log: Option<AccessLogSetting>,
}

impl From<core::Namespace> for Namespace {
    fn from(namespace: core::Namespace) -> Self {
        let annotations = namespace.metadata.annotations.unwrap_or_default();
        let name = Name::new("", namespace.metadata.name.unwrap_or_default());
        Self {
            access_log: access_log("Namespace", &name, &annotations),
            name,
        }
    }
}
