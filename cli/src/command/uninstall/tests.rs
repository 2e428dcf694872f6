use super::*;
use crate::cluster::scripted::ApiServer;
use serde_json::{Value, json};

const SYSTEM: &str = "linnet-system";

fn object(namespace: &str, name: &str, ours: bool) -> Value {
    let labels = if ours {
        json!({"app.kubernetes.io/part-of": "linnet"})
    } else {
        json!({})
    };
    json!({"metadata": {"name": name, "namespace": namespace, "labels": labels}})
}

fn cluster_scoped(name: &str, ours: bool) -> Value {
    let mut object = object("", name, ours);
    object["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("namespace");
    object
}

/// Discovery of what lives in namespaces here.
fn kinds(server: ApiServer) -> ApiServer {
    let resource = |plural: &str, kind: &str, group: &str, version: &str| {
        json!({
            "resource": plural, "singularResource": "", "scope": "Namespaced", "verbs": ["list", "delete"],
            "responseKind": {"group": group, "version": version, "kind": kind},
        })
    };
    let list =
        |groups: Value| json!({"kind": "APIGroupDiscoveryList", "metadata": {}, "items": groups});
    server
        .with(
            "/api",
            list(json!([{"metadata": {}, "versions": [{"version": "v1", "resources": [
                resource("configmaps", "ConfigMap", "", "v1"),
                resource("secrets", "Secret", "", "v1"),
                resource("serviceaccounts", "ServiceAccount", "", "v1"),
            ]}]}])),
        )
        .with(
            "/apis",
            list(json!([{"metadata": {"name": "security.istio.io"}, "versions": [{"version": "v1", "resources": [
                resource("peerauthentications", "PeerAuthentication", "security.istio.io", "v1"),
            ]}]}])),
        )
}

fn installed() -> ApiServer {
    let core = format!("/api/v1/namespaces/{SYSTEM}");
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    kinds(ApiServer::new())
        .with(&core, cluster_scoped(SYSTEM, true))
        .with("/api/v1/namespaces/istio-system", cluster_scoped("istio-system", true))
        .with(
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/linnet-injector",
            cluster_scoped("linnet-injector", true),
        )
        .with(
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/linnet-controller",
            cluster_scoped("linnet-controller", true),
        )
        .with(
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/other",
            cluster_scoped("other", false),
        )
        .with(
            &format!("/apis/apps/v1/namespaces/{SYSTEM}/deployments/linnet-identity"),
            object(SYSTEM, "linnet-identity", true),
        )
        .with(&format!("{core}/secrets/linnet-root"), object(SYSTEM, "linnet-root", true))
        .with(
            &format!("{core}/secrets/linnet-injector-tls"),
            object(SYSTEM, "linnet-injector-tls", false),
        )
        .with(
            &format!("{core}/secrets/linnet-controller-tls"),
            object(SYSTEM, "linnet-controller-tls", false),
        )
        .with(&format!("{core}/serviceaccounts/default"), object(SYSTEM, "default", false))
        .with(
            &format!("{core}/serviceaccounts/linnet-identity"),
            object(SYSTEM, "linnet-identity", true),
        )
        .with(
            "/api/v1/namespaces/shop/configmaps/linnet-trust-bundle",
            object("shop", "linnet-trust-bundle", false),
        )
        .with(
            "/api/v1/namespaces/shop/configmaps/settings",
            object("shop", "settings", false),
        )
        .with(&format!("{rbac}/clusterroles/linnet-identity"), cluster_scoped("linnet-identity", true))
        .with(&format!("{rbac}/clusterroles/admin"), cluster_scoped("admin", false))
        .with(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/peerauthentications.security.istio.io",
            cluster_scoped("peerauthentications.security.istio.io", true),
        )
        .with(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gateways.example.com",
            cluster_scoped("gateways.example.com", false),
        )
}

async fn plan(server: &ApiServer, purge: bool) -> (Vec<String>, Vec<String>) {
    let plan = Plan::make(&server.cluster().await, purge).await.unwrap();
    let removals = plan.removals().map(ToString::to_string).collect();
    (removals, plan.kept().to_vec())
}

#[tokio::test]
async fn what_install_made_goes_and_the_webhook_goes_first() {
    let (removals, kept) = plan(&installed(), false).await;
    assert_eq!(
        removals,
        [
            "MutatingWebhookConfiguration linnet-injector",
            "ValidatingWebhookConfiguration linnet-controller",
            "Deployment linnet-system/linnet-identity",
            "Secret linnet-system/linnet-controller-tls",
            "Secret linnet-system/linnet-injector-tls",
            "ClusterRole linnet-identity",
            "ServiceAccount linnet-system/linnet-identity",
            "ConfigMap shop/linnet-trust-bundle",
            "Secret linnet-system/linnet-root",
            "Namespace istio-system",
            "Namespace linnet-system",
        ]
    );
    assert!(kept.is_empty(), "{kept:?}");
}

#[tokio::test]
async fn configuration_of_users_keeps_its_namespace() {
    let server = installed().with(
        "/apis/security.istio.io/v1/namespaces/istio-system/peerauthentications/default",
        object("istio-system", "default", false),
    );
    let (removals, kept) = plan(&server, false).await;
    assert!(
        !removals.contains(&"Namespace istio-system".to_owned()),
        "{removals:?}"
    );
    assert_eq!(
        kept,
        ["Namespace istio-system: it holds PeerAuthentication istio-system/default"]
    );
}

#[tokio::test]
async fn purge_leaves_nothing_of_ours_and_touches_nothing_else() {
    let server = installed().with(
        "/apis/security.istio.io/v1/namespaces/istio-system/peerauthentications/default",
        object("istio-system", "default", false),
    );
    let (removals, kept) = plan(&server, true).await;
    for expected in [
        "CustomResourceDefinition peerauthentications.security.istio.io",
        "Namespace istio-system",
        "Namespace linnet-system",
        "Secret linnet-system/linnet-root",
        "ConfigMap shop/linnet-trust-bundle",
    ] {
        assert!(
            removals.contains(&expected.to_owned()),
            "{expected}: {removals:?}"
        );
    }
    assert!(removals.iter().all(|removal| {
        !["settings", "admin", "gateways", "other"]
            .iter()
            .any(|name| removal.contains(name))
    }));
    assert!(kept.is_empty(), "{kept:?}");
}

#[tokio::test]
async fn a_root_that_users_brought_stays() {
    let server = installed().with(
        &format!("/api/v1/namespaces/{SYSTEM}/secrets/linnet-root"),
        object(SYSTEM, "linnet-root", false),
    );
    let (removals, kept) = plan(&server, false).await;
    assert!(!removals.contains(&"Secret linnet-system/linnet-root".to_owned()));
    assert!(kept[0].contains("Linnet did not make it"), "{kept:?}");
}

#[tokio::test]
async fn a_namespace_that_install_did_not_make_stays() {
    let server = installed().with(
        "/api/v1/namespaces/istio-system",
        cluster_scoped("istio-system", false),
    );
    let (removals, _) = plan(&server, true).await;
    assert!(!removals.contains(&"Namespace istio-system".to_owned()));
}

#[tokio::test]
async fn the_plan_is_carried_out_in_its_order() {
    let server = installed();
    let cluster = server.cluster().await;
    let plan = Plan::make(&cluster, false).await.unwrap();
    assert_eq!(plan.carry_out(&cluster).await.unwrap(), 11);
    let changes = server.changes();
    assert!(
        changes[0].contains("mutatingwebhookconfigurations/linnet-injector"),
        "{changes:?}"
    );
    assert!(changes.iter().all(|change| change.starts_with("DELETE ")));
    assert!(Plan::make(&cluster, false).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_empty_cluster_has_nothing_to_remove() {
    let (removals, _) = plan(&kinds(ApiServer::new()), true).await;
    assert!(removals.is_empty());
}

#[tokio::test]
async fn purge_names_the_resources_that_go_with_their_kind() {
    let server = installed().with(
        "/apis/security.istio.io/v1/namespaces/shop/peerauthentications/strict",
        object("shop", "strict", false),
    );
    let cluster = server.cluster().await;
    let purge = Plan::make(&cluster, true).await.unwrap();
    let casualties: Vec<_> = purge.casualties().iter().map(ToString::to_string).collect();
    assert_eq!(casualties, ["PeerAuthentication shop/strict"]);
    let gentle = Plan::make(&cluster, false).await.unwrap();
    assert!(gentle.casualties().is_empty());
}
