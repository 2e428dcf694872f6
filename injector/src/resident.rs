//! The sidecar that a pod already has, recognised by what it is.
//!
//! The API server asks again after another webhook's patch, and a manifest may
//! come out of `linnet inject`. Such a pod is left as it is, but a container's
//! name alone proves nothing: image, arguments, security context, mounts, volumes
//! and label must be those that this injector writes. Other webhooks may add to
//! them (environment variables, mounts, resources) and change the registry, the
//! tag or the digest of an image.

use linnet_mesh::names::{self, container, label};
use serde_json::Value;

use crate::{injection::InjectionConfig, settings::Settings, sidecar, view::PodView};

/// Where Linnet's containers stand in a pod's spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    /// The list that holds the sidecar.
    pub list: &'static str,
    /// The sidecar's place in it.
    pub proxy: usize,
    /// The redirecting container's place in `initContainers`.
    pub init: usize,
}

impl Resident {
    /// Reports whether this place in the pod is one of Linnet's containers.
    pub fn holds(&self, list: &str, index: usize) -> bool {
        (list == self.list && index == self.proxy)
            || (list == "initContainers" && index == self.init)
    }
}

/// A pod that has a container of the sidecar's name, but not the sidecar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{field}: {problem}, so container {:?} is not the sidecar that Linnet injects; rename it, or take Linnet's containers and volumes out and have the pod injected anew, or opt the pod out with the label linnet.io/inject: disabled",
    container::PROXY
)]
pub struct Impostor {
    /// The field that differs.
    pub field: String,
    /// How it differs.
    pub problem: String,
}

type Checked<T> = Result<T, Impostor>;

/// Returns where Linnet's containers stand, or `None` in a pod that has no
/// container of the sidecar's name.
///
/// # Errors
/// The first thing that differs from the sidecar that Linnet injects.
pub fn find(pod: &Value, view: &PodView, config: &InjectionConfig) -> Checked<Option<Resident>> {
    let spec = &pod["spec"];
    let found = ["initContainers", "containers"]
        .into_iter()
        .find_map(|list| {
            let index = position(&spec[list], container::PROXY)?;
            Some((list, index))
        });
    let Some((list, proxy)) = found else {
        return Ok(None);
    };
    if view.spec.host_network == Some(true) {
        return differs(
            "spec.hostNetwork",
            "redirection would take the node's traffic",
        );
    }
    let native = list == "initContainers";
    let expected = sidecar::proxy_container(config, &Settings::default(), view, None, native);
    let at = format!("spec.{list}[{proxy}]");
    check_proxy(&spec[list][proxy], &expected, &at, native)?;
    let Some(init) = position(&spec["initContainers"], container::INIT) else {
        let problem = format!("there is no container {:?}", container::INIT);
        return differs("spec.initContainers", problem);
    };
    let settings = Settings::parse(view).or_else(|error| {
        // Each of them is named.
        differs("metadata.annotations", error.to_string())
    })?;
    let expected = sidecar::init_container(config, &settings);
    let at = format!("spec.initContainers[{init}]");
    check_init(&spec["initContainers"][init], &expected, &at)?;
    check_volumes(&spec["volumes"])?;
    if view.label(label::SIDECAR) != Some(label::SIDECAR_INJECTED) {
        let problem = format!("it is not {:?}", label::SIDECAR_INJECTED);
        return differs(format!("metadata.labels[{}]", label::SIDECAR), problem);
    }
    Ok(Some(Resident { list, proxy, init }))
}

fn differs<T>(field: impl Into<String>, problem: impl Into<String>) -> Checked<T> {
    Err(Impostor {
        field: field.into(),
        problem: problem.into(),
    })
}

fn position(list: &Value, name: &str) -> Option<usize> {
    list.as_array()?
        .iter()
        .position(|container| container["name"] == name)
}

