//! Workloads as people name them, `deploy/frontend` or `pod/x`, and the pod of
//! theirs to ask.

use super::{Cluster, Error, ask::PodName, has_ended};
use crate::object;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        core::v1::{Pod, Service},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{Api, ResourceExt, core::Selector};
use linnet_mesh::names::{self, label};
use std::{fmt, str::FromStr};

/// What was typed: a kind, or none, and a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    kind: Option<Kind>,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Service,
    Deployment,
    StatefulSet,
    DaemonSet,
    Pod,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Deployment => "deployment",
            Self::StatefulSet => "statefulset",
            Self::DaemonSet => "daemonset",
            Self::Pod => "pod",
        }
    }
}

/// Text that names no workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not like deploy/frontend, sts/db, ds/agent, pod/frontend-1 or frontend")]
pub(crate) struct NotAReference(String);

impl FromStr for Reference {
    type Err = NotAReference;

    fn from_str(text: &str) -> Result<Self, NotAReference> {
        let wrong = || NotAReference(text.to_owned());
        let (kind, name) = match text.split_once('/') {
            None => (None, text),
            Some((kind, name)) => {
                let kind = match kind {
                    "svc" | "service" | "services" => Kind::Service,
                    "deploy" | "deployment" | "deployments" => Kind::Deployment,
                    "sts" | "statefulset" | "statefulsets" => Kind::StatefulSet,
                    "ds" | "daemonset" | "daemonsets" => Kind::DaemonSet,
                    "po" | "pod" | "pods" => Kind::Pod,
                    _ => return Err(wrong()),
                };
                (Some(kind), name)
            }
        };
        if name.is_empty() || name.contains('/') {
            return Err(wrong());
        }
        Ok(Self {
            kind,
            name: name.to_owned(),
        })
    }
}

impl Reference {
    /// The name without the kind.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Some(kind) => write!(f, "{} {}", kind.word(), self.name),
            None => write!(f, "deployment or pod {}", self.name),
        }
    }
}

/// Why there is no pod to ask.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    #[error(transparent)]
    Cluster(#[from] Error),
    #[error("there is no {reference} in namespace {namespace}{}", hint(.near))]
    Missing {
        reference: Reference,
        namespace: String,
        near: Vec<String>,
    },
    #[error("{reference} of namespace {namespace} has no running pod")]
    NoPod {
        reference: Reference,
        namespace: String,
    },
    #[error(
        "pod {pod} has no sidecar, so nobody there can say; label its namespace \
         (kubectl label namespace {} istio-injection=enabled) and restart it", .pod.namespace
    )]
    NotMeshed { pod: PodName },
    #[error("no pod of namespace {namespace} has a sidecar; name another with --from or -n")]
    NobodyMeshed { namespace: String },
}

fn hint(near: &[String]) -> String {
    match near {
        [] => String::new(),
        near => format!("; there is {}", near.join(", ")),
    }
}

impl Cluster {
    /// The namespace to look in: the one named, or the context's own.
    pub(crate) fn namespace(&self, named: Option<&str>) -> String {
        let client = self.client();
        named.unwrap_or(client.default_namespace()).to_owned()
    }

    /// A pod of a workload that carries a sidecar: a ready one if there is.
    ///
    /// # Errors
    /// No such workload, no pod, or none with a sidecar.
    pub(crate) async fn meshed_pod(
        &self,
        reference: &Reference,
        namespace: &str,
    ) -> Result<PodName, FindError> {
        let mut pods = self.pods_of(reference, namespace).await?;
        pods.retain(|pod| !has_ended(pod) && pod.metadata.deletion_timestamp.is_none());
        let Some(first) = pods.first().map(PodName::of) else {
            return Err(FindError::NoPod {
                reference: reference.clone(),
                namespace: namespace.to_owned(),
            });
        };
        best(pods).ok_or(FindError::NotMeshed { pod: first })
    }

