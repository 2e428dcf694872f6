//! What `kubectl apply` says of configuration: what can't take force is refused,
//! what is not honoured is named at once and in the resource's status.

use std::time::Duration;

use crate::support::load::Caller;
use crate::support::workload::MESHED;
use crate::support::{Cluster, eventually};

const LIMIT: Duration = Duration::from_secs(15);

/// A route of the payment-service; `more` stands in its only rule.
fn route(more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata:
  name: told
spec:
  hosts: [payment-service]
  http:
  - route:
    - destination:
        host: payment-service
    {more}
"
    )
}

pub(crate) async fn apply_says_what_becomes_of_it(cluster: Cluster) {
    cluster.meshed().await;
    cluster.without_configuration().await;
    let client = Caller::client_in(&cluster, MESHED).await;
    let unreadable = route("match: [{uri: {regex: \"/(\"}}]");
    let misspelt = route("retires: {attempts: 3}");

    let refusal = cluster.try_apply(MESHED, &unreadable).await.unwrap_err();
    for part in [
        "VirtualService default/told",
        "spec.http[0].match[0].uri.regex",
    ] {
        assert!(refusal.contains(part), "{part} is not in: {refusal}");
    }

    let warnings = cluster.try_apply(MESHED, &misspelt).await.unwrap();
    assert!(
        warnings
            .iter()
            .any(|text| text.contains("spec.http[0].retires")),
        "no warning of the field: {warnings:?}"
    );
    eventually("its status names the field, too", LIMIT, async || {
        let object = cluster.object(MESHED, &misspelt).await;
        let condition = &object.data["status"]["conditions"][0];
        let told = condition["type"] == "Accepted"
            && condition["status"] == "True"
            && condition["reason"] == "AcceptedWithRemarks"
            && condition["observedGeneration"].as_i64() == object.metadata.generation
            && condition["message"]
                .to_string()
                .contains("spec.http[0].retires");
        told.then_some(()).ok_or_else(|| object.data.to_string())
    })
    .await;

    // An edit that is refused leaves what was there before.
    cluster.try_apply(MESHED, &unreadable).await.unwrap_err();
    client.succeeds("--count 20 http://payment-service/").await;
    cluster.delete(MESHED, &misspelt).await;
}
