//! Gateway API routes by the service they attach to, and which of them count
//! for a caller: those of its own namespace where there are any (a consumer's),
//! else those of the service's namespace (the producer's).

use super::Index;
use crate::{
    compile::{Compiled, Parent, ParentStatus, Route, Surroundings, merge},
    object::{Kind, Name, ObjectRef},
};
use linnet_mesh::{ServicePort, route::HttpRoutes};

/// What became of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteStatus {
    /// The route.
    pub route: ObjectRef,
    /// The generation that this is about.
    pub generation: i64,
    /// For each service it attaches to.
    pub parents: Vec<ParentStatus>,
}

/// Where a route does not count, at one of its parents.
struct Overruled {
    text: String,
    /// On all ports that it is for.
    everywhere: bool,
}

impl Index {
    fn route(&self, reference: &ObjectRef) -> Option<&Route> {
        let entry = self.configurations.entry(reference)?;
        entry.compiled.as_ref()?.route()
    }

    /// The routes of one namespace that attach to a service port, oldest first.
    /// GRPCRoutes alone where there are any.
    fn attached(
        &self,
        of: &ServicePort,
        namespace: &str,
        surroundings: &impl Surroundings,
    ) -> Vec<(ObjectRef, &Route)> {
        let service = Name::new(of.namespace.clone(), of.name.clone());
        let routes = self.configurations.attached_to(&service);
        let routes = routes.filter(|reference| &*reference.name.namespace == namespace);
        let mut attached: Vec<_> = routes
            .filter_map(|reference| {
                let route = self.route(&reference)?;
                let mut parents = route.parents.iter();
                let includes = parents.any(|parent| {
                    parent.service == service && parent.includes(of.port, surroundings)
                });
                includes.then_some((reference, route))
            })
            .collect();
        let grpc = |(reference, _): &(ObjectRef, &Route)| reference.kind == Kind::GrpcRoute;
        if attached.iter().any(grpc) {
            attached.retain(grpc);
        }
        attached
    }

    /// The rules of a service port for callers of a namespace; `None`: no route
    /// of the Gateway API attaches to it.
    pub(super) fn attached_routes(
        &self,
        of: &ServicePort,
        client: &str,
        surroundings: &impl Surroundings,
    ) -> Option<HttpRoutes> {
        // Most services have none.
        let service = Name::new(of.namespace.clone(), of.name.clone());
        self.configurations.attached_to(&service).next()?;
        let mut routes = self.attached(of, client, surroundings);
        if routes.is_empty() && client != &*of.namespace {
            routes = self.attached(of, &of.namespace, surroundings);
        }
        let routes: Vec<_> = routes.into_iter().map(|(_, route)| route).collect();
        (!routes.is_empty()).then(|| merge(&routes, of, surroundings))
    }

    /// A route of the Gateway API that attaches to a service and that callers of
    /// all namespaces follow.
    pub(super) fn attached_to(&self, service: &Name) -> Option<ObjectRef> {
        let mut routes = self.configurations.attached_to(service);
        routes.find(|route| route.name.namespace == service.namespace)
    }

    /// Where a route does not count: a GRPCRoute goes first.
    fn overruled(&self, reference: &ObjectRef, parent: &Parent) -> Option<Overruled> {
        if reference.kind == Kind::GrpcRoute {
            return None;
        }
        let namespace = &*reference.name.namespace;
        let surroundings = self.seen_by(namespace);
        let service = &parent.service;
        let (mut lost, mut by, mut everywhere) = (Vec::new(), None, true);
        for port in surroundings.ports(service)? {
            if !parent.includes(port, &surroundings) {
                continue;
            }
            let of = ServicePort {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                port,
            };
            let routes = self.attached(&of, namespace, &surroundings);
            let mut routes = routes.into_iter().map(|(other, _)| other);
            match routes.find(|other| other.kind == Kind::GrpcRoute) {
                Some(other) => {
                    by.get_or_insert(other);
                    lost.push(port.to_string());
                }
                None => everywhere = false,
            }
        }
        let text = format!(
            "{} attaches to port {} of Service {service} too, and goes first there",
            by?,
            lost.join(", ")
        );
        Some(Overruled { text, everywhere })
    }

    /// The parents where a route does not count, in words.
    pub(super) fn overruled_parents(
        &self,
        reference: &ObjectRef,
        route: &Route,
    ) -> impl Iterator<Item = String> {
        let parents = route.parents.iter();
        parents
            .filter_map(|parent| self.overruled(reference, parent))
            .map(|overruled| overruled.text)
    }

    /// What became of each route of the Gateway API.
    pub fn route_statuses(&self) -> Vec<RouteStatus> {
        let entries = self.configurations.entries();
        entries
            .filter_map(|(reference, entry)| {
                let Some(Compiled::Route(route)) = &entry.compiled else {
                    return None;
                };
                let surroundings = self.seen_by(&reference.name.namespace);
                let overruled = |parent: &Parent| {
                    let overruled = self.overruled(reference, parent)?;
                    overruled.everywhere.then_some(overruled.text)
                };
                Some(RouteStatus {
                    route: reference.clone(),
                    generation: entry.generation,
                    parents: route.status(&entry.notes, entry.rejected, overruled, &surroundings),
                })
            })
            .collect()
    }
}
