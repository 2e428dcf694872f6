//! Why a request goes where it goes, and why it is let in: answers of the admin
//! endpoints `POST /why`, `POST /why/inbound` and `GET /authorization`, as types
//! that `linnet` reads too.
//!
//! Routes and policies are evaluated by the functions that the data path calls;
//! nothing is sent, and no data thread is asked: what they see of endpoints is
//! read from counters that each writes for all.

mod inbound;
mod outbound;
mod words;

pub(crate) use inbound::{authorization, explain as explain_inbound};
pub(crate) use outbound::Explainer;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// A request that is asked about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboundQuestion {
    /// The method; GET where it is left out.
    #[serde(default)]
    pub method: Option<String>,
    /// `http://payment/charge?x=1`, as the application would call it.
    pub url: String,
    /// Headers.
    #[serde(default)]
    pub headers: BTreeMap<String, Values>,
}

/// One value of a header, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Values {
    /// One.
    One(String),
    /// Several, in order.
    Many(Vec<String>),
}

/// What becomes of a request that the workload sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboundAnswer {
    /// Who sends it.
    pub caller: Caller,
    /// What its host is.
    pub destination: Destination,
    /// The rules that were looked at; none where the service has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// What the rule does besides choosing a backend, in the order it acts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Where it may go, by weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// The end of the chain.
    pub outcome: Outcome,
}

/// The workload whose sidecar was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Its pod, as discovery names it; may be empty.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// The SPIFFE ID of its certificate; `None`: it has none yet.
    pub identity: Option<String>,
}

/// What a host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// As it was asked for.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What its name resolves to in the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// What that is.
    pub kind: DestinationKind,
    /// The service's `namespace/name:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What it declares to speak.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// What a destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationKind {
    /// A port of a service.
    Service,
    /// One pod, by its own address.
    Endpoint,
    /// Nothing that the mesh knows: forwarded as it is.
    External,
    /// Its name resolves to nothing, or nobody says what it is.
    Unknown,
}

/// The rules of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Each rule that was looked at, in order; the last is the one that
    /// matches, if any does.
    pub rules: Vec<Rule>,
    /// How many rules there are.
    pub total: usize,
}

/// A rule that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The resource it stands in.
    pub resource: String,
    /// Its place among the resource's rules, from 0.
    pub number: u32,
    /// Its name, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it matches.
    pub matched: bool,
    /// For each of its alternatives the first condition that does not hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<String>,
}

/// Something that is done to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// `timeout`, `retries`, …
    pub name: String,
    /// What it does.
    pub does: String,
}

/// A backend of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// The service's `namespace/name:port`; for a pod called by its own address
    /// that address.
    pub service: String,
    /// The subset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// Its share of the requests, percent.
    pub percent: f64,
    /// Why it can't be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What a request that draws it is answered where it can't be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What is done to its requests and their responses alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// How an endpoint is chosen and called, where a policy says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Filter>,
    /// The request as it leaves for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<SentRequest>,
    /// Where it may go.
    pub endpoints: Vec<Endpoint>,
}

/// A request's head after all edits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentRequest {
    /// The method.
    pub method: String,
    /// `Host` or `:authority`.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: BTreeMap<String, Values>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Where.
    pub address: SocketAddr,
    /// Its pod; may be empty.
    pub pod: String,
    /// Its namespace; may be empty.
    pub namespace: String,
    /// How it is.
    pub state: EndpointState,
    /// What else is to be said of its state: until when it is ejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Requests on their way, of all data threads of this sidecar.
    pub in_flight: u32,
    /// How long its answers take of late, by the data thread that finds it slowest,
    /// milliseconds; `None`: nobody has called it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// What it must prove by mutual TLS; `None`: it is called in plaintext.
    pub identity: Option<String>,
}

/// How an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// It takes requests.
    Healthy,
    /// It is left alone for a while, since it failed.
    Ejected,
    /// On its way out: takes requests only where nobody else can.
    Terminating,
}

/// The end of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Whether the request leaves for an endpoint.
    pub sent: bool,
    /// What becomes of it.
    pub text: String,
}

