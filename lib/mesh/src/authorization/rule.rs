//! Rules, and whether a request fits one.

use super::{
    Connection, HttpRequest, header,
    path::{PathPattern, Steps},
    pattern::{Invalid, Match, Pattern, ServiceAccount, block, port},
};
use crate::field::{bare_host, reads_as};
use http::HeaderName;
use ipnet::IpNet;
use std::net::IpAddr;

/// One rule: each of its parts must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Who calls: one of these; empty: anybody.
    pub from: Vec<Source>,
    /// What is called: one of these; empty: anything.
    pub to: Vec<Operation>,
    /// All of these.
    pub when: Vec<Condition>,
    /// It says something that this version can't evaluate, so it allows nobody.
    pub void: bool,
}

/// Who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// SPIFFE IDs without their scheme.
    pub principals: Match<Pattern>,
    /// Namespaces.
    pub namespaces: Match<Pattern>,
    /// Service accounts.
    pub service_accounts: Match<ServiceAccount>,
    /// The connection's address.
    pub ip_blocks: Match<IpNet>,
    /// The original client's address.
    pub remote_ip_blocks: Match<IpNet>,
    /// A token's `<issuer>/<subject>`.
    pub request_principals: Match<Pattern>,
}

/// What is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// `Host` or `:authority`, ASCII case aside.
    pub hosts: Match<Pattern>,
    /// The workload's ports.
    pub ports: Match<u16>,
    /// Methods.
    pub methods: Match<Pattern>,
    /// Paths, compared with each reading of a request's.
    pub paths: Match<PathPattern>,
}

/// A further condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The attribute, as the policy writes it.
    pub key: String,
    /// What it must be.
    pub demand: Demand,
}

/// What an attribute must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// `request.headers[name]`
    Header(HeaderName, Match<Pattern>),
    /// `source.ip`
    SourceIp(Match<IpNet>),
    /// `remote.ip`
    RemoteIp(Match<IpNet>),
    /// `source.namespace`
    Namespace(Match<Pattern>),
    /// `source.principal`
    Principal(Match<Pattern>),
    /// `source.serviceAccount`
    ServiceAccount(Match<ServiceAccount>),
    /// `destination.ip`
    DestinationIp(Match<IpNet>),
    /// `destination.port`
    DestinationPort(Match<u16>),
    /// `connection.sni`
    ServerName(Match<Pattern>),
    /// `request.auth.principal`
    RequestPrincipal(Match<Pattern>),
    /// `request.auth.audiences`
    Audiences(Match<Pattern>),
    /// `request.auth.presenter`
    Presenter(Match<Pattern>),
    /// `request.auth.claims[a][b]`, by the names on the way.
    Claim(Vec<String>, Match<Pattern>),
    /// An attribute that this version does not know; the values as written.
    Unknown(Match<String>),
}

/// A value of a condition that can't be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct InvalidValue {
    /// The list and the place in it; `None`: the key.
    pub at: Option<(&'static str, usize)>,
    /// What is wrong with it.
    pub reason: Invalid,
}

impl Condition {
    /// Reads a condition of a policy in `namespace`.
    ///
    /// # Errors
    /// The first value that the attribute can't have.
    pub fn new(
        key: &str,
        values: &[String],
        not_values: &[String],
        namespace: &str,
    ) -> Result<Self, InvalidValue> {
        fn read<T>(
            values: &[String],
            not_values: &[String],
            parse: impl Fn(&str) -> Result<T, Invalid>,
        ) -> Result<Match<T>, InvalidValue> {
            let list = |name, texts: &[String]| {
                let texts = texts.iter().enumerate();
                texts
                    .map(|(index, text)| {
                        parse(text).map_err(|reason| InvalidValue {
                            at: Some((name, index)),
                            reason,
                        })
                    })
                    .collect::<Result<Vec<T>, _>>()
            };
            Ok(Match {
                any: list("values", values)?,
                none: list("notValues", not_values)?,
            })
        }
        let (v, n) = (values, not_values);
        let account = |text: &str| ServiceAccount::parse(text, namespace);
        let demand = match key {
            "source.ip" => Demand::SourceIp(read(v, n, block)?),
            "remote.ip" => Demand::RemoteIp(read(v, n, block)?),
            "source.namespace" => Demand::Namespace(read(v, n, str::parse)?),
            "source.principal" => Demand::Principal(read(v, n, Pattern::principal)?),
            "source.serviceAccount" => Demand::ServiceAccount(read(v, n, account)?),
            "destination.ip" => Demand::DestinationIp(read(v, n, block)?),
            "destination.port" => Demand::DestinationPort(read(v, n, port)?),
            "connection.sni" => Demand::ServerName(read(v, n, str::parse)?),
            "request.auth.principal" => Demand::RequestPrincipal(read(v, n, str::parse)?),
            "request.auth.audiences" => Demand::Audiences(read(v, n, str::parse)?),
            "request.auth.presenter" => Demand::Presenter(read(v, n, str::parse)?),
            _ if key.starts_with(CLAIMS) => {
                let path = claim(key).map_err(|reason| InvalidValue { at: None, reason })?;
                Demand::Claim(path, read(v, n, str::parse)?)
            }
            _ => match header_of(key).map_err(|reason| InvalidValue { at: None, reason })? {
                Some(name) => Demand::Header(name, read(v, n, str::parse)?),
                None => Demand::Unknown(read(v, n, |text| Ok(text.to_owned()))?),
            },
        };
        Ok(Self {
            key: key.to_owned(),
            demand,
        })
    }

