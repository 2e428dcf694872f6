//! How a workload is to be called: mTLS modes by port, who may call, and the
//! services that lead to each port.

use crate::{
    AppProtocol, ResourceRef, ServicePort, Workload, access_log::AccessLogs,
    authentication::Authentication, authorization::Policies, destination::Locality,
};
use std::{collections::BTreeMap, sync::Arc};

/// PeerAuthentication's modes; UNSET is resolved before it gets here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    /// Plaintext only: a mesh hello is forwarded like any bytes.
    Disable,
    /// Both.
    #[default]
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// What an inbound proxy is told about its own workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inbound {
    /// The workload, for telemetry.
    pub workload: Arc<Workload>,
    /// The mode of ports that have none of their own.
    pub mtls: MtlsMode,
    /// Which resource said so; none: the default.
    pub mtls_source: Option<ResourceRef>,
    /// Whose `portLevelMtls` says what `ports` have of their own.
    pub port_mtls_source: Option<ResourceRef>,
    /// Ports of which something is known.
    pub ports: Vec<InboundPort>,
    /// Who may call; `None`: no policy speaks of it.
    pub authorization: Option<Arc<Policies>>,
    /// Whose tokens count; `None`: nobody looks for tokens.
    pub authentication: Option<Arc<Authentication>>,
    /// Where it runs.
    pub locality: Locality,
    /// Its pod's labels, which a `failoverPriority` compares.
    pub labels: BTreeMap<String, String>,
    /// What its sidecar writes of requests and connections, both ways.
    pub access_log: AccessLogs,
}

/// One port of the workload.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundPort {
    /// The port that the application listens on.
    pub port: u16,
    /// Its own mode, from `portLevelMtls`.
    pub mtls: Option<MtlsMode>,
    /// What services declare it to speak.
    pub protocol: AppProtocol,
    /// Services that lead here.
    pub services: Vec<ServicePort>,
}

impl Inbound {
    /// What is said after `before`: keys that nobody has fetched since are those of
    /// before.
    #[must_use]
    pub fn after(self: Arc<Self>, before: &Self) -> Arc<Self> {
        let (Some(rules), Some(known)) = (&self.authentication, &before.authentication) else {
            return self;
        };
        let kept = rules.with_keys_of(known);
        if kept == **rules {
            return self;
        }
        let authentication = Some(Arc::new(kept));
        Arc::new(Self {
            authentication,
            ..Self::clone(&self)
        })
    }

    /// What is known of a port.
    pub fn port(&self, port: u16) -> Option<&InboundPort> {
        self.ports.iter().find(|known| known.port == port)
    }

    /// The mode in force on a port.
    pub fn mode(&self, port: u16) -> MtlsMode {
        self.port(port)
            .and_then(|known| known.mtls)
            .unwrap_or(self.mtls)
    }
}
