//! Kinds, deployments and the webhook.

use super::{Finding, certificates};
use crate::{
    cluster::{Cluster, Error},
    command::install::stages,
    manifests::{self, Profile, Settings},
};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        apps::v1::Deployment,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::Api;
use linnet_mesh::names;

const REINSTALL: &str = "run `linnet install`; it may be run again at any time";

/// The names of the objects of a kind that every profile has.
fn expected(kind: &str) -> Vec<String> {
    // A program whose own manifests don't render fails its tests.
    let objects = manifests::render(Profile::Minimal, &Settings::default()).unwrap_or_default();
    let of_kind = objects.iter().filter(|object| object.kind() == kind);
    of_kind.map(|object| object.name().to_owned()).collect()
}

pub(super) async fn definitions(cluster: &Cluster) -> Result<Vec<Finding>, Error> {
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client());
    let mut missing = Vec::new();
    let expected = expected("CustomResourceDefinition");
    for name in &expected {
        let found = cluster.find(api.clone(), name).await?;
        if !found.as_ref().is_some_and(stages::is_established) {
            missing.push(name.as_str());
        }
    }
    Ok(vec![if missing.is_empty() {
        Finding::ok(
            "kinds",
            format!("{} configuration kinds are served", expected.len()),
        )
    } else {
        let message = format!(
            "not served: CustomResourceDefinition {}",
            missing.join(", ")
        );
        Finding::failed("kinds", message, REINSTALL)
    }])
}

pub(super) async fn deployments(cluster: &Cluster) -> Result<Vec<Finding>, Error> {
    let api: Api<Deployment> = cluster.in_control_plane();
    let mut findings = Vec::new();
    for name in expected("Deployment") {
        let found = cluster.find(api.clone(), &name).await?;
        findings.push(deployment(&name, found.as_ref()));
    }
    Ok(findings)
}

fn deployment(name: &str, found: Option<&Deployment>) -> Finding {
    let Some(found) = found else {
        let message = format!(
            "Deployment {}/{name} does not exist",
            names::CONTROL_PLANE_NAMESPACE
        );
        return Finding::failed("deployments", message, REINSTALL);
    };
    let wanted = found
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let ready = found
        .status
        .as_ref()
        .and_then(|status| status.ready_replicas)
        .unwrap_or(0);
    let message = format!("{name}: {ready} of {wanted} replicas are ready");
    let advice = format!(
        "kubectl --namespace {} describe deployment,pod --selector app.kubernetes.io/name={name}",
        names::CONTROL_PLANE_NAMESPACE
    );
    if ready == 0 {
        Finding::failed("deployments", message, advice)
    } else if ready < wanted {
        Finding::warning("deployments", message, advice)
    } else {
        Finding::ok("deployments", message)
    }
}

pub(super) async fn webhook(cluster: &Cluster) -> Result<Vec<Finding>, Error> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    let name = "linnet-injector";
    let Some(found) = cluster.find(api, name).await? else {
        let message =
            format!("MutatingWebhookConfiguration {name} does not exist: no pod gets a sidecar");
        return Ok(vec![Finding::failed("webhook", message, REINSTALL)]);
    };
    if !stages::has_ca_bundle(&found) {
        return Ok(vec![Finding::failed(
            "webhook",
            format!(
                "MutatingWebhookConfiguration {name} has no caBundle: pods that opted in can't start"
            ),
            "the injector writes it within seconds; if it does not, see its log: \
             kubectl --namespace linnet-system logs deployment/linnet-injector",
        )]);
    }
    let mut findings = vec![Finding::ok("webhook", "the injector's webhook is in place")];
    let bundle = found
        .webhooks
        .iter()
        .flatten()
        .find_map(|webhook| webhook.client_config.ca_bundle.as_ref());
    if let Some(bundle) = bundle {
        findings.extend(certificates::judge(
            "webhook",
            "the webhook's authority",
            &bundle.0,
        ));
    }
    Ok(findings)
}

/// The webhook that looks at configuration. Without it everything still works,
/// but mistakes show up later.
pub(super) async fn validation(cluster: &Cluster) -> Result<Vec<Finding>, Error> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(cluster.client());
    let name = "linnet-controller";
    let found = cluster.find(api, name).await?;
    let Some(found) = found.filter(stages::has_ca_bundle) else {
        return Ok(vec![Finding::warning(
            "validation",
            format!(
                "ValidatingWebhookConfiguration {name} does not exist or has no caBundle: wrong resources are not refused when they are applied"
            ),
            "run `linnet install`, or see why the controller writes no caBundle: \
             kubectl --namespace linnet-system logs deployment/linnet-controller",
        )]);
    };
    let mut findings = vec![Finding::ok(
        "validation",
        "resources are checked when they are applied",
    )];
    let bundle = found
        .webhooks
        .iter()
        .flatten()
        .find_map(|webhook| webhook.client_config.ca_bundle.as_ref());
    if let Some(bundle) = bundle {
        findings.extend(certificates::judge(
            "validation",
            "the validation's authority",
            &bundle.0,
        ));
    }
    Ok(findings)
}
