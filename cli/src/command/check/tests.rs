use super::*;
use crate::cluster::scripted::ApiServer;
use serde_json::{Value, json};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/linnet-system/deployments";

fn deployment(name: &str, ready: i32) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"replicas": 2, "selector": {}, "template": {"spec": {"containers": [
            {"name": "a", "env": [{"name": "LINNET_PROXY_IMAGE", "value": "linnet/proxy:2"}]},
        ]}}},
        "status": {"readyReplicas": ready},
    })
}

fn namespace(name: &str, label: Option<&str>) -> Value {
    let labels = label.map_or(json!({}), |label| json!({label: "enabled"}));
    json!({"metadata": {"name": name, "labels": labels}})
}

fn pod(name: &str, proxy_image: Option<&str>, ready: bool) -> Value {
    let proxy = proxy_image.map(|image| json!([{"name": "linnet-proxy", "image": image}]));
    json!({
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"containers": [{"name": "app"}], "initContainers": proxy},
        "status": {"initContainerStatuses": [
            {"name": "linnet-proxy", "ready": ready, "image": "", "imageID": "", "restartCount": 0},
        ]},
    })
}

fn shop(pod: &Value) -> ApiServer {
    let path = format!(
        "/api/v1/namespaces/shop/pods/{}",
        pod["metadata"]["name"].as_str().unwrap()
    );
    ApiServer::new()
        .with(
            "/api/v1/namespaces/shop",
            namespace("shop", Some("istio-injection")),
        )
        .with(
            &format!("{DEPLOYMENTS}/linnet-injector"),
            deployment("linnet-injector", 2),
        )
        .with(&path, pod.clone())
}

fn warnings(findings: &[Finding]) -> Vec<&str> {
    let warnings = findings
        .iter()
        .filter(|finding| finding.status == Status::Warning);
    warnings.map(|finding| finding.message.as_str()).collect()
}

async fn sidecars(server: ApiServer) -> Vec<Finding> {
    workloads::sidecars(&server.cluster().await).await.unwrap()
}

#[tokio::test]
async fn an_empty_cluster_is_not_healthy_and_says_what_to_do() {
    let findings = examine(&ApiServer::new().cluster().await).await;
    let failed: Vec<_> = findings
        .iter()
        .filter(|finding| finding.status == Status::Failed)
        .collect();
    let checks: Vec<_> = failed.iter().map(|finding| finding.check).collect();
    assert_eq!(
        checks,
        [
            "kinds",
            "deployments",
            "deployments",
            "deployments",
            "webhook",
            "root"
        ]
    );
    assert!(
        failed[0]
            .advice
            .as_ref()
            .unwrap()
            .contains("linnet install")
    );
}

#[tokio::test]
async fn replicas_that_are_missing_are_a_warning_and_none_is_a_failure() {
    let server = ApiServer::new()
        .with(
            &format!("{DEPLOYMENTS}/linnet-identity"),
            deployment("linnet-identity", 2),
        )
        .with(
            &format!("{DEPLOYMENTS}/linnet-controller"),
            deployment("linnet-controller", 1),
        )
        .with(
            &format!("{DEPLOYMENTS}/linnet-injector"),
            deployment("linnet-injector", 0),
        );
    let findings = control_plane::deployments(&server.cluster().await)
        .await
        .unwrap();
    let status = |name: &str| {
        let found = findings
            .iter()
            .find(|finding| finding.message.starts_with(name));
        found.unwrap().status
    };
    assert_eq!(status("linnet-identity"), Status::Ok);
    assert_eq!(status("linnet-controller"), Status::Warning);
    assert_eq!(status("linnet-injector"), Status::Failed);
}

#[tokio::test]
async fn a_label_on_a_system_namespace_is_a_warning() {
    let server = ApiServer::new()
        .with(
            "/api/v1/namespaces/kube-system",
            namespace("kube-system", Some("istio-injection")),
        )
        .with(
            "/api/v1/namespaces/shop",
            namespace("shop", Some("linnet.io/inject")),
        )
        .with("/api/v1/namespaces/other", namespace("other", None));
    let findings = workloads::system_namespaces(&server.cluster().await)
        .await
        .unwrap();
    assert_eq!(
        warnings(&findings),
        ["namespace kube-system asks for sidecars, but is never injected"]
    );
    assert!(
        findings
            .iter()
            .any(|finding| finding.message == "1 namespace asks for sidecars")
    );
}

