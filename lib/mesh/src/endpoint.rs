//! Endpoints: the addresses behind a service.

use crate::{SpiffeId, Workload, destination::Locality};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

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
    /// Its pod's name, besides the workload's: endpoints of one workload may
    /// share all of that but the name. Empty where it is not known.
    pub pod: Arc<str>,
    /// The subsets it belongs to.
    pub subsets: Vec<String>,
    /// On its way out: takes a request only when nobody else can.
    pub terminating: bool,
    /// Its port is STRICT: nothing but mutual TLS gets through.
    pub mtls_only: bool,
    /// Where it runs; endpoints of one place may share it.
    pub locality: Arc<Locality>,
    /// Its share among endpoints, where these differ; 1 is the usual.
    pub weight: u32,
    /// Those of its pod's labels that a `failoverPriority` names.
    pub labels: BTreeMap<String, String>,
}

impl Endpoint {
    /// An address of which nothing else is known: called in plaintext.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            identity: None,
            workload: Arc::default(),
            pod: Arc::default(),
            subsets: Vec::new(),
            terminating: false,
            mtls_only: false,
            locality: Arc::default(),
            weight: 1,
            labels: BTreeMap::new(),
        }
    }
}
