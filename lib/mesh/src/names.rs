//! Names and numbers that several parts must agree on: ports, labels,
//! annotations, file paths and environment variables.

/// Ports of the sidecar. ARCHITECTURE.md's table lists who may reach each.
pub mod port {
    /// Loopback only: configuration dump, log level, drain.
    pub const ADMIN: u16 = 15000;
    /// Connections that the workload opens.
    pub const OUTBOUND: u16 = 15001;
    /// Connections that arrive at the workload.
    pub const INBOUND: u16 = 15006;
    /// Metrics, readiness and liveness.
    pub const METRICS: u16 = 15020;
    /// The identity service's HTTPS port.
    pub const IDENTITY: u16 = 15443;
    /// The controller's discovery port (gRPC over mutual TLS).
    pub const DISCOVERY: u16 = 15010;
    /// The injector's webhook port.
    pub const WEBHOOK: u16 = 9443;
    /// Every port that the sidecar listens on in a pod. No container may declare one.
    pub const SIDECAR: [u16; 4] = [ADMIN, OUTBOUND, INBOUND, METRICS];
    /// The ports of [`SIDECAR`] that redirection leaves alone. The admin port is
    /// not among them: it listens on loopback, which is never redirected, so that
    /// whatever listens on that port of the pod's address stays behind the sidecar.
    pub const NOT_REDIRECTED: [u16; 3] = [OUTBOUND, INBOUND, METRICS];
}

/// The user and group that the sidecar runs as; redirection exempts them.
/// The number is Istio's, so that existing exemptions keep working.
pub const PROXY_UID: u32 = 1337;

/// The namespace the control plane is installed in.
pub const CONTROL_PLANE_NAMESPACE: &str = "linnet-system";
/// Istio's root namespace, honoured as a configuration root too.
pub const ISTIO_NAMESPACE: &str = "istio-system";
/// The group of the Gateway API's kinds.
pub const GATEWAY_API_GROUP: &str = "gateway.networking.k8s.io";
/// Who wrote a part of a Gateway API route's status (`controllerName`).
pub const GATEWAY_CONTROLLER: &str = "linnet.io/mesh-controller";
/// Namespaces whose pods are never injected, besides Linnet's own.
pub const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Names of containers in an injected pod.
pub mod container {
    /// The sidecar.
    pub const PROXY: &str = "linnet-proxy";
    /// The init container that redirects the pod's traffic.
    pub const INIT: &str = "linnet-init";
}

/// Labels.
pub mod label {
    /// On a namespace or a pod: `enabled` or `disabled`.
    pub const INJECT: &str = "linnet.io/inject";
    /// Istio's, on a namespace: `enabled` or `disabled`.
    pub const ISTIO_INJECTION: &str = "istio-injection";
    /// Istio's, on a pod: `true` or `false`; an annotation of that name counts too.
    pub const ISTIO_SIDECAR_INJECT: &str = "sidecar.istio.io/inject";
    /// Written by the injector on every pod with a sidecar, value
    /// [`SIDECAR_INJECTED`]: who may be called with mutual TLS.
    pub const SIDECAR: &str = "linnet.io/sidecar";
    /// The value of [`SIDECAR`].
    pub const SIDECAR_INJECTED: &str = "injected";
    /// On every object that `linnet install` creates.
    pub const PART_OF: &str = "app.kubernetes.io/part-of";
    /// The value of [`PART_OF`].
    pub const PART_OF_LINNET: &str = "linnet";
    /// A node's region.
    pub const REGION: &str = "topology.kubernetes.io/region";
    /// A node's zone.
    pub const ZONE: &str = "topology.kubernetes.io/zone";
    /// A node's part of its zone; Istio's name.
    pub const SUBZONE: &str = "topology.istio.io/subzone";
    /// On a pod, instead of its node's: `region/zone/subzone`, or with dots.
    pub const LOCALITY: &str = "istio-locality";
}

/// Annotations.
pub mod annotation {
    /// Ports not redirected on their way in, comma-separated.
    pub const SKIP_INBOUND_PORTS: &str = "linnet.io/skip-inbound-ports";
    /// Ports not redirected on their way out, comma-separated.
    pub const SKIP_OUTBOUND_PORTS: &str = "linnet.io/skip-outbound-ports";
    /// Destinations not redirected, CIDRs, comma-separated.
    pub const SKIP_OUTBOUND_CIDRS: &str = "linnet.io/skip-outbound-cidrs";
    /// Ports whose bytes are never looked at, comma-separated.
    pub const OPAQUE_PORTS: &str = "linnet.io/opaque-ports";
    /// `true` or `false`: run the sidecar as a native sidecar container.
    pub const NATIVE_SIDECAR: &str = "linnet.io/native-sidecar";
    /// On the Secret [`ROOT_SECRET`](super::ROOT_SECRET): asks for a new root;
    /// each new text is a new request.
    pub const ROTATE_ROOT: &str = "linnet.io/rotate-root";
    /// On a pod or a namespace: what sidecars write of requests and connections,
    /// `off|denied|all[;sample=0.1][;format=json|text][;filter=…]`.
    pub const ACCESS_LOG: &str = "linnet.io/access-log";
    /// The sidecar's log filter, for example `info,linnet_proxy=debug`.
    pub const PROXY_LOG: &str = "linnet.io/proxy-log";
}

