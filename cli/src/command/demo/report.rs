//! What the demo found out: the object that `--output json` prints.

use crate::standalone::Mesh;
use linnet_mesh::SpiffeId;
use linnet_sample::load::{Latency, Report as Load};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The demo's result.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) requests: u64,
    pub(super) success_rate: f64,
    pub(super) mtls: Mtls,
    pub(super) split: Split,
    pub(super) latency_ms: Latencies,
    pub(super) plaintext_probe: &'static str,
    pub(super) convergence_ms: u64,
    pub(super) certificates: Vec<Certificate>,
}

/// Requests that sidecars counted, by what protected them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Mtls {
    pub(super) secured: u64,
    pub(super) plaintext: u64,
}

/// Answers of payment's versions while the route said 90/10.
#[derive(Debug, Serialize)]
pub(super) struct Split {
    #[serde(rename = "payment/v1")]
    pub(super) v1: u64,
    #[serde(rename = "payment/v2")]
    pub(super) v2: u64,
}

/// Latency of the whole chain, without and with the mesh, and the difference.
#[derive(Debug, Serialize)]
pub(super) struct Latencies {
    pub(super) direct: Quantiles,
    pub(super) mesh: Quantiles,
    pub(super) tax: Quantiles,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// A workload's certificate.
#[derive(Debug, Serialize)]
pub(super) struct Certificate {
    pub(super) identity: String,
    pub(super) not_after: String,
}

/// What an edit of the route did.
pub(super) struct Convergence {
    /// From the edit to the last request that still reached v2; 0: none did.
    pub(super) milliseconds: u64,
    pub(super) load: Load,
}

impl Certificate {
    pub(super) fn new(identity: &SpiffeId, not_after: OffsetDateTime) -> Self {
        Self {
            identity: identity.to_string(),
            not_after: not_after.format(&Rfc3339).unwrap_or_default(),
        }
    }
}

pub(super) fn latencies(direct: &Latency, mesh: &Latency) -> Latencies {
    // Microseconds are as fine as this measures.
    let round = |milliseconds: f64| (milliseconds * 1e3).round() / 1e3;
    let quantiles = |p50, p99| Quantiles {
        p50: round(p50),
        p99: round(p99),
    };
    Latencies {
        direct: quantiles(direct.p50, direct.p99),
        mesh: quantiles(mesh.p50, mesh.p99),
        tax: quantiles(mesh.p50 - direct.p50, mesh.p99 - direct.p99),
    }
}

/// What the receiving sidecars counted.
pub(super) fn mtls(mesh: &Mesh) -> Mtls {
    let mut counted = Mtls::default();
    for (_, running) in &mesh.sidecars {
        for line in running.metrics_text().lines() {
            if !line.starts_with("istio_requests_total{")
                || !line.contains("reporter=\"destination\"")
            {
                continue;
            }
            let value = line
                .rsplit_once(' ')
                .and_then(|(_, value)| value.parse::<f64>().ok());
            let count = value.unwrap_or_default() as u64;
            if line.contains("connection_security_policy=\"mutual_tls\"") {
                counted.secured += count;
            } else {
                counted.plaintext += count;
            }
        }
    }
    counted
}
