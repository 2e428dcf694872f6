//! `linnet why`, `authz` and `status` against real sidecars: what they say is
//! what happens.

use std::time::Duration;

use crate::support::command::{linnet, linnet_succeeds};
use crate::support::load::Caller;
use crate::support::workload::{BACKEND, MESHED};
use crate::support::{Cluster, eventually};

const LIMIT: Duration = Duration::from_secs(15);
const URL: &str = "http://payments.payments-backend/";

pub(crate) async fn each_decision_explains_itself(cluster: Cluster) {
    cluster.meshed().await;
    cluster.backend().await;
    cluster.without_configuration().await;
    let client = Caller::client_in(&cluster, MESHED).await;

    cluster.apply(BACKEND, &only("client")).await;
    says("✔ allowed: AuthorizationPolicy payments-backend/why").await;
    let text = why(URL).await;
    for part in [
        "service payments-backend/payments:80",
        "mutual TLS, expected to be spiffe://cluster.local/ns/payments-backend/sa/payments",
        "healthy",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    client.succeeds(&format!("--count 1 {URL}")).await;

    cluster.apply(BACKEND, &only("checkout")).await;
    says("✘ denied: no ALLOW rule matched").await;
    let text = why(URL).await;
    let reason = "the caller is cluster.local/ns/default/sa/client, \
                  rule wants cluster.local/ns/default/sa/checkout";
    assert!(text.contains(reason), "{text}");
    let report = client.call(&format!("--count 1 {URL}")).await;
    assert!(
        report.errors.keys().any(|error| error.contains("403")),
        "{report:?}"
    );

    let listed = linnet_succeeds(&["authz", "deploy/payments-v1", "-n", BACKEND]).await;
    assert!(
        listed.contains("principal cluster.local/ns/default/sa/checkout"),
        "{listed}"
    );
    assert!(
        listed.contains("AuthorizationPolicy payments-backend/why rule 0"),
        "{listed}"
    );

    let text = why("http://paymnets.payments-backend/").await;
    assert!(text.contains("did you mean payments?"), "{text}");

    eventually("every proxy is in sync", LIMIT, async || {
        let outcome = linnet(&["status"]).await;
        let all = outcome.success && outcome.text.contains("proxies have what they were sent");
        all.then_some(()).ok_or(outcome.text)
    })
    .await;
    let status = linnet_succeeds(&["status"]).await;
    assert!(status.contains("the last change took"), "{status}");
    cluster.delete(BACKEND, &only("checkout")).await;
}

async fn why(url: &str) -> String {
    linnet_succeeds(&["why", "--from", "deploy/client", "-n", MESHED, "GET", url]).await
}

/// Waits until the sidecars know of an edit.
async fn says(part: &str) {
    eventually(format!("linnet why says {part}"), LIMIT, async || {
        let text = why(URL).await;
        text.contains(part).then_some(()).ok_or(text)
    })
    .await;
}

fn only(account: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: why
spec:
  action: ALLOW
  rules:
  - from:
    - source:
        principals: [cluster.local/ns/default/sa/{account}]
"
    )
}
