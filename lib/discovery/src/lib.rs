//! The discovery protocol: generated messages, and their conversion to and from
//! the vocabulary of `linnet-mesh`.
//!
//! What comes over the wire is only trusted as far as it converts: a message
//! with one bad field is refused as a whole, and the error names the field.

mod authentication;
mod authorization;
mod cors;
mod decode;
mod destination;
mod encode;
mod filters;
pub mod limits;
mod tcp;
#[cfg(test)]
mod tests;

/// The generated messages and stubs.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod proto {
    tonic::include_proto!("linnet.discovery.v1");
}

pub use encode::InboundPiece;

use linnet_mesh::{Endpoint, Inbound, Service, ServicePort, Workload};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// What a proxy can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// An original destination.
    Address(SocketAddr),
    /// A service by name and port, `payment.default.svc.cluster.local:80`.
    Host(Arc<str>),
    /// The workload behind a peer's address, for telemetry.
    Peer(IpAddr),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host(host) => f.write_str(host),
            Self::Peer(ip) => write!(f, "peer {ip}"),
        }
    }
}

/// What a target is.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolution {
    /// A port of a service.
    Service(ServicePort),
    /// One pod, called by its own address.
    Endpoint(Arc<Endpoint>),
    /// Nothing the mesh knows.
    External,
}

/// One thing that a controller tells a proxy.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// What a target is, now.
    Resolution(Target, Resolution),
    /// A service as it is now.
    Service(Arc<Service>),
    /// A service's endpoints, whole or as a difference.
    Endpoints(EndpointsUpdate),
    /// A service that is gone.
    ServiceRemoved(ServicePort),
    /// How the proxy's own workload is to be called.
    Inbound(Arc<Inbound>),
    /// Who a peer is; `None`: unknown to the mesh.
    Peer(IpAddr, Option<Arc<Workload>>),
}

/// A change of a service's endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointsUpdate {
    /// Whose endpoints.
    pub service: ServicePort,
    /// Forget what was known before.
    pub replace: bool,
    /// New and changed ones.
    pub upserts: Vec<Arc<Endpoint>>,
    /// Gone ones.
    pub removed: Vec<SocketAddr>,
}

/// A message that can't be used, and where it is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("discovery message: {field}: {reason}")]
pub struct DecodeError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}
