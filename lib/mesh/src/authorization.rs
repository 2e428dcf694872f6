//! Who may call a workload: `AuthorizationPolicy`, as pure functions.
//!
//! What a rule says that can't be evaluated (an unknown attribute, HTTP's
//! attributes on a connection that is not HTTP) never makes enforcement weaker:
//! it takes an ALLOW rule out, and is left out of a DENY rule, which then denies
//! more. Servers read a path in different ways: the whole decision is made for each
//! reading that a common server takes ([`path`]), and a request passes only if every
//! reading does.

mod domains;
pub mod explain;
mod header;
pub mod path;
pub mod pattern;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::unwrap_used, reason = "the texts are the fuzzer's own")]
#[path = "authorization/tests/reference.rs"]
pub mod reference;
pub mod rule;

pub use path::{PathNormalization, PathPattern};
pub use pattern::{Invalid, Match, Pattern, ServiceAccount};
pub use rule::{Condition, Demand, InvalidValue, Operation, Rule, Source};

use crate::{ResourceRef, SpiffeId, authentication::Token};
use http::HeaderMap;
use path::{Readings, Steps};
use rule::{Misfit, View};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// All policies for one workload. Workloads share the policies that are for several.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies {
    policies: Vec<Arc<Policy>>,
    dry_run: bool,
    audit: bool,
    by_headers: bool,
    by_http: bool,
    by_paths: ByPaths,
    /// The steps that change a value of a path.
    relevant: Steps,
    normalization: PathNormalization,
}

/// Whose policies go by paths.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct ByPaths {
    enforced: bool,
    dry_run: bool,
    audit: bool,
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
    /// The identity is of another trust domain, with which this one is federated.
    pub federated: bool,
}

impl<'a> Connection<'a> {
    /// Returns the caller's identity if it is of the own trust domain. Namespaces and
    /// service accounts are names within it: those of another trust domain are others.
    pub fn own_identity(&self) -> Option<&'a SpiffeId> {
        self.identity.filter(|_| !self.federated)
    }
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
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<'a> {
    /// Whether it may pass.
    pub allowed: bool,
    /// What decided.
    pub by: By<'a>,
    /// The reading of the path that is denied; `None`: the path as it was sent.
    pub reading: Option<Box<str>>,
}

/// The most bytes of a reading that a message shows.
const SHOWN: usize = 256;

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.by.fmt(f)?;
        let Some(reading) = &self.reading else {
            return Ok(());
        };
        let shown = &reading[..reading.floor_char_boundary(SHOWN)];
        let dots = if shown.len() < reading.len() {
            "…"
        } else {
            ""
        };
        write!(f, "; a server may read the path as {shown:?}{dots}")
    }
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
    /// The path can be read in more ways than are looked at, so the request is refused.
    TooManyReadings,
}

