//! What a route attaches to.

use super::Compiler;
use crate::{compile::Surroundings, object::Name, resource::gateway::ParentReference};
use linnet_mesh::names;

/// A service that a route attaches to.
#[derive(Clone, Debug, PartialEq)]
pub struct Parent {
    /// As it was written.
    pub reference: ParentReference,
    /// The service.
    pub service: Name,
}

/// Why a parent is none.
pub(super) struct NoParent(pub(super) String);

impl Compiler<'_> {
    /// The services among the parents. A Gateway is somebody else's to answer for.
    pub(super) fn parents(&mut self, references: &[ParentReference]) -> Vec<Parent> {
        let mut parents = Vec::new();
        for (position, reference) in references.iter().enumerate() {
            let group = reference.group.as_deref();
            let group = group.unwrap_or(names::GATEWAY_API_GROUP);
            let kind = reference.kind.as_deref().unwrap_or("Gateway");
            if (group, kind) == ("", "Service") {
                let namespace = reference.namespace.as_deref().unwrap_or(self.namespace);
                parents.push(Parent {
                    service: Name::new(namespace, reference.name.as_str()),
                    reference: reference.clone(),
                });
            } else if (group, kind) != (names::GATEWAY_API_GROUP, "Gateway") {
                let text =
                    format!("a {kind} is not what a mesh's route attaches to; name a Service");
                self.note(format!("spec.parentRefs[{position}]"), text);
            }
        }
        parents
    }
}

impl Parent {
    /// The service's ports that the route is for.
    pub(super) fn ports(&self, surroundings: &impl Surroundings) -> Result<Vec<u16>, NoParent> {
        let Self { reference, service } = self;
        let ports = surroundings
            .ports(service)
            .ok_or_else(|| NoParent(format!("Service {service} does not exist")))?;
        let mut chosen = ports;
        if let Some(port) = reference.port {
            chosen.retain(|known| i64::from(*known) == port);
            if chosen.is_empty() {
                return Err(NoParent(format!("Service {service} has no port {port}")));
            }
        }
        if let Some(name) = &reference.section_name {
            let named = surroundings.port_named(service, name);
            chosen.retain(|known| Some(*known) == named);
            if chosen.is_empty() {
                let text = format!("Service {service} has no such port of the name {name:?}");
                return Err(NoParent(text));
            }
        }
        Ok(chosen)
    }

    /// Whether the route is for a port of the service.
    pub fn includes(&self, port: u16, surroundings: &impl Surroundings) -> bool {
        self.ports(surroundings)
            .is_ok_and(|ports| ports.contains(&port))
    }
}
