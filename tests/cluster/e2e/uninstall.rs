//! Point 7: uninstall says who is affected before it acts, leaves the users'
//! things alone, and with `--purge` leaves nothing.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::discovery::{Discovery, verbs};
use kube::{Client, ResourceExt};
use linnet_mesh::names::{
    CONTROL_PLANE_NAMESPACE, ISTIO_NAMESPACE, ROOT_SECRET, TRUST_BUNDLE_CONFIG_MAP, label,
};
use serde_json::json;

use crate::support::Cluster;
use crate::support::cluster::guide;
use crate::support::command::{linnet, linnet_succeeds};
use crate::support::workload::MESHED;

pub(crate) async fn uninstall_leaves_what_it_promises(cluster: Cluster) {
    cluster.meshed().await;
    cluster.without_configuration().await;
    cluster.apply(MESHED, &guide("payment-service.yaml")).await;
    cluster.apply(MESHED, &guide("mesh-strict.yaml")).await;

    names_the_meshed_pods_and_waits_to_be_told(&cluster).await;

    println!("{}", linnet_succeeds(&["uninstall", "-y"]).await);
    let remains = remains(&cluster.client).await;
    let unexpected: Vec<_> = remains.iter().filter(|object| !may_stay(object)).collect();
    assert!(unexpected.is_empty(), "left behind: {unexpected:#?}");
    assert!(remains.iter().any(is_crd), "the CRDs stay: {remains:#?}");
    let users = users_configuration(&cluster).await;
    assert_eq!(users, 3, "the users' configuration stays");
    new_pods_start_without_a_sidecar(&cluster).await;

    // What stayed does not stand in the way of a new install.
    linnet_succeeds(&["install", "-y"]).await;
    linnet_succeeds(&["check"]).await;
    assert_eq!(users_configuration(&cluster).await, 3);

    println!("{}", linnet_succeeds(&["uninstall", "--purge", "-y"]).await);
    let remains = self::remains(&cluster.client).await;
    assert!(remains.is_empty(), "left behind: {remains:#?}");
    cluster.without_workloads().await;
}

async fn names_the_meshed_pods_and_waits_to_be_told(cluster: &Cluster) {
    let before = remains(&cluster.client).await;
    let outcome = linnet(&["uninstall"]).await;
    assert!(
        !outcome.success,
        "it did not wait to be told:\n{}",
        outcome.text
    );
    for app in ["client", "payment-service"] {
        for pod in cluster.pods(MESHED, &format!("app={app}")).await {
            assert!(
                outcome.text.contains(&pod),
                "{pod} is missing in:\n{}",
                outcome.text
            );
        }
    }
    let after = remains(&cluster.client).await;
    let gone: Vec<_> = before
        .difference(&after)
        .filter(|object| object.kind != "Pod")
        .collect();
    assert!(gone.is_empty(), "removed without being told: {gone:#?}");
}

/// An object of Linnet's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    kind: String,
    namespace: String,
    name: String,
}

fn is_crd(object: &Found) -> bool {
    object.kind == "CustomResourceDefinition"
}

/// CRDs, and the namespaces that hold what is the users'.
fn may_stay(object: &Found) -> bool {
    let namespace = object.kind == "Namespace";
    is_crd(object) || (namespace && object.name == ISTIO_NAMESPACE)
}

/// Every object in the cluster that carries Linnet's label or one of its names.
async fn remains(client: &Client) -> BTreeSet<Found> {
    let mut found = BTreeSet::new();
    let discovery = Discovery::new(client.clone()).run().await.unwrap();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let counts = !["Event", "ComponentStatus"].contains(&resource.kind.as_str());
            if !counts || !capabilities.supports_operation(verbs::LIST) {
                continue;
            }
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            // A kind may disappear while this runs: its CRD was just deleted.
            let Ok(list) = api.list(&ListParams::default()).await else {
                continue;
            };
            let ours = list.items.into_iter().filter(is_linnets);
            found.extend(ours.map(|object| Found {
                kind: resource.kind.clone(),
                namespace: object.namespace().unwrap_or_default(),
                name: object.name_any(),
            }));
        }
    }
    found
}

fn is_linnets(object: &DynamicObject) -> bool {
    let name = object.name_any();
    let named = [
        CONTROL_PLANE_NAMESPACE,
        ROOT_SECRET,
        TRUST_BUNDLE_CONFIG_MAP,
        "linnet-controller",
        "linnet-identity",
        "linnet-injector",
    ];
    let labelled = object.labels().get(label::PART_OF).map(String::as_str);
    let dying = object.metadata.deletion_timestamp.is_some();
    let ours = labelled == Some(label::PART_OF_LINNET)
        || named.iter().any(|prefix| name.starts_with(prefix))
        || object.namespace().as_deref() == Some(CONTROL_PLANE_NAMESPACE);
    ours && !dying
}

/// How many of the guide's three resources there are.
async fn users_configuration(cluster: &Cluster) -> usize {
    let discovery = Discovery::new(cluster.client.clone()).run().await.unwrap();
    let mut count = 0;
    for (group, kind, namespace, name) in [
        (
            "networking.istio.io",
            "VirtualService",
            MESHED,
            "payment-service",
        ),
        (
            "networking.istio.io",
            "DestinationRule",
            MESHED,
            "payment-service",
        ),
        (
            "security.istio.io",
            "PeerAuthentication",
            ISTIO_NAMESPACE,
            "default",
        ),
    ] {
        let group = discovery.get(group);
        let resource = group.and_then(|group| group.recommended_kind(kind));
        let Some((resource, _)) = resource else {
            continue;
        };
        let api: Api<DynamicObject> =
            Api::namespaced_with(cluster.client.clone(), namespace, &resource);
        count += usize::from(api.get_opt(name).await.unwrap().is_some());
    }
    count
}

async fn new_pods_start_without_a_sidecar(cluster: &Cluster) {
    let pod = json!({
        "metadata": {"name": "after-uninstall"},
        "spec": {"containers": [{"name": "sample", "image": "linnet/sample:dev"}]},
    });
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pod = cluster.api(MESHED).create(&params, &pod).await;
    let pod = pod.unwrap_or_else(|error| panic!("a pod was refused after uninstall: {error}"));
    assert_eq!(
        pod.spec.unwrap().init_containers.unwrap_or_default().len(),
        0
    );
    let crds: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    assert!(
        !crds
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}
