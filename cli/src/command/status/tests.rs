use super::*;
use crate::cluster::{ask::scripted::Answers, scripted::ApiServer};
use serde_json::{Value, json};

fn pod(namespace: &str, name: &str, labels: &Value) -> (String, Value) {
    (
        format!("/api/v1/namespaces/{namespace}/pods/{name}"),
        json!({
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"containers": []},
        }),
    )
}

fn proxy(pod: &str, sent: u64, acknowledged: u64, connected: u64) -> Value {
    json!({
        "pod": pod, "namespace": "shop", "identity": "spiffe://cluster.local/ns/shop/sa/a",
        "proxyVersion": "0.1.0", "sent": sent, "acknowledged": acknowledged,
        "convergenceMs": 4.25, "targets": 1, "services": 1, "connectedSeconds": connected,
    })
}

async fn report(pods: &Answers) -> Result<Report, Error> {
    let controller = json!({"app.kubernetes.io/name": "linnet-controller"});
    let sidecar = json!({"linnet.io/sidecar": "injected"});
    let mut server = ApiServer::new();
    for (path, object) in [
        pod("linnet-system", "controller-a", &controller),
        pod("linnet-system", "controller-b", &controller),
        pod("shop", "web", &sidecar),
        pod("shop", "payment", &sidecar),
        pod("shop", "lost", &sidecar),
    ] {
        server = server.with(&path, object);
    }
    ask(&server.cluster().await, pods, None).await
}

const A: &str = "linnet-system/controller-a";
const B: &str = "linnet-system/controller-b";

#[tokio::test]
async fn replicas_are_merged_and_who_is_missing_is_named() {
    let mut refused = proxy("payment", 3, 3, 5);
    refused["error"] = json!("services[0].port: 0 is not a port");
    let last = json!({"convergenceMs": 12.5, "proxies": 2, "secondsAgo": 300});
    let pods = Answers::default()
        .with(A, "/debug/proxies", &json!([proxy("web", 9, 4, 700)]))
        .with(A, "/debug/convergence", &Value::Null)
        // It has moved to the other replica.
        .with(
            B,
            "/debug/proxies",
            &json!([proxy("web", 2, 2, 60), refused]),
        )
        .with(B, "/debug/convergence", &last);
    let report = report(&pods).await.unwrap();
    assert!(!report.in_sync);
    let states: Vec<_> = report
        .proxies
        .iter()
        .map(|proxy| (proxy.pod.name.as_str(), proxy.state))
        .collect();
    assert_eq!(
        states,
        [
            ("lost", State::NotConnected),
            ("payment", State::Refused),
            ("web", State::InSync),
        ]
    );
    assert_eq!(render(&report), include_str!("report.golden"));
}

#[tokio::test]
async fn a_replica_that_is_silent_is_left_out_unless_all_are() {
    let pods = Answers::default()
        .with(
            B,
            "/debug/proxies",
            &json!([
                proxy("web", 2, 1, 60),
                proxy("payment", 1, 1, 1),
                proxy("lost", 1, 1, 1)
            ]),
        )
        .with(B, "/debug/convergence", &Value::Null);
    let some = report(&pods).await.unwrap();
    let waiting: Vec<_> = some
        .proxies
        .iter()
        .filter(|p| p.state == State::Waiting)
        .collect();
    assert_eq!((some.proxies.len(), waiting.len()), (3, 1));
    let error = report(&Answers::default()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("controller-b does not answer on port 15020"),
        "{error}"
    );
}

#[tokio::test]
async fn without_a_controller_there_is_advice() {
    let server = ApiServer::new();
    let error = ask(&server.cluster().await, &Answers::default(), None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("linnet check"));
}
