//! VirtualService: hosts, and rules for their HTTP requests and other connections.
//!
//! A match entry with a condition that is not honoured is left out, never
//! widened: a request must not follow a rule that its author did not mean for
//! it.

mod cors;
mod delegate;
mod destination;
pub(super) mod duration;
mod filters;
pub(super) mod headers;
mod matches;
mod mirrors;
mod retries;
mod rule;
mod tcp;

pub use destination::Surroundings;

use self::{destination::Destination, rule::Rule, tcp::ConnectionRule};
use super::{Context, Host, Note, Scope, Visibility, spec, string_match};
use crate::{
    object::{Configuration, Name},
    resource::VirtualServiceSpec,
};
use linnet_mesh::{
    ResourceRef, ServicePort,
    regexes::Budget,
    route::{HttpRoutes, TcpRoutes},
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
    /// Services by what they have in common, for those that no other names.
    pub scopes: Vec<Scope>,
    /// It names no host: others take its rules.
    pub is_delegate: bool,
    /// Rules; `None`: it has none for HTTP.
    http: Option<Vec<Rule>>,
    /// Rules for other connections.
    connections: Vec<ConnectionRule>,
}

/// The gateway that means every sidecar.
const MESH: &str = "mesh";

pub(super) fn compile(
    configuration: &Configuration,
    context: &Context,
    notes: &mut Vec<Note>,
    regexes: &mut Budget,
) -> Result<VirtualService, Vec<Note>> {
    let (spec, unknown) = spec::read::<VirtualServiceSpec>(&configuration.spec)?;
    let namespace = &*configuration.name.namespace;
    let mut compiler = Compiler {
        namespace,
        context,
        unknown: &unknown,
        is_delegate: spec.hosts.is_empty(),
        notes,
        errors: Vec::new(),
        regexes,
    };
    let (mut hosts, mut scopes) = compiler.hosts(&spec.hosts);
    compiler.check_delegate(&spec);
    let visibility = Visibility::read(&spec.export_to, namespace, compiler.notes);
    let in_mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|g| g == MESH);
    if !in_mesh {
        hosts.clear();
        scopes.clear();
        compiler.notes.push(Note::new(
            "spec.gateways",
            "does not name mesh, so no sidecar follows the rules",
        ));
    }
    let http = spec.http.iter().enumerate();
    let http: Vec<_> = http
        .filter_map(|(position, route)| compiler.rule(position, route))
        .collect();
    compiler.note_shadowed(&http);
    // The name that a client asks for says more than an address.
    let mut connections = Vec::new();
    for (position, route) in spec.tls.iter().enumerate() {
        connections.extend(compiler.tls_rule(position, route));
    }
    for (position, route) in spec.tcp.iter().enumerate() {
        connections.extend(compiler.tcp_rule(position, route));
    }
    compiler.note_unknown();
    compiler.errors.retain(|note| !string_match::is_spent(note));
    if !compiler.errors.is_empty() {
        return Err(compiler.errors);
    }
    Ok(VirtualService {
        source: Arc::new(ResourceRef::from(&configuration.reference())),
        hosts,
        scopes,
        is_delegate: spec.hosts.is_empty(),
        visibility,
        http: (!spec.http.is_empty()).then_some(http),
        connections,
    })
}

struct Compiler<'a> {
    namespace: &'a str,
    context: &'a Context,
    unknown: &'a [String],
    is_delegate: bool,
    notes: &'a mut Vec<Note>,
    errors: Vec<Note>,
    regexes: &'a mut Budget,
}

impl Compiler<'_> {
    fn hosts(&mut self, texts: &[String]) -> (Vec<Name>, Vec<Scope>) {
        let (mut hosts, mut scopes) = (Vec::new(), Vec::new());
        for (position, text) in texts.iter().enumerate() {
            let field = format!("spec.hosts[{position}]");
            if !Host::is_valid(text) {
                self.errors.push(Note::new(
                    field,
                    format!("{text:?} is not a host; give a service's name without scheme or port"),
                ));
                continue;
            }
            let twice = || Note::new(field.as_str(), format!("{text} stands there twice"));
            let host = Host::parse(text, self.namespace, self.context);
            match (host, Scope::parse(text, self.context)) {
                (Host::Service(name), _) if hosts.contains(&name) => self.notes.push(twice()),
                (Host::Service(name), _) => hosts.push(name),
                (_, Some(scope)) if scopes.contains(&scope) => self.notes.push(twice()),
                (_, Some(scope)) => scopes.push(scope),
                _ => self.notes.push(Note::new(
                    field,
                    format!(
                        "{text} is not a service of the cluster; hosts outside are not honoured yet"
                    ),
                )),
            }
        }
        (hosts, scopes)
    }

    /// What a VirtualService without hosts can't have.
    fn check_delegate(&mut self, spec: &VirtualServiceSpec) {
        if !self.is_delegate {
            return;
        }
        if spec.http.is_empty() {
            self.error(
                "spec.hosts",
                "names no host; name the service whose requests are to be routed",
            );
        }
        let set = [
            ("spec.gateways", !spec.gateways.is_empty()),
            ("spec.tls", !spec.tls.is_empty()),
            ("spec.tcp", !spec.tcp.is_empty()),
        ];
        for (field, _) in set.into_iter().filter(|(_, set)| *set) {
            let text = "stands in a VirtualService without hosts, which is a delegate: it has HTTP rules only";
            self.error(field, text);
        }
    }

    /// Names the fields that nothing acts on, but for those that made a match
    /// entry unusable, which are named already.
    fn note_unknown(&mut self) {
        for field in self.unknown {
            if !self.notes.iter().any(|note| &note.field == field) {
                self.notes.push(Note::not_honoured(field.as_str()));
            }
        }
    }
}

