//! Why a request or connection could not be served, and the one place that maps
//! that to a response.

use crate::telemetry::Flags;
use http::StatusCode;
use linnet_discovery::Target;
use linnet_mesh::{
    ResourceRef, ServicePort, SpiffeId,
    authentication::Reason,
    route::{AbortStatus, grpc as status},
};
use rustix::io::Errno;
use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

/// What went wrong on the way of a request or a connection.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no rule of {} matches this request to {service}", names(.sources))]
    NoRule {
        service: ServicePort,
        sources: Vec<Arc<ResourceRef>>,
    },
    #[error("{rule}: {reason}")]
    UnresolvedBackend {
        rule: String,
        status: StatusCode,
        reason: String,
    },
    #[error("{}{service}{} has no endpoint", decided(.rule.as_deref()), subset_text(.subset.as_deref()))]
    NoEndpoint {
        /// Which led there.
        rule: Option<String>,
        service: ServicePort,
        subset: Option<String>,
    },
    #[error("connecting to {address}: {source}")]
    Connect {
        address: SocketAddr,
        source: Arc<io::Error>,
    },
    /// The endpoint's sidecar says so, over mutual TLS.
    #[error("the application behind {address} accepts no connection")]
    Undelivered { address: SocketAddr },
    /// The endpoint's sidecar has passed nothing of the request on.
    #[error("{address} refused a request unseen: {reason}")]
    Refused {
        address: SocketAddr,
        reason: &'static str,
    },
    /// The endpoint's sidecar does not let this workload in.
    #[error("{address} does not accept this workload's certificate: {reason}")]
    Certificate { address: SocketAddr, reason: String },
    #[error("mutual TLS with {address}, expected to be {expected}: {reason}")]
    MutualTls {
        address: SocketAddr,
        expected: SpiffeId,
        reason: String,
    },
    #[error(
        "this workload has no certificate yet; see the sidecar's log for the identity service's answer"
    )]
    NoCertificate,
    #[error("the controller did not answer what {0} is; see the sidecar's log")]
    Discovery(Target),
    #[error("{address} ended the connection: {reason}")]
    Upstream {
        address: SocketAddr,
        reason: String,
        /// It says that it did not look at the request.
        refused: bool,
    },
    /// What the upstream answers is no answer of HTTP.
    #[error("{address} broke the protocol: {reason}")]
    Malformed { address: SocketAddr, reason: String },
    #[error("{address} can't be asked in the caller's version of HTTP: {reason}")]
    Protocol {
        address: SocketAddr,
        reason: String,
        /// It tells against the endpoint, not against who asks it.
        blames: bool,
    },
    #[error("RBAC: access denied\n{by}")]
    Denied {
        by: String,
        /// The caller is told what decided, not only that it may not.
        told: bool,
    },
    #[error("RBAC: the request's token is refused: {reason}\n{by}")]
    Unauthenticated {
        reason: Reason,
        by: String,
        /// The caller is told which rule refused it, not only why.
        told: bool,
    },
    #[error("the request can't be forwarded: {0}")]
    BadRequest(String),
    /// Nobody is left who could be answered.
    #[error("the caller went away before its request was whole")]
    CallerGone,
    #[error("{rule}: no complete answer within {limit:?}")]
    Timeout { rule: String, limit: Duration },
    #[error("the caller gave it {limit:?}, which have passed")]
    Deadline { limit: Duration },
    #[error("{0}")]
    Overflow(Box<Overflow>),
    #[error("{0}")]
    TlsMode(Box<TlsRefusal>),
    #[error("{rule}: an injected fault")]
    Fault { rule: String, status: AbortStatus },
}

fn names(sources: &[Arc<ResourceRef>]) -> String {
    let names: Vec<_> = sources.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// A limit of a connection pool that is reached.
#[derive(Clone, Debug)]
pub(crate) struct Overflow {
    pub(crate) service: String,
    pub(crate) subset: Option<String>,
    pub(crate) source: Option<ResourceRef>,
    /// Below `spec.trafficPolicy.connectionPool`.
    pub(crate) field: &'static str,
    pub(crate) limit: u32,
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{source}: ")?;
        }
        let (service, subset) = (&self.service, subset_text(self.subset.as_deref()));
        let (field, limit) = (self.field, self.limit);
        write!(
            f,
            "trafficPolicy.connectionPool.{field} is {limit}, and {service}{subset} has as many already"
        )
    }
}

/// An endpoint that can't be called as `tls.mode` asks.
#[derive(Clone, Debug)]
pub(crate) struct TlsRefusal {
    pub(crate) address: SocketAddr,
    pub(crate) source: Option<ResourceRef>,
    pub(crate) reason: String,
    /// The endpoint was asked, and the handshake failed.
    pub(crate) asked: bool,
}

impl fmt::Display for TlsRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{source}: ")?;
        }
        write!(
            f,
            "trafficPolicy.tls, calling {}: {}",
            self.address, self.reason
        )
    }
}

fn decided(rule: Option<&str>) -> String {
    rule.map(|rule| format!("{rule}: ")).unwrap_or_default()
}

