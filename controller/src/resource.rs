//! The configuration kinds that users bring, as far as they are honoured.
//!
//! A field that is not here still applies: the schema keeps it, and the
//! compiler names it in the resource's verdict. A field gets into these types
//! when something acts on it.

mod authorization_policy;
mod crd;
mod destination_rule;
pub mod gateway;
mod mesh_policy;
mod peer_authentication;
mod request_authentication;
mod telemetry;
mod virtual_service;

pub use authorization_policy::{
    AuthorizationCondition, AuthorizationFrom, AuthorizationOperation, AuthorizationPolicy,
    AuthorizationPolicySpec, AuthorizationRule, AuthorizationSource, AuthorizationTo,
    PolicyTargetReference,
};
pub(crate) use crd::in_versions;
pub use crd::manifest;
pub use destination_rule::{
    ClientTlsSettings, ConnectionPoolSettings, ConsistentHashSettings, CookieSettings,
    DestinationRule, DestinationRuleSpec, DistributeSettings, FailoverSettings, HttpSettings,
    LoadBalancerSettings, LocalitySettings, MaglevSettings, OutlierDetectionSettings,
    PortTrafficPolicy, RingSettings, Subset, TcpKeepaliveSettings, TcpSettings, TrafficPolicy,
    WarmupSettings,
};
pub use mesh_policy::{MeshPolicy, MeshPolicySpec, PeerMethod};
pub use peer_authentication::{
    MutualTls, PeerAuthentication, PeerAuthenticationSpec, WorkloadSelector,
};
pub use request_authentication::{
    ClaimToHeader, JwtHeader, JwtRule, RequestAuthentication, RequestAuthenticationSpec,
};
pub use telemetry::{
    AccessLogging, AccessLoggingFilter, AccessLoggingMatch, Telemetry, TelemetryProvider,
    TelemetrySpec,
};
pub use virtual_service::{
    CorsPolicy, Delegate, Destination, FaultAbort, FaultDelay, HeaderOperations, Headers, HttpBody,
    HttpDirectResponse, HttpFault, HttpMatchRequest, HttpMirror, HttpRedirect, HttpRetry,
    HttpRewrite, HttpRoute, HttpRouteDestination, L4Match, Percentage, PortSelector, RegexRewrite,
    RouteDestination, StringMatch, TcpRoute, TlsMatch, TlsRoute, VirtualService,
    VirtualServiceSpec,
};
