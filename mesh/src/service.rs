//! Services as a caller sees them.

use crate::{AppProtocol, destination::Destination, route::HttpRoutes};
use std::{fmt, sync::Arc};

/// One port of one service: what routes lead to and endpoints belong to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    /// The service's namespace.
    pub namespace: Arc<str>,
    /// The service's name.
    pub name: Arc<str>,
    /// The service's port (not the pods').
    pub port: u16,
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}

/// What a proxy needs to know of a service port to send to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Which.
    pub key: ServicePort,
    /// Fully qualified: `payment.default.svc.cluster.local`.
    pub hostname: String,
    /// What it declares to speak.
    pub protocol: AppProtocol,
    /// Rules for HTTP requests; none: all go to the service itself.
    pub http: Option<Arc<HttpRoutes>>,
    /// Names of its subsets.
    pub subsets: Vec<String>,
    /// How its endpoints are called; `None`: by the defaults.
    pub destination: Option<Arc<Destination>>,
}