/// Headers between sidecars.
pub mod header {
    /// On an answer of the callee's sidecar: its application has not seen the request.
    /// `connect`: it accepted no connection; `answered`: the sidecar has answered for it,
    /// as when it denies something. Sidecars take it from no application.
    pub const UNDELIVERED: &str = "x-linnet-undelivered";
}

/// The audience of the ServiceAccount token that identity accepts.
pub const TOKEN_AUDIENCE: &str = "linnet-identity";
/// The ConfigMap with the trust bundle that the controller keeps in each
/// namespace where pods are injected.
pub const TRUST_BUNDLE_CONFIG_MAP: &str = "linnet-trust-bundle";
/// Its key.
pub const TRUST_BUNDLE_KEY: &str = "ca.pem";
/// Where a sidecar finds the trust bundle.
pub const TRUST_BUNDLE_PATH: &str = "/var/run/linnet/trust/ca.pem";
/// Where a sidecar finds its audience-bound ServiceAccount token.
pub const TOKEN_PATH: &str = "/var/run/linnet/token/token";
/// The Secret with the root certificate and its key (keys `ca.crt`,
/// `tls.crt` and `tls.key`, cert-manager's format).
pub const ROOT_SECRET: &str = "linnet-root";

/// Environment variables of the services.
pub mod env {
    /// Log filter, `tracing`'s directives.
    pub const LOG: &str = "LINNET_LOG";
    /// `json` or `text`.
    pub const LOG_FORMAT: &str = "LINNET_LOG_FORMAT";
    /// The trust domain.
    pub const TRUST_DOMAIN: &str = "LINNET_TRUST_DOMAIN";
    /// Which readings of a path AuthorizationPolicies are asked about, by the names of
    /// Istio's `pathNormalization`.
    pub const PATH_NORMALIZATION: &str = "LINNET_PATH_NORMALIZATION";
    /// Other names of the trust domain, comma-separated.
    pub const TRUST_DOMAIN_ALIASES: &str = "LINNET_TRUST_DOMAIN_ALIASES";
    /// `https://host:port` of the identity service.
    pub const IDENTITY_URL: &str = "LINNET_IDENTITY_URL";
    /// `host:port` of the controller's discovery service.
    pub const DISCOVERY_ADDRESS: &str = "LINNET_DISCOVERY_ADDRESS";
    /// The pod's name, namespace, service account and addresses (downward API).
    pub const POD_NAME: &str = "LINNET_POD_NAME";
    /// See [`POD_NAME`].
    pub const POD_NAMESPACE: &str = "LINNET_POD_NAMESPACE";
    /// See [`POD_NAME`].
    pub const SERVICE_ACCOUNT: &str = "LINNET_SERVICE_ACCOUNT";
    /// See [`POD_NAME`]: all of the pod's addresses, comma-separated.
    pub const POD_IPS: &str = "LINNET_POD_IPS";
    /// Ports whose bytes are never looked at, comma-separated.
    pub const OPAQUE_PORTS: &str = "LINNET_OPAQUE_PORTS";
    /// Data threads; 0 or absent takes the cgroup's CPU limit, 1 without one.
    pub const DATA_THREADS: &str = "LINNET_DATA_THREADS";
    /// Connections that the sidecar may have open at once in each direction; one
    /// more is closed as it arrives.
    pub const MAX_CONNECTIONS: &str = "LINNET_MAX_CONNECTIONS";
    /// Seconds that a drain may last after SIGTERM.
    pub const DRAIN_SECONDS: &str = "LINNET_DRAIN_SECONDS";
    /// JSON list of the kubelet's probes that the sidecar answers for; see the
    /// injector's `probe` module.
    pub const PROBES: &str = "LINNET_PROBES";
    /// Where the sidecar listens for the workload's redirected connections,
    /// `address:port`; for a sidecar that is run by hand, as all that follow.
    pub const OUTBOUND_LISTEN: &str = "LINNET_OUTBOUND_LISTEN";
    /// Where it listens for redirected connections to the workload.
    pub const INBOUND_LISTEN: &str = "LINNET_INBOUND_LISTEN";
    /// Where it serves metrics, readiness and liveness.
    pub const METRICS_LISTEN: &str = "LINNET_METRICS_LISTEN";
    /// Where it serves its admin endpoints; loopback only.
    pub const ADMIN_LISTEN: &str = "LINNET_ADMIN_LISTEN";
    /// Listeners without redirection, each for one service,
    /// `address:port=host:port`, comma-separated.
    pub const OUTBOUND_LISTENERS: &str = "LINNET_OUTBOUND_LISTENERS";
    /// Listeners without redirection, each for one port of the workload,
    /// `address:port=address:port`, comma-separated.
    pub const INBOUND_LISTENERS: &str = "LINNET_INBOUND_LISTENERS";
    /// A file for the access log, instead of standard output.
    pub const ACCESS_LOG: &str = "LINNET_ACCESS_LOG";
    /// A directory with `ca.pem`, `leaf.pem` and `leaf.key`, instead of identity.
    pub const CERTIFICATE_DIR: &str = "LINNET_CERTIFICATE_DIR";
    /// A file with fixed services and endpoints, instead of a controller.
    pub const STATIC_CONFIG: &str = "LINNET_STATIC_CONFIG";
    /// The ServiceAccount token's file; absent: where the injector mounts it.
    pub const TOKEN_FILE: &str = "LINNET_TOKEN_FILE";
    /// The trust bundle's file; absent: where the injector mounts it.
    pub const TRUST_BUNDLE_FILE: &str = "LINNET_TRUST_BUNDLE_FILE";
}
