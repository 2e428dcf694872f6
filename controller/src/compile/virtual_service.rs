//! VirtualService: hosts, and rules for their HTTP requests.
//!
//! A match entry with a condition that is not honoured is left out, never
//! widened: a request must not follow a rule that its author did not mean for
//! it. A rule that ends in something not honoured (a delegate) still ends the
//! search, with an answer that says so.

mod cors;
pub(super) mod duration;
mod filters;
pub(super) mod headers;
mod matches;
mod mirrors;
mod retries;

use super::{Context, Host, Note, Visibility, spec};
use crate::{
    object::{Configuration, Name},
    resource::{HttpRoute, HttpRouteDestination, VirtualServiceSpec},
};
use http::StatusCode;
use linnet_mesh::{
    ResourceRef, ServicePort,
    route::{
        Answer, Backend, Filters, HeaderFilters, HttpRoutes, HttpRule, Mirror, RequestMatch, Share,
        Unresolved,
    },
};
use std::sync::Arc;

/// A VirtualService as far as it is honoured.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualService {
    /// The resource.
    pub source: Arc<ResourceRef>,
    /// The services whose requests it routes; none where it is for gateways only.
    pub hosts: Vec<Name>,
    /// Whose requests it routes.
    pub visibility: Visibility,
    /// Rules; `None`: it has none for HTTP.
    http: Option<Vec<Rule>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    name: Option<String>,
    /// `None`: always.
    matches: Option<Vec<Match>>,
    backends: Vec<Destination>,
    /// What the rule does instead of routing, which is not honoured.
    other_action: Option<String>,
    filters: Filters,
    mirrors: Vec<(Destination, Share)>,
    /// A redirect goes to the port that was asked for.
    derive_port: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Match {
    port: Option<u16>,
    source_namespace: Option<String>,
    request: RequestMatch,
}

#[derive(Clone, Debug, PartialEq)]
struct Destination {
    /// Its field's path, for verdicts.
    path: String,
    host: Host,
    text: String,
    subset: Option<String>,
    port: Option<u16>,
    weight: u32,
    headers: HeaderFilters,
}

/// What routes have to know of other resources.
pub trait Surroundings {
    /// The ports of a service; `None`: there is no such service.
    fn ports(&self, service: &Name) -> Option<Vec<u16>>;
    /// The port of a service by its name.
    fn port_named(&self, service: &Name, name: &str) -> Option<u16>;
    /// Whether a DestinationRule defines a subset of a service.
    fn has_subset(&self, service: &Name, subset: &str) -> bool;
}

/// The gateway that means every sidecar.
const MESH: &str = "mesh";
/// What a rule can do instead of routing.
const OTHER_ACTIONS: [&str; 1] = ["delegate"];

pub(super) fn compile(
    configuration: &Configuration,
    context: &Context,
    notes: &mut Vec<Note>,
) -> Result<VirtualService, Vec<Note>> {
    let (spec, unknown) = spec::read::<VirtualServiceSpec>(&configuration.spec)?;
    let namespace = &*configuration.name.namespace;
    let mut compiler = Compiler {
        namespace,
        context,
        unknown: &unknown,
        notes,
        errors: Vec::new(),
    };
    let hosts = compiler.hosts(&spec.hosts);
    let visibility = Visibility::read(&spec.export_to, namespace, compiler.notes);
    let in_mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|g| g == MESH);
    if !in_mesh {
        compiler.notes.push(Note::new(
            "spec.gateways",
            "does not name mesh, so no sidecar follows the rules",
        ));
    }
    let http: Vec<_> = spec
        .http
        .iter()
        .enumerate()
        .filter_map(|(position, route)| compiler.rule(position, route))
        .collect();
    compiler.note_unknown();
    if !compiler.errors.is_empty() {
        return Err(compiler.errors);
    }
    Ok(VirtualService {
        source: Arc::new(ResourceRef::from(&configuration.reference())),
        hosts: if in_mesh { hosts } else { Vec::new() },
        visibility,
        http: (!spec.http.is_empty()).then_some(http),
    })
}

