//! Who may call a workload: `AuthorizationPolicy`, as pure functions.
//!
//! What a rule says that can't be evaluated (an unknown attribute, HTTP's
//! attributes on a connection that is not HTTP) never makes enforcement weaker:
//! it takes an ALLOW rule out, and is left out of a DENY rule, which then denies
//! more. A path is looked at as it was sent and as it is normalised, since the
//! application may go by either: an ALLOW rule must fit both, for a DENY rule
//! one is enough.

mod domains;
pub mod explain;
pub mod path;
pub mod pattern;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::unwrap_used, reason = "the texts are the fuzzer's own")]
#[path = "authorization/tests/reference.rs"]
pub(crate) mod reference;
pub mod rule;

pub use pattern::{Invalid, Match, Pattern, ServiceAccount};
pub use rule::{Condition, Demand, InvalidValue, Operation, Rule, Source};

use crate::{ResourceRef, SpiffeId, authentication::Token};
use explain::Misfit;
use http::HeaderMap;
use rule::View;
use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
};

/// What a policy does with requests that fit one of its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Would ask somebody else; there is nobody to ask, so they are denied.
    Custom,
    /// They are denied.
    Deny,
    /// They are allowed; and what no such policy allows is denied.
    Allow,
    /// They are noted, and nothing else.
    Audit,
}

impl Action {
    /// The action as manifests write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Custom => "CUSTOM",
            Self::Deny => "DENY",
            Self::Allow => "ALLOW",
            Self::Audit => "AUDIT",
        }
    }
}

/// A policy for one workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The resource.
    pub source: ResourceRef,
    /// What it does.
    pub action: Action,
    /// It is evaluated, and blocks nothing.
    pub dry_run: bool,
    /// A request fits if it fits one of these; without any, none does.
    pub rules: Vec<Rule>,
}

/// All policies for one workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies {
    policies: Vec<Policy>,
    dry_run: bool,
    audit: bool,
    by_headers: bool,
    by_http: bool,
}

/// What a connection is known by.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// The caller's verified identity; in plaintext there is none.
    pub identity: Option<&'a SpiffeId>,
    /// The caller's address.
    pub source: IpAddr,
    /// The workload's address and port.
    pub destination: SocketAddr,
    /// The name that the application's own TLS asks for. `None`: nobody knows, since
    /// sidecars tell one another none, and plaintext has none to tell.
    pub server_name: Option<&'a str>,
}

/// What a request is known by.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// The method.
    pub method: &'a str,
    /// `Host` or `:authority`.
    pub authority: &'a str,
    /// The path as it was sent.
    pub path: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// Its token, if it has a valid one.
    pub token: Option<&'a Token>,
}

impl<'a> HttpRequest<'a> {
    /// For whom its token speaks.
    pub fn principal(&self) -> Option<&'a str> {
        self.token?.principal.as_deref()
    }
}

/// Whether a request may pass, and who says so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision<'a> {
    /// Whether it may pass.
    pub allowed: bool,
    /// What decided.
    pub by: By<'a>,
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum By<'a> {
    /// A rule.
    Rule {
        /// Of this policy.
        policy: &'a Policy,
        /// Its place in `spec.rules`.
        rule: usize,
    },
    /// There are ALLOW policies, and no rule of theirs fits.
    NoAllowRule,
    /// Nothing speaks against it, and no ALLOW policy is there.
    NoPolicy,
}

impl By<'_> {
    /// The action that decided, as metrics name it.
    pub fn action(&self) -> Option<Action> {
        match self {
            Self::Rule { policy, .. } => Some(policy.action),
            Self::NoAllowRule => Some(Action::Allow),
            Self::NoPolicy => None,
        }
    }
}

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { policy, rule } => write!(
                f,
                "{} ({}), spec.rules[{rule}]",
                policy.source,
                policy.action.as_str()
            ),
            Self::NoAllowRule => f.write_str("no ALLOW rule matched"),
            Self::NoPolicy => f.write_str("no policy speaks against it"),
        }
    }
}

/// Which policies count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those in force.
    Enforced,
    /// Those in dry run too.
    WithDryRun,
}

