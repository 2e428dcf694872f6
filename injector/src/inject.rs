//! Pod in, patched pod and JSON Patch out: the injector's pure core.
//!
//! The webhook and `linnet inject` call the same function, so a manifest
//! injected by hand is what the webhook would have made of it, and the webhook
//! leaves it alone.

use json_patch::{Patch, PatchError};
use linnet_mesh::names::{self, PROXY_UID, container, label, port};
use serde_json::{Value, json};

use crate::{
    decision::{self, Decision, Namespace, SkipReason, UnclearWord},
    injection::InjectionConfig,
    patch::PodPatch,
    probe::{self, ProbeError, Rewrite},
    resident::{self, Impostor},
    settings::{self, Settings, SettingsError},
    sidecar::{self, TOKEN_VOLUME, TRUST_VOLUME},
    trespass::{self, Trespass},
    view::{NotAPod, PodView},
};

/// What became of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Injected or left alone.
    pub verdict: Verdict,
    /// What its owner should know, shown by kubectl.
    pub warnings: Vec<String>,
}

/// Injected or left alone.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The pod with its sidecar, and the patch that leads there.
    Injected {
        /// The patched pod.
        pod: Value,
        /// The patch.
        patch: Patch,
    },
    /// Left alone.
    Skipped(SkipReason),
}