struct Compiler<'a> {
    namespace: &'a str,
    context: &'a Context,
    unknown: &'a [String],
    notes: &'a mut Vec<Note>,
    errors: Vec<Note>,
}

impl Compiler<'_> {
    fn hosts(&mut self, texts: &[String]) -> Vec<Name> {
        let mut hosts = Vec::new();
        if texts.is_empty() {
            self.errors.push(Note::new(
                "spec.hosts",
                "names no host; name the service whose requests are to be routed",
            ));
        }
        for (position, text) in texts.iter().enumerate() {
            let field = format!("spec.hosts[{position}]");
            if !Host::is_valid(text) {
                self.errors.push(Note::new(
                    field,
                    format!("{text:?} is not a host; give a service's name without scheme or port"),
                ));
                continue;
            }
            match Host::parse(text, self.namespace, self.context) {
                Host::Service(name) if hosts.contains(&name) => {
                    self.notes
                        .push(Note::new(field, format!("{text} stands there twice")));
                }
                Host::Service(name) => hosts.push(name),
                Host::Wildcard => self.notes.push(Note::not_honoured(field)),
                Host::External => self.notes.push(Note::new(
                    field,
                    format!(
                        "{text} is not a service of the cluster; hosts outside are not honoured yet"
                    ),
                )),
            }
        }
        hosts
    }

    fn rule(&mut self, position: usize, route: &HttpRoute) -> Option<Rule> {
        let path = format!("spec.http[{position}]");
        let mut matches = None;
        if !route.matches.is_empty() {
            let usable: Vec<_> = route
                .matches
                .iter()
                .enumerate()
                .filter_map(|(entry, m)| self.match_entry(&format!("{path}.match[{entry}]"), m))
                .collect();
            matches = Some(usable);
        }
        let other_action = OTHER_ACTIONS
            .into_iter()
            .map(|action| format!("{path}.{action}"))
            .find(|field| self.unknown.contains(field));
        let filters = self.filters(&path, route);
        if route.route.is_empty() && other_action.is_none() && filters.answer.is_none() {
            self.errors.push(Note::new(
                format!("{path}.route"),
                "has no destination; add one with the host that requests go to",
            ));
        }
        let backends = self.destinations(&path, &route.route);
        if matches.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        Some(Rule {
            name: route.name.clone(),
            matches,
            backends,
            other_action: other_action
                .filter(|_| route.route.is_empty() && filters.answer.is_none()),
            derive_port: filters::derives_port(route),
            filters,
            mirrors: self.mirrors(&path, route),
        })
    }

    fn destinations(&mut self, rule: &str, routes: &[HttpRouteDestination]) -> Vec<Destination> {
        let several = routes.len() > 1;
        let mut sum = 0u64;
        let mut valid = true;
        let destinations = routes
            .iter()
            .enumerate()
            .filter_map(|(position, route)| {
                let path = format!("{rule}.route[{position}].destination");
                let destination = self.destination(&path, route, several);
                valid &= destination.is_some();
                sum += destination.as_ref().map_or(0, |d| u64::from(d.weight));
                destination
            })
            .collect();
        if several && valid && sum == 0 {
            self.errors.push(Note::new(
                format!("{rule}.route"),
                "the weights of its destinations add up to 0; give one of them a positive weight",
            ));
        }
        destinations
    }

    fn destination(
        &mut self,
        path: &str,
        route: &HttpRouteDestination,
        several: bool,
    ) -> Option<Destination> {
        let text = &route.destination.host;
        if !Host::is_valid(text) || text.contains('*') {
            self.errors.push(Note::new(
                format!("{path}.host"),
                format!("{text:?} is not a host; name a service"),
            ));
            return None;
        }
        let route_path = path.strip_suffix(".destination").unwrap_or(path);
        let field = format!("{route_path}.weight");
        let weight = match route.weight.map(u32::try_from) {
            Some(Ok(weight)) => weight,
            Some(Err(_)) => {
                let given = route.weight.unwrap_or_default();
                self.errors.push(Note::new(
                    field,
                    format!("{given} is out of range; a weight is a share from 0 upwards"),
                ));
                return None;
            }
            None if several => {
                self.notes.push(Note::new(
                    field,
                    "is missing beside other destinations, which means 0: it gets no request",
                ));
                0
            }
            None => 1,
        };
        let port = match &route.destination.port {
            None => None,
            Some(port) => Some(self.port(&format!("{path}.port.number"), port.number)?),
        };
        Some(Destination {
            path: path.to_owned(),
            host: Host::parse(text, self.namespace, self.context),
            text: text.clone(),
            subset: route
                .destination
                .subset
                .clone()
                .filter(|subset| !subset.is_empty()),
            port,
            weight,
            headers: self.header_filters(&format!("{route_path}.headers"), route.headers.as_ref()),
        })
    }

    fn port(&mut self, field: &str, number: i64) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|&port| port != 0);
        if port.is_none() {
            self.errors.push(Note::new(
                field,
                format!("{number} is not a port; ports go from 1 to 65535"),
            ));
        }
        port
    }

    /// Names the fields that nothing acts on, but for those that made a match
    /// entry unusable, which are named already.
    fn note_unknown(&mut self) {
        for field in self.unknown {
            let known = self.notes.iter().any(|note| &note.field == field);
            let action = OTHER_ACTIONS
                .iter()
                .any(|action| field.ends_with(&format!("].{action}")));
            if action {
                self.notes.push(Note::new(
                    field.as_str(),
                    "is not honoured yet; requests that match the rule are answered 503",
                ));
            } else if !known {
                self.notes.push(Note::not_honoured(field.as_str()));
            }
        }
    }
}

