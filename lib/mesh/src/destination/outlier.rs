//! `trafficPolicy.outlierDetection`: when an endpoint that fails is left alone.

use std::time::Duration;

/// When an endpoint is ejected, and for how long. Defaults are Istio's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// `consecutive5xxErrors`: 5xx answers in a row, and connections that fail
    /// where those are not told apart. 5; `None` (written 0): not counted.
    pub consecutive_5xx: Option<u32>,
    /// `consecutiveGatewayErrors`: 502, 503 and 504 in a row; for opaque
    /// connections, ones that fail. `None` (unset or 0): not counted.
    pub consecutive_gateway_errors: Option<u32>,
    /// `splitExternalLocalOriginErrors`: what the proxy itself finds (no
    /// connection, a reset, no answer in time) is counted by
    /// `consecutive_local_origin_failures` and by nothing else.
    pub split_local_origin: bool,
    /// `consecutiveLocalOriginFailures`: 5; `None` (written 0): not counted.
    /// Counts only with `split_local_origin`.
    pub consecutive_local_origin_failures: Option<u32>,
    /// `interval`: between looks at whose time is over. 10 s.
    pub interval: Duration,
    /// `baseEjectionTime`: times the number of ejections so far. 30 s.
    pub base_ejection_time: Duration,
    /// `maxEjectionPercent`: of the endpoints, 0 to 100. 10. However small, one
    /// may be ejected while another is left.
    pub max_ejection_percent: u32,
    /// `minHealthPercent`: while fewer than so many of a hundred endpoints are
    /// healthy, ejection is off and all are called. 0: never off.
    pub min_health_percent: u32,
}

impl OutlierDetection {
    /// `outlierDetection: {}`.
    pub const DEFAULT: Self = Self {
        consecutive_5xx: Some(5),
        consecutive_gateway_errors: None,
        split_local_origin: false,
        consecutive_local_origin_failures: Some(5),
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_percent: 10,
        min_health_percent: 0,
    };
    /// An ejection lasts no longer than this, or the base time where that is
    /// more (Envoy's `max_ejection_time`; the API has no field for it).
    pub const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self::DEFAULT
    }
}