/// Why a pod that should get a sidecar can't. Each names the field to change.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// The JSON is no pod.
    #[error(transparent)]
    NotAPod(#[from] NotAPod),
    /// The pod's word about injection is unclear.
    #[error(transparent)]
    Unclear(#[from] UnclearWord),
    /// Annotations that can't be read.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A probe that can't be redirected.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// A name that injection needs is taken.
    #[error(
        "{field}: the name {name:?} is Linnet's; rename it, or opt the pod out with the label linnet.io/inject: disabled"
    )]
    NameTaken {
        /// The list in the pod's spec.
        field: &'static str,
        /// The name.
        name: &'static str,
    },
    /// A container has the sidecar's name and is another.
    #[error(transparent)]
    Impostor(#[from] Impostor),
    /// A container takes what is the sidecar's.
    #[error(transparent)]
    Trespass(#[from] Trespass),
    /// The pod's JSON has a shape that no pod has.
    #[error("the pod can't be patched: {0}")]
    Patch(#[from] PatchError),
}

/// Decides about a pod and injects it.
pub fn inject(
    pod: &Value,
    namespace: &Namespace,
    config: &InjectionConfig,
) -> Result<Outcome, InjectError> {
    let view = PodView::parse(pod)?;
    let mut warnings = decision::unclear_namespace_labels(namespace);
    let decision = decision::decide(&view, namespace, &config.control_plane_namespace)?;
    let decision = match expects_sidecar(&decision) {
        true => settle(decision, pod, &view, config)?,
        false => decision,
    };
    if let Decision::Skip(reason) = decision {
        warnings.extend(unheard_wish(&view, &reason));
        if reason == SkipReason::AlreadyInjected {
            warnings.extend(late_probes(&view));
        }
        return Ok(Outcome {
            verdict: Verdict::Skipped(reason),
            warnings,
        });
    }
    let settings = Settings::parse(&view)?;
    let native = settings.native_sidecar.unwrap_or(config.native_sidecar);
    warnings.extend(settings::unknown_annotations(&view));
    warnings.extend(settings::unread_access_log(&view));
    warnings.extend(pod_warnings(&view, native));
    let probes = match settings.keep_probes {
        true => Vec::new(),
        false => probe::rewrites(&view)?,
    };
    let mut patch = PodPatch::new(pod.clone());
    redirect_probes(&mut patch, &probes)?;
    add_containers(&mut patch, &view, config, &settings, &probes, native)?;
    add_metadata(&mut patch, &view, config, native)?;
    let (pod, patch) = patch.finish();
    Ok(Outcome {
        verdict: Verdict::Injected { pod, patch },
        warnings,
    })
}

/// Whether the decision is for a pod that opted in. Another webhook may have made
/// it unsuitable since it was given its sidecar.
fn expects_sidecar(decision: &Decision) -> bool {
    matches!(
        decision,
        Decision::Inject | Decision::Skip(SkipReason::ForeignSidecar(_) | SkipReason::HostNetwork)
    )
}

/// Finds out whether the pod already has its sidecar, and refuses what nobody may
/// take from it: at the first review and at every one that follows it.
fn settle(
    decision: Decision,
    pod: &Value,
    view: &PodView,
    config: &InjectionConfig,
) -> Result<Decision, InjectError> {
    let resident = resident::find(pod, view, config)?;
    if resident.is_none() && decision != Decision::Inject {
        return Ok(decision);
    }
    if resident.is_none() {
        check_names(view)?;
    }
    trespass::check(view, resident)?;
    Ok(match resident {
        Some(_) => Decision::Skip(SkipReason::AlreadyInjected),
        None => decision,
    })
}

/// Checks the ephemeral containers that a request adds to a running pod.
///
/// # Errors
/// One of them takes what is the sidecar's.
pub fn debug(pod: &Value, old: Option<&Value>) -> Result<Vec<String>, InjectError> {
    let view = PodView::parse(pod)?;
    if !view.has_container(container::PROXY) {
        return Ok(Vec::new());
    }
    let old = old.and_then(|old| old.pointer("/spec/ephemeralContainers"));
    let first = old.and_then(Value::as_array).map_or(0, Vec::len);
    trespass::check_ephemeral(&view, first)?;
    let added = view.spec.ephemeral_containers.iter().flatten().skip(first);
    let enters = |target: &Option<String>| target.as_deref() == Some(container::PROXY);
    let entering = added.filter(|added| enters(&added.target_container_name));
    Ok(entering
        .map(|added| {
            format!(
                "ephemeral container {} enters the sidecar's processes: as root it reads the workload's key",
                added.name
            )
        })
        .collect())
}

fn check_names(pod: &PodView) -> Result<(), InjectError> {
    if pod.has_container(container::INIT) {
        return Err(InjectError::NameTaken {
            field: "spec.initContainers",
            name: container::INIT,
        });
    }
    let volumes = pod.spec.volumes.as_deref().unwrap_or_default();
    for name in [TOKEN_VOLUME, TRUST_VOLUME] {
        if volumes.iter().any(|volume| volume.name == name) {
            return Err(InjectError::NameTaken {
                field: "spec.volumes",
                name,
            });
        }
    }
    Ok(())
}

fn redirect_probes(patch: &mut PodPatch, probes: &[Rewrite]) -> Result<(), PatchError> {
    for probe in probes {
        let index = probe.index.to_string();
        let path = ["spec", probe.list, &index, probe.field];
        let [a, b, c, d] = path;
        if probe.handler != "httpGet" {
            patch.remove(&[a, b, c, d, probe.handler])?;
        }
        patch.set(&[a, b, c, d, "httpGet"], probe.http_get())?;
    }
    Ok(())
}

fn add_containers(
    patch: &mut PodPatch,
    pod: &PodView,
    config: &InjectionConfig,
    settings: &Settings,
    probes: &[Rewrite],
    native: bool,
) -> Result<(), PatchError> {
    let descriptions: Vec<_> = probes.iter().map(|probe| &probe.description).collect();
    let descriptions = (!probes.is_empty()).then(|| json!(descriptions).to_string());
    let init = sidecar::init_container(config, settings);
    let proxy = sidecar::proxy_container(config, settings, pod, descriptions, native);
    let init_containers = &["spec", "initContainers"];
    if native {
        // First of all, so that the pod's own init containers have a network.
        patch.insert(init_containers, 0, init)?;
        patch.insert(init_containers, 1, proxy)?;
    } else {
        // Redirected last: without a sidecar the pod's own init containers would
        // have no network.
        patch.append(init_containers, init)?;
        patch.insert(&["spec", "containers"], 0, proxy)?;
    }
    for volume in sidecar::volumes() {
        patch.append(&["spec", "volumes"], volume)?;
    }
    Ok(())
}

fn add_metadata(
    patch: &mut PodPatch,
    pod: &PodView,
    config: &InjectionConfig,
    native: bool,
) -> Result<(), PatchError> {
    patch.set(
        &["metadata", "labels", label::SIDECAR],
        json!(label::SIDECAR_INJECTED),
    )?;
    let (init_containers, containers): (&[&str], &[&str]) = if native {
        (&[container::INIT, container::PROXY], &[])
    } else {
        (&[container::INIT], &[container::PROXY])
    };
    let status = json!({
        "version": config.version,
        "nativeSidecar": native,
        "initContainers": init_containers,
        "containers": containers,
        "volumes": [TOKEN_VOLUME, TRUST_VOLUME],
    });
    let mut annotations = vec![(settings::name::STATUS, status.to_string())];
    let metrics_port = port::METRICS.to_string();
    let scrape = [
        ("prometheus.io/scrape", "true"),
        ("prometheus.io/port", &metrics_port),
        ("prometheus.io/path", "/metrics"),
    ];
    // One address can be named; the user's own comes first.
    if scrape
        .iter()
        .all(|(name, _)| pod.annotation(name).is_none())
    {
        annotations.extend(scrape.map(|(name, value)| (name, value.to_owned())));
    }
    // A sidecar in first place would become what `kubectl logs` and `exec` mean.
    let default_container = "kubectl.kubernetes.io/default-container";
    if !native && pod.annotation(default_container).is_none() {
        let first = pod.spec.containers.first().map(|first| first.name.clone());
        annotations.extend(first.map(|name| (default_container, name)));
    }
    for (name, value) in annotations {
        patch.set(&["metadata", "annotations", name], json!(value))?;
    }
    Ok(())
}

/// A pod that asks for a sidecar by itself and doesn't get one should say so.
fn unheard_wish(pod: &PodView, reason: &SkipReason) -> Option<String> {
    let unexpected = matches!(
        reason,
        SkipReason::SystemNamespace(_)
            | SkipReason::HostNetwork
            | SkipReason::ForeignSidecar(_)
            | SkipReason::Windows
    );
    let asked = [label::INJECT, label::ISTIO_SIDECAR_INJECT]
        .into_iter()
        .any(|name| matches!(pod.label(name), Some("enabled" | "true")));
    // A container's name alone brings this about, whoever added it.
    let by_name = matches!(reason, SkipReason::ForeignSidecar(_));
    (unexpected && (asked || by_name)).then(|| format!("no sidecar: {reason}"))
}

/// Probes of containers that another webhook added to a pod that has its sidecar.
fn late_probes(pod: &PodView) -> Vec<String> {
    let kept = Settings::parse(pod).is_ok_and(|settings| settings.keep_probes);
    let late = match probe::rewrites(pod) {
        Ok(late) if !kept => late,
        _ => return Vec::new(),
    };
    late.iter()
        .map(|late| {
            format!(
                "spec.{}[{}].{}: the container came after the sidecar, so its probe is not redirected and fails where mTLS is STRICT",
                late.list, late.index, late.field
            )
        })
        .collect()
}

fn pod_warnings(pod: &PodView, native: bool) -> Vec<String> {
    let mut warnings: Vec<_> = trespass::borrowers(pod)
        .map(|container| {
            format!(
                "init container {} runs as the sidecar's user or group ({PROXY_UID}): what it sends bypasses the mesh",
                container.name
            )
        })
        .collect();
    if pod.spec.share_process_namespace == Some(true) {
        warnings.push(
            "shareProcessNamespace: a container that runs as root reads the sidecar's key"
                .to_owned(),
        );
    }
    for container in pod.all_containers() {
        let name = &container.name;
        let hooks = container.lifecycle.iter();
        let hooks = hooks.flat_map(|hooks| {
            [
                ("postStart", &hooks.post_start),
                ("preStop", &hooks.pre_stop),
            ]
        });
        for (hook, handler) in hooks {
            if handler
                .as_ref()
                .is_some_and(|handler| handler.http_get.is_some())
            {
                warnings.push(format!(
                    "container {name}: lifecycle.{hook}.httpGet comes without a certificate and fails where mTLS is STRICT; use exec, or skip its port with {}",
                    names::annotation::SKIP_INBOUND_PORTS
                ));
            }
        }
    }
    let ends = matches!(
        pod.spec.restart_policy.as_deref(),
        Some("Never" | "OnFailure")
    );
    if ends && !native {
        warnings.push(
            "the pod runs to completion, but its sidecar is not a native one and keeps it running"
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests;