impl By<'_> {
    /// The action that decided, as metrics name it.
    pub fn action(&self) -> Option<Action> {
        match self {
            Self::Rule { policy, .. } => Some(policy.action),
            Self::NoAllowRule => Some(Action::Allow),
            Self::NoPolicy | Self::TooManyReadings => None,
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
            Self::TooManyReadings => write!(
                f,
                "servers can read its path in more than {} ways, or in ways longer than {} KiB together",
                path::MAX_READINGS,
                path::MAX_BYTES / 1024
            ),
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
    pub fn new(policies: impl IntoIterator<Item = impl Into<Arc<Policy>>>) -> Self {
        let mut policies: Vec<Arc<Policy>> = policies.into_iter().map(Into::into).collect();
        policies.sort_by_key(|policy| policy.action);
        let mut by_paths = ByPaths::default();
        let mut relevant = Steps::NONE;
        for policy in &policies {
            for path in policy.rules.iter().flat_map(Rule::paths) {
                relevant = relevant.or(path.relevant());
                by_paths.audit |= policy.action == Action::Audit;
                by_paths.dry_run |= policy.action != Action::Audit;
                by_paths.enforced |= policy.action != Action::Audit && !policy.dry_run;
            }
        }
        Self {
            dry_run: policies.iter().any(|policy| policy.dry_run),
            audit: policies.iter().any(|policy| policy.action == Action::Audit),
            by_headers: policies
                .iter()
                .flat_map(|policy| &policy.rules)
                .any(Rule::goes_by_headers),
            by_paths,
            relevant,
            normalization: PathNormalization::default(),
            by_http: policies
                .iter()
                .flat_map(|policy| &policy.rules)
                .any(Rule::needs_http),
            policies,
        }
    }

    /// Returns the policies, asked about these readings of a path alone.
    #[must_use]
    pub fn with_normalization(self, normalization: PathNormalization) -> Self {
        Self {
            normalization,
            ..self
        }
    }

    /// Returns which readings of a path the policies are asked about.
    pub fn normalization(&self) -> PathNormalization {
        self.normalization
    }

    /// The policies.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.policies.iter().map(Arc::as_ref)
    }

    /// Returns the policies as workloads share them.
    pub fn shared(&self) -> &[Arc<Policy>] {
        &self.policies
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
        let readings = match self.readings(self.by_paths.of(scope), http) {
            Readings::One(path) => {
                return self.decide_reading(scope, &Request::new(connection, http, path));
            }
            Readings::TooMany(_) => {
                return Decision {
                    allowed: false,
                    by: By::TooManyReadings,
                    reading: None,
                };
            }
            Readings::Several(readings) => readings,
        };
        let mut passes = None;
        for reading in &readings {
            let request = Request::new(connection, http, &reading.text).after(reading.steps);
            let mut decision = self.decide_reading(scope, &request);
            if !decision.allowed {
                let differs = readings.first().map(|sent| &sent.text) != Some(&reading.text);
                decision.reading = differs.then(|| reading.text.as_ref().into());
                return decision;
            }
            passes = passes.or(Some(decision));
        }
        passes.unwrap_or_else(|| self.decide_reading(scope, &Request::new(connection, http, "")))
    }

    /// Returns the readings of a request's path, if somebody goes by them.
    fn readings<'r>(&self, by_paths: bool, http: Option<&HttpRequest<'r>>) -> Readings<'r> {
        let path = http.map_or("", |request| request.path);
        if by_paths && http.is_some() {
            path::readings(path, self.normalization, self.relevant)
        } else {
            Readings::One(path)
        }
    }

    fn decide_reading<'a>(&'a self, scope: Scope, request: &Request<'_>) -> Decision<'a> {
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
                    reading: None,
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
            reading: None,
        }
    }

    /// Returns the first AUDIT rule that a reading of a request fits.
    pub fn audit(
        &self,
        connection: &Connection<'_>,
        http: Option<&HttpRequest<'_>>,
    ) -> Option<By<'_>> {
        if !self.audit {
            return None;
        }
        let fitting = |request: &Request<'_>| {
            let mut audits = self.policies.iter().filter(|p| p.action == Action::Audit);
            audits.find_map(|policy| {
                let rule = request.fitting(policy)?;
                Some(By::Rule { policy, rule })
            })
        };
        match self.readings(self.by_paths.audit, http) {
            Readings::One(path) => fitting(&Request::new(connection, http, path)),
            Readings::Several(readings) | Readings::TooMany(readings) => {
                readings.iter().find_map(|reading| {
                    fitting(&Request::new(connection, http, &reading.text).after(reading.steps))
                })
            }
        }
    }
}

impl ByPaths {
    const fn any(self) -> bool {
        self.dry_run || self.audit
    }

    const fn of(self, scope: Scope) -> bool {
        match scope {
            Scope::Enforced => self.enforced,
            Scope::WithDryRun => self.dry_run,
        }
    }
}

/// A request with one reading of its path.
#[derive(Clone, Copy)]
struct Request<'a> {
    connection: &'a Connection<'a>,
    http: Option<&'a HttpRequest<'a>>,
    path: &'a str,
    steps: Steps,
}

impl<'a> Request<'a> {
    fn new(
        connection: &'a Connection<'a>,
        http: Option<&'a HttpRequest<'a>>,
        path: &'a str,
    ) -> Self {
        Self {
            connection,
            http,
            path,
            steps: Steps::NONE,
        }
    }

    fn after(self, steps: Steps) -> Self {
        Self { steps, ..self }
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
        rule.misfit(self.view(denies))
    }

    fn view(&self, denies: bool) -> View<'_> {
        View {
            connection: self.connection,
            http: self.http,
            path: self.path,
            steps: self.steps,
            unknown: denies,
        }
    }
}

#[cfg(test)]
mod tests;
