//! Endpoints: the addresses behind a service.

use crate::{SpiffeId, Workload};
use std::{net::SocketAddr, sync::Arc};

/// One address that serves a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod's address and the port its application listens on.
    pub address: SocketAddr,
    /// Who must answer there, by mutual TLS; `None` where no sidecar listens or
    /// the port's mode is DISABLE: plaintext.
    pub identity: Option<SpiffeId>,
    /// Who it is, for telemetry.
    pub workload: Arc<Workload>,
    /// The subsets it belongs to.
    pub subsets: Vec<String>,
    /// On its way out: takes a request only when nobody else can.
    pub terminating: bool,
}
