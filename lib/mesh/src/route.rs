//! HTTP routes: matching a request and drawing a backend, as pure functions.
//!
//! Randomness comes in as a number, so that `linnet why`, a test and the data
//! path decide alike.

mod answer;
mod cors;
pub mod explain;
mod fault;
mod filter;
pub mod grpc;
mod retry;
mod tcp;

pub use answer::{Answer, DirectResponse, Redirect, RedirectPath};
pub use cors::{Cors, OriginMatch, UnmatchedPreflights};
pub use explain::Mismatch;
pub use fault::{Abort, AbortStatus, Delay, Fault, Share};
pub use filter::{Filters, HeaderEdits, HeaderFilters, Mirror, PathRewrite, Rewrite, RewriteError};
pub use retry::{Outcome, RetryOn, RetryPolicy};
pub use tcp::{ConnectionMatch, ConnectionParts, TcpRoutes, TcpRule};

use crate::{
    ResourceRef, ServicePort, field,
    regexes::{Budget, Regex, RegexError},
};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// What a proxy that ends TLS says of the client's scheme.
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The schemes of HTTP.
const SCHEMES: [&str; 2] = ["http", "https"];

/// The rules of one service port, in order: the first that matches decides.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoutes {
    /// The resources they come from: several HTTPRoutes make one list.
    pub sources: Vec<Arc<ResourceRef>>,
    /// The rules.
    pub rules: Vec<HttpRule>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRule {
    /// The resource it stands in.
    pub source: Arc<ResourceRef>,
    /// Its place among that resource's rules, from 0: not every rule of a
    /// resource is for every port and caller.
    pub position: u32,
    /// Its name, where the resource gives one.
    pub name: Option<String>,
    /// Any of these; none matches everything.
    pub matches: Vec<RequestMatch>,
    /// Where matching requests go, by weight.
    pub backends: Vec<Backend>,
    /// What else happens to them.
    pub filters: Filters,
}

impl fmt::Display for HttpRule {
    /// As an error or a log names it: resource, and place or name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, rule {}", self.source, self.position)?;
        match &self.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestMatch {
    /// The path, without the query.
    pub path: Option<StringMatch>,
    /// Compare an exact path or a prefix without ASCII case.
    pub ignore_path_case: bool,
    /// The method.
    pub method: Option<StringMatch>,
    /// `Host` or `:authority`.
    pub authority: Option<StringMatch>,
    /// `http` or `https`.
    pub scheme: Option<StringMatch>,
    /// Headers.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters, by name; the first of several counts.
    pub query: Vec<(String, QueryMatch)>,
    /// The caller's own labels; looked at when the rules arrive
    /// ([`Service::of_workload`](crate::Service::of_workload)).
    pub source_labels: BTreeMap<String, String>,
}

/// A condition on a query parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryMatch {
    /// It is there.
    Present,
    /// Its value, as sent.
    Value(StringMatch),
}

/// A condition on one header.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMatch {
    /// The header's name.
    pub name: HeaderName,
    /// What its value must be; `None`: it must be present.
    pub value: Option<StringMatch>,
    /// The opposite must hold (Istio's `withoutHeaders`).
    pub negate: bool,
}

/// A condition on text.
#[derive(Clone, Debug)]
pub enum StringMatch {
    /// The same text.
    Exact(String),
    /// Text that starts so, raw (not by path segment).
    Prefix(String),
    /// A path that starts with these segments, `/` before each and none at the
    /// end: `/a` is before `/a` and `/a/b` but not `/ab`. Empty: any path.
    Segments(String),
    /// Text that matches as a whole.
    Regex(WholeRegex),
}

impl PartialEq for StringMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b))
            | (Self::Prefix(a), Self::Prefix(b))
            | (Self::Segments(a), Self::Segments(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a == b,
            _ => false,
        }
    }
}

/// A regular expression that must match all of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct WholeRegex(Regex);

impl WholeRegex {
    /// Compiles a pattern of RE2's syntax that came from a controller, which has counted it
    /// for its resource.
    ///
    /// # Errors
    /// A pattern that is invalid, or too large when compiled.
    pub fn new(pattern: &str) -> Result<Self, RegexError> {
        Self::within(pattern, &mut Budget::of_resource())
    }

