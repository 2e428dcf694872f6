//! Rules for connections that are not HTTP: `tls`, by the name that a client
//! asks for, and `tcp`.

use super::{Compiler, Destination, MESH, Surroundings};
use crate::{
    compile::{Host, Note},
    resource::{HttpRouteDestination, L4Match, RouteDestination, TcpRoute, TlsRoute},
};
use ipnet::IpNet;
use linnet_mesh::{
    ResourceRef, ServicePort,
    route::{ConnectionMatch, TcpRule},
};
use std::{net::IpAddr, sync::Arc};

/// A rule of `tls` or `tcp`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ConnectionRule {
    /// `None`: always.
    matches: Option<Vec<ConnectionEntry>>,
    /// `tls[0]`, `tcp[1]`.
    place: String,
    pub(super) backends: Vec<Destination>,
}

#[derive(Clone, Debug, PartialEq)]
struct ConnectionEntry {
    port: Option<u16>,
    source_namespace: Option<String>,
    connection: ConnectionMatch,
}

impl Compiler<'_> {
    pub(super) fn tls_rule(&mut self, position: usize, route: &TlsRoute) -> Option<ConnectionRule> {
        let path = format!("spec.tls[{position}]");
        if route.matches.is_empty() {
            self.error(
                format!("{path}.match"),
                "is missing; say by sniHosts which connections are meant",
            );
        }
        let mut entries = Vec::new();
        for (position, entry) in route.matches.iter().enumerate() {
            let path = format!("{path}.match[{position}]");
            let field = format!("{path}.sniHosts");
            if entry.sni_hosts.is_empty() {
                self.error(
                    field.as_str(),
                    "is missing; name the hosts that clients ask for",
                );
            }
            for (position, name) in entry.sni_hosts.iter().enumerate() {
                if !Host::is_valid(name) {
                    self.error(
                        format!("{field}[{position}]"),
                        format!("{name:?} is not a host, with or without a leading *."),
                    );
                }
            }
            let others = L4Match {
                destination_subnets: entry.destination_subnets.clone(),
                port: entry.port,
                source_labels: entry.source_labels.clone(),
                source_namespace: entry.source_namespace.clone(),
                gateways: entry.gateways.clone(),
            };
            entries.extend(self.connection_entry(&path, &others, &entry.sni_hosts));
        }
        self.connection_rule(&path, Some(entries), &route.route)
    }

    pub(super) fn tcp_rule(&mut self, position: usize, route: &TcpRoute) -> Option<ConnectionRule> {
        let path = format!("spec.tcp[{position}]");
        let entries = (!route.matches.is_empty()).then(|| {
            let entries = route.matches.iter().enumerate();
            entries
                .filter_map(|(position, entry)| {
                    self.connection_entry(&format!("{path}.match[{position}]"), entry, &[])
                })
                .collect()
        });
        self.connection_rule(&path, entries, &route.route)
    }

    fn connection_rule(
        &mut self,
        path: &str,
        matches: Option<Vec<ConnectionEntry>>,
        routes: &[RouteDestination],
    ) -> Option<ConnectionRule> {
        if routes.is_empty() {
            self.error(
                format!("{path}.route"),
                "has no destination; add one with the host that connections go to",
            );
        }
        let routes: Vec<_> = routes
            .iter()
            .map(|route| HttpRouteDestination {
                destination: route.destination.clone(),
                weight: route.weight,
                headers: None,
            })
            .collect();
        let backends = self.destinations(path, &routes);
        if matches.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        Some(ConnectionRule {
            matches,
            place: path.trim_start_matches("spec.").to_owned(),
            backends,
        })
    }

    fn connection_entry(
        &mut self,
        path: &str,
        entry: &L4Match,
        server_names: &[String],
    ) -> Option<ConnectionEntry> {
        let usable = self.is_usable(path);
        let port = match entry.port {
            None => None,
            Some(number) => Some(self.port(&format!("{path}.port"), number)?),
        };
        let mut subnets = Vec::new();
        for (position, text) in entry.destination_subnets.iter().enumerate() {
            let subnet = text.parse::<IpNet>().ok();
            match subnet.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) {
                Some(subnet) => subnets.push(subnet),
                None => self.error(
                    format!("{path}.destinationSubnets[{position}]"),
                    format!("{text:?} is not an address or a CIDR block"),
                ),
            }
        }
        let in_mesh = entry.gateways.is_empty() || entry.gateways.iter().any(|g| g == MESH);
        let namespace = entry.source_namespace.clone();
        (usable && in_mesh).then(|| ConnectionEntry {
            port,
            source_namespace: namespace.filter(|namespace| !namespace.is_empty()),
            connection: ConnectionMatch {
                server_names: server_names.to_vec(),
                subnets,
                source_labels: entry.source_labels.clone(),
            },
        })
    }

    /// Whether all of a match entry is honoured.
    pub(super) fn is_usable(&mut self, path: &str) -> bool {
        /// A field that is no condition: leaving it unhonoured does not widen
        /// the match.
        const NOT_A_CONDITION: &str = "statPrefix";
        let mut usable = true;
        for field in self.unknown {
            let rest = field.strip_prefix(path);
            let rest = rest.and_then(|rest| rest.strip_prefix('.'));
            if rest.is_some_and(|rest| rest != NOT_A_CONDITION) {
                usable = false;
                self.notes.push(Note::new(
                    field.as_str(),
                    "is not honoured yet, so this match entry is left out: requests pass it by",
                ));
            }
        }
        usable
    }
}

impl ConnectionRule {
    pub(super) fn at(
        &self,
        of: &ServicePort,
        client: &str,
        surroundings: &impl Surroundings,
        source: &Arc<ResourceRef>,
    ) -> Option<TcpRule> {
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
                    .map(|entry| entry.connection.clone())
                    .collect();
                if here.is_empty() {
                    return None;
                }
                here
            }
        };
        let backends = self.backends.iter();
        Some(TcpRule {
            source: source.clone(),
            place: self.place.clone(),
            matches,
            backends: backends
                .map(|destination| destination.backend(of, surroundings))
                .collect(),
        })
    }
}
