//! What the controller says of a connected proxy.

use super::stream::Stream;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A connected proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    /// The pod.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Who it is.
    pub identity: String,
    /// The proxy's version.
    pub proxy_version: String,
    /// The version of the last message sent to it.
    pub sent: u64,
    /// The version of the last message that it acknowledged.
    pub acknowledged: u64,
    /// Why it did not put the last message in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// From the last change that concerned it to its acknowledgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub convergence_ms: Option<f64>,
    /// What it asked for.
    pub targets: usize,
    /// What it is told of.
    pub services: usize,
    /// For how long it has been connected.
    pub connected_seconds: u64,
}

impl From<&Stream> for ProxyStatus {
    fn from(stream: &Stream) -> Self {
        let (sent, acknowledged) = stream.versions();
        Self {
            pod: stream.pod.name.to_string(),
            namespace: Arc::clone(stream.client()).to_string(),
            identity: stream.identity.to_string(),
            proxy_version: stream.proxy_version.clone(),
            sent,
            acknowledged,
            error: stream.error.clone(),
            convergence_ms: stream.convergence_ms,
            targets: stream.targets().count(),
            services: stream.services().count(),
            connected_seconds: stream.connected.elapsed().as_secs(),
        }
    }
}