    /// Compiles a pattern of RE2's syntax within a budget.
    ///
    /// # Errors
    /// A pattern that is invalid, or too large when compiled.
    pub fn within(pattern: &str, budget: &mut Budget) -> Result<Self, RegexError> {
        budget.whole(pattern).map(Self)
    }

    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl StringMatch {
    /// Whether `text` satisfies the condition.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == exact,
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Self::Segments(prefix) => text.strip_prefix(prefix.as_str()).is_some_and(ends_segment),
            Self::Regex(whole) => whole.0.is_match(text),
        }
    }

    /// Whether bytes that are not text satisfy the condition. An expression sees a replacement
    /// character for each part that is none.
    fn matches_bytes(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => bytes == exact.as_bytes(),
            Self::Prefix(prefix) => bytes.starts_with(prefix.as_bytes()),
            Self::Segments(prefix) => bytes
                .strip_prefix(prefix.as_bytes())
                .is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/')),
            Self::Regex(_) => self.matches(&String::from_utf8_lossy(bytes)),
        }
    }

    fn matches_ignoring_case(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text.eq_ignore_ascii_case(exact),
            Self::Prefix(prefix) => text
                .as_bytes()
                .get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes())),
            Self::Segments(prefix) => {
                text.split_at_checked(prefix.len())
                    .is_some_and(|(start, rest)| {
                        start.eq_ignore_ascii_case(prefix) && ends_segment(rest)
                    })
            }
            Self::Regex(_) => self.matches(text),
        }
    }
}

/// Whether what follows a prefix does not continue its last segment.
fn ends_segment(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('/')
}

impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "= {text:?}"),
            Self::Prefix(text) => write!(f, "starts with {text:?}"),
            Self::Segments(prefix) => write!(f, "under \"{prefix}/\""),
            Self::Regex(whole) => write!(f, "~ {:?}", whole.as_str()),
        }
    }
}

/// Where a rule sends requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// The service port.
    pub service: ServicePort,
    /// One of its subsets, or all of it.
    pub subset: Option<String>,
    /// Relative weight.
    pub weight: u32,
    /// Set where it can't be resolved: the answer to a request that draws it.
    pub unresolved: Option<Unresolved>,
    /// Header edits, after the rule's own.
    pub headers: HeaderFilters,
}

/// Why a backend can't be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// The status of the answer: a VirtualService's is 503, Gateway API's 500.
    pub status: StatusCode,
    /// What is wrong.
    pub reason: String,
}

/// What a rule looks at in a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestParts<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path without its query.
    pub path: &'a str,
    /// The query, without `?`; empty where there is none.
    pub query: &'a str,
    /// `Host` or `:authority`.
    pub authority: &'a str,
    /// `http` or `https`, by the request's own target.
    pub scheme: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
}

impl<'a> RequestParts<'a> {
    /// The scheme that the client asked by: the first that `x-forwarded-proto` names, where
    /// TLS was ended before the pod, or else the target's own. Routes are followed for a pod's
    /// own application alone, which is believed.
    pub fn scheme(&self) -> &'a str {
        let Some(forwarded) = self.headers.get(&X_FORWARDED_PROTO) else {
            return self.scheme;
        };
        let first = forwarded.as_bytes().split(|byte| *byte == b',').next();
        let first = first.unwrap_or_default().trim_ascii();
        SCHEMES
            .into_iter()
            .find(|scheme| first.eq_ignore_ascii_case(scheme.as_bytes()))
            .unwrap_or(self.scheme)
    }
}

impl HttpRoutes {
    /// The first rule that matches, with its position.
    pub fn rule(&self, request: &RequestParts<'_>) -> Option<(usize, &HttpRule)> {
        self.rules
            .iter()
            .enumerate()
            .find(|(_, rule)| rule.matches(request))
    }
}

/// From when on a rule's timeouts count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimedFrom {
    /// From a request's arrival on: `timeouts` of an HTTPRoute bound the whole of it, streams
    /// included.
    #[default]
    Arrival,
    /// From the moment on when the request has been sent whole, as for Envoy: `timeout` and
    /// `perTryTimeout` of a VirtualService bound neither uploads nor streams that the caller
    /// has not ended.
    Sent,
}

impl HttpRule {
    /// Returns from when on its timeouts count, which its resource's kind decides.
    pub fn timed_from(&self) -> TimedFrom {
        match &*self.source.kind {
            "VirtualService" => TimedFrom::Sent,
            _ => TimedFrom::Arrival,
        }
    }