impl VirtualService {
    /// The services that its rules lead to.
    pub fn destinations(&self) -> impl Iterator<Item = &Name> {
        self.http
            .iter()
            .flatten()
            .flat_map(Rule::destinations)
            .filter_map(|destination| match &destination.host {
                Host::Service(name) => Some(name),
                Host::Wildcard | Host::External => None,
            })
    }

    /// The routes of one port of one of its hosts; `None`: it has none for HTTP.
    /// For callers of the namespace `client`.
    pub fn routes(
        &self,
        of: &ServicePort,
        client: &str,
        surroundings: &impl Surroundings,
    ) -> Option<HttpRoutes> {
        let rules = self.http.as_ref()?.iter();
        let rules = rules
            .filter_map(|rule| rule.at(of, client, surroundings, &self.source))
            .collect();
        Some(HttpRoutes {
            sources: vec![self.source.clone()],
            rules,
        })
    }

    /// Destinations that lead nowhere, by field.
    pub fn dangling(&self, surroundings: &impl Surroundings) -> Vec<Note> {
        let Some(host) = self.hosts.first() else {
            return Vec::new();
        };
        let port = surroundings
            .ports(host)
            .and_then(|ports| ports.first().copied())
            .unwrap_or(80);
        let of = ServicePort {
            namespace: host.namespace.clone(),
            name: host.name.clone(),
            port,
        };
        let rules = self.http.iter().flatten();
        let routed = rules.clone().flat_map(|rule| &rule.backends);
        let routed = routed.map(|destination| (destination, false));
        let mirrored = rules.flat_map(|rule| &rule.mirrors);
        let mirrored = mirrored.map(|(destination, _)| (destination, true));
        routed
            .chain(mirrored)
            .filter_map(|(destination, is_mirror)| {
                let reason = destination.backend(&of, surroundings).unresolved?.reason;
                let note = |effect| Note::new(&destination.path, format!("{reason}; {effect}"));
                Some(if is_mirror {
                    note("nothing is mirrored there")
                } else {
                    note("requests are answered 503").error()
                })
            })
            .collect()
    }
}

