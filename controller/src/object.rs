//! What the sources deliver: the objects the controller looks at, cut down to
//! what it uses of them, so that a large cluster costs little memory.
//!
//! Configuration kinds keep their spec as plain JSON: one that a type can't
//! hold must reach the compiler, which says what is wrong with it, and not
//! break the list it came in.

mod cluster;
mod namespace;
mod node;

pub use cluster::{
    AccessLogSetting, EndpointSlice, InboundPorts, Pod, Service, ServicePortSpec, SliceEndpoint,
};
pub use namespace::Namespace;
pub use node::Node;

use linnet_mesh::ResourceRef;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Whether labels hold all that is wanted.
pub(crate) fn carries(
    labels: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// A namespace and a name in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The namespace; empty for what is cluster-scoped.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Name {
    /// A name in a namespace.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The kinds that the controller looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A Service.
    Service,
    /// An EndpointSlice.
    EndpointSlice,
    /// A Pod.
    Pod,
    /// A Node.
    Node,
    /// A Namespace.
    Namespace,
    /// A VirtualService.
    VirtualService,
    /// A DestinationRule.
    DestinationRule,
    /// A PeerAuthentication.
    PeerAuthentication,
    /// An AuthorizationPolicy.
    AuthorizationPolicy,
    /// A RequestAuthentication.
    RequestAuthentication,
    /// A MeshPolicy.
    MeshPolicy,
    /// A Telemetry.
    Telemetry,
    /// An HTTPRoute.
    HttpRoute,
    /// A GRPCRoute.
    GrpcRoute,
}

impl Kind {
    /// The kind as manifests write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::MeshPolicy => "MeshPolicy",
            Self::Telemetry => "Telemetry",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
        }
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

impl From<&ObjectRef> for ResourceRef {
    fn from(object: &ObjectRef) -> Self {
        Self {
            kind: object.kind.as_str().to_owned(),
            namespace: object.name.namespace.to_string(),
            name: object.name.name.to_string(),
        }
    }
}

/// An object.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A Pod.
    Pod(Pod),
    /// A Node.
    Node(Node),
    /// A Namespace.
    Namespace(Namespace),
    /// Any of the configuration kinds.
    Configuration(Configuration),
}

impl Object {
    /// Which object this is.
    pub fn reference(&self) -> ObjectRef {
        let (kind, name) = self.kind_and_name();
        ObjectRef {
            kind,
            name: name.clone(),
        }
    }

    /// Whether it is this object.
    pub fn is(&self, reference: &ObjectRef) -> bool {
        self.kind_and_name() == (reference.kind, &reference.name)
    }

    fn kind_and_name(&self) -> (Kind, &Name) {
        match self {
            Self::Service(service) => (Kind::Service, &service.name),
            Self::EndpointSlice(slice) => (Kind::EndpointSlice, &slice.name),
            Self::Pod(pod) => (Kind::Pod, &pod.name),
            Self::Node(node) => (Kind::Node, &node.name),
            Self::Namespace(namespace) => (Kind::Namespace, &namespace.name),
            Self::Configuration(configuration) => (configuration.kind, &configuration.name),
        }
    }
}

/// A resource of a configuration kind, not looked into yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// When it was made, seconds since 1970; the oldest wins a conflict.
    pub created: i64,
    /// The generation its verdict is about.
    pub generation: i64,
    /// The file and document it stands in, where it comes from a directory.
    pub origin: Option<String>,
    /// The annotation `istio.io/dry-run`.
    pub dry_run: Option<String>,
    /// Its spec.
    pub spec: serde_json::Value,
}

impl Configuration {
    /// Which object this is.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef {
            kind: self.kind,
            name: self.name.clone(),
        }
    }
}