#[tokio::test]
async fn pods_older_than_the_label_are_named() {
    let findings = sidecars(shop(&pod("old", None, false))).await;
    assert_eq!(
        warnings(&findings),
        ["1 pod without a sidecar that should carry one: shop/old"]
    );
}

#[tokio::test]
async fn pods_that_opted_out_or_ended_are_as_they_should_be() {
    let mut opted_out = pod("out", None, false);
    opted_out["metadata"]["labels"] = json!({"sidecar.istio.io/inject": "false"});
    assert!(warnings(&sidecars(shop(&opted_out)).await).is_empty());
    let mut ended = pod("job", None, false);
    ended["status"]["phase"] = json!("Succeeded");
    assert!(warnings(&sidecars(shop(&ended)).await).is_empty());
}

#[tokio::test]
async fn a_sidecar_of_another_version_is_a_warning() {
    let findings = sidecars(shop(&pod("web", Some("linnet/proxy:1"), true))).await;
    assert_eq!(
        warnings(&findings),
        ["1 pod with another sidecar than linnet/proxy:2, which new pods get: shop/web"]
    );
    assert!(warnings(&sidecars(shop(&pod("web", Some("linnet/proxy:2"), true))).await).is_empty());
}

#[tokio::test]
async fn a_sidecar_that_waits_is_a_warning_with_the_command_to_see_why() {
    let findings = sidecars(shop(&pod("web", Some("linnet/proxy:2"), false))).await;
    let warning = findings
        .iter()
        .find(|finding| finding.status == Status::Warning)
        .unwrap();
    assert!(warning.message.contains("shop/web"));
    assert!(
        warning
            .advice
            .as_ref()
            .unwrap()
            .contains("logs web --container linnet-proxy")
    );
}

#[test]
fn the_report_is_data() {
    let report = Report {
        healthy: false,
        findings: vec![Finding::failed("root", "gone", "make one")],
    };
    assert_eq!(
        serde_json::to_value(&report).unwrap(),
        json!({"healthy": false, "findings": [
            {"check": "root", "status": "failed", "message": "gone", "advice": "make one"},
        ]})
    );
}

#[tokio::test]
async fn resources_that_are_not_in_force_are_a_warning() {
    let route = |name: &str, weight: i64| {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}, "weight": weight}]}]},
        })
    };
    let path = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices";
    let server = ApiServer::new().with(&format!("{path}/good"), route("good", 1));
    let found = async |server: &ApiServer| resources::rejected(&server.cluster().await).await;
    let sound = found(&server).await.unwrap();
    assert_eq!(sound[0].status, Status::Ok, "{sound:?}");
    let server = server.with(&format!("{path}/bad"), route("bad", -1));
    let findings = found(&server).await.unwrap();
    assert_eq!(
        warnings(&findings),
        ["1 of 2 configuration resources is not in force: VirtualService shop/bad"]
    );
}

#[tokio::test]
async fn a_validation_that_nobody_answers_is_a_warning() {
    let path =
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/linnet-controller";
    let configuration = |bundle: Value| {
        json!({"metadata": {"name": "linnet-controller"}, "webhooks": [{
            "name": "a", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"caBundle": bundle},
        }]})
    };
    for (server, warned) in [
        (ApiServer::new(), true),
        (
            ApiServer::new().with(path, configuration(json!(null))),
            true,
        ),
        (
            ApiServer::new().with(path, configuration(json!("AAAA"))),
            false,
        ),
    ] {
        let findings = control_plane::validation(&server.cluster().await)
            .await
            .unwrap();
        let is_missing = |finding: &Finding| finding.message.contains("are not refused");
        assert_eq!(findings.iter().any(is_missing), warned, "{findings:?}");
    }
}
