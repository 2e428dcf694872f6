//! The webhook configuration's `caBundle`, repaired whenever it differs.
//!
//! Whoever applies the configuration again (an installer, a GitOps controller)
//! resets it; until it is repaired the API server can't call the webhook.

use base64::{Engine, prelude::BASE64_STANDARD};
use json_patch::{AddOperation, Patch, PatchOperation, TestOperation, jsonptr::PointerBuf};
use k8s_openapi::{
    ClusterResourceScope,
    api::admissionregistration::v1::{
        MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;

/// A kind that configures webhooks.
pub trait Configuration:
    k8s_openapi::Resource<Scope = ClusterResourceScope>
    + kube::Resource<DynamicType = (), Scope = ClusterResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + 'static
{
    /// Each webhook's name, and how it is called.
    fn webhooks(&self) -> impl Iterator<Item = (&str, &WebhookClientConfig)>;
}

impl Configuration for MutatingWebhookConfiguration {
    fn webhooks(&self) -> impl Iterator<Item = (&str, &WebhookClientConfig)> {
        let webhooks = self.webhooks.iter().flatten();
        webhooks.map(|webhook| (webhook.name.as_str(), &webhook.client_config))
    }
}

impl Configuration for ValidatingWebhookConfiguration {
    fn webhooks(&self) -> impl Iterator<Item = (&str, &WebhookClientConfig)> {
        let webhooks = self.webhooks.iter().flatten();
        webhooks.map(|webhook| (webhook.name.as_str(), &webhook.client_config))
    }
}

/// The patch that puts `bundle` into each webhook of the configuration, or none
/// if it is there. A webhook that moved meanwhile fails the patch rather than
/// getting another's bundle. Webhooks called by URL are not ours to trust.
pub fn repair(configuration: &impl Configuration, bundle: &str) -> Option<Patch> {
    let mut operations = Vec::new();
    for (index, (name, client)) in configuration.webhooks().enumerate() {
        let current = client.ca_bundle.as_ref().map(|bytes| bytes.0.as_slice());
        if client.service.is_none() || current == Some(bundle.as_bytes()) {
            continue;
        }
        let at = |members: &[&str]| {
            let index = index.to_string();
            PointerBuf::from_tokens(["webhooks", &index].iter().chain(members).copied())
        };
        operations.push(PatchOperation::Test(TestOperation {
            path: at(&["name"]),
            value: Value::String(name.to_owned()),
        }));
        operations.push(PatchOperation::Add(AddOperation {
            path: at(&["clientConfig", "caBundle"]),
            value: json!(BASE64_STANDARD.encode(bundle)),
        }));
    }
    (!operations.is_empty()).then_some(Patch(operations))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundles: &[Option<&str>]) -> MutatingWebhookConfiguration {
        let webhooks: Vec<Value> = bundles
            .iter()
            .enumerate()
            .map(|(index, bundle)| {
                json!({
                    "name": format!("hook{index}.linnet.io"),
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "clientConfig": {
                        "service": {"name": "linnet-injector", "namespace": "linnet-system"},
                        "caBundle": bundle.map(|text| BASE64_STANDARD.encode(text)),
                    },
                })
            })
            .collect();
        serde_json::from_value(
            json!({"metadata": {"name": "linnet-injector"}, "webhooks": webhooks}),
        )
        .unwrap()
    }

    #[test]
    fn a_right_bundle_is_left_alone() {
        assert_eq!(
            repair(&configuration(&[Some("ours"), Some("ours")]), "ours"),
            None
        );
        assert_eq!(repair(&configuration(&[]), "ours"), None);
    }

    #[test]
    fn an_absent_and_a_wrong_bundle_are_replaced() {
        let broken = configuration(&[Some("ours"), None, Some("theirs")]);
        let patch = repair(&broken, "ours").unwrap();
        let mut value = serde_json::to_value(&broken).unwrap();
        json_patch::patch(&mut value, &patch).unwrap();
        let repaired: MutatingWebhookConfiguration = serde_json::from_value(value).unwrap();
        assert_eq!(
            repaired,
            configuration(&[Some("ours"), Some("ours"), Some("ours")])
        );
        assert_eq!(patch.len(), 4, "the right one is not touched");
    }

    #[test]
    fn a_webhook_that_moved_fails_the_patch() {
        let patch = repair(&configuration(&[None]), "ours").unwrap();
        let mut moved = serde_json::to_value(configuration(&[None])).unwrap();
        moved["webhooks"][0]["name"] = json!("another");
        assert!(json_patch::patch(&mut moved, &patch).is_err());
    }
}
