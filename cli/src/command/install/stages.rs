//! The stages of an install, and what is waited for between them.

use super::Error;
use crate::{
    cluster::Cluster,
    object::{self, Object},
    terminal::Terminal,
};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        apps::v1::Deployment,
        core::v1::{ConfigMap, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::Api;
use linnet_admission::ca_bundle::Configuration;
use linnet_mesh::names::{self, label};
use std::time::Duration;
use tokio::time::Instant;

/// How often the cluster is asked whether something is so yet.
const POLL: Duration = Duration::from_millis(500);
const IDENTITY: &str = "linnet-identity";
const VALIDATING: &str = "ValidatingWebhookConfiguration";

/// Objects by when they are applied.
#[derive(Default)]
pub(super) struct Stages {
    pub(super) definitions: Vec<Object>,
    pub(super) namespaces: Vec<Object>,
    /// Accounts, rights, services, budgets.
    pub(super) foundations: Vec<Object>,
    /// Identity first: the others wait for the trust bundle that it makes.
    pub(super) identity: Vec<Object>,
    pub(super) services: Vec<Object>,
    pub(super) webhooks: Vec<Object>,
}

impl Stages {
    pub(super) fn of(objects: Vec<Object>) -> Self {
        let mut stages = Self::default();
        for object in objects {
            let stage = match object.kind() {
                "CustomResourceDefinition" => &mut stages.definitions,
                "Namespace" => &mut stages.namespaces,
                "MutatingWebhookConfiguration" | VALIDATING => &mut stages.webhooks,
                "Deployment" if object.name() == IDENTITY => &mut stages.identity,
                "Deployment" => &mut stages.services,
                _ => &mut stages.foundations,
            };
            stage.push(object);
        }
        stages
    }
}

/// Applies everything and waits until it works.
pub(super) async fn run(
    cluster: &Cluster,
    terminal: &Terminal,
    objects: Vec<Object>,
    timeout: Duration,
) -> Result<(), Error> {
    let stages = Stages::of(objects);
    let wait = Wait {
        cluster,
        started: Instant::now(),
        timeout,
    };
    apply_all(cluster, &stages.definitions).await?;
    wait.definitions(&stages.definitions).await?;
    let count = stages.definitions.len();
    terminal.good(format_args!("{count} configuration kinds are served"));

    for namespace in &stages.namespaces {
        apply_namespace(cluster, terminal, namespace).await?;
    }
    apply_all(cluster, &stages.foundations).await?;
    apply_all(cluster, &stages.identity).await?;
    if !stages.services.is_empty() {
        wait.trust_bundle().await?;
        terminal.good("identity has a root certificate");
    }
    apply_all(cluster, &stages.services).await?;
    for deployment in stages.identity.iter().chain(&stages.services) {
        let replicas = wait.deployment(deployment.name()).await?;
        let replicas = format!(
            "{replicas} {}",
            if replicas == 1 { "replica" } else { "replicas" }
        );
        terminal.good(format_args!("{} is ready ({replicas})", deployment.name()));
    }

    apply_all(cluster, &stages.webhooks).await?;
    for webhook in &stages.webhooks {
        match webhook.kind() {
            VALIDATING => {
                wait.webhook::<ValidatingWebhookConfiguration>(webhook.name())
                    .await?;
            }
            _ => {
                wait.webhook::<MutatingWebhookConfiguration>(webhook.name())
                    .await?;
            }
        }
        terminal.good(format_args!("webhook {} answers", webhook.name()));
    }
    Ok(())
}

async fn apply_all(cluster: &Cluster, objects: &[Object]) -> Result<(), Error> {
    for object in objects {
        cluster.apply(object).await?;
    }
    Ok(())
}

/// A namespace that somebody else made is used as it is: labelling it as ours
/// would let uninstall delete it.
pub(super) async fn apply_namespace(
    cluster: &Cluster,
    terminal: &Terminal,
    namespace: &Object,
) -> Result<(), Error> {
    let current = cluster.current(namespace).await?;
    let foreign = current.is_some_and(|current| {
        object::label(&current, label::PART_OF) != Some(label::PART_OF_LINNET)
    });
    if foreign && namespace.name() != names::CONTROL_PLANE_NAMESPACE {
        terminal.good(format_args!(
            "namespace {} was there; left as it is",
            namespace.name()
        ));
        return Ok(());
    }
    cluster.apply(namespace).await?;
    terminal.good(format_args!("namespace {}", namespace.name()));
    Ok(())
}

struct Wait<'a> {
    cluster: &'a Cluster,
    started: Instant,
    timeout: Duration,
}

