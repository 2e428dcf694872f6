//! The cluster under test: objects applied and deleted, states waited for.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::WARNING;
use http_body_util::BodyExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::runtime::wait::{Condition, await_condition};
use kube::{Client, Config, Resource, ResourceExt, discovery};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// How long anything on a node under test may take to come up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Whom the API server records as the tests' objects' owner.
const FIELD_MANAGER: &str = "linnet-e2e";

/// A connection to the cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// The API server, to find the address that pods reach this process by.
    pub(crate) server: http::Uri,
}

/// The project's root.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The kubeconfig in use.
pub(crate) fn kubeconfig() -> PathBuf {
    std::env::var_os("KUBECONFIG").map_or_else(
        || project().join("target/cluster/kubeconfig"),
        PathBuf::from,
    )
}

/// The guides' YAML, as users bring it.
pub(crate) fn guide(file: &str) -> String {
    let path = project().join("manifests/examples").join(file);
    match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

impl Cluster {
    /// Connects, or says how to get a cluster.
    pub(crate) async fn connect() -> Self {
        let path = kubeconfig();
        let advice = "run `just cluster-up`, or point KUBECONFIG at another test cluster";
        let kubeconfig = Kubeconfig::read_from(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; {advice}", path.display()));
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let server = config.cluster_url.clone();
        let client = Client::try_from(config).unwrap();
        if let Err(error) = client.apiserver_version().await {
            panic!("no answer from {server}: {error}; {advice}");
        }
        Self { client, server }
    }

    /// Objects of a kind in a namespace.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// `kubectl apply --server-side` of every document.
    pub(crate) async fn apply(&self, namespace: &str, yaml: &str) {
        for object in documents(yaml) {
            let (name, api) = self.locate(namespace, &object).await;
            let params = PatchParams::apply(FIELD_MANAGER).force();
            if let Err(error) = api.patch(&name, &params, &Patch::Apply(&object)).await {
                panic!("cannot apply {}: {error}", describe(&object));
            }
        }
    }

    /// `kubectl apply --server-side` of one document: the warnings that it brings.
    ///
    /// # Errors
    /// The API server's refusal.
    pub(crate) async fn try_apply(
        &self,
        namespace: &str,
        yaml: &str,
    ) -> Result<Vec<String>, String> {
        let object = documents(yaml).remove(0);
        let (name, api) = self.locate(namespace, &object).await;
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let request = kube::core::Request::new(api.resource_url());
        let request = request
            .patch(&name, &params, &Patch::Apply(&object))
            .unwrap();
        let answer = self.client.send(request.map(Into::into)).await.unwrap();
        let warnings = answer.headers().get_all(WARNING).into_iter();
        let warnings = warnings.map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned());
        let warnings = warnings.collect();
        if answer.status().is_success() {
            return Ok(warnings);
        }
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        Err(String::from_utf8_lossy(&body).into_owned())
    }

    /// A document as the cluster has it.
    pub(crate) async fn object(&self, namespace: &str, yaml: &str) -> DynamicObject {
        let object = documents(yaml).remove(0);
        let (name, api) = self.locate(namespace, &object).await;
        api.get(&name).await.unwrap()
    }

    /// `kubectl delete` of every document; what is not there is fine.
    pub(crate) async fn delete(&self, namespace: &str, yaml: &str) {
        for object in documents(yaml) {
            let (name, api) = self.locate(namespace, &object).await;
            // Jobs leave their pods behind otherwise.
            let params = DeleteParams::background();
            match api.delete(&name, &params).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => panic!("cannot delete {}: {error}", describe(&object)),
            }
        }
    }

    async fn locate(
        &self,
        namespace: &str,
        object: &DynamicObject,
    ) -> (String, Api<DynamicObject>) {
        let types = object.types.as_ref().unwrap();
        let kind = GroupVersionKind::try_from(types).unwrap();
        let (resource, capabilities) = discovery::pinned_kind(&self.client, &kind)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", describe(object)));
        let client = self.client.clone();
        let api = if capabilities.scope == discovery::Scope::Namespaced {
            let namespace = object.namespace().unwrap_or_else(|| namespace.to_owned());
            Api::namespaced_with(client, &namespace, &resource)
        } else {
            Api::all_with(client, &resource)
        };
        (object.name_any(), api)
    }

    /// Sets or, without a value, removes a namespace's label.
    pub(crate) async fn label_namespace(&self, name: &str, label: &str, value: Option<&str>) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({"metadata": {"labels": {label: value}}}));
        let result = api.patch(name, &PatchParams::default(), &patch).await;
        result.unwrap_or_else(|error| panic!("cannot label namespace {name}: {error}"));
    }

    /// Waits until `name` is as `condition` says.
    pub(crate) async fn wait<K>(
        &self,
        api: Api<K>,
        name: &str,
        what: &str,
        condition: impl Condition<K>,
    ) -> Option<K>
    where
        K: Resource + Clone + Debug + Send + DeserializeOwned + 'static,
    {
        let waiting = await_condition(api, name, condition);
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(Ok(object)) => object,
            Ok(Err(error)) => panic!("{name}: watching for `{what}`: {error}"),
            Err(_) => panic!("{name}: not `{what}` after {PATIENCE:?}"),
        }
    }

    /// Waits until a deployment's newest pods, and only they, are ready.
    pub(crate) async fn rolled_out(&self, namespace: &str, name: &str) {
        let api: Api<Deployment> = self.api(namespace);
        self.wait(api, name, "rolled out", |object: Option<&Deployment>| {
            object.is_some_and(is_rolled_out)
        })
        .await;
    }

    /// `kubectl rollout restart`, and waits for it.
    pub(crate) async fn restart(&self, namespace: &str, name: &str) {
        let api: Api<Deployment> = self.api(namespace);
        let result = api.restart(name).await;
        result.unwrap_or_else(|error| panic!("cannot restart {namespace}/{name}: {error}"));
        self.rolled_out(namespace, name).await;
    }

    /// Sets a deployment's number of replicas; what it was.
    pub(crate) async fn scale(&self, namespace: &str, name: &str, replicas: i32) -> i32 {
        let api: Api<Deployment> = self.api(namespace);
        let before = api.get(name).await.unwrap().spec.unwrap().replicas;
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        api.patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
        before.unwrap_or(1)
    }

    /// The names of running pods that no deletion has begun for.
    pub(crate) async fn pods(&self, namespace: &str, labels: &str) -> Vec<String> {
        let pods = self.pod_objects(namespace, labels).await;
        pods.iter().map(ResourceExt::name_any).collect()
    }

    /// Those pods.
    pub(crate) async fn pod_objects(&self, namespace: &str, labels: &str) -> Vec<Pod> {
        let api: Api<Pod> = self.api(namespace);
        let list = api.list(&ListParams::default().labels(labels)).await;
        let running = |pod: &Pod| {
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            pod.metadata.deletion_timestamp.is_none() && phase == Some("Running")
        };
        list.unwrap().items.into_iter().filter(running).collect()
    }
}

fn is_rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation == deployment.metadata.generation
            && status.updated_replicas == Some(wanted)
            && status.available_replicas == Some(wanted)
            && status.replicas == Some(wanted)
    })
}

fn documents(yaml: &str) -> Vec<DynamicObject> {
    serde_norway::Deserializer::from_str(yaml)
        .map(|document| DynamicObject::deserialize(document).unwrap())
        .collect()
}

fn describe(object: &DynamicObject) -> String {
    let kind = object
        .types
        .as_ref()
        .map_or("?", |types| types.kind.as_str());
    let namespace = object.namespace().unwrap_or_default();
    format!("{kind} {namespace}/{}", object.name_any())
}