impl Policies {
    /// Policies in the order they are asked.
    pub fn new(policies: impl IntoIterator<Item = Policy>) -> Self {
        let mut policies: Vec<Policy> = policies.into_iter().collect();
        policies.sort_by_key(|policy| policy.action);
        Self {
            dry_run: policies.iter().any(|policy| policy.dry_run),
            audit: policies.iter().any(|policy| policy.action == Action::Audit),
            by_headers: policies
                .iter()
                .flat_map(|policy| &policy.rules)
                .any(Rule::goes_by_headers),
            by_http: policies
                .iter()
                .flat_map(|policy| &policy.rules)
                .any(Rule::needs_http),
            policies,
        }
    }

    /// The policies.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.policies.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Whether some go by a request's headers, besides its host.
    pub fn go_by_headers(&self) -> bool {
        self.by_headers
    }

    /// Reports whether some rule goes by what only HTTP has: hosts, methods, paths, headers
    /// or tokens.
    pub fn go_by_http(&self) -> bool {
        self.by_http
    }

    /// Whether some are in dry run.
    pub fn has_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Decides about a request, or about a connection that is not HTTP.
    pub fn decide<'a>(
        &'a self,
        scope: Scope,
        connection: &Connection<'_>,
        http: Option<&HttpRequest<'_>>,
    ) -> Decision<'a> {
        let request = Request::new(connection, http);
        let mut restricted = false;
        for policy in &self.policies {
            if policy.action == Action::Audit || (policy.dry_run && scope == Scope::Enforced) {
                continue;
            }
            let allows = policy.action == Action::Allow;
            restricted |= allows;
            if let Some(rule) = request.fitting(policy) {
                return Decision {
                    allowed: allows,
                    by: By::Rule { policy, rule },
                };
            }
        }
        Decision {
            allowed: !restricted,
            by: if restricted {
                By::NoAllowRule
            } else {
                By::NoPolicy
            },
        }
    }

    /// The first AUDIT rule that a request fits.
    pub fn audit(
        &self,
        connection: &Connection<'_>,
        http: Option<&HttpRequest<'_>>,
    ) -> Option<By<'_>> {
        if !self.audit {
            return None;
        }
        let request = Request::new(connection, http);
        let audits = self.policies.iter().filter(|p| p.action == Action::Audit);
        audits
            .filter_map(|policy| {
                let rule = request.fitting(policy)?;
                Some(By::Rule { policy, rule })
            })
            .next()
    }
}

/// A request with both readings of its path.
struct Request<'a> {
    connection: &'a Connection<'a>,
    http: Option<&'a HttpRequest<'a>>,
    sent: &'a str,
    normal: Cow<'a, str>,
}

impl<'a> Request<'a> {
    fn new(connection: &'a Connection<'a>, http: Option<&'a HttpRequest<'a>>) -> Self {
        let path = http.map_or("", |request| request.path);
        Self {
            connection,
            http,
            sent: path::without_query(path),
            normal: if http.is_some() {
                path::normalize(path)
            } else {
                Cow::Borrowed("")
            },
        }
    }

    /// The first rule of a policy that the request fits.
    fn fitting(&self, policy: &Policy) -> Option<usize> {
        let denies = policy.action != Action::Allow;
        let fits = |rule: &Rule| self.misfit(rule, denies).is_none();
        policy.rules.iter().position(fits)
    }

    /// Why the request does not fit a rule that denies, or one that allows.
    fn misfit<'r>(&self, rule: &'r Rule, denies: bool) -> Option<Misfit<'r>> {
        if !denies && rule.void {
            return Some(Misfit::Void);
        }
        if !denies && self.http.is_none() && rule.needs_http() {
            return Some(Misfit::NotHttp);
        }
        let misfit = |path| rule.misfit(self.view(path, denies));
        if self.sent == self.normal {
            misfit(self.sent)
        } else if denies {
            misfit(self.sent).and(misfit(&self.normal))
        } else {
            misfit(self.sent).or_else(|| misfit(&self.normal))
        }
    }

    fn view<'v>(&'v self, path: &'v str, denies: bool) -> View<'v> {
        View {
            connection: self.connection,
            http: self.http,
            path,
            unknown: denies,
        }
    }
}

#[cfg(test)]
mod tests;