impl VirtualService {
    /// The services that its rules lead to.
    pub fn destinations(&self) -> impl Iterator<Item = &Name> {
        let http = self.http.iter().flatten().flat_map(Rule::destinations);
        let others = self.connections.iter().flat_map(|rule| &rule.backends);
        http.chain(others)
            .filter_map(|destination| match &destination.host {
                Host::Service(name) => Some(name),
                Host::Wildcard | Host::External => None,
            })
    }

    /// The VirtualServices that it delegates to.
    pub fn delegates(&self) -> impl Iterator<Item = &Name> {
        let rules = self.http.iter().flatten();
        rules.filter_map(|rule| rule.delegate.as_ref())
    }

    /// The routes of one port of one of its hosts; `None`: it has none for HTTP.
    /// For callers of the namespace `client`.
    pub fn routes(
        &self,
        of: &ServicePort,
        client: &str,
        surroundings: &impl Surroundings,
    ) -> Option<HttpRoutes> {
        let mut sources = vec![self.source.clone()];
        let (mut rules, mut made) = (Vec::new(), 0);
        for rule in self.http.as_ref()? {
            let Some(name) = &rule.delegate else {
                rules.extend(rule.at(of, client, surroundings, &self.source));
                continue;
            };
            let Ok(delegate) = self.counted_delegate(rule, name, surroundings, &mut made) else {
                continue;
            };
            if !sources.contains(&delegate.source) {
                sources.push(delegate.source.clone());
            }
            for theirs in delegate.http.iter().flatten() {
                let merged = delegate::merged(rule, theirs);
                rules.extend(
                    merged.and_then(|rule| rule.at(of, client, surroundings, &delegate.source)),
                );
            }
        }
        Some(HttpRoutes { sources, rules })
    }

    /// The rules for other connections to one port of one of its hosts.
    pub fn connections(
        &self,
        of: &ServicePort,
        client: &str,
        surroundings: &impl Surroundings,
    ) -> Option<TcpRoutes> {
        let rules = self.connections.iter();
        let rules: Vec<_> = rules
            .filter_map(|rule| rule.at(of, client, surroundings, &self.source))
            .collect();
        (!rules.is_empty()).then_some(TcpRoutes { rules })
    }

    /// Destinations and delegates that lead nowhere, by field.
    pub fn dangling(&self, surroundings: &impl Surroundings) -> Vec<Note> {
        let rules = self.http.iter().flatten();
        let routed = rules.clone().flat_map(|rule| &rule.backends);
        let routed = routed.map(|destination| (destination, Effect::Answered));
        let mirrored = rules.flat_map(|rule| &rule.mirrors);
        let mirrored = mirrored.map(|(destination, _)| (destination, Effect::NotMirrored));
        let others = self.connections.iter().flat_map(|rule| &rule.backends);
        let others = others.map(|destination| (destination, Effect::Closed));
        let mut notes: Vec<_> = routed
            .chain(mirrored)
            .chain(others)
            .filter_map(|(destination, effect)| {
                let of = self.asked_of(destination, surroundings)?;
                let reason = destination.backend(&of, surroundings).unresolved?.reason;
                let note = |effect| Note::new(&destination.path, format!("{reason}; {effect}"));
                Some(match effect {
                    Effect::Answered => note("requests are answered 503").error(),
                    Effect::Closed => note("connections are closed").error(),
                    Effect::NotMirrored => note("nothing is mirrored there"),
                })
            })
            .collect();
        notes.extend(self.delegation(surroundings));
        notes
    }

    /// A service port whose requests may go to a destination; `None`: nobody's.
    fn asked_of(
        &self,
        destination: &Destination,
        surroundings: &impl Surroundings,
    ) -> Option<ServicePort> {
        let name = match (self.hosts.first(), &destination.host) {
            (Some(host), _) => host,
            (None, _) if self.scopes.is_empty() && !self.is_delegate => return None,
            (None, Host::Service(name)) => name,
            (None, _) => &Name::new(self.source.namespace.as_str(), ""),
        };
        let ports = surroundings.ports(name);
        Some(ServicePort {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            port: ports.and_then(|ports| ports.first().copied()).unwrap_or(80),
        })
    }
}

/// What becomes of what a dangling destination gets.
#[derive(Clone, Copy)]
enum Effect {
    Answered,
    Closed,
    NotMirrored,
}