    /// Whether the rule applies to a request.
    pub fn matches(&self, request: &RequestParts<'_>) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|entry| entry.matches(request))
    }

    /// The condition on the path by which a request matches, if there is one.
    pub fn matched_path(&self, request: &RequestParts<'_>) -> Option<&StringMatch> {
        let mut entries = self.matches.iter();
        entries.find(|entry| entry.matches(request))?.path.as_ref()
    }

    /// The backend that `random` (any number, evenly spread) draws by weight. A
    /// single backend is drawn whatever its weight; of several, one of weight 0
    /// never is.
    pub fn backend(&self, random: u64) -> Option<&Backend> {
        draw(&self.backends, random)
    }
}

fn draw(backends: &[Backend], random: u64) -> Option<&Backend> {
    if let [only] = backends {
        return Some(only);
    }
    let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
    if total == 0 {
        return None;
    }
    // Scales the number to 0..total without the bias of a remainder.
    let mut point = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let drawn = point < weight;
        point = point.saturating_sub(weight);
        drawn
    })
}

impl RequestMatch {
    /// Whether all conditions hold.
    pub fn matches(&self, request: &RequestParts<'_>) -> bool {
        self.mismatch(request).is_none()
    }

    /// The first condition that does not hold: what [`matches`](Self::matches)
    /// decides by and `linnet why` shows.
    pub fn mismatch(&self, request: &RequestParts<'_>) -> Option<Mismatch<'_>> {
        fn failing<'a>(condition: &'a Option<StringMatch>, text: &str) -> Option<&'a StringMatch> {
            condition.as_ref().filter(|wanted| !wanted.matches(text))
        }
        if let Some(path) = &self.path {
            let holds = if self.ignore_path_case {
                path.matches_ignoring_case(request.path)
            } else {
                path.matches(request.path)
            };
            if !holds {
                return Some(Mismatch::Path(path));
            }
        }
        if let Some(wanted) = failing(&self.method, request.method.as_str()) {
            return Some(Mismatch::Method(wanted));
        }
        if let Some(wanted) = failing(&self.authority, request.authority) {
            // A host is the same one in capitals, with a port or with a final dot.
            let bare = field::bare_host(request.authority);
            if !wanted.matches_ignoring_case(request.authority)
                && !wanted.matches_ignoring_case(bare)
            {
                return Some(Mismatch::Authority(wanted));
            }
        }
        if let Some(wanted) = &self.scheme
            && !wanted.matches(request.scheme())
        {
            return Some(Mismatch::Scheme(wanted));
        }
        let mut headers = self.headers.iter();
        if let Some(wanted) = headers.find(|header| !header.matches(request.headers)) {
            return Some(Mismatch::Header(wanted));
        }
        let mut query = self.query.iter();
        let (name, wanted) = query.find(|(name, wanted)| !wanted.matches(name, request.query))?;
        Some(Mismatch::Query(name, wanted))
    }
}

impl QueryMatch {
    /// Whether the condition on the parameter `name` holds. Parameters are
    /// compared as they were sent, percent-encoding included.
    pub fn matches(&self, name: &str, query: &str) -> bool {
        match (self, Self::value(name, query)) {
            (_, None) => false,
            (Self::Present, Some(_)) => true,
            (Self::Value(condition), Some(value)) => condition.matches(value),
        }
    }

    /// The first value of the parameter `name`.
    fn value<'a>(name: &str, query: &'a str) -> Option<&'a str> {
        let mut pairs = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

impl HeaderMatch {
    /// Whether the condition holds. Several values of one header are joined
    /// ([`field::joined`]) and compared byte by byte. A value that is not text (UTF-8) may have
    /// a prefix or match an expression, as in Envoy, but never fulfils a negation: some reader
    /// takes its bytes for other letters, and what is to be kept away would pass.
    pub fn matches(&self, headers: &HeaderMap) -> bool {
        let Some(value) = field::joined(headers, &self.name) else {
            return self.negate;
        };
        let Some(condition) = &self.value else {
            return !self.negate;
        };
        match str::from_utf8(&value) {
            Ok(text) => condition.matches(text) != self.negate,
            Err(_) => !self.negate && condition.matches_bytes(&value),
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