impl Wait<'_> {
    /// The next look, or an error once the time is over. The last state is in
    /// `what`, as a sentence's beginning.
    async fn again(&self, what: &str) -> Result<(), Error> {
        let waited = self.started.elapsed();
        if waited < self.timeout {
            tokio::time::sleep(POLL).await;
            return Ok(());
        }
        Err(Error::Timeout {
            what: what.to_owned(),
            waited,
            reasons: self.reasons().await,
        })
    }

    async fn definitions(&self, definitions: &[Object]) -> Result<(), Error> {
        let api: Api<CustomResourceDefinition> = Api::all(self.cluster.client());
        for definition in definitions {
            let name = definition.name();
            loop {
                let found = self.cluster.find(api.clone(), name).await?;
                if found.as_ref().is_some_and(is_established) {
                    break;
                }
                self.again(&format!("CustomResourceDefinition {name} is not served"))
                    .await?;
            }
        }
        Ok(())
    }

    async fn trust_bundle(&self) -> Result<(), Error> {
        let api: Api<ConfigMap> = self.cluster.in_control_plane();
        loop {
            let name = names::TRUST_BUNDLE_CONFIG_MAP;
            let found = self.cluster.find(api.clone(), name).await?;
            let data = found.and_then(|found| found.data).unwrap_or_default();
            if data.contains_key(names::TRUST_BUNDLE_KEY) {
                return Ok(());
            }
            self.again(&format!("{IDENTITY} has written no ConfigMap {name}"))
                .await?;
        }
    }

    /// The number of replicas of a deployment, once all are ready and up to date.
    async fn deployment(&self, name: &str) -> Result<i32, Error> {
        let api: Api<Deployment> = self.cluster.in_control_plane();
        loop {
            let found = self.cluster.find(api.clone(), name).await?;
            if let Some(replicas) = found.as_ref().and_then(rolled_out) {
                return Ok(replicas);
            }
            self.again(&format!("Deployment {name} is not ready"))
                .await?;
        }
    }

    async fn webhook<C: Configuration>(&self, name: &str) -> Result<(), Error> {
        let api: Api<C> = Api::all(self.cluster.client());
        loop {
            let found = self.cluster.find(api.clone(), name).await?;
            if found.as_ref().is_some_and(has_ca_bundle) {
                return Ok(());
            }
            self.again(&format!(
                "the service behind webhook {name} has put no caBundle into it"
            ))
            .await?;
        }
    }

    /// Why containers of the control plane don't run, as far as they say.
    async fn reasons(&self) -> Vec<String> {
        let api: Api<Pod> = self.cluster.in_control_plane();
        let pods = self.cluster.list(api, "").await.unwrap_or_default();
        pods.iter().flat_map(pod_reasons).collect()
    }
}

fn pod_reasons(pod: &Pod) -> Vec<String> {
    let name = object::name(pod);
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let containers = status.container_statuses.iter().flatten();
    let waiting = containers.filter_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        Some((waiting.reason.as_deref()?, waiting.message.as_deref()))
    });
    let conditions = status.conditions.iter().flatten();
    let unscheduled = conditions
        .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .map(|condition| ("not scheduled", condition.message.as_deref()));
    waiting
        .chain(unscheduled)
        .map(|(reason, message)| match message {
            Some(message) => format!("pod {name}: {reason}: {message}"),
            None => format!("pod {name}: {reason}"),
        })
        .collect()
}

pub(crate) fn is_established(definition: &CustomResourceDefinition) -> bool {
    let status = definition.status.as_ref();
    let mut conditions = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten();
    conditions.any(|condition| condition.type_ == "Established" && condition.status == "True")
}

/// The number of replicas, if all of them are there, ready and of this revision.
pub(crate) fn rolled_out(deployment: &Deployment) -> Option<i32> {
    let wanted = deployment.spec.as_ref()?.replicas.unwrap_or(1);
    let status = deployment.status.as_ref()?;
    let observed = status.observed_generation >= deployment.metadata.generation;
    let all = |count: Option<i32>| count.unwrap_or(0) == wanted;
    let done =
        all(status.updated_replicas) && all(status.available_replicas) && all(status.replicas);
    (observed && done).then_some(wanted)
}

pub(crate) fn has_ca_bundle(configuration: &impl Configuration) -> bool {
    let mut bundles = configuration
        .webhooks()
        .map(|(_, client)| client.ca_bundle.as_ref())
        .peekable();
    bundles.peek().is_some() && bundles.all(|bundle| bundle.is_some_and(|b| !b.0.is_empty()))
}
