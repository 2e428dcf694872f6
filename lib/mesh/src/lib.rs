//! The vocabulary of the mesh and the pure functions that evaluate it.
//!
//! Everything here is a value or a function of values: no sockets, no clock,
//! no Kubernetes client. The proxy, `linnet` and the tests decide about a
//! request with the same code.

pub mod access_log;
pub mod authentication;
pub mod authorization;
pub mod destination;
pub mod endpoint;
pub mod field;
pub mod inbound;
pub mod names;
pub mod protocol;
pub mod regexes;
pub mod route;
pub mod service;
pub mod spiffe;
pub mod target;
pub mod workload;

pub use endpoint::Endpoint;
pub use inbound::{Inbound, InboundPort, MtlsMode};
pub use protocol::AppProtocol;
pub use service::{Service, ServicePort};
pub use spiffe::{SpiffeId, TrustDomain};
pub use workload::Workload;

/// A configuration resource, named where a decision or an error cites it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResourceRef {
    /// The resource's kind, as in its manifest: `VirtualService`.
    pub kind: String,
    /// Its namespace; empty for a cluster-scoped resource.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for ResourceRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}