impl Rule {
    /// The backends and mirrors.
    fn destinations(&self) -> impl Iterator<Item = &Destination> {
        let mirrors = self.mirrors.iter().map(|(destination, _)| destination);
        self.backends.iter().chain(mirrors)
    }

    fn at(
        &self,
        of: &ServicePort,
        client: &str,
        surroundings: &impl Surroundings,
        source: &Arc<ResourceRef>,
    ) -> Option<HttpRule> {
        let matches = match &self.matches {
            None => Vec::new(),
            Some(entries) => {
                let here: Vec<_> = entries
                    .iter()
                    .filter(|entry| entry.port.is_none_or(|port| port == of.port))
                    .filter(|entry| {
                        let namespace = entry.source_namespace.as_deref();
                        namespace.is_none_or(|namespace| namespace == client)
                    })
                    .map(|entry| entry.request.clone())
                    .collect();
                if here.is_empty() {
                    return None;
                }
                here
            }
        };
        let backends = match &self.other_action {
            Some(field) => vec![Backend {
                service: of.clone(),
                subset: None,
                weight: 1,
                unresolved: Some(unresolved(format!(
                    "{field} of {source} is not honoured yet"
                ))),
                headers: HeaderFilters::default(),
            }],
            None => self
                .backends
                .iter()
                .map(|destination| destination.backend(of, surroundings))
                .collect(),
        };
        let mut filters = self.filters.clone();
        if let (true, Some(Answer::Redirect(redirect))) = (self.derive_port, &mut filters.answer) {
            redirect.port = Some(of.port);
        }
        filters.mirrors = self
            .mirrors
            .iter()
            .map(|(destination, share)| Mirror {
                backend: destination.backend(of, surroundings),
                share: *share,
            })
            .collect();
        Some(HttpRule {
            source: source.clone(),
            name: self.name.clone(),
            matches,
            backends,
            filters,
        })
    }
}

fn unresolved(reason: String) -> Unresolved {
    Unresolved {
        status: StatusCode::SERVICE_UNAVAILABLE,
        reason,
    }
}

impl Destination {
    fn backend(&self, of: &ServicePort, surroundings: &impl Surroundings) -> Backend {
        let (port, reason) = match self.resolve(of.port, surroundings) {
            Ok(port) => (port, None),
            Err(reason) => (self.port.unwrap_or(of.port), Some(reason)),
        };
        let service = match &self.host {
            Host::Service(name) => ServicePort {
                namespace: name.namespace.clone(),
                name: name.name.clone(),
                port,
            },
            Host::Wildcard | Host::External => of.clone(),
        };
        Backend {
            service,
            subset: self.subset.clone(),
            weight: self.weight,
            unresolved: reason.map(unresolved),
            headers: self.headers.clone(),
        }
    }

    /// The port of the destination, or why it leads nowhere.
    fn resolve(&self, requested: u16, surroundings: &impl Surroundings) -> Result<u16, String> {
        let text = &self.text;
        let Host::Service(name) = &self.host else {
            return Err(format!("{text} is not a service of the cluster"));
        };
        let ports = surroundings
            .ports(name)
            .ok_or_else(|| format!("service {name} does not exist"))?;
        let port = match (self.port, ports.as_slice()) {
            (Some(port), ports) if ports.contains(&port) => port,
            (Some(port), _) => return Err(format!("service {name} has no port {port}")),
            (None, [only]) => *only,
            (None, ports) if ports.contains(&requested) => requested,
            (None, _) => {
                return Err(format!(
                    "service {name} has no port {requested}: name one of its ports in destination.port.number"
                ));
            }
        };
        match &self.subset {
            Some(subset) if !surroundings.has_subset(name, subset) => Err(format!(
                "subset {subset} of {text} is not defined by any DestinationRule"
            )),
            _ => Ok(port),
        }
    }
}
