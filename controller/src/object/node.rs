//! Nodes: where in the world a pod runs.

use super::Name;
use k8s_openapi::api::core::v1 as core;
use linnet_mesh::{destination::Locality, names::label};
use std::collections::BTreeMap;

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, in no namespace.
    pub name: Name,
    /// Where it is.
    pub locality: Locality,
}

impl From<core::Node> for Node {
    fn from(node: core::Node) -> Self {
        let labels = node.metadata.labels.unwrap_or_default();
        // The names that these labels had before Kubernetes 1.17.
        let of = |name: &str, old: &str| {
            let value = labels.get(name).or_else(|| labels.get(old));
            value.cloned().unwrap_or_default()
        };
        Self {
            name: Name::new("", node.metadata.name.unwrap_or_default()),
            locality: Locality {
                region: of(label::REGION, "failure-domain.beta.kubernetes.io/region"),
                zone: of(label::ZONE, "failure-domain.beta.kubernetes.io/zone"),
                subzone: of(label::SUBZONE, label::SUBZONE),
            },
        }
    }
}

/// The place that a pod's own label names, instead of its node's. A label's
/// value can't hold slashes: Istio takes dots for them.
pub(super) fn labelled(labels: &BTreeMap<String, String>) -> Option<Locality> {
    let text = labels.get(label::LOCALITY)?;
    let separator = if text.contains('/') { '/' } else { '.' };
    let mut parts = text.split(separator).map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    Some(Locality {
        region: part(),
        zone: part(),
        subzone: part(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn place(region: &str, zone: &str, subzone: &str) -> Locality {
        Locality {
            region: region.into(),
            zone: zone.into(),
            subzone: subzone.into(),
        }
    }

    fn node(labels: &serde_json::Value) -> Node {
        let manifest = json!({ "metadata": { "name": "n1", "labels": labels } });
        serde_json::from_value::<core::Node>(manifest)
            .unwrap()
            .into()
    }

    #[test]
    fn a_node_s_labels() {
        let labels = json!({
            "topology.kubernetes.io/region": "eu",
            "topology.kubernetes.io/zone": "eu-a",
            "topology.istio.io/subzone": "rack1",
        });
        let known = node(&labels);
        assert_eq!(known.name, Name::new("", "n1"));
        assert_eq!(known.locality, place("eu", "eu-a", "rack1"));
        let old = json!({ "failure-domain.beta.kubernetes.io/zone": "eu-a" });
        assert_eq!(node(&old).locality, place("", "eu-a", ""));
        assert!(node(&json!({})).locality.is_unknown());
    }

    #[test]
    fn a_pod_s_label() {
        for text in ["eu.eu-a.rack1", "eu/eu-a/rack1"] {
            let labels = BTreeMap::from([("istio-locality".to_owned(), text.to_owned())]);
            assert_eq!(labelled(&labels), Some(place("eu", "eu-a", "rack1")));
        }
        assert_eq!(labelled(&BTreeMap::new()), None);
    }
}
