//! The keys by which the index finds resources in force, and by which a change of one says
//! whom it concerns. Each compiled value knows its own.

use super::{Compiled, RuleHost, Scope};
use crate::object::Name;
use std::sync::Arc;

/// What a resource in force is found by. The text of a key is a service's name, or a
/// namespace where the key says so; the namespace of a MeshPolicy is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// VirtualServices that name a service as a host.
    RoutedHost(Name),
    /// VirtualServices whose host is a pattern.
    RoutedScope(Scope),
    /// VirtualServices that delegate to this one.
    Delegate(Name),
    /// VirtualServices that lead to a service.
    Destination(Name),
    /// DestinationRules of a service.
    RuleHost(Name),
    /// DestinationRules whose host is a pattern.
    RulePattern,
    /// Routes of the Gateway API that attach to a service.
    RouteParent(Name),
    /// Routes of the Gateway API that lead to a service.
    RouteBackend(Name),
    /// AuthorizationPolicies of a namespace.
    AuthorizationPolicies(Arc<str>),
    /// RequestAuthentications of a namespace.
    RequestAuthentications(Arc<str>),
    /// PeerAuthentications and MeshPolicies of a namespace.
    PeerAuthentications(Arc<str>),
    /// Telemetries of a namespace.
    Telemetries(Arc<str>),
}

impl Key {
    /// Reports whether the oldest of the resources under this key counts first. The others
    /// stand in the order of their names.
    pub(crate) fn is_by_age(&self) -> bool {
        match self {
            Self::RoutedHost(_)
            | Self::RoutedScope(_)
            | Self::RuleHost(_)
            | Self::RulePattern
            | Self::RouteParent(_)
            | Self::PeerAuthentications(_)
            | Self::Telemetries(_) => true,
            Self::Delegate(_)
            | Self::Destination(_)
            | Self::RouteBackend(_)
            | Self::AuthorizationPolicies(_)
            | Self::RequestAuthentications(_) => false,
        }
    }
}

impl Compiled {
    /// Returns the keys that this resource is found by; some may come more than once.
    pub(crate) fn keys(&self) -> Vec<Key> {
        match self {
            Self::VirtualService(service) => {
                let hosts = service.hosts.iter().cloned().map(Key::RoutedHost);
                let scopes = service.scopes.iter().cloned().map(Key::RoutedScope);
                let delegates = service.delegates().cloned().map(Key::Delegate);
                let destinations = service.destinations().cloned().map(Key::Destination);
                let hosts = hosts.chain(scopes);
                hosts.chain(delegates).chain(destinations).collect()
            }
            Self::DestinationRule(rule) => match &rule.host {
                Some(RuleHost::Service(host)) => vec![Key::RuleHost(host.clone())],
                Some(RuleHost::Ending(_)) => vec![Key::RulePattern],
                None => Vec::new(),
            },
            Self::Route(route) => {
                let parents = route.parents.iter();
                let parents = parents.map(|parent| Key::RouteParent(parent.service.clone()));
                let backends = route.destinations().cloned().map(Key::RouteBackend);
                parents.chain(backends).collect()
            }
            Self::AuthorizationPolicy(policy) => {
                vec![Key::AuthorizationPolicies(policy.namespace.clone())]
            }
            Self::RequestAuthentication(policy) => {
                vec![Key::RequestAuthentications(policy.namespace.clone())]
            }
            Self::PeerAuthentication(policy) => {
                vec![Key::PeerAuthentications(policy.namespace.clone())]
            }
            Self::Telemetry(telemetry) => vec![Key::Telemetries(telemetry.namespace.clone())],
        }
    }
}
