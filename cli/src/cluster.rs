//! The cluster that a command works on: how it is found, and the few requests
//! that several commands make.

pub(crate) mod ask;
pub(crate) mod workload;

use crate::object::Object;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Config,
    api::{
        ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PropagationPolicy,
    },
    config::{KubeConfigOptions, Kubeconfig},
    discovery::{ApiCapabilities, ApiGroup, Discovery},
};
use linnet_mesh::{ResourceRef, names};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, path::PathBuf, time::Duration};

/// Who owns the fields that this program applies.
pub(crate) const FIELD_MANAGER: &str = "linnet";
/// The oldest Kubernetes with native sidecar containers on by default.
pub(crate) const OLDEST_MINOR: u32 = 29;
/// Enough for an API server at the other end of the world, and short enough
/// for a person who mistyped its address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A pod that does not answer in this time is passed over.
const POD_TIMEOUT: Duration = Duration::from_secs(5);

/// Which cluster.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ClusterArguments {
    /// Kubeconfig file, instead of $KUBECONFIG or ~/.kube/config
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, instead of its current one
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) context: Option<String>,
}

/// What went wrong between this program and the cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no cluster to talk to; set KUBECONFIG, or pass --kubeconfig and --context")]
    Kubeconfig(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the cluster at {url} does not answer; is it running, and is this the right context?")]
    Unreachable {
        url: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("cannot {action}; the current user needs the right to do this")]
    Forbidden {
        action: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("cannot {action}")]
    Request {
        action: String,
        #[source]
        source: Box<kube::Error>,
    },
}

impl Error {
    fn request(action: String, source: kube::Error) -> Self {
        let forbidden =
            matches!(&source, kube::Error::Api(status) if status.code == 403 || status.code == 401);
        let source = Box::new(source);
        if forbidden {
            Self::Forbidden { action, source }
        } else {
            Self::Request { action, source }
        }
    }
}

/// A cluster that answered.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    url: String,
    /// Major and minor version of Kubernetes.
    version: (u32, u32),
}

impl Cluster {
    /// Finds the cluster and asks for its version.
    ///
    /// # Errors
    /// No configuration, or no answer.
    pub(crate) async fn connect(arguments: &ClusterArguments) -> Result<Self, Error> {
        let mut config = configuration(arguments).await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| Error::Kubeconfig(error.into()))?;
        Self::with_client(client, url).await
    }

    /// A cluster behind a client.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn with_client(client: Client, url: String) -> Result<Self, Error> {
        let info = client
            .apiserver_version()
            .await
            .map_err(|source| Error::Unreachable {
                url: url.clone(),
                source: Box::new(source),
            })?;
        let version = (number(&info.major), number(&info.minor));
        Ok(Self {
            client,
            url,
            version,
        })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) const fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Whether Kubernetes is recent enough.
    pub(crate) fn is_supported(&self) -> bool {
        self.version >= (1, OLDEST_MINOR)
    }

    /// Creates an object or takes over the fields that it sets (server-side apply).
    ///
    /// # Errors
    /// The API server refused.
    pub(crate) async fn apply(&self, object: &Object) -> Result<(), Error> {
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.api_of(object)
            .patch(object.name(), &parameters, &Patch::Apply(object.value()))
            .await
            .map_err(|error| Error::request(format!("apply {}", object.reference()), error))?;
        Ok(())
    }

    /// An object as it is now, if it exists.
    ///
    /// # Errors
    /// The API server did not say.
    pub(crate) async fn current(&self, object: &Object) -> Result<Option<DynamicObject>, Error> {
        self.api_of(object)
            .get_opt(object.name())
            .await
            .map_err(|error| Error::request(format!("read {}", object.reference()), error))
    }

    /// An object by name, if it exists.
    ///
    /// # Errors
    /// The API server did not say.
    pub(crate) async fn find<K>(&self, api: Api<K>, name: &str) -> Result<Option<K>, Error>
    where
        K: kube::Resource + Clone + DeserializeOwned + Debug,
    {
        let action = || format!("read {} {name}", resource(&api));
        api.get_opt(name)
            .await
            .map_err(|error| Error::request(action(), error))
    }

    /// The objects of a kind; none where the cluster doesn't have the kind.
    ///
    /// # Errors
    /// The API server did not say.
    pub(crate) async fn list<K>(&self, api: Api<K>, selector: &str) -> Result<Vec<K>, Error>
    where
        K: kube::Resource + Clone + DeserializeOwned + Debug,
    {
        match api.list(&ListParams::default().labels(selector)).await {
            Ok(list) => Ok(list.items),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 405 => {
                Ok(Vec::new())
            }
            Err(error) => Err(Error::request(format!("list {}", resource(&api)), error)),
        }
    }

    /// Deletes an object, and what it owns in the background; `false` if it was gone.
    ///
    /// # Errors
    /// The API server refused.
    pub(crate) async fn delete(
        &self,
        api: &Api<DynamicObject>,
        reference: &ResourceRef,
    ) -> Result<bool, Error> {
        let parameters = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        match api.delete(&reference.name, &parameters).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(Error::request(format!("delete {reference}"), error)),
        }
    }

    /// The kinds that the cluster serves, each in its preferred version.
    ///
    /// # Errors
    /// The API server did not say.
    pub(crate) async fn kinds(&self) -> Result<Vec<(ApiResource, ApiCapabilities)>, Error> {
        let discovery = Discovery::new(self.client())
            .run_aggregated()
            .await
            .map_err(|error| Error::request("list the kinds that it serves".to_owned(), error))?;
        let groups = discovery.groups();
        Ok(groups.flat_map(ApiGroup::recommended_resources).collect())
    }

    /// Sets an annotation.
    ///
    /// # Errors
    /// The API server refused.
    pub(crate) async fn annotate<K>(
        &self,
        api: &Api<K>,
        name: &str,
        annotation: &str,
        value: &str,
    ) -> Result<(), Error>
    where
        K: kube::Resource + Clone + DeserializeOwned + Debug,
    {
        let change = serde_json::json!({"metadata": {"annotations": {annotation: value}}});
        api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(change))
            .await
            .map_err(|error| Error::request(format!("annotate {} {name}", resource(api)), error))?;
        Ok(())
    }

    /// What a pod answers to a `GET`, whatever the status; none if it does not.
    pub(crate) async fn pod_text(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        path: &str,
    ) -> Option<String> {
        let url = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{path}");
        let request = http::Request::get(url).body(Vec::new()).ok()?;
        match tokio::time::timeout(POD_TIMEOUT, self.client.request_text(request)).await {
            Ok(Ok(text)) => Some(text),
            // The pod's own words, where it is not ready.
            Ok(Err(kube::Error::Api(status))) if status.code == 503 => Some(status.message.clone()),
            _ => None,
        }
    }

    /// All pods that carry a sidecar and have not ended.
    ///
    /// # Errors
    /// The API server did not say.
    pub(crate) async fn meshed_pods(&self) -> Result<Vec<Pod>, Error> {
        let selector = format!(
            "{}={}",
            names::label::SIDECAR,
            names::label::SIDECAR_INJECTED
        );
        let mut pods = self.list(Api::<Pod>::all(self.client()), &selector).await?;
        pods.retain(|pod| !has_ended(pod));
        Ok(pods)
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The objects of one namespace of Linnet's own.
    pub(crate) fn in_control_plane<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client(), names::CONTROL_PLANE_NAMESPACE)
    }

    fn api_of(&self, object: &Object) -> Api<DynamicObject> {
        let resource = object.api_resource();
        match object.namespace() {
            "" => Api::all_with(self.client(), &resource),
            namespace => Api::namespaced_with(self.client(), namespace, &resource),
        }
    }
}

