//! `PeerAuthentication` (security.istio.io): whether a workload takes plaintext.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Says whether workloads take plaintext, mutual TLS or both.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "security.istio.io",
    version = "v1",
    kind = "PeerAuthentication",
    plural = "peerauthentications",
    shortname = "pa",
    category = "istio-io",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct PeerAuthenticationSpec {
    /// The workloads meant; absent: all of the namespace, or of the mesh where
    /// the namespace is the root.
    #[serde(default)]
    pub selector: Option<WorkloadSelector>,
    /// The mode.
    #[serde(default)]
    pub mtls: Option<MutualTls>,
    /// Modes of single ports of the workload. Needs a selector.
    #[serde(default)]
    pub port_level_mtls: BTreeMap<String, MutualTls>,
}

/// Selects workloads by label.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// Labels that a pod must carry, all of them.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// A mode of mutual TLS.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MutualTls {
    /// `UNSET` (inherit), `DISABLE`, `PERMISSIVE` or `STRICT`.
    #[serde(default)]
    pub mode: Option<String>,
}
