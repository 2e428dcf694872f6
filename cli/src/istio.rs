//! Whether Istio itself runs in the cluster.
//!
//! Both would answer to the namespace label `istio-injection`, and a pod with two
//! sidecars has no working network: finding it is a reason to stop.

use crate::{
    cluster::{Cluster, Error},
    object,
};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration, apps::v1::Deployment,
};
use kube::Api;
use linnet_mesh::{ResourceRef, names};

/// What Istio's injection webhooks are called, with and without revisions.
const WEBHOOKS: [&str; 2] = ["istio-sidecar-injector", "istio-revision-tag-"];
const CONTROL_PLANE: &str = "istiod";

/// What there is of Istio's control plane.
///
/// # Errors
/// The API server did not say.
pub(crate) async fn find(cluster: &Cluster) -> Result<Vec<ResourceRef>, Error> {
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    let deployments: Api<Deployment> = Api::namespaced(cluster.client(), names::ISTIO_NAMESPACE);
    let webhooks = cluster.list(webhooks, "").await?;
    let deployments = cluster.list(deployments, "").await?;
    let webhooks = webhooks
        .iter()
        .map(object::name)
        .filter(|name| WEBHOOKS.iter().any(|prefix| name.starts_with(prefix)))
        .map(|name| named("MutatingWebhookConfiguration", "", name));
    let deployments = deployments
        .iter()
        .map(object::name)
        .filter(|name| name.starts_with(CONTROL_PLANE))
        .map(|name| named("Deployment", names::ISTIO_NAMESPACE, name));
    Ok(webhooks.chain(deployments).collect())
}

fn named(kind: &str, namespace: &str, name: &str) -> ResourceRef {
    ResourceRef {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::scripted::ApiServer;
    use serde_json::json;

    const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/istio-system/deployments";

    async fn found(server: ApiServer) -> Vec<String> {
        let found = find(&server.cluster().await).await.unwrap();
        found.iter().map(ToString::to_string).collect()
    }

    fn object(name: &str) -> serde_json::Value {
        json!({"metadata": {"name": name}})
    }

    #[tokio::test]
    async fn its_webhook_gives_it_away() {
        let name = "istio-sidecar-injector-1-22";
        let server = ApiServer::new().with(&format!("{WEBHOOKS}/{name}"), object(name));
        assert_eq!(
            found(server).await,
            [format!("MutatingWebhookConfiguration {name}")]
        );
    }

    #[tokio::test]
    async fn its_control_plane_gives_it_away() {
        let server = ApiServer::new().with(&format!("{DEPLOYMENTS}/istiod"), object("istiod"));
        assert_eq!(found(server).await, ["Deployment istio-system/istiod"]);
    }

    #[tokio::test]
    async fn other_webhooks_and_deployments_are_nothing_to_it() {
        let server = ApiServer::new()
            .with(
                &format!("{WEBHOOKS}/linnet-injector"),
                object("linnet-injector"),
            )
            .with(&format!("{DEPLOYMENTS}/prometheus"), object("prometheus"));
        assert!(found(server).await.is_empty());
    }
}