    /// Whether this version can't tell if it holds.
    pub fn is_unknown(&self) -> bool {
        matches!(self.demand, Demand::Unknown(_))
    }
}

/// The header that a key names. What the sidecar itself writes is not the
/// caller's to say, so it is no attribute.
fn header_of(key: &str) -> Result<Option<HeaderName>, Invalid> {
    let Some(name) = key.strip_prefix("request.headers[") else {
        return Ok(None);
    };
    let name = name.strip_suffix(']').unwrap_or_default();
    let name =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| Invalid::Header(name.to_owned()))?;
    let own = reads_as(name.as_str(), "x-forwarded-client-cert");
    Ok((!own).then_some(name))
}

const CLAIMS: &str = "request.auth.claims";

/// The claim that a key names: `request.auth.claims[a][b]`.
fn claim(key: &str) -> Result<Vec<String>, Invalid> {
    let invalid = || Invalid::Claim(key.to_owned());
    let rest = key.strip_prefix(CLAIMS).ok_or_else(invalid)?;
    let names = rest.strip_prefix('[').and_then(|r| r.strip_suffix(']'));
    let names: Vec<String> = names
        .ok_or_else(invalid)?
        .split("][")
        .map(str::to_owned)
        .collect();
    let good = |name: &String| !name.is_empty() && !name.contains(['[', ']']);
    names.iter().all(good).then_some(names).ok_or_else(invalid)
}

