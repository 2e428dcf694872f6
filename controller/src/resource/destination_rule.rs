//! `DestinationRule` (networking.istio.io): the subsets of a host.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Defines the subsets of a host.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "DestinationRule",
    plural = "destinationrules",
    shortname = "dr",
    category = "istio-io",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    /// The host. A short name is a service of the resource's own namespace.
    #[serde(default)]
    pub host: String,
    /// Named sets of the host's endpoints.
    #[serde(default)]
    pub subsets: Vec<Subset>,
    /// Namespaces whose workloads see the rule: `*` (the default), `.` (the
    /// resource's own) or names.
    #[serde(default)]
    pub export_to: Vec<String>,
}

/// A named set of endpoints.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subset {
    /// The name that routes refer to.
    #[serde(default)]
    pub name: String,
    /// The labels a pod must carry to belong to it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}
