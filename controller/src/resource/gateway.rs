//! Kinds of the Gateway API that speak of services (GAMMA): HTTPRoute and
//! GRPCRoute.
//!
//! Types of our own, since one filter or reference looks alike wherever it
//! stands; and text where the API has a list of values, so that a value of
//! tomorrow is a remark on one rule and not a resource that can't be read.

use serde::{Deserialize, Serialize};

/// What an HTTPRoute says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// What it attaches to.
    pub parent_refs: Vec<ParentReference>,
    /// Hosts; a mesh goes by the service that is called.
    pub hostnames: Vec<String>,
    /// The rules.
    pub rules: Vec<HttpRouteRule>,
}

/// What a GRPCRoute says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcRouteSpec {
    /// What it attaches to.
    pub parent_refs: Vec<ParentReference>,
    /// Hosts; a mesh goes by the service that is called.
    pub hostnames: Vec<String>,
    /// The rules.
    pub rules: Vec<GrpcRouteRule>,
}

/// What a route attaches to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ParentReference {
    /// `gateway.networking.k8s.io` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `Gateway` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The route's own by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// A port's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// A port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
}

/// A rule of an HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteRule {
    /// Its name.
    pub name: Option<String>,
    /// Any of these.
    pub matches: Vec<HttpRouteMatch>,
    /// What happens to a request.
    pub filters: Vec<RouteFilter>,
    /// Where it goes.
    pub backend_refs: Vec<BackendReference>,
    /// How long it may take.
    pub timeouts: Option<RouteTimeouts>,
    /// When it is sent again.
    pub retry: Option<RouteRetry>,
}

/// A rule of a GRPCRoute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcRouteRule {
    /// Its name.
    pub name: Option<String>,
    /// Any of these.
    pub matches: Vec<GrpcRouteMatch>,
    /// What happens to a request.
    pub filters: Vec<RouteFilter>,
    /// Where it goes.
    pub backend_refs: Vec<BackendReference>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteMatch {
    /// The path.
    pub path: Option<PathMatch>,
    /// Headers.
    pub headers: Vec<NamedMatch>,
    /// Query parameters.
    pub query_params: Vec<NamedMatch>,
    /// The method.
    pub method: Option<String>,
}

/// A condition on a path.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PathMatch {
    /// `Exact`, `PathPrefix` (by default) or `RegularExpression`.
    pub r#type: Option<String>,
    /// `/` by default.
    pub value: Option<String>,
}

/// A condition on a header or query parameter.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NamedMatch {
    /// `Exact` (by default) or `RegularExpression`.
    pub r#type: Option<String>,
    /// Whose value.
    pub name: String,
    /// The value.
    pub value: String,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GrpcRouteMatch {
    /// What is called.
    pub method: Option<MethodMatch>,
    /// Headers.
    pub headers: Vec<NamedMatch>,
}

/// A condition on what is called.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct MethodMatch {
    /// `Exact` (by default) or `RegularExpression`.
    pub r#type: Option<String>,
    /// The service, with its package.
    pub service: Option<String>,
    /// The method.
    pub method: Option<String>,
}

/// What happens to a request or its response: the one thing that `type` names.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteFilter {
    /// Which of them.
    pub r#type: String,
    /// Edits the request's headers.
    pub request_header_modifier: Option<HeaderModifier>,
    /// Edits the response's headers.
    pub response_header_modifier: Option<HeaderModifier>,
    /// Sends copies elsewhere.
    pub request_mirror: Option<RequestMirror>,
    /// Answers with a redirect.
    pub request_redirect: Option<RequestRedirect>,
    /// Changes what is asked for.
    pub url_rewrite: Option<UrlRewrite>,
    /// Who may call from a browser.
    pub cors: Option<CorsFilter>,
}

/// Who may call from a browser, and how.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CorsFilter {
    /// The origins that may.
    pub allow_origins: Vec<String>,
    /// Whether with cookies and the like.
    pub allow_credentials: Option<bool>,
    /// The methods they may use.
    pub allow_methods: Vec<String>,
    /// The request headers they may set.
    pub allow_headers: Vec<String>,
    /// The response headers they see.
    pub expose_headers: Vec<String>,
    /// For how long a preflight's answer holds, seconds; 5 by default.
    pub max_age: Option<i64>,
}

/// Header edits.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HeaderModifier {
    /// Headers to replace.
    pub set: Vec<RouteHeader>,
    /// Values to append.
    pub add: Vec<RouteHeader>,
    /// Headers to take away.
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RouteHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Where copies go, and of which share of the requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestMirror {
    /// Where.
    pub backend_ref: BackendReference,
    /// Of a hundred.
    pub percent: Option<i64>,
    /// As a fraction.
    pub fraction: Option<Fraction>,
}

/// A share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Fraction {
    /// Of so many.
    pub numerator: i64,
    /// 100 by default.
    pub denominator: Option<i64>,
}

/// Where a caller is to ask instead.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestRedirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathModifier>,
    /// The port.
    pub port: Option<i64>,
    /// 302 by default.
    pub status_code: Option<i64>,
}

/// What is asked for instead.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct UrlRewrite {
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathModifier>,
}

/// A new path.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PathModifier {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    pub r#type: String,
    /// This path.
    pub replace_full_path: Option<String>,
    /// This in the place of the matched prefix.
    pub replace_prefix_match: Option<String>,
}

/// Where requests go.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct BackendReference {
    /// The core group by default.
    pub group: Option<String>,
    /// `Service` by default.
    pub kind: Option<String>,
    /// The route's own by default.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its port; a Service needs one.
    pub port: Option<i64>,
    /// Relative weight, 1 by default.
    pub weight: Option<i64>,
    /// What happens to requests that go there.
    pub filters: Vec<RouteFilter>,
}

/// How long requests may take; `0s`: for ever.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteTimeouts {
    /// The whole exchange.
    pub request: Option<String>,
    /// One attempt.
    pub backend_request: Option<String>,
}

/// When a request is sent again.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RouteRetry {
    /// Statuses to retry on.
    pub codes: Vec<i64>,
    /// Times at most, besides the first.
    pub attempts: Option<i64>,
    /// The wait between attempts.
    pub backoff: Option<String>,
}
