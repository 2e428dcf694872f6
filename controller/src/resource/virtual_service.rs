//! `VirtualService` (networking.istio.io): how requests to a host are routed.

mod connections;

pub use connections::{L4Match, RouteDestination, TcpRoute, TlsMatch, TlsRoute};

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
    /// Rules for TLS connections that are passed through, by the name that a
    /// client asks for; the first that matches decides.
    #[serde(default)]
    pub tls: Vec<TlsRoute>,
    /// Rules for other connections, the first that matches decides.
    #[serde(default)]
    pub tcp: Vec<TcpRoute>,
    /// Namespaces whose workloads follow the rules: `*` (the default), `.`
    /// (the resource's own) or names.
    #[serde(default)]
    pub export_to: Vec<String>,
}

/// Another VirtualService.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delegate {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its namespace; empty: the resource's own.
    #[serde(default)]
    pub namespace: String,
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
    /// The caller is to ask elsewhere.
    #[serde(default)]
    pub redirect: Option<HttpRedirect>,
    /// A fixed response.
    #[serde(default)]
    pub direct_response: Option<HttpDirectResponse>,
    /// A VirtualService without hosts, whose rules stand in this one's place.
    #[serde(default)]
    pub delegate: Option<Delegate>,
    /// A new path or authority for what is forwarded.
    #[serde(default)]
    pub rewrite: Option<HttpRewrite>,
    /// Edits of request and response headers.
    #[serde(default)]
    pub headers: Option<Headers>,
    /// How long an exchange may take; none unless set.
    #[serde(default)]
    pub timeout: Option<String>,
    /// Faults to inject.
    #[serde(default)]
    pub fault: Option<HttpFault>,
    /// When a request is sent again; twice, where nobody has seen it, unless set.
    #[serde(default)]
    pub retries: Option<HttpRetry>,
    /// A destination that gets copies, whose answers are dropped.
    #[serde(default)]
    pub mirror: Option<Destination>,
    /// Of which share of the requests; all unless set.
    #[serde(default)]
    pub mirror_percentage: Option<Percentage>,
    /// The same, whole, as older resources have it.
    #[serde(default, alias = "mirror_percent")]
    pub mirror_percent: Option<i64>,
    /// Several destinations that get copies.
    #[serde(default)]
    pub mirrors: Vec<HttpMirror>,
    /// Who may call from a browser.
    #[serde(default)]
    pub cors_policy: Option<CorsPolicy>,
}

/// Who may call from a browser, and how.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CorsPolicy {
    /// The origins that may: exact, by prefix or regex; exact `*` is all of them.
    #[serde(default)]
    pub allow_origins: Vec<StringMatch>,
    /// The same, exact, as older resources have it.
    #[serde(default)]
    pub allow_origin: Vec<String>,
    /// The methods they may use.
    #[serde(default)]
    pub allow_methods: Vec<String>,
    /// The request headers they may set.
    #[serde(default)]
    pub allow_headers: Vec<String>,
    /// The response headers they see.
    #[serde(default)]
    pub expose_headers: Vec<String>,
    /// For how long a browser may remember the answer to a preflight.
    #[serde(default)]
    pub max_age: Option<String>,
    /// Whether a browser may send cookies and the like.
    #[serde(default)]
    pub allow_credentials: Option<bool>,
    /// Preflights of other origins: `FORWARD` (the default) or `IGNORE`.
    #[serde(default)]
    pub unmatched_preflights: Option<String>,
}

/// A destination that gets copies.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpMirror {
    /// Where to.
    pub destination: Destination,
    /// Of which share of the requests; all unless set.
    #[serde(default)]
    pub percentage: Option<Percentage>,
}

/// When a request is sent again.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRetry {
    /// Times at most, besides the first; 0: never.
    #[serde(default)]
    pub attempts: i64,
    /// How long one attempt may take to the response's head.
    #[serde(default)]
    pub per_try_timeout: Option<String>,
    /// After what: Envoy's conditions and statuses, separated by commas.
    #[serde(default)]
    pub retry_on: Option<String>,
    /// The base of the wait between attempts, 25 ms unless set.
    #[serde(default)]
    pub backoff: Option<String>,
    /// Another endpoint each time, while there are others; true unless set.
    #[serde(default)]
    pub retry_ignore_previous_hosts: Option<bool>,
    /// Whether a retry may go to another locality.
    #[serde(default)]
    pub retry_remote_localities: Option<bool>,
}

