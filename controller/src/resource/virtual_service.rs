//! `VirtualService` (networking.istio.io): how requests to a host are routed.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Routes requests for one or more hosts.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "VirtualService",
    plural = "virtualservices",
    shortname = "vs",
    category = "istio-io",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceSpec {
    /// The hosts whose requests are routed. A short name is a service of the
    /// resource's own namespace.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Where the rules apply; `mesh`, the default, means every sidecar.
    #[serde(default)]
    pub gateways: Vec<String>,
    /// Rules for HTTP requests, the first that matches decides.
    #[serde(default)]
    pub http: Vec<HttpRoute>,
    /// Namespaces whose workloads follow the rules: `*` (the default), `.`
    /// (the resource's own) or names.
    #[serde(default)]
    pub export_to: Vec<String>,
}

/// One rule for HTTP requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRoute {
    /// A name, for logs and metrics.
    #[serde(default)]
    pub name: Option<String>,
    /// When the rule applies: any of these; none: always.
    #[serde(default, rename = "match")]
    pub matches: Vec<HttpMatchRequest>,
    /// Where requests go, by weight.
    #[serde(default)]
    pub route: Vec<HttpRouteDestination>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpMatchRequest {
    /// A name, for logs and metrics.
    #[serde(default)]
    pub name: Option<String>,
    /// The path.
    #[serde(default)]
    pub uri: Option<StringMatch>,
    /// `http` or `https`.
    #[serde(default)]
    pub scheme: Option<StringMatch>,
    /// The method.
    #[serde(default)]
    pub method: Option<StringMatch>,
    /// `Host` or `:authority`.
    #[serde(default)]
    pub authority: Option<StringMatch>,
    /// Headers that must match; an empty condition means presence.
    #[serde(default)]
    pub headers: BTreeMap<String, StringMatch>,
    /// Headers that must not match.
    #[serde(default)]
    pub without_headers: BTreeMap<String, StringMatch>,
    /// Compare an exact path or a prefix without case.
    #[serde(default)]
    pub ignore_uri_case: bool,
    /// The service's port.
    #[serde(default)]
    pub port: Option<i64>,
    /// Where the condition applies; `mesh` means every sidecar.
    #[serde(default)]
    pub gateways: Vec<String>,
}

/// A condition on text: one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StringMatch {
    /// The same text.
    #[serde(default)]
    pub exact: Option<String>,
    /// Text that starts so.
    #[serde(default)]
    pub prefix: Option<String>,
    /// Text that matches as a whole, RE2 syntax.
    #[serde(default)]
    pub regex: Option<String>,
}

/// A destination and its share.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteDestination {
    /// Where to.
    pub destination: Destination,
    /// The share relative to the others'.
    #[serde(default)]
    pub weight: Option<i64>,
}

/// A service, or a part of it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// The service. A short name is one of the resource's own namespace.
    pub host: String,
    /// A subset that a DestinationRule of that host defines.
    #[serde(default)]
    pub subset: Option<String>,
    /// The service's port; needed where it has several and the request's isn't meant.
    #[serde(default)]
    pub port: Option<PortSelector>,
}

/// A port by number.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortSelector {
    /// The number.
    pub number: i64,
}
