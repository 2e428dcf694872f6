//! Whether a pod gets a sidecar, from the pod and its namespace alone.
//!
//! The webhook configuration's selectors are a first filter that spares the API
//! server a call; this is the rule. What can't be redirected (host network, a
//! system namespace) comes first, so that no label can break a node. After that
//! any `disabled`, of the pod or its namespace, wins over every `enabled`.

use std::{collections::BTreeMap, fmt};

use linnet_admission::review::shorten;
use linnet_mesh::names::{self, label};

use crate::view::PodView;

/// The longest part of an unclear word that a message repeats, in bytes.
const LONGEST_WORD: usize = 64;

/// A namespace as far as injection cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Namespace {
    /// A namespace with these labels.
    pub fn new(name: impl Into<String>, labels: BTreeMap<String, String>) -> Self {
        Self {
            name: name.into(),
            labels,
        }
    }

    /// A namespace that asks for injection, for a caller who asks himself:
    /// `linnet inject -f`.
    pub fn opted_in(name: impl Into<String>) -> Self {
        let labels = [(label::INJECT.to_owned(), "enabled".to_owned())];
        Self::new(name, labels.into())
    }
}

/// What to do with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It gets a sidecar.
    Inject,
    /// It stays as it is.
    Skip(SkipReason),
}

/// Why a pod stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// Its namespace is Kubernetes' own or Linnet's.
    SystemNamespace(String),
    /// It shares the node's network: redirection would take the node's traffic.
    HostNetwork,
    /// It already carries Linnet's sidecar; [`crate::resident`] says so, not a name.
    AlreadyInjected,
    /// It carries another mesh's sidecar, named here.
    ForeignSidecar(&'static str),
    /// It runs on Windows, where there is nothing to redirect with.
    Windows,
    /// It has no container.
    NoContainers,
    /// A label or annotation, quoted here, says no.
    OptedOut(String),
    /// Neither its namespace nor the pod asks for a sidecar.
    NotSelected,
    /// The request is not about creating a pod.
    NotAPod(String),
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SystemNamespace(name) => write!(f, "namespace {name} is never injected"),
            Self::HostNetwork => f.write_str("the pod uses the node's network (hostNetwork: true)"),
            Self::AlreadyInjected => f.write_str("the pod already has Linnet's sidecar"),
            Self::ForeignSidecar(container) => {
                write!(
                    f,
                    "the pod already has another mesh's sidecar ({container})"
                )
            }
            Self::Windows => f.write_str("the pod runs on Windows (spec.os.name: windows)"),
            Self::NoContainers => f.write_str("the pod has no containers"),
            Self::OptedOut(by) => write!(f, "opted out by {by}"),
            Self::NotSelected => {
                f.write_str("neither the namespace nor the pod asks for a sidecar")
            }
            Self::NotAPod(what) => write!(f, "{what} is not the creation of a pod"),
        }
    }
}

/// A pod's word about injection that is neither yes nor no. A pod that wants out
/// and misspells it would silently be let in, so it is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{source_kind} {name}: {value:?} is neither yes nor no: use \"enabled\" or \"disabled\" (or \"true\" or \"false\")"
)]
pub struct UnclearWord {
    /// `label` or `annotation`.
    pub source_kind: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

/// Containers that other meshes put into a pod; two redirections in one network
/// namespace undo each other.
const FOREIGN_SIDECARS: [&str; 2] = ["istio-proxy", "linkerd-proxy"];

/// A namespace's or a pod's yes or no, with where it came from.
struct Word {
    enabled: bool,
    source: String,
}

/// Decides about `pod` in `namespace`.
pub fn decide(
    pod: &PodView,
    namespace: &Namespace,
    control_plane_namespace: &str,
) -> Result<Decision, UnclearWord> {
    if let Some(reason) = unsuitable(pod, &namespace.name, control_plane_namespace) {
        return Ok(Decision::Skip(reason));
    }
    let mut words = namespace_words(namespace);
    words.extend(pod_word(pod, label::INJECT)?);
    words.extend(pod_word(pod, label::ISTIO_SIDECAR_INJECT)?);
    Ok(match words.iter().find(|word| !word.enabled) {
        Some(no) => Decision::Skip(SkipReason::OptedOut(no.source.clone())),
        None if words.is_empty() => Decision::Skip(SkipReason::NotSelected),
        None => Decision::Inject,
    })
}

/// Whether a namespace of this name is never injected, whatever its labels say.
pub fn is_never_injected(namespace: &str, control_plane_namespace: &str) -> bool {
    names::SYSTEM_NAMESPACES.contains(&namespace) || namespace == control_plane_namespace
}

/// Labels of the namespace that look like a word about injection and are none.
/// They count as absent: one misspelt label must not stop a whole namespace's pods.
pub fn unclear_namespace_labels(namespace: &Namespace) -> Vec<String> {
    [label::INJECT, label::ISTIO_INJECTION]
        .into_iter()
        .filter_map(|name| {
            let value = namespace.labels.get(name)?;
            (!value.is_empty() && parse_word(value).is_none()).then(|| {
                format!(
                    "namespace {}: label {name}={value} is ignored: it is neither \"enabled\" nor \"disabled\"",
                    namespace.name
                )
            })
        })
        .collect()
}

fn unsuitable(pod: &PodView, namespace: &str, control_plane: &str) -> Option<SkipReason> {
    let spec = &pod.spec;
    if is_never_injected(namespace, control_plane) {
        return Some(SkipReason::SystemNamespace(namespace.to_owned()));
    }
    if spec.host_network == Some(true) {
        return Some(SkipReason::HostNetwork);
    }
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Some(SkipReason::Windows);
    }
    if spec.containers.is_empty() {
        return Some(SkipReason::NoContainers);
    }
    FOREIGN_SIDECARS
        .into_iter()
        .find(|foreign| pod.has_container(foreign))
        .map(SkipReason::ForeignSidecar)
}

fn namespace_words(namespace: &Namespace) -> Vec<Word> {
    [label::INJECT, label::ISTIO_INJECTION]
        .into_iter()
        .filter_map(|name| {
            let value = namespace.labels.get(name)?;
            Some(Word {
                enabled: parse_word(value)?,
                source: format!("namespace {}'s label {name}={value}", namespace.name),
            })
        })
        .collect()
}

/// The pod's word under one name: its label, or else its annotation.
fn pod_word(pod: &PodView, name: &'static str) -> Result<Option<Word>, UnclearWord> {
    let (source_kind, value) = match (pod.label(name), pod.annotation(name)) {
        (Some(value), _) => ("label", value),
        (None, Some(value)) => ("annotation", value),
        (None, None) => return Ok(None),
    };
    if value.is_empty() {
        return Ok(None);
    }
    let enabled = parse_word(value).ok_or_else(|| UnclearWord {
        source_kind,
        name,
        value: shorten(value, LONGEST_WORD).into_owned(),
    })?;
    Ok(Some(Word {
        enabled,
        source: format!("the pod's {source_kind} {name}={value}"),
    }))
}

/// YAML 1.1's booleans besides the two documented spellings: they are what
/// people write and what Istio takes.
fn parse_word(value: &str) -> Option<bool> {
    let word = value.get(..LONGEST_WORD).unwrap_or(value);
    match word.to_ascii_lowercase().as_str() {
        "enabled" | "true" | "yes" | "y" | "on" => Some(true),
        "disabled" | "false" | "no" | "n" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
