//! `trafficPolicy.connectionPool`: how many connections and requests there may
//! be, and how long they live. Defaults are Istio's; there, "no limit" is
//! written 2³²−1.

use std::time::Duration;

/// Limits, counted over all data threads of one proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionPool {
    /// `tcp.maxConnections`: connections to all endpoints together. HTTP/1.1
    /// and opaque connections count, and so does each HTTP/2 one. `None`: no
    /// limit.
    pub max_connections: Option<u32>,
    /// `tcp.connectTimeout`: how long a connection may take to be made, TLS
    /// not counted. 10 s.
    pub connect_timeout: Duration,
    /// `tcp.tcpKeepalive`: whether and how the kernel probes silent peers;
    /// `None`: it does not.
    pub keepalive: Option<TcpKeepalive>,
    /// `tcp.maxConnectionDuration`: a connection's longest life, after which
    /// it takes no new requests; an opaque one is closed. `None`: no bound by
    /// configuration.
    pub max_connection_duration: Option<Duration>,
    /// `tcp.idleTimeout`: after how long without a byte in either direction an
    /// opaque connection is closed. 1 h; `None`: never.
    pub tcp_idle_timeout: Option<Duration>,
    /// `http.http1MaxPendingRequests`: requests that wait for a connection.
    /// `None`: no limit.
    pub max_pending_requests: Option<u32>,
    /// `http.http2MaxRequests`: requests on their way at once, in HTTP/1.1 and
    /// HTTP/2 alike. `None`: no limit.
    pub max_requests: Option<u32>,
    /// `http.maxRequestsPerConnection`: requests before a connection is not
    /// used again; 1 turns keep-alive off. `None`: no limit.
    pub max_requests_per_connection: Option<u32>,
    /// `http.maxRetries`: retries on their way at once. `None`: no limit; the
    /// retry budget holds in any case.
    pub max_retries: Option<u32>,
    /// `http.idleTimeout`: after how long without a request a connection is
    /// closed. 1 h; `None`: never.
    pub http_idle_timeout: Option<Duration>,
    /// `http.maxConcurrentStreams`: requests at once on one HTTP/2 connection.
    /// `None`: what the peer allows.
    pub max_concurrent_streams: Option<u32>,
}

/// The kernel's keep-alive probes. `None` in a field: the system's own value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// `probes`: unanswered ones until the connection is dead. Linux: 9.
    pub probes: Option<u32>,
    /// `time`: silence before the first probe. Linux: 2 h.
    pub time: Option<Duration>,
    /// `interval`: between probes. Linux: 75 s.
    pub interval: Option<Duration>,
}

impl ConnectionPool {
    /// The API's default of `tcp.connectTimeout`.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
    /// The API's default of both `idleTimeout`s.
    pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

    /// Nothing said.
    pub const DEFAULT: Self = Self {
        max_connections: None,
        connect_timeout: Self::CONNECT_TIMEOUT,
        keepalive: None,
        max_connection_duration: None,
        tcp_idle_timeout: Some(Self::IDLE_TIMEOUT),
        max_pending_requests: None,
        max_requests: None,
        max_requests_per_connection: None,
        max_retries: None,
        http_idle_timeout: Some(Self::IDLE_TIMEOUT),
        max_concurrent_streams: None,
    };
}

impl Default for ConnectionPool {
    fn default() -> Self {
        Self::DEFAULT
    }
}
