use super::{stages::Stages, *};
use crate::{cluster::scripted::ApiServer, terminal::Terminal};
use serde_json::{Value, json};

const NAMESPACE: &str = "/api/v1/namespaces/istio-system";
const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

const VALIDATION: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

fn objects() -> Vec<Object> {
    manifests::render(Profile::Default, &Settings::default()).unwrap()
}

fn istio_namespace() -> Object {
    let found = objects()
        .into_iter()
        .find(|object| object.name() == "istio-system");
    found.unwrap()
}

/// A cluster in which everything that install waits for is already so.
fn working_cluster() -> ApiServer {
    let mut server = ApiServer::new();
    for object in objects() {
        let name = object.name();
        server = match object.kind() {
            "CustomResourceDefinition" => server.with(
                &format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"),
                established(object.value()),
            ),
            "Deployment" => server.with(
                &format!("/apis/apps/v1/namespaces/linnet-system/deployments/{name}"),
                json!({
                    "metadata": {"name": name, "generation": 1},
                    "spec": {"replicas": 2, "selector": {}, "template": {}},
                    "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2},
                }),
            ),
            _ => server,
        };
    }
    server
        .with(
            "/api/v1/namespaces/linnet-system/configmaps/linnet-trust-bundle",
            json!({"metadata": {"name": "linnet-trust-bundle"}, "data": {"ca.pem": "x"}}),
        )
        .with(&format!("{WEBHOOKS}/linnet-injector"), webhook("AAAA"))
        .with(&format!("{VALIDATION}/linnet-controller"), webhook("AAAA"))
}

fn established(definition: &Value) -> Value {
    let mut definition = definition.clone();
    definition["status"] = json!({
        "acceptedNames": {"kind": "", "plural": ""},
        "storedVersions": [],
        "conditions": [{"type": "Established", "status": "True"}],
    });
    definition
}

fn webhook(ca_bundle: &str) -> Value {
    json!({
        "metadata": {"name": "linnet-injector"},
        "webhooks": [{
            "name": "a", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"caBundle": ca_bundle},
        }],
    })
}

async fn install(server: &ApiServer) -> Result<(), Error> {
    let cluster = server.cluster().await;
    let timeout = Duration::from_secs(5);
    stages::run(&cluster, &Terminal::silent(), objects(), timeout).await
}

#[test]
fn every_object_has_a_stage() {
    let stages = Stages::of(objects());
    assert_eq!(stages.definitions.len(), 7);
    assert_eq!(stages.namespaces.len(), 2);
    assert_eq!(stages.identity.len(), 1);
    assert_eq!(stages.services.len(), 2);
    assert_eq!(stages.webhooks.len(), 2);
    let kinds: Vec<_> = stages.foundations.iter().map(Object::kind).collect();
    assert!(!kinds.contains(&"Deployment") && kinds.contains(&"ClusterRole"));
}

#[tokio::test]
async fn the_webhook_is_applied_last() {
    let server = working_cluster();
    install(&server).await.unwrap();
    let changes = server.changes();
    let position = |part: &str| {
        changes
            .iter()
            .position(|change| change.contains(part))
            .unwrap()
    };
    assert_eq!(changes.len(), objects().len());
    assert!(
        changes
            .last()
            .unwrap()
            .starts_with("PATCH /apis/admissionregistration")
    );
    assert!(position("customresourcedefinitions") < position("/namespaces/linnet-system"));
    assert!(position("clusterroles") < position("deployments/linnet-identity"));
    assert!(position("deployments/linnet-identity") < position("deployments/linnet-controller"));
}

#[tokio::test(start_paused = true)]
async fn an_injector_that_never_gets_ready_leaves_no_webhook() {
    let path = "/apis/apps/v1/namespaces/linnet-system/deployments/linnet-injector";
    let server = working_cluster()
        .with(path, json!({"metadata": {"name": "linnet-injector"}, "spec": {"replicas": 1, "selector": {}, "template": {}}}))
        .with(
            "/api/v1/namespaces/linnet-system/pods/linnet-injector-x",
            json!({
                "metadata": {"name": "linnet-injector-x"},
                "status": {"containerStatuses": [{
                    "name": "injector", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}},
                }]},
            }),
        );
    let error = install(&server).await.unwrap_err().to_string();
    assert!(
        error.contains("Deployment linnet-injector is not ready"),
        "{error}"
    );
    assert!(error.contains("ErrImagePull: no such image"), "{error}");
    assert!(
        server
            .changes()
            .iter()
            .all(|change| !change.contains("webhook"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_webhook_without_a_bundle_is_not_success() {
    let server = working_cluster().with(&format!("{WEBHOOKS}/linnet-injector"), webhook(""));
    let error = install(&server).await.unwrap_err().to_string();
    assert!(error.contains("caBundle"), "{error}");
}

#[tokio::test]
async fn a_namespace_of_somebody_else_is_left_as_it_is() {
    let server = ApiServer::new().with(NAMESPACE, json!({"metadata": {"name": "istio-system"}}));
    let cluster = server.cluster().await;
    stages::apply_namespace(&cluster, &Terminal::silent(), &istio_namespace())
        .await
        .unwrap();
    assert!(server.changes().is_empty());
}

#[tokio::test]
async fn the_own_namespace_is_applied_again() {
    let ours = json!({"metadata": {"name": "istio-system", "labels": {"app.kubernetes.io/part-of": "linnet"}}});
    let server = ApiServer::new().with(NAMESPACE, ours);
    let cluster = server.cluster().await;
    stages::apply_namespace(&cluster, &Terminal::silent(), &istio_namespace())
        .await
        .unwrap();
    assert_eq!(server.changes(), [format!("PATCH {NAMESPACE}")]);
}

#[tokio::test]
async fn istio_stops_an_install_with_advice() {
    let name = "istio-sidecar-injector";
    let server = ApiServer::new().with(
        &format!("{WEBHOOKS}/{name}"),
        json!({"metadata": {"name": name}}),
    );
    let error = refuse_unfit(&server.cluster().await)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(name) && error.contains("istioctl uninstall"),
        "{error}"
    );
}

#[tokio::test]
async fn an_old_kubernetes_stops_an_install() {
    let server = ApiServer::new().version("1", "28");
    let error = refuse_unfit(&server.cluster().await)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("1.28") && error.contains("1.29"), "{error}");
}

#[tokio::test]
async fn a_wrong_setting_stops_before_the_cluster_is_asked() {
    let context = Context {
        cluster: crate::cluster::ClusterArguments {
            kubeconfig: Some("/does/not/exist".into()),
            context: None,
        },
        terminal: Terminal::silent(),
    };
    let arguments = Arguments {
        profile: Profile::Default,
        set: vec!["nothing=1".to_owned(), "replicas=x".to_owned()],
        yes: true,
        output: None,
        timeout: 1,
    };
    let error = run(arguments, &context).await.unwrap_err().to_string();
    assert!(
        error.contains("nothing") && error.contains("replicas=x"),
        "{error}"
    );
}