    /// Any pod of a namespace that carries a sidecar.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn any_meshed_pod(&self, namespace: &str) -> Result<PodName, FindError> {
        let api: Api<Pod> = Api::namespaced(self.client(), namespace);
        let mut pods = self.list(api, "").await?;
        pods.retain(|pod| !has_ended(pod) && pod.metadata.deletion_timestamp.is_none());
        best(pods).ok_or_else(|| FindError::NobodyMeshed {
            namespace: namespace.to_owned(),
        })
    }

    /// All pods of a workload that carry a sidecar. A name without a kind is a
    /// service's, or failing that as [`Self::meshed_pod`] takes it.
    ///
    /// # Errors
    /// No such workload, no pod, or none with a sidecar.
    pub(crate) async fn meshed_pods_of(
        &self,
        reference: &Reference,
        namespace: &str,
    ) -> Result<Vec<Pod>, FindError> {
        let service = Reference {
            kind: Some(Kind::Service),
            name: reference.name.clone(),
        };
        let mut pods = match reference.kind {
            None => match self.pods_of(&service, namespace).await {
                Err(FindError::Missing { .. }) => self.pods_of(reference, namespace).await?,
                found => found?,
            },
            Some(_) => self.pods_of(reference, namespace).await?,
        };
        let Some(first) = pods.first().map(PodName::of) else {
            return Err(FindError::NoPod {
                reference: reference.clone(),
                namespace: namespace.to_owned(),
            });
        };
        pods.retain(is_meshed);
        if pods.is_empty() {
            return Err(FindError::NotMeshed { pod: first });
        }
        Ok(pods)
    }

    /// The pods that a service selects.
    async fn selected_by(
        &self,
        name: &str,
        namespace: &str,
    ) -> Result<Option<LabelSelector>, Error> {
        let found: Option<Service> = self.find(self.of(namespace), name).await?;
        let selector = found.and_then(|found| found.spec?.selector);
        Ok(selector.map(|labels| LabelSelector {
            match_labels: Some(labels),
            ..LabelSelector::default()
        }))
    }

    async fn pods_of(&self, reference: &Reference, namespace: &str) -> Result<Vec<Pod>, FindError> {
        let name = reference.name.as_str();
        let selector = match reference.kind {
            Some(Kind::Service) => self.selected_by(name, namespace).await?,
            Some(Kind::Deployment) => self.deployment(name, namespace).await?,
            Some(Kind::StatefulSet) => {
                let found: Option<StatefulSet> = self.find(self.of(namespace), name).await?;
                found.and_then(|found| Some(found.spec?.selector))
            }
            Some(Kind::DaemonSet) => {
                let found: Option<DaemonSet> = self.find(self.of(namespace), name).await?;
                found.and_then(|found| Some(found.spec?.selector))
            }
            Some(Kind::Pod) => None,
            None => self.deployment(name, namespace).await?,
        };
        if let Some(selector) = selector {
            let selector = Selector::try_from(selector).unwrap_or_default();
            return Ok(self.list(self.of(namespace), &selector.to_string()).await?);
        }
        if matches!(reference.kind, None | Some(Kind::Pod)) {
            let found: Option<Pod> = self.find(self.of(namespace), name).await?;
            if let Some(pod) = found {
                return Ok(vec![pod]);
            }
        }
        Err(FindError::Missing {
            near: self.near(reference, namespace).await?,
            reference: reference.clone(),
            namespace: namespace.to_owned(),
        })
    }

    async fn deployment(
        &self,
        name: &str,
        namespace: &str,
    ) -> Result<Option<LabelSelector>, Error> {
        let found: Option<Deployment> = self.find(self.of(namespace), name).await?;
        Ok(found.and_then(|found| Some(found.spec?.selector)))
    }

    /// What could have been meant.
    async fn near(&self, reference: &Reference, namespace: &str) -> Result<Vec<String>, Error> {
        let (mut found, kind) = if reference.kind == Some(Kind::Pod) {
            let pods: Vec<Pod> = self.list(self.of(namespace), "").await?;
            (pods.iter().map(ResourceExt::name_any).collect(), "pod")
        } else {
            let deployments: Vec<Deployment> = self.list(self.of(namespace), "").await?;
            let names: Vec<String> = deployments.iter().map(ResourceExt::name_any).collect();
            (names, "deploy")
        };
        near_names(&reference.name, &mut found);
        Ok(found.iter().map(|name| format!("{kind}/{name}")).collect())
    }

    fn of<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client(), namespace)
    }
}

fn best(mut pods: Vec<Pod>) -> Option<PodName> {
    pods.retain(is_meshed);
    let ready = pods.iter().find(|pod| is_ready(pod));
    ready.or(pods.first()).map(PodName::of)
}

/// Whether a pod carries a sidecar.
pub(crate) fn is_meshed(pod: &Pod) -> bool {
    object::label(pod, label::SIDECAR) == Some(names::label::SIDECAR_INJECTED)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Names alike enough to be a slip of the finger, best first, three at most.
pub(crate) fn near_names(typed: &str, known: &mut Vec<String>) {
    const ALIKE: f64 = 0.75;
    let likeness = |name: &String| {
        if name.contains(typed) || typed.contains(name.as_str()) {
            1.0
        } else {
            strsim::jaro_winkler(typed, name)
        }
    };
    known.retain(|name| likeness(name) >= ALIKE);
    known.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)).then_with(|| a.cmp(b)));
    known.dedup();
    known.truncate(3);
}
