//! Namespaces and pods: who should carry a sidecar and does not, and whose is
//! not as it should be.

use super::Finding;
use crate::{
    cluster::{self, Cluster, Error},
    object,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Container, Namespace, Pod},
};
use kube::Api;
use linnet_injector::{config::variable, decision, view::PodView};
use linnet_mesh::names::{self, container};
use std::collections::BTreeMap;

/// How many pods a message names before it only counts.
const NAMED: usize = 5;

/// Labels that do nothing where they are.
pub(super) async fn system_namespaces(cluster: &Cluster) -> Result<Vec<Finding>, Error> {
    let namespaces: Vec<Namespace> = cluster.list(Api::all(cluster.client()), "").await?;
    let without_effect: Vec<&str> = namespaces
        .iter()
        .filter(|namespace| object::is_injected(namespace))
        .map(object::name)
        .filter(|name| decision::is_never_injected(name, names::CONTROL_PLANE_NAMESPACE))
        .collect();
    let mut findings: Vec<Finding> = without_effect
        .iter()
        .map(|name| {
            Finding::warning(
                "namespaces",
                format!("namespace {name} asks for sidecars, but is never injected"),
                format!("kubectl label namespace {name} istio-injection- linnet.io/inject-"),
            )
        })
        .collect();
    let injected = namespaces
        .iter()
        .filter(|namespace| object::is_injected(namespace))
        .count();
    let injected = injected - without_effect.len();
    findings.push(Finding::ok(
        "namespaces",
        match injected {
            0 => "no namespace asks for sidecars".to_owned(),
            1 => "1 namespace asks for sidecars".to_owned(),
            count => format!("{count} namespaces ask for sidecars"),
        },
    ));
    Ok(findings)
}

/// Pods.
pub(super) async fn sidecars(cluster: &Cluster) -> Result<Vec<Finding>, Error> {
    let namespaces: Vec<Namespace> = cluster.list(Api::all(cluster.client()), "").await?;
    let mut pods: Vec<Pod> = cluster.list(Api::all(cluster.client()), "").await?;
    pods.retain(|pod| !cluster::has_ended(pod) && pod.metadata.deletion_timestamp.is_none());
    let meshed: Vec<&Pod> = pods.iter().filter(|pod| proxy(pod).is_some()).collect();
    let mut findings = vec![Finding::ok(
        "sidecars",
        format!("{} with a sidecar", count(meshed.len())),
    )];
    findings.extend(missing(&namespaces, &pods));
    findings.extend(not_ready(&meshed));
    let image = current_image(cluster).await?;
    findings.extend(image.and_then(|image| outdated(&meshed, &image)));
    Ok(findings)
}

/// Pods that would get a sidecar if they were made now.
fn missing(namespaces: &[Namespace], pods: &[Pod]) -> Option<Finding> {
    let namespaces: BTreeMap<&str, decision::Namespace> = namespaces
        .iter()
        .map(|namespace| {
            let labels = namespace.metadata.labels.clone().unwrap_or_default();
            let name = object::name(namespace);
            (name, decision::Namespace::new(name, labels))
        })
        .collect();
    let without: Vec<&Pod> = pods
        .iter()
        // A sidecar of another version is told as such.
        .filter(|pod| proxy(pod).is_none())
        .filter(|pod| {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            namespaces
                .get(namespace)
                .is_some_and(|namespace| would_be_injected(pod, namespace))
        })
        .collect();
    (!without.is_empty()).then(|| {
        Finding::warning(
            "sidecars",
            format!("{} without a sidecar that should carry one: {}", count(without.len()), named(&without)),
            "they are older than the label; restart them: kubectl rollout restart deployment --namespace <namespace>",
        )
    })
}

fn would_be_injected(pod: &Pod, namespace: &decision::Namespace) -> bool {
    let view = PodView {
        metadata: pod.metadata.clone(),
        spec: pod.spec.clone().unwrap_or_default(),
    };
    let decision = decision::decide(&view, namespace, names::CONTROL_PLANE_NAMESPACE);
    matches!(decision, Ok(decision::Decision::Inject))
}

fn not_ready(meshed: &[&Pod]) -> Option<Finding> {
    let waiting: Vec<&Pod> = meshed
        .iter()
        .copied()
        .filter(|pod| !is_proxy_ready(pod))
        .collect();
    let example = waiting.first()?;
    let advice = format!(
        "see what it waits for: kubectl --namespace {} logs {} --container {}",
        example.metadata.namespace.as_deref().unwrap_or_default(),
        object::name(*example),
        container::PROXY
    );
    let message = format!(
        "the sidecar of {} is not ready: {}",
        count(waiting.len()),
        named(&waiting)
    );
    Some(Finding::warning("sidecars", message, advice))
}

fn outdated(meshed: &[&Pod], current: &str) -> Option<Finding> {
    let is_outdated =
        |pod: &&Pod| proxy(pod).and_then(|proxy| proxy.image.as_deref()) != Some(current);
    let others: Vec<&Pod> = meshed.iter().copied().filter(is_outdated).collect();
    (!others.is_empty()).then(|| {
        Finding::warning(
            "sidecars",
            format!(
                "{} with another sidecar than {current}, which new pods get: {}",
                count(others.len()),
                named(&others)
            ),
            "they go on working; restart them to bring them up to date",
        )
    })
}

/// The image that the injector puts into pods.
async fn current_image(cluster: &Cluster) -> Result<Option<String>, Error> {
    let injector: Option<Deployment> = cluster
        .find(cluster.in_control_plane(), "linnet-injector")
        .await?;
    let image = |deployment: Deployment| {
        let containers = deployment.spec?.template.spec?.containers;
        let mut variables = containers
            .into_iter()
            .flat_map(|container| container.env.unwrap_or_default());
        variables
            .find(|variable| variable.name == variable::PROXY_IMAGE)?
            .value
    };
    Ok(injector.and_then(image))
}

/// The pod's sidecar, native or plain.
fn proxy(pod: &Pod) -> Option<&Container> {
    let spec = pod.spec.as_ref()?;
    let native = spec.init_containers.iter().flatten();
    native
        .chain(&spec.containers)
        .find(|found| found.name == container::PROXY)
}

fn is_proxy_ready(pod: &Pod) -> bool {
    let Some(status) = &pod.status else {
        return false;
    };
    let native = status.init_container_statuses.iter().flatten();
    native
        .chain(status.container_statuses.iter().flatten())
        .any(|status| status.name == container::PROXY && status.ready)
}

fn count(pods: usize) -> String {
    match pods {
        0 => "no pods".to_owned(),
        1 => "1 pod".to_owned(),
        count => format!("{count} pods"),
    }
}

fn named(pods: &[&Pod]) -> String {
    let names: Vec<String> = pods
        .iter()
        .take(NAMED)
        .map(|pod| {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            format!("{namespace}/{}", object::name(*pod))
        })
        .collect();
    let more = pods.len().saturating_sub(NAMED);
    if more == 0 {
        names.join(", ")
    } else {
        format!("{} and {more} more", names.join(", "))
    }
}