/// A request, or a connection that is not HTTP, that arrives at the workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboundQuestion {
    /// The caller's SPIFFE ID; `None`: it calls in plaintext.
    #[serde(default)]
    pub identity: Option<String>,
    /// The caller's address.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// The port that the application listens on.
    pub port: u16,
    /// The method; `None`: it is not HTTP.
    #[serde(default)]
    pub method: Option<String>,
    /// `Host` or `:authority`.
    #[serde(default)]
    pub authority: String,
    /// The path as sent.
    #[serde(default)]
    pub path: String,
    /// Headers.
    #[serde(default)]
    pub headers: BTreeMap<String, Values>,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InboundAnswer {
    /// The workload's pod; may be empty.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// The port.
    pub port: u16,
    /// What mutual TLS says.
    pub mtls: Mtls,
    /// For whom its token speaks, or why the token is refused; `None`: it has none,
    /// or nobody looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What each policy says, in the order they are asked.
    pub policies: Vec<PolicyAnswer>,
    /// Whether it gets through.
    pub allowed: bool,
    /// What decided: a policy and rule, `no ALLOW rule matched`, or mutual TLS.
    pub by: String,
    /// What would decide if the policies in dry run were in force; only where
    /// they would deny.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<String>,
    /// The AUDIT rule that notes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audited: Option<String>,
}

/// The mode of mutual TLS on a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mtls {
    /// STRICT, PERMISSIVE or DISABLE.
    pub mode: String,
    /// The resource that says so, or `the default`.
    pub source: String,
    /// Whether the caller satisfies it.
    pub satisfied: bool,
}

/// What a policy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAnswer {
    /// The resource.
    pub resource: String,
    /// ALLOW, DENY, AUDIT or CUSTOM.
    pub action: String,
    /// It blocks nothing.
    pub dry_run: bool,
    /// The rule that fits; `None`: the policy does not apply.
    pub rule: Option<usize>,
    /// Why the rules before that one, or all, do not fit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<String>,
}

/// Who may call a workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    /// The workload's pod; may be empty.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// The mode of ports that have none of their own.
    pub mtls: Mode,
    /// Ports with a mode of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<u16, String>,
    /// Each rule of each policy, in the order they are asked. A policy without
    /// rules is one entry without a rule.
    pub rules: Vec<AuthorizationRule>,
    /// What is written of requests and connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
}

/// What a sidecar writes of what its workload is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessLog {
    /// off, denied or all.
    pub scope: String,
    /// The share that is written of what was let through, from 0 to 1.
    pub sample: f64,
    /// What that must fit to be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// json or text.
    pub format: String,
}

/// A mode of mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mode {
    /// STRICT, PERMISSIVE or DISABLE.
    pub mode: String,
    /// The resource that says so, or `the default`.
    pub source: String,
}

/// A rule of a policy, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationRule {
    /// The policy.
    pub resource: String,
    /// ALLOW, DENY, AUDIT or CUSTOM.
    pub action: String,
    /// It blocks nothing.
    pub dry_run: bool,
    /// Its place in `spec.rules`; `None`: the policy has no rules, so it fits nobody.
    pub rule: Option<usize>,
    /// Who calls: one of these.
    pub from: Vec<String>,
    /// What is called: one of these.
    pub to: Vec<String>,
    /// Further conditions, all of these.
    pub when: Vec<String>,
    /// It says something that can't be evaluated, so it allows nobody.
    pub void: bool,
}

/// A question that can't be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub(crate) struct Invalid {
    field: &'static str,
    reason: String,
}

impl Invalid {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "most reasons are made for it, or are errors in a map_err"
    )]
    fn new(field: &'static str, reason: impl ToString) -> Self {
        Self {
            field,
            reason: reason.to_string(),
        }
    }
}

fn method(text: &str) -> Result<Method, Invalid> {
    Method::from_bytes(text.as_bytes()).map_err(|error| Invalid::new("method", error))
}

fn header_map(headers: &BTreeMap<String, Values>) -> Result<HeaderMap, Invalid> {
    let mut map = HeaderMap::new();
    for (name, values) in headers {
        let invalid = |what: &str| Invalid::new("headers", format!("{name:?} {what}"));
        let key = HeaderName::from_bytes(name.as_bytes());
        let key = key.map_err(|_| invalid("is not a header's name"))?;
        let values = match values {
            Values::One(value) => std::slice::from_ref(value),
            Values::Many(values) => values,
        };
        for value in values {
            let value = HeaderValue::from_str(value);
            map.append(
                &key,
                value.map_err(|_| invalid("has a value that can't be sent"))?,
            );
        }
    }
    Ok(map)
}

/// The reverse of [`header_map`].
fn header_values(map: &HeaderMap) -> BTreeMap<String, Values> {
    map.keys()
        .map(|name| {
            let values = map.get_all(name).iter();
            let mut values: Vec<String> = values
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect();
            let values = if values.len() == 1 {
                Values::One(values.remove(0))
            } else {
                Values::Many(values)
            };
            (name.to_string(), values)
        })
        .collect()
}