/// The part of a rule that a request does not fit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Misfit<'a> {
    /// It can't be evaluated, so it allows nobody.
    Void,
    /// It speaks of HTTP, and the connection is not HTTP.
    NotHttp,
    /// None of its sources.
    From(&'a [Source]),
    /// None of its operations.
    To(&'a [Operation]),
    /// A condition.
    When(&'a Condition),
}

/// What a rule is compared with. What can't be evaluated counts as `unknown`:
/// true where a rule denies, so that it denies more, and false where it allows.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) connection: &'a Connection<'a>,
    pub(super) http: Option<&'a HttpRequest<'a>>,
    /// One reading of the path, and the steps that made it.
    pub(super) path: &'a str,
    pub(super) steps: Steps,
    pub(super) unknown: bool,
}

impl Rule {
    /// Whether it speaks of what only HTTP has.
    pub(super) fn needs_http(&self) -> bool {
        self.to.iter().any(|operation| {
            !(operation.hosts.is_empty()
                && operation.methods.is_empty()
                && operation.paths.is_empty())
        }) || self.goes_by_headers()
    }

    /// Whether it goes by a request's headers, besides its host.
    pub(super) fn goes_by_headers(&self) -> bool {
        self.from
            .iter()
            .any(|source| !source.request_principals.is_empty())
            || self
                .when
                .iter()
                .any(|condition| condition.key.starts_with("request."))
    }

    /// Returns the conditions on paths.
    pub(super) fn paths(&self) -> impl Iterator<Item = &PathPattern> {
        let operations = self.to.iter().map(|operation| &operation.paths);
        operations.flat_map(|paths| paths.any.iter().chain(&paths.none))
    }

    /// The first part that does not fit.
    pub(super) fn misfit(&self, view: View<'_>) -> Option<Misfit<'_>> {
        let from = |source: &Source| source.misfit(view).is_none();
        if !self.from.is_empty() && !self.from.iter().any(from) {
            return Some(Misfit::From(&self.from));
        }
        let to = |operation: &Operation| operation.misfit(view).is_none();
        if !self.to.is_empty() && !self.to.iter().any(to) {
            return Some(Misfit::To(&self.to));
        }
        let mut when = self.when.iter();
        when.find(|condition| !condition.fits(view))
            .map(Misfit::When)
    }
}

/// The attribute of a source or an operation that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attribute {
    Principals,
    Namespaces,
    ServiceAccounts,
    IpBlocks,
    RemoteIpBlocks,
    RequestPrincipals,
    Ports,
    Hosts,
    Methods,
    Paths,
    /// HTTP's, of a connection that is not HTTP.
    Http,
}

impl Source {
    pub(super) fn misfit(&self, view: View<'_>) -> Option<Attribute> {
        let Connection {
            identity, source, ..
        } = *view.connection;
        let own = view.connection.own_identity();
        let principal = |p: &Pattern| identity.is_some_and(|id| p.matches(id.principal()));
        if !self.principals.holds(principal) {
            return Some(Attribute::Principals);
        }
        let namespace = |p: &Pattern| own.is_some_and(|id| p.matches(id.namespace()));
        if !self.namespaces.holds(namespace) {
            return Some(Attribute::Namespaces);
        }
        if !self.service_accounts.holds(|a| a.is(own)) {
            return Some(Attribute::ServiceAccounts);
        }
        if !self.ip_blocks.holds(|block| contains(block, source)) {
            return Some(Attribute::IpBlocks);
        }
        if !self.remote_ip_blocks.holds(|block| contains(block, source)) {
            return Some(Attribute::RemoteIpBlocks);
        }
        let fits = match view.http {
            Some(request) => self
                .request_principals
                .holds(|p| request.principal().is_some_and(|own| p.matches(own))),
            None => view.unknown || self.request_principals.is_empty(),
        };
        (!fits).then_some(Attribute::RequestPrincipals)
    }
}

impl Operation {
    pub(super) fn misfit(&self, view: View<'_>) -> Option<Attribute> {
        let port = view.connection.destination.port();
        if !self.ports.holds(|known| *known == port) {
            return Some(Attribute::Ports);
        }
        let Some(request) = view.http else {
            let speaks_http =
                !(self.hosts.is_empty() && self.methods.is_empty() && self.paths.is_empty());
            return (speaks_http && !view.unknown).then_some(Attribute::Http);
        };
        let host = |host: &Pattern| host_fits(host, request.authority);
        if !self.hosts.holds(host) {
            return Some(Attribute::Hosts);
        }
        // Some applications take a method in any case.
        let methods = self.methods.holds_for(
            view.unknown,
            |method| method.matches(request.method),
            |method| method.matches_ignoring_case(request.method),
        );
        if !methods {
            return Some(Attribute::Methods);
        }
        let path = |path: &PathPattern| path.matches(view.path, view.steps);
        (!self.paths.holds(path)).then_some(Attribute::Paths)
    }
}

impl Condition {
    fn fits(&self, view: View<'_>) -> bool {
        let Connection {
            identity,
            source,
            destination,
            server_name,
            ..
        } = *view.connection;
        let own = view.connection.own_identity();
        match &self.demand {
            Demand::Header(name, demand) => match view.http {
                // HTTP/2 has no such header, and says the same by `:authority`.
                Some(request) if *name == http::header::HOST => {
                    demand.holds(|pattern| host_fits(pattern, request.authority))
                }
                Some(request) => header::fits(request, name, demand, view.unknown),
                None => view.unknown,
            },
            Demand::SourceIp(demand) | Demand::RemoteIp(demand) => {
                demand.holds(|block| contains(block, source))
            }
            Demand::Namespace(demand) => {
                demand.holds(|p| own.is_some_and(|id| p.matches(id.namespace())))
            }
            Demand::Principal(demand) => {
                demand.holds(|p| identity.is_some_and(|id| p.matches(id.principal())))
            }
            Demand::ServiceAccount(demand) => demand.holds(|a| a.is(own)),
            Demand::DestinationIp(demand) => {
                demand.holds(|block| contains(block, destination.ip()))
            }
            Demand::DestinationPort(demand) => demand.holds(|port| *port == destination.port()),
            Demand::ServerName(demand) => server_name.map_or(view.unknown, |name| {
                let name = name.strip_suffix('.').unwrap_or(name);
                demand.holds(|pattern| pattern.matches_ignoring_case(name))
            }),
            Demand::RequestPrincipal(_)
            | Demand::Audiences(_)
            | Demand::Presenter(_)
            | Demand::Claim(..) => match view.http {
                Some(request) => token_fits(request, &self.demand, view.unknown),
                None => view.unknown,
            },
            Demand::Unknown(_) => view.unknown,
        }
    }
}

/// Reports whether a request's token, if it has one, is as it must be. `*` fits an
/// empty claim only where that is not to the caller's advantage.
fn token_fits(request: &HttpRequest<'_>, demand: &Demand, denies: bool) -> bool {
    let claim = |path: &[String], demand: &Match<Pattern>| {
        let claims = request.token.map(|token| &token.claims);
        let fits = |fits: &dyn Fn(&str) -> bool| claims.is_some_and(|c| c.any(path, fits));
        demand.holds_for(
            denies,
            |p| fits(&|text| p.matches(text)),
            |p| fits(&|text| p.fits_present(text)),
        )
    };
    match demand {
        Demand::RequestPrincipal(demand) => {
            demand.holds(|p| request.principal().is_some_and(|own| p.matches(own)))
        }
        Demand::Audiences(demand) => claim(&["aud".to_owned()], demand),
        Demand::Presenter(demand) => claim(&["azp".to_owned()], demand),
        Demand::Claim(path, demand) => claim(path, demand),
        _ => false,
    }
}

fn contains(block: &IpNet, ip: IpAddr) -> bool {
    block.contains(&ip.to_canonical())
}

/// Reports whether a host fits, with or without its port and final dot, in any case.
fn host_fits(pattern: &Pattern, authority: &str) -> bool {
    matches!(pattern, Pattern::Present)
        || pattern.matches_ignoring_case(authority)
        || pattern.matches_ignoring_case(bare_host(authority))
        || authority
            .split_once(".:")
            .is_some_and(|(host, port)| pattern.matches_ignoring_case(&format!("{host}:{port}")))
}