/// A redirect.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRedirect {
    /// The path; `%PREFIX()%` in front puts it in the place of the matched prefix.
    #[serde(default)]
    pub uri: Option<String>,
    /// The host.
    #[serde(default)]
    pub authority: Option<String>,
    /// The port.
    #[serde(default)]
    pub port: Option<i64>,
    /// `FROM_PROTOCOL_DEFAULT` or `FROM_REQUEST_PORT`.
    #[serde(default)]
    pub derive_port: Option<String>,
    /// `http` or `https`.
    #[serde(default)]
    pub scheme: Option<String>,
    /// 301 (the default), 302, 303, 307 or 308.
    #[serde(default)]
    pub redirect_code: Option<i64>,
}

/// A fixed response.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpDirectResponse {
    /// Its status.
    pub status: i64,
    /// Its body.
    #[serde(default)]
    pub body: Option<HttpBody>,
}

/// A body: one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpBody {
    /// Text.
    #[serde(default)]
    pub string: Option<String>,
    /// Base64.
    #[serde(default)]
    pub bytes: Option<String>,
}

/// A new path or authority.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRewrite {
    /// In the place of the matched prefix, or of the whole path.
    #[serde(default)]
    pub uri: Option<String>,
    /// The authority.
    #[serde(default)]
    pub authority: Option<String>,
    /// A rewrite of the path by regular expression.
    #[serde(default)]
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// A rewrite by regular expression.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegexRewrite {
    /// The expression, RE2 syntax.
    #[serde(rename = "match")]
    pub pattern: String,
    /// What stands in its place; `\1` is its first group.
    pub rewrite: String,
}

/// Edits of request and response headers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Headers {
    /// Of the request.
    #[serde(default)]
    pub request: Option<HeaderOperations>,
    /// Of the response.
    #[serde(default)]
    pub response: Option<HeaderOperations>,
}

/// Edits of a message's headers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderOperations {
    /// Headers to replace.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Values to append.
    #[serde(default)]
    pub add: BTreeMap<String, String>,
    /// Headers to take away.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// Faults to inject.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpFault {
    /// Wait first.
    #[serde(default)]
    pub delay: Option<FaultDelay>,
    /// Then answer this.
    #[serde(default)]
    pub abort: Option<FaultAbort>,
}

/// A delay.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultDelay {
    /// How long.
    #[serde(default)]
    pub fixed_delay: Option<String>,
    /// The share of requests; none unless set.
    #[serde(default)]
    pub percentage: Option<Percentage>,
    /// The same, whole, as older resources have it.
    #[serde(default)]
    pub percent: Option<i64>,
    /// A delay that grows; nothing has ever acted on it.
    #[serde(default)]
    pub exponential_delay: Option<String>,
}

/// An answer instead of the backend's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultAbort {
    /// An HTTP status.
    #[serde(default)]
    pub http_status: Option<i64>,
    /// A gRPC status, by name or number.
    #[serde(default)]
    pub grpc_status: Option<String>,
    /// An HTTP/2 error; nothing has ever acted on it.
    #[serde(default, alias = "http2_error")]
    pub http2_error: Option<String>,
    /// The share of requests; none unless set.
    #[serde(default)]
    pub percentage: Option<Percentage>,
}

/// A share of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Percentage {
    /// Percent, from 0 to 100.
    #[serde(default)]
    pub value: f64,
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
    /// Query parameters that must match; an empty condition means presence.
    #[serde(default)]
    pub query_params: BTreeMap<String, StringMatch>,
    /// Compare an exact path or a prefix without case.
    #[serde(default)]
    pub ignore_uri_case: bool,
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
    /// Edits of request and response headers, after the rule's own.
    #[serde(default)]
    pub headers: Option<Headers>,
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
