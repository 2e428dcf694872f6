//! Point 6b: another root with certificates of one minute, and no identity service
//! for two fifths of that, under load: no failed request.

use std::time::Duration;

use linnet_mesh::names::CONTROL_PLANE_NAMESPACE;
use serde_json::Value;

use crate::support::cluster::PATIENCE;
use crate::support::command::linnet_succeeds;
use crate::support::load::Caller;
use crate::support::workload::MESHED;
use crate::support::{Cluster, eventually};

/// Certificates live for a minute; mounted ConfigMaps follow within 15 s on the
/// test node.
const WAIT: &str = "90s";
const WAIT_SECONDS: u64 = 90;
const IDENTITY: &str = "linnet-identity";

pub(crate) async fn another_root_takes_over_under_load(cluster: Cluster) {
    let distribution = format!("identity.rootDistribution={WAIT}");
    let retirement = format!("identity.rootRetirement={WAIT}");
    let lifetime = "identity.certificateLifetime=1m";
    let mut install = vec!["install", "-y", "--set", lifetime];
    install.extend(["--set", &distribution, "--set", &retirement]);
    linnet_succeeds(&install).await;
    cluster.rolled_out(CONTROL_PLANE_NAMESPACE, IDENTITY).await;
    cluster.meshed().await;
    cluster.without_configuration().await;
    // Certificates already held last for their old lifetime.
    cluster
        .restart(CONTROL_PLANE_NAMESPACE, "linnet-controller")
        .await;
    for name in ["payment-service-v1", "payment-service-v2", "client"] {
        cluster.restart(MESHED, name).await;
    }
    let client = Caller::client_in(&cluster, MESHED).await;
    let before = status().await;
    linnet_succeeds(&["identity", "rotate-root", "--yes"]).await;

    let seconds = 2 * WAIT_SECONDS + 90;
    let load = |words: &str| {
        let call = format!("{words} --duration {seconds}s --timeout 5s http://payment-service/");
        let client = client.clone();
        async move { client.succeeds(&call).await }
    };
    let (kept, fresh, ()) = tokio::join!(
        load("--rate 60 --concurrency 4"),
        load("--rate 20 --concurrency 4 --new-connections"),
        events(&cluster),
    );
    let after = status().await;
    println!(
        "{} requests in {seconds} s, none failed; {} signed before, {} signs now",
        kept.requests + fresh.requests,
        before["signs"],
        after["signs"]
    );
    assert_ne!(before["signs"], after["signs"]);
    assert_eq!(after["trusted"].as_array().unwrap().len(), 1, "{after}");
    // Nobody restarted this one: its certificate was to last for a day more than
    // its root did.
    eventually(
        "who held on to the earlier root has renewed",
        PATIENCE,
        async || {
            let report = client.call("--timeout 2s http://my-app/").await;
            let answered = report.failed == 0;
            answered.then_some(()).ok_or_else(|| format!("{report:?}"))
        },
    )
    .await;
    linnet_succeeds(&["install", "-y"]).await;
}

/// While the load runs: identity is away for two fifths of a minute in each stage.
async fn events(cluster: &Cluster) {
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(WAIT_SECONDS / 2)).await;
        let replicas = cluster.scale(CONTROL_PLANE_NAMESPACE, IDENTITY, 0).await;
        tokio::time::sleep(Duration::from_secs(24)).await;
        cluster
            .scale(CONTROL_PLANE_NAMESPACE, IDENTITY, replicas)
            .await;
        tokio::time::sleep(Duration::from_secs(WAIT_SECONDS / 2)).await;
    }
}

async fn status() -> Value {
    let output = linnet_succeeds(&["identity", "status", "--output", "json"]).await;
    serde_json::from_str(&output).unwrap()
}