/// Whether a pod has run to its end.
pub(crate) fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

async fn configuration(arguments: &ClusterArguments) -> Result<Config, Error> {
    let ClusterArguments {
        kubeconfig,
        context,
    } = arguments;
    if kubeconfig.is_none() && context.is_none() {
        return Config::infer()
            .await
            .map_err(|error| Error::Kubeconfig(error.into()));
    }
    let file = match kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let options = KubeConfigOptions {
        context: context.clone(),
        ..KubeConfigOptions::default()
    };
    let file = file.map_err(|error| Error::Kubeconfig(error.into()))?;
    Config::from_custom_kubeconfig(file, &options)
        .await
        .map_err(|error| Error::Kubeconfig(error.into()))
}

/// The last part of an API's path: `pods`.
fn resource<K: kube::Resource>(api: &Api<K>) -> String {
    let path = api.resource_url();
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

/// Providers write minor versions like `29+`.
fn number(text: &str) -> u32 {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod scripted;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::scripted::ApiServer;

    #[tokio::test]
    async fn versions_of_providers_are_understood() {
        let server = ApiServer::new().version("1", "28+");
        assert!(!server.cluster().await.is_supported());
        let server = ApiServer::new().version("1", "29");
        assert!(server.cluster().await.is_supported());
    }

    #[tokio::test]
    async fn a_kubeconfig_that_does_not_exist_is_an_error_with_advice() {
        let arguments = ClusterArguments {
            kubeconfig: Some("/does/not/exist".into()),
            context: None,
        };
        let error = Cluster::connect(&arguments).await.err().unwrap();
        assert!(error.to_string().contains("--kubeconfig"), "{error}");
    }

    #[tokio::test]
    async fn a_cluster_that_does_not_answer_is_named() {
        let url = format!("http://{}", linnet_runtime::testing::closed());
        let config = Config::new(url.parse().unwrap());
        let client = Client::try_from(config).unwrap();
        let error = Cluster::with_client(client, url.clone())
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains(&url), "{error}");
    }
}
