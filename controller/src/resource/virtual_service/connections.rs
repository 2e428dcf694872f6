//! `spec.tls` and `spec.tcp`: rules for connections that are not HTTP.

use super::Destination;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One rule for TLS connections.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsRoute {
    /// When the rule applies: any of these.
    #[serde(default, rename = "match")]
    pub matches: Vec<TlsMatch>,
    /// Where connections go, by weight.
    #[serde(default)]
    pub route: Vec<RouteDestination>,
}

/// Conditions on a TLS connection that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsMatch {
    /// Names that a client asks for (SNI), exact or `*.` and a domain.
    #[serde(default)]
    pub sni_hosts: Vec<String>,
    /// Where the connection was to go: addresses or CIDR blocks.
    #[serde(default)]
    pub destination_subnets: Vec<String>,
    /// The service's port.
    #[serde(default)]
    pub port: Option<i64>,
    /// The caller's labels.
    #[serde(default)]
    pub source_labels: BTreeMap<String, String>,
    /// The caller's namespace.
    #[serde(default)]
    pub source_namespace: Option<String>,
    /// Where the condition applies; `mesh` means every sidecar.
    #[serde(default)]
    pub gateways: Vec<String>,
}

/// One rule for connections.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpRoute {
    /// When the rule applies: any of these; none: always.
    #[serde(default, rename = "match")]
    pub matches: Vec<L4Match>,
    /// Where connections go, by weight.
    #[serde(default)]
    pub route: Vec<RouteDestination>,
}

/// Conditions on a connection that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct L4Match {
    /// Where the connection was to go: addresses or CIDR blocks.
    #[serde(default)]
    pub destination_subnets: Vec<String>,
    /// The service's port.
    #[serde(default)]
    pub port: Option<i64>,
    /// The caller's labels.
    #[serde(default)]
    pub source_labels: BTreeMap<String, String>,
    /// The caller's namespace.
    #[serde(default)]
    pub source_namespace: Option<String>,
    /// Where the condition applies; `mesh` means every sidecar.
    #[serde(default)]
    pub gateways: Vec<String>,
}

/// A destination of connections and its share.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteDestination {
    /// Where to.
    pub destination: Destination,
    /// The share relative to the others'.
    #[serde(default)]
    pub weight: Option<i64>,
}
