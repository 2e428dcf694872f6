//! Point 4: the guides' canaries, 90/10 and 95/5, and an edit under load.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use linnet_sample::load::Report;

use crate::support::binomial::interval;
use crate::support::cluster::guide;
use crate::support::load::Caller;
use crate::support::workload::MESHED;
use crate::support::{Cluster, eventually};

/// A guide's file, its service, and the share of v2.
const CANARIES: [(&str, &str, f64); 5] = [
    ("payment-service.yaml", "payment-service", 0.10),
    ("my-app.yaml", "my-app", 0.05),
    ("my-api.yaml", "my-api", 0.10),
    ("checkout-service.yaml", "checkout-service", 0.10),
    ("billing-service.yaml", "billing-service", 0.10),
];

const REQUESTS: u64 = 3000;
/// What the two guides with different weights must hold to; one run in 500 fails
/// by chance.
const CONFIDENCE: f64 = 0.999;
/// What their likes must hold to, so that more checks do not mean more chance.
const REPEATED: f64 = 0.999_999;

pub(crate) async fn weights_hold_and_edits_lose_nothing(cluster: Cluster) {
    cluster.meshed().await;
    cluster.without_configuration().await;
    let client = Caller::client_in(&cluster, MESHED).await;
    for (file, service, share) in CANARIES {
        cluster.apply(MESHED, &guide(file)).await;
        arrives(&client, service, share).await;
    }
    for (position, (_, service, share)) in CANARIES.into_iter().enumerate() {
        let confidence = if position < 2 { CONFIDENCE } else { REPEATED };
        weight_holds(&client, service, share, confidence).await;
    }
    for protocol in ["http2", "grpc"] {
        let call = format!("--protocol {protocol} payment-service:80");
        weight_holds(&client, &call, 0.10, REPEATED).await;
    }
    edits_lose_nothing(&cluster, &client).await;
}

/// Without routes both versions get half. 200 calls tell a half from a tenth: the
/// chance to be wrong is below one in a million.
async fn arrives(client: &Caller, service: &str, share: f64) {
    eventually(
        format!("{service}: weights act"),
        Duration::from_secs(15),
        async || {
            let call = format!("--count 200 --concurrency 4 http://{service}/");
            let share_now = share_of_v2(&client.succeeds(&call).await);
            let arrived = share_now < 0.25;
            arrived
                .then_some(())
                .ok_or_else(|| format!("{share_now} of v2, {share} wanted"))
        },
    )
    .await;
}

fn count_of(report: &Report, version: &str) -> u64 {
    report.by_version.get(version).copied().unwrap_or(0)
}

fn share_of_v2(report: &Report) -> f64 {
    count_of(report, "v2") as f64 / report.succeeded as f64
}

async fn weight_holds(client: &Caller, target: &str, share: f64, confidence: f64) {
    let call = format!("--count {REQUESTS} --concurrency 8 {}", url(target));
    let report = client.succeeds(&call).await;
    let wanted = interval(REQUESTS, share, confidence);
    let v2 = count_of(&report, "v2");
    println!("{target}: {v2} of {REQUESTS} reached v2, wanted {wanted:?}");
    assert_eq!(count_of(&report, "v1") + v2, REQUESTS, "{report:#?}");
    assert!(
        wanted.contains(&v2),
        "{target}: {v2} of v2, not in {wanted:?}: {report:#?}"
    );
}

/// A bare service name is called by URL; anything else is a call already.
fn url(target: &str) -> String {
    if target.contains(' ') {
        target.to_owned()
    } else {
        format!("http://{target}/")
    }
}

/// 90/10 → 100/0 and back while calls flow over kept connections.
async fn edits_lose_nothing(cluster: &Cluster, client: &Caller) {
    let yaml = guide("payment-service.yaml");
    let reverted = yaml
        .replace("weight: 90", "weight: 100")
        .replace("weight: 10\n", "weight: 0\n");
    assert!(
        reverted.contains("weight: 0"),
        "the guide's weights changed"
    );

    let call = "--rate 300 --concurrency 8 --duration 12s http://payment-service/";
    let (_, route) = reverted.split_once("---\n").unwrap();
    let (report, edited) = tokio::join!(client.succeeds(call), async {
        // Some calls first, so that connections are open and v2 was reached.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let edited = now_ms();
        cluster.apply(MESHED, route).await;
        edited
    });
    let last = report.last_sent_ms.get("payment-service/v2").copied();
    let last = last.unwrap_or_else(|| panic!("v2 was never reached: {report:#?}"));
    let took = last.saturating_sub(edited);
    println!(
        "weight 10 → 0: no failure in {} requests, the last to v2 {took} ms after the edit",
        report.requests
    );
    assert!(took < 2000, "v2 was still reached {took} ms after the edit");
    let call = format!("--count {REQUESTS} --concurrency 8 http://payment-service/");
    let report = client.succeeds(&call).await;
    assert_eq!(count_of(&report, "v2"), 0, "weight 0 gets nothing");

    cluster.apply(MESHED, &yaml).await;
    eventually("v2 is back", Duration::from_secs(15), async || {
        let call = "--count 100 --concurrency 4 http://payment-service/";
        let report = client.succeeds(call).await;
        let reached = count_of(&report, "v2") > 0;
        reached.then_some(()).ok_or_else(|| format!("{report:?}"))
    })
    .await;
    weight_holds(client, "payment-service", 0.10, REPEATED).await;
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}
