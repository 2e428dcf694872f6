//! `MeshPolicy` (authentication.istio.io): the mesh-wide mode as the first
//! versions of that API wrote it.

use super::MutualTls;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The mesh-wide mode of mutual TLS.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "authentication.istio.io",
    version = "v1alpha1",
    kind = "MeshPolicy",
    plural = "meshpolicies",
    category = "istio-io"
)]
#[serde(rename_all = "camelCase")]
pub struct MeshPolicySpec {
    /// The ways a peer may authenticate; the first that names `mtls` counts.
    #[serde(default)]
    pub peers: Vec<PeerMethod>,
}

/// A way to authenticate a peer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerMethod {
    /// Mutual TLS; without a mode it means STRICT.
    #[serde(default)]
    pub mtls: Option<MutualTls>,
}
