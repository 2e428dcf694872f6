//! Destinations: services and parts of them, by weight.

use super::{Compiler, VirtualService};
use crate::{
    compile::{Host, Note},
    object::Name,
    resource::HttpRouteDestination,
};
use http::StatusCode;
use linnet_mesh::{
    ServicePort,
    route::{Backend, HeaderFilters, Unresolved},
};

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Destination {
    /// Its field's path, for verdicts.
    pub(super) path: String,
    pub(super) host: Host,
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
    /// A VirtualService in force.
    fn virtual_service(&self, name: &Name) -> Option<&VirtualService>;
    /// Whether a DestinationRule defines a subset of a service.
    fn has_subset(&self, service: &Name, subset: &str) -> bool;
}

impl Compiler<'_> {
    pub(super) fn destinations(
        &mut self,
        rule: &str,
        routes: &[HttpRouteDestination],
    ) -> Vec<Destination> {
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

    pub(super) fn destination(
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

    pub(super) fn port(&mut self, field: &str, number: i64) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|&port| port != 0);
        if port.is_none() {
            self.errors.push(Note::new(
                field,
                format!("{number} is not a port; ports go from 1 to 65535"),
            ));
        }
        port
    }
}

fn unresolved(reason: String) -> Unresolved {
    Unresolved {
        status: StatusCode::SERVICE_UNAVAILABLE,
        reason,
    }
}

impl Destination {
    pub(super) fn backend(&self, of: &ServicePort, surroundings: &impl Surroundings) -> Backend {
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