fn subset_text(subset: Option<&str>) -> String {
    subset
        .map(|name| format!(" subset {name}"))
        .unwrap_or_default()
}

/// Whether no connection comes about for want of something of this process or its node:
/// files, ports or memory. That tells nothing of whoever was to be called.
fn is_own_shortage(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        code,
        Some(Errno::MFILE | Errno::NFILE | Errno::ADDRNOTAVAIL | Errno::NOBUFS | Errno::NOMEM)
    )
}

impl Error {
    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NoRule { .. } => StatusCode::NOT_FOUND,
            Self::BadRequest(_) | Self::CallerGone => StatusCode::BAD_REQUEST,
            Self::Denied { .. } => StatusCode::FORBIDDEN,
            Self::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
            Self::Timeout { .. } | Self::Deadline { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Fault { status, .. } => status.http(),
            Self::UnresolvedBackend { status, .. } => *status,
            Self::Protocol { .. } | Self::Malformed { .. } => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The gRPC status of the answer to a gRPC caller.
    pub(crate) fn grpc_status(&self) -> u16 {
        match self {
            Self::Timeout { .. } | Self::Deadline { .. } => status::DEADLINE_EXCEEDED,
            Self::Fault { status, .. } => status.grpc(),
            Self::NoRule { .. } => status::UNIMPLEMENTED,
            Self::Denied { .. } => status::PERMISSION_DENIED,
            Self::Unauthenticated { .. } => status::UNAUTHENTICATED,
            _ => status::UNAVAILABLE,
        }
    }

    /// Envoy's flags for it.
    pub(crate) fn flags(&self) -> Flags {
        match self {
            Self::NoRule { .. } => Flags::NR,
            Self::UnresolvedBackend { .. } | Self::Discovery(_) => Flags::NC,
            Self::NoEndpoint { .. } => Flags::UH,
            Self::Connect { .. }
            | Self::Undelivered { .. }
            | Self::Certificate { .. }
            | Self::MutualTls { .. }
            | Self::TlsMode(_)
            | Self::NoCertificate => Flags::UF,
            Self::Overflow(_) => Flags::UO,
            Self::Upstream { .. } | Self::Refused { .. } | Self::Protocol { .. } => Flags::UC,
            Self::Malformed { .. } => Flags::UPE,
            Self::BadRequest(_) => Flags::DPE,
            Self::CallerGone => Flags::DC,
            Self::Denied { .. } | Self::Unauthenticated { .. } => Flags::UAEX,
            Self::Timeout { .. } | Self::Deadline { .. } => Flags::UT,
            Self::Fault { .. } => Flags::FI,
        }
    }

    /// The answer's text. A denial is worded as Istio's, which callers look for;
    /// what decided is for callers of the mesh alone, since the names of
    /// policies and namespaces are no stranger's business.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Denied { told: true, .. } | Self::Unauthenticated { told: true, .. } => {
                self.to_string()
            }
            Self::Unauthenticated { reason, .. } => {
                format!("RBAC: the request's token is refused: {reason}")
            }
            Self::Denied { told: false, .. } => "RBAC: access denied".to_owned(),
            _ => format!("linnet: {self}"),
        }
    }

    /// Whether the upstream says that it did not look at the request.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Upstream { refused: true, .. } | Self::Refused { .. }
        )
    }

    /// Whether it tells against the endpoint, so that outlier detection counts it.
    pub(crate) fn is_endpoint_s(&self) -> bool {
        let broken = matches!(
            self,
            Self::Upstream { .. }
                | Self::Malformed { .. }
                | Self::Timeout { .. }
                | Self::Protocol { blames: true, .. }
        );
        broken || self.is_unavailability()
    }

    /// Whether no connection to the endpoint or its application comes about: who it
    /// is said of can't serve anybody.
    pub(crate) fn is_unavailability(&self) -> bool {
        match self {
            Self::Connect { source, .. } => !is_own_shortage(source),
            Self::MutualTls { .. } | Self::Certificate { .. } | Self::Undelivered { .. } => true,
            Self::TlsMode(refusal) => refusal.asked,
            _ => false,
        }
    }

    /// Whether no application has seen anything of the request, so that another
    /// endpoint may be tried.
    pub(crate) fn reached_nobody(&self) -> bool {
        let unasked = matches!(
            self,
            Self::Connect { .. } | Self::TlsMode(_) | Self::Refused { .. }
        );
        unasked || self.is_unavailability()
    }

    /// Whether the endpoint's sidecar says that no application has seen a request, of
    /// which something had been sent.
    pub(crate) fn is_said_by_sidecar(&self) -> bool {
        matches!(
            self,
            Self::Undelivered { .. } | Self::Refused { .. } | Self::Certificate { .. }
        )
    }

    /// Reports whether the request itself can't be sent, whichever endpoint it goes to.
    pub(crate) fn is_caller_fault(&self) -> bool {
        matches!(
            self,
            Self::BadRequest(_) | Self::CallerGone | Self::Denied { .. }
        )
    }

    /// Whether a limit of the service is reached: no endpoint's fault, and not to
    /// be tried again.
    pub(crate) fn is_overflow(&self) -> bool {
        matches!(self, Self::Overflow(_))
    }
}
