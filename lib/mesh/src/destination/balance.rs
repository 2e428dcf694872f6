//! `trafficPolicy.loadBalancer`: how an endpoint is chosen.

use http::HeaderName;
use std::time::Duration;

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Nothing said (`UNSPECIFIED`): of two at random, the one with the lower
    /// peak latency times requests in flight.
    #[default]
    PeakEwma,
    /// `LEAST_REQUEST` and the older `LEAST_CONN`: of two at random, the one
    /// with fewer requests in flight.
    LeastRequest,
    /// `ROUND_ROBIN`.
    RoundRobin,
    /// `RANDOM`.
    Random,
    /// `PASSTHROUGH`: the address that the caller asked for; a service's own is
    /// no endpoint's, so it is called as with nothing said.
    Passthrough,
    /// `consistentHash`: requests that are alike go to the same endpoint.
    ConsistentHash(ConsistentHash),
}

/// `loadBalancer.consistentHash`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistentHash {
    /// What makes requests alike. One without it goes anywhere.
    pub key: HashKey,
    /// How keys are laid out over endpoints.
    pub algorithm: HashAlgorithm,
}

/// What makes requests alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// `httpHeaderName`.
    Header(HeaderName),
    /// `httpCookie`.
    Cookie {
        /// `name`.
        name: String,
        /// `path`; `None`: none is written.
        path: Option<String>,
        /// `ttl`: a caller without the cookie is given one for so long; zero:
        /// for its session. `None`: it is given none.
        ttl: Option<Duration>,
    },
    /// `useSourceIp`.
    SourceIp,
    /// `httpQueryParameterName`.
    QueryParameter(String),
}

/// How keys are laid out over endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// `ringHash`.
    Ring {
        /// `minimumRingSize`: points on the ring at least. 1024.
        minimum_size: u32,
    },
    /// `maglev`.
    Maglev {
        /// `tableSize`: a prime. 65537.
        table_size: u32,
    },
}

impl HashAlgorithm {
    /// The API's default of `minimumRingSize`.
    pub const RING_SIZE: u32 = 1024;
    /// Envoy's bound on the points of a ring.
    pub const MAX_RING_SIZE: u32 = 8 << 20;
    /// Most points that the proxy lays out, 3 MiB, unless there are more endpoints.
    pub const LARGEST_RING: u32 = 1 << 18;
    /// The API's default of `tableSize`.
    pub const TABLE_SIZE: u32 = 65_537;
    /// Most entries that the proxy lays out, 1 MiB; a prime.
    pub const LARGEST_TABLE: u32 = 262_147;
    /// Envoy's bound on a table, a prime itself.
    pub const MAX_TABLE_SIZE: u32 = 5_000_011;

    /// The bytes that a table takes; a ring is rounded up to twice of them at most.
    pub fn size(self) -> usize {
        match self {
            Self::Ring { minimum_size } => 12 * minimum_size.min(Self::LARGEST_RING) as usize,
            Self::Maglev { table_size } => 4 * table_size.min(Self::LARGEST_TABLE) as usize,
        }
    }
}

impl Default for HashAlgorithm {
    fn default() -> Self {
        Self::Ring {
            minimum_size: Self::RING_SIZE,
        }
    }
}

/// `loadBalancer.warmup`: a new endpoint's share grows with its age.
#[derive(Clone, Debug, PartialEq)]
pub struct Warmup {
    /// `duration`: until it has its whole share.
    pub duration: Duration,
    /// `minimumPercent`: what it has at the start, 0 to 100. 10.
    pub minimum_percent: f64,
    /// `aggression`: the share is age over duration to the power of 1 over
    /// this, so 1 is a straight line and more is faster at first. 1.
    pub aggression: f64,
}

impl Warmup {
    /// The API's default of `minimumPercent`.
    pub const MINIMUM_PERCENT: f64 = 10.0;
    /// The API's default of `aggression`.
    pub const AGGRESSION: f64 = 1.0;
}
