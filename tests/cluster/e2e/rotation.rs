//! Point 6: certificates of one minute, minutes of load, no failed request.

use std::time::Duration;

use crate::support::Cluster;
use crate::support::command::linnet_succeeds;
use crate::support::load::Caller;
use crate::support::metrics::Metrics;
use crate::support::workload::MESHED;

/// Renewal comes between half and two thirds of a minute's life.
const LATEST_RENEWAL: u64 = 45;

pub(crate) async fn certificates_rotate_under_load(cluster: Cluster) {
    let seconds = std::env::var("LINNET_E2E_ROTATION_SECONDS");
    let seconds: u64 = seconds.map_or(100, |text| text.parse().unwrap());
    let lifetime = "identity.certificateLifetime=1m";
    linnet_succeeds(&["install", "-y", "--set", lifetime]).await;
    cluster
        .rolled_out(
            linnet_mesh::names::CONTROL_PLANE_NAMESPACE,
            "linnet-identity",
        )
        .await;
    cluster.meshed().await;
    cluster.without_configuration().await;
    // Certificates already held last for their old lifetime; new pods get new ones.
    for name in ["payment-service-v1", "payment-service-v2", "client"] {
        cluster.restart(MESHED, name).await;
    }
    let client = Caller::client_in(&cluster, MESHED).await;
    let before = Rotations::scrape(&cluster).await;
    let load = |words: &str, target: &str| {
        let call = format!("{words} --duration {seconds}s --timeout 5s {target}");
        let client = client.clone();
        async move { client.succeeds(&call).await }
    };
    let http = "http://payment-service/";
    let (kept, kept_http2, fresh, bytes) = tokio::join!(
        load("--rate 60 --concurrency 4", http),
        load("--rate 30 --concurrency 2 --protocol http2", http),
        load("--rate 20 --concurrency 4 --new-connections", http),
        load(
            "--rate 10 --concurrency 2 --protocol tcp",
            "payment-service:9000"
        ),
    );
    let after = Rotations::scrape(&cluster).await;
    let total: u64 = [kept, kept_http2, fresh, bytes]
        .iter()
        .map(|report| report.requests)
        .sum();
    let wanted = (seconds / LATEST_RENEWAL).max(1) as f64;
    let (client, server) = (after.client - before.client, after.server - before.server);
    println!(
        "{total} requests in {seconds} s, none failed; renewals: client {client}, servers {server}"
    );
    assert!(
        client >= wanted,
        "the client renewed {client} times, {wanted} expected"
    );
    assert!(server >= 2.0 * wanted, "two servers renewed {server} times");
    linnet_succeeds(&["install", "-y"]).await;
}

/// Renewals so far, and that no certificate lives longer than asked.
struct Rotations {
    client: f64,
    server: f64,
}

impl Rotations {
    async fn scrape(cluster: &Cluster) -> Self {
        let client = Metrics::of_app(cluster, MESHED, "client").await;
        let server = Metrics::of_app(cluster, MESHED, "payment-service").await;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.unwrap();
        for metrics in [&client, &server] {
            let expiry = metrics.lowest("linnet_certificate_expiry_timestamp_seconds");
            let expiry = Duration::from_secs_f64(expiry.expect("the metric of every sidecar"));
            let left = expiry.saturating_sub(now);
            assert!(
                left <= Duration::from_secs(60),
                "a certificate with {left:?} left"
            );
            assert!(!left.is_zero(), "an expired certificate");
        }
        let renewals = |metrics: &Metrics| {
            metrics.sum(
                "linnet_certificate_renewals_total",
                &[("result", "success")],
            )
        };
        Self {
            client: renewals(&client),
            server: renewals(&server),
        }
    }
}
