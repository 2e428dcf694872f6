//! `Telemetry` (telemetry.istio.io): what sidecars write of requests.

use super::WorkloadSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Says what sidecars write of requests and connections.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "telemetry.istio.io",
    version = "v1",
    kind = "Telemetry",
    plural = "telemetries",
    shortname = "telemetry",
    category = "istio-io",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct TelemetrySpec {
    /// The workloads meant; absent: all of the namespace, or of the mesh where
    /// the namespace is the root.
    #[serde(default)]
    pub selector: Option<WorkloadSelector>,
    /// What is written, each entry on top of those before.
    #[serde(default)]
    pub access_logging: Vec<AccessLogging>,
}

/// What is written of requests and connections.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessLogging {
    /// The directions meant; absent: both.
    #[serde(default, rename = "match")]
    pub matches: Option<AccessLoggingMatch>,
    /// Where it goes; none: where the entries before said.
    #[serde(default)]
    pub providers: Vec<TelemetryProvider>,
    /// Nothing is written.
    #[serde(default)]
    pub disabled: Option<bool>,
    /// Which are written; absent: all.
    #[serde(default)]
    pub filter: Option<AccessLoggingFilter>,
}

/// A direction.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessLoggingMatch {
    /// `CLIENT`, `SERVER` or `CLIENT_AND_SERVER`.
    #[serde(default)]
    pub mode: Option<String>,
}

/// Where something goes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TelemetryProvider {
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// Which requests and connections are written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessLoggingFilter {
    /// A condition in CEL.
    #[serde(default)]
    pub expression: String,
}
