//! AdmissionReviews, from somebody who is not the API server: to the injector and to
//! the validating webhook.

use linnet_controller::{admission, compile::Context};
use linnet_injector::{
    InjectionConfig, Namespace, SkipReason,
    inject::{Verdict, inject},
    review::{self, Question},
};
use serde_json::{Value, json};

/// A review, or the object that is to be in one.
pub fn admission_review(data: &[u8]) {
    let wrapped = wrapped(data);
    let body = wrapped.as_deref().unwrap_or(data);
    if let Ok(Question::CreatePod { namespace, pod, .. }) = review::parse(body) {
        injected(&pod, &Namespace::opted_in(namespace));
    }
    let context = Context {
        cluster_domain: "cluster.local".into(),
    };
    let _ = admission::judge(body, &context);
}

/// An object without an envelope gets one.
fn wrapped(data: &[u8]) -> Option<Vec<u8>> {
    let object: Value = serde_json::from_slice(data).ok()?;
    if object.get("request").is_some() {
        return None;
    }
    let api_version = object.get("apiVersion").and_then(Value::as_str);
    let (group, version) = api_version
        .and_then(|text| text.split_once('/'))
        .unwrap_or(("", "v1"));
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or("Pod");
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "operation": "CREATE", "namespace": "shop",
        "kind": {"group": group, "version": version, "kind": kind},
        "object": object,
    }});
    Some(review.to_string().into_bytes())
}

/// A patch leads where it says, and a pod is injected once.
fn injected(pod: &Value, namespace: &Namespace) {
    let config = InjectionConfig::default();
    let Ok(outcome) = inject(pod, namespace, &config) else {
        return;
    };
    let Verdict::Injected { pod: made, patch } = outcome.verdict else {
        return;
    };
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &patch).unwrap();
    assert_eq!(patched, made);
    let again = inject(&made, namespace, &config).unwrap();
    assert_eq!(again.verdict, Verdict::Skipped(SkipReason::AlreadyInjected));
}