fn check_proxy(found: &Value, expected: &Value, at: &str, native: bool) -> Checked<()> {
    check_container(found, expected, at)?;
    if native && found["restartPolicy"] != "Always" {
        return differs(format!("{at}.restartPolicy"), "it is not Always");
    }
    if !is_absent(&found["args"]) {
        return differs(format!("{at}.args"), "the sidecar has no arguments");
    }
    for (list, key) in [("volumeMounts", "name"), ("env", "name")] {
        let elements = |container: &Value| container[list].as_array().cloned().unwrap_or_default();
        let present = elements(found);
        for wanted in elements(expected) {
            // Values differ from pod to pod; a mount's path does not.
            let fits = |element: &Value| match list {
                "env" => element[key] == wanted[key],
                _ => contains(element, &wanted),
            };
            if !present.iter().any(fits) {
                let name = wanted[key].as_str().unwrap_or_default();
                return differs(
                    format!("{at}.{list}"),
                    format!("{name} is missing or differs"),
                );
            }
        }
    }
    let folders = [names::TOKEN_PATH, names::TRUST_BUNDLE_PATH].map(sidecar::folder);
    let mounts = found["volumeMounts"].as_array().into_iter().flatten();
    for mount in mounts.filter(|mount| !is_ours(&mount["name"])) {
        let path = mount["mountPath"].as_str().unwrap_or_default();
        let path = path.trim_end_matches('/');
        if folders.iter().any(|folder| path.starts_with(folder)) {
            return differs(
                format!("{at}.volumeMounts"),
                format!("{path} hides Linnet's files"),
            );
        }
    }
    Ok(())
}

fn is_ours(volume: &Value) -> bool {
    [sidecar::TOKEN_VOLUME, sidecar::TRUST_VOLUME]
        .iter()
        .any(|name| volume == name)
}

fn check_init(found: &Value, expected: &Value, at: &str) -> Checked<()> {
    check_container(found, expected, at)?;
    if found["args"] != expected["args"] {
        let arguments = expected["args"].as_array().into_iter().flatten();
        let wanted: Vec<_> = arguments.filter_map(Value::as_str).collect();
        let problem = format!(
            "they are not what the pod's annotations ask for, {}",
            wanted.join(" ")
        );
        return differs(format!("{at}.args"), problem);
    }
    Ok(())
}

/// Compares what both containers have: image, command and security context.
fn check_container(found: &Value, expected: &Value, at: &str) -> Checked<()> {
    let image = found["image"].as_str().unwrap_or_default();
    let wanted = expected["image"].as_str().unwrap_or_default();
    if image_name(image) != image_name(wanted) {
        return differs(
            format!("{at}.image"),
            format!("it is no image {}", image_name(wanted)),
        );
    }
    if !is_absent(&found["command"]) {
        return differs(format!("{at}.command"), "Linnet's containers have none");
    }
    let context = expected["securityContext"].as_object();
    for (key, wanted) in context.into_iter().flatten() {
        if found["securityContext"][key] != *wanted {
            return differs(
                format!("{at}.securityContext.{key}"),
                format!("it is not {wanted}"),
            );
        }
    }
    Ok(())
}

fn check_volumes(volumes: &Value) -> Checked<()> {
    for wanted in sidecar::volumes() {
        let name = wanted["name"].as_str().unwrap_or_default();
        let found = position(volumes, name).map(|index| &volumes[index]);
        if !found.is_some_and(|volume| contains(volume, &wanted)) {
            return differs("spec.volumes", format!("{name} is missing or differs"));
        }
    }
    Ok(())
}

fn is_absent(list: &Value) -> bool {
    list.is_null() || list.as_array().is_some_and(Vec::is_empty)
}

/// Reports whether `found` has at least what `wanted` has; arrays agree element by
/// element.
fn contains(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| found.get(key).is_some_and(|found| contains(found, wanted))),
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len()
                && found
                    .iter()
                    .zip(wanted)
                    .all(|(found, wanted)| contains(found, wanted))
        }
        _ => found == wanted,
    }
}

/// The last part of an image's name: mirrors change the rest, `proxy` of
/// `registry.example.com/linnet/proxy:1.2@sha256:…`.
fn image_name(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
