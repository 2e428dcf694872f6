//! From users' resources to the mesh's own types: one file per kind, pure.
//!
//! Compiling looks at one resource alone. What depends on others (does the
//! subset exist, who is older) is the index's business, so that an edit of one
//! resource recompiles that one only.

mod authorization_policy;
mod destination_rule;
mod host;
mod key;
mod kinds;
pub mod limits;
mod mesh_policy;
mod peer_authentication;
mod request_authentication;
mod route;
mod spec;
mod string_match;
mod target;
mod telemetry;
mod verdict;
mod virtual_service;

pub use authorization_policy::AuthorizationPolicy;
pub use destination_rule::{DestinationRule, RuleHost, Subset, destination};
pub use host::{Host, Scope, Visibility};
pub(crate) use key::Key;
pub use kinds::{ConfigurationKind, KINDS, ResourceScope, StatusKind, definitions};
pub use peer_authentication::PeerAuthentication;
pub(crate) use request_authentication::scheme;
pub use request_authentication::{KeySource, Keys, RequestAuthentication, TokenRule};
pub(crate) use route::merge;
pub use route::{Condition, Parent, ParentStatus, Route};
pub use target::Target;
pub(crate) use telemetry::STDOUT;
pub use telemetry::{Logging, Telemetry};
pub use verdict::{Note, Severity, Status, Verdict};
pub use virtual_service::{Surroundings, VirtualService};

use crate::object::Configuration;
use linnet_mesh::{TrustDomain, regexes::Budget};
use std::sync::Arc;

/// What holds for all resources of an installation.
#[derive(Clone, Debug)]
pub struct Context {
    /// The DNS domain of services, `cluster.local`.
    pub cluster_domain: String,
}

/// A resource that can take force.
#[derive(Clone, Debug, PartialEq)]
pub enum Compiled {
    /// Routes.
    VirtualService(VirtualService),
    /// Subsets.
    DestinationRule(DestinationRule),
    /// An HTTPRoute or GRPCRoute.
    Route(Route),
    /// Who may call.
    AuthorizationPolicy(AuthorizationPolicy),
    /// Whose tokens count.
    RequestAuthentication(RequestAuthentication),
    /// Modes of mutual TLS; what a MeshPolicy says is one too.
    PeerAuthentication(PeerAuthentication),
    /// What is written of requests.
    Telemetry(Telemetry),
}

impl Compiled {
    /// Returns the VirtualService that it is.
    pub(crate) fn virtual_service(&self) -> Option<&VirtualService> {
        match self {
            Self::VirtualService(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the DestinationRule that it is.
    pub(crate) fn destination_rule(&self) -> Option<&DestinationRule> {
        match self {
            Self::DestinationRule(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the route of the Gateway API that it is.
    pub(crate) fn route(&self) -> Option<&Route> {
        match self {
            Self::Route(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the AuthorizationPolicy that it is.
    pub(crate) fn authorization_policy(&self) -> Option<&AuthorizationPolicy> {
        match self {
            Self::AuthorizationPolicy(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the RequestAuthentication that it is.
    pub(crate) fn request_authentication(&self) -> Option<&RequestAuthentication> {
        match self {
            Self::RequestAuthentication(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the PeerAuthentication or MeshPolicy that it is.
    pub(crate) fn peer_authentication(&self) -> Option<&PeerAuthentication> {
        match self {
            Self::PeerAuthentication(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the Telemetry that it is.
    pub(crate) fn telemetry(&self) -> Option<&Telemetry> {
        match self {
            Self::Telemetry(value) => Some(value),
            _ => None,
        }
    }

    /// Returns it with its principals under each of these names of the own trust domain.
    #[must_use]
    pub(crate) fn under(self, domains: &[TrustDomain]) -> Self {
        match self {
            Self::AuthorizationPolicy(mut policy) => {
                policy.policy = Arc::new(Arc::unwrap_or_clone(policy.policy).under(domains));
                Self::AuthorizationPolicy(policy)
            }
            other => other,
        }
    }

    /// Whether it stands in for what can't be compiled.
    pub(crate) fn stands_in(&self) -> bool {
        match self {
            Self::AuthorizationPolicy(policy) => policy.stand_in,
            Self::RequestAuthentication(policy) => policy.stand_in,
            _ => false,
        }
    }
}

/// Compiles a resource by itself. The notes say what of it does not count.
///
/// # Errors
/// Everything that keeps the resource from taking force, by field.
pub fn compile(
    configuration: &Configuration,
    context: &Context,
) -> Result<(Compiled, Vec<Note>), Vec<Note>> {
    let too_much = limits::check(configuration);
    if !too_much.is_empty() {
        return Err(too_much);
    }
    compile_within(configuration, context, &mut Budget::of_resource())
}

/// Compiles a resource that is within its own [`limits`], and whose regular expressions
/// may take so much.
///
/// # Errors
/// Everything that keeps the resource from taking force, by field.
pub(crate) fn compile_within(
    configuration: &Configuration,
    context: &Context,
    regexes: &mut Budget,
) -> Result<(Compiled, Vec<Note>), Vec<Note>> {
    ConfigurationKind::compile(configuration, context, regexes)
}

#[cfg(test)]
mod tests;
