//! Which pods of a directory have a sidecar here, and where it listens: two
//! annotations of a Pod manifest, each a comma-separated list.
//!
//! `linnet.io/outbound-listeners: 127.0.0.1:8001=payment.default.svc.cluster.local:80`
//! gives the application a local port for a service it calls;
//! `linnet.io/inbound-listeners: 0.0.0.0:8443=127.0.0.1:8080` takes the calls to
//! one of its ports.

use k8s_openapi::api::core::v1::Pod;
use linnet_mesh::names::label;
use linnet_proxy::config::{InboundListener, OutboundListener};
use serde::Deserialize;
use std::{fs, io, path::Path, path::PathBuf, str::FromStr};

const OUTBOUND: &str = "linnet.io/outbound-listeners";
const INBOUND: &str = "linnet.io/inbound-listeners";

/// A sidecar to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sidecar {
    pub(crate) pod: String,
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    pub(crate) outbound: Vec<OutboundListener>,
    pub(crate) inbound: Vec<InboundListener>,
}

/// A directory that does not say which sidecars to run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SidecarError {
    #[error("reading {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("Pod {namespace}/{pod}: metadata.annotations[{annotation}]: {reason}")]
    Annotation {
        namespace: String,
        pod: String,
        annotation: &'static str,
        reason: String,
    },
    #[error(
        "Pod {namespace}/{pod} has listeners but not the label {}={}: without it nobody would call its sidecar by mutual TLS",
        label::SIDECAR,
        label::SIDECAR_INJECTED
    )]
    Label { namespace: String, pod: String },
}

/// The sidecars that a directory's Pod manifests ask for. A document that is no
/// Pod, or no YAML, is the controller's to judge.
pub(crate) fn sidecars(directory: &Path) -> Result<Vec<Sidecar>, SidecarError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SidecarError::Read { path, source }
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        let extension = path.extension().unwrap_or_default();
        if !["yaml", "yml", "json"]
            .iter()
            .any(|known| extension == *known)
        {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(failed(&path))?;
        for document in serde_norway::Deserializer::from_str(&text) {
            let Ok(value) = serde_norway::Value::deserialize(document) else {
                break;
            };
            let is_pod = value.get("kind").and_then(|kind| kind.as_str()) == Some("Pod");
            if is_pod && let Ok(pod) = serde_norway::from_value(value) {
                found.extend(sidecar(&pod)?);
            }
        }
    }
    found.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
    Ok(found)
}

fn sidecar(pod: &Pod) -> Result<Option<Sidecar>, SidecarError> {
    let metadata = &pod.metadata;
    let name = metadata.name.clone().unwrap_or_default();
    let namespace = metadata
        .namespace
        .clone()
        .unwrap_or_else(|| "default".to_owned());
    let lists = Annotations {
        pod,
        namespace: &namespace,
        name: &name,
    };
    let (outbound, inbound) = (lists.parse(OUTBOUND)?, lists.parse(INBOUND)?);
    if outbound.is_empty() && inbound.is_empty() {
        return Ok(None);
    }
    let labels = metadata.labels.as_ref();
    if labels
        .and_then(|l| l.get(label::SIDECAR))
        .map(String::as_str)
        != Some(label::SIDECAR_INJECTED)
    {
        return Err(SidecarError::Label {
            namespace,
            pod: name,
        });
    }
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.clone());
    Ok(Some(Sidecar {
        pod: name,
        namespace,
        service_account: account.unwrap_or_else(|| "default".to_owned()),
        outbound,
        inbound,
    }))
}

struct Annotations<'a> {
    pod: &'a Pod,
    namespace: &'a str,
    name: &'a str,
}

impl Annotations<'_> {
    fn parse<T: FromStr<Err = String>>(
        &self,
        annotation: &'static str,
    ) -> Result<Vec<T>, SidecarError> {
        let annotations = self.pod.metadata.annotations.as_ref();
        let text = annotations.and_then(|all| all.get(annotation));
        text.map_or("", String::as_str)
            .split(',')
            .map(str::trim)
            .filter(|element| !element.is_empty())
            .map(|element| {
                element.parse().map_err(|reason| SidecarError::Annotation {
                    namespace: self.namespace.to_owned(),
                    pod: self.name.to_owned(),
                    annotation,
                    reason: format!("{element:?}: {reason}"),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(pods: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("pods.yaml"), pods).unwrap();
        directory
    }

    const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: checkout-0
  labels: {linnet.io/sidecar: injected}
  annotations:
    linnet.io/outbound-listeners: 127.0.0.1:8001=payment.default.svc.cluster.local:80
    linnet.io/inbound-listeners: 127.0.0.1:8443=127.0.0.1:8080
spec: {serviceAccountName: checkout, containers: []}
---
apiVersion: v1
kind: Pod
metadata: {name: bare}
spec: {containers: []}
";

    #[test]
    fn annotated_pods_have_sidecars() {
        let directory = directory(POD);
        let found = sidecars(directory.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].service_account, "checkout");
        assert_eq!((found[0].outbound.len(), found[0].inbound.len()), (1, 1));
    }

    #[test]
    fn a_mistake_names_the_pod_and_the_annotation() {
        let bad = directory(&POD.replace("127.0.0.1:8443=", "nowhere="));
        let error = sidecars(bad.path()).unwrap_err().to_string();
        assert!(
            error.contains("default/checkout-0") && error.contains(INBOUND),
            "{error}"
        );
        let unlabelled = directory(&POD.replace("linnet.io/sidecar: injected", ""));
        let error = sidecars(unlabelled.path()).unwrap_err().to_string();
        assert!(error.contains("linnet.io/sidecar=injected"), "{error}");
    }
}
