//! Golden pairs: an AdmissionReview as the API server sends it, and what comes back.
//!
//! A case is a folder of `tests/fixtures` with `review.json` (the request's
//! body), `expected.json` (status, answer with its patch decoded, patched pod),
//! and, where it differs from the default, `cluster.json` (the namespace's
//! labels, whether sidecars are native). After an intended change regenerate with
//! `UPDATE_GOLDEN=1 cargo test -p linnet-injector --test fixtures` and review the
//! difference.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failing unwrap is a failing test with a line number"
)]

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use axum::{Router, body::Body};
use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::BodyExt;
use linnet_injector::{InjectionConfig, namespaces::Labels, webhook::Webhook};
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceExt;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Cluster {
    namespace_labels: Labels,
    native_sidecar: bool,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            namespace_labels: [("istio-injection".to_owned(), "enabled".to_owned())].into(),
            native_sidecar: true,
        }
    }
}

struct Case {
    name: String,
    folder: PathBuf,
    body: Vec<u8>,
    router: Router,
}

fn cases() -> Vec<Case> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut cases: Vec<Case> = fs::read_dir(root)
        .unwrap()
        .map(|entry| case(entry.unwrap().path()))
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

fn case(folder: PathBuf) -> Case {
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let body = fs::read(folder.join("review.json")).unwrap();
    let cluster = match fs::read(folder.join("cluster.json")) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{name}: {error}")),
        Err(_) => Cluster::default(),
    };
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let namespace = review.pointer("/request/namespace").and_then(Value::as_str);
    let namespace = namespace.unwrap_or("default").to_owned();
    let namespaces = BTreeMap::from([(namespace, cluster.namespace_labels)]);
    let config = InjectionConfig {
        native_sidecar: cluster.native_sidecar,
        version: "1.2.3".to_owned(),
        ..InjectionConfig::default()
    };
    Case {
        name,
        folder,
        body,
        router: Webhook::new(config, Arc::new(namespaces)).router(),
    }
}

impl Case {
    async fn post(&self, body: Vec<u8>) -> (u16, Value) {
        let request = http::Request::post("/inject")
            .header("content-type", "application/json")
            .body(Body::from(body))
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// Status and answer, with the patch decoded and applied.
    async fn outcome(&self) -> Value {
        let (status, mut answer) = self.post(self.body.clone()).await;
        let encoded = answer.pointer("/response/patch").cloned();
        let Some(encoded) = encoded else {
            return json!({"status": status, "answer": answer});
        };
        let decoded = BASE64_STANDARD.decode(encoded.as_str().unwrap()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&decoded).unwrap();
        answer["response"]["patch"] = json!(patch);
        let review: Value = serde_json::from_slice(&self.body).unwrap();
        let mut pod = review["request"]["object"].clone();
        json_patch::patch(&mut pod, &patch).unwrap();
        json!({"status": status, "answer": answer, "pod": pod})
    }
}

#[tokio::test]
async fn every_review_gets_its_golden_answer() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let cases = cases();
    assert!(cases.len() >= 34, "only {} fixtures", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let outcome = case.outcome().await;
        let golden = case.folder.join("expected.json");
        if update {
            let mut text = serde_json::to_string_pretty(&outcome).unwrap();
            text.push('\n');
            fs::write(golden, text).unwrap();
            continue;
        }
        let expected: Value = match fs::read(&golden) {
            Ok(text) => serde_json::from_slice(&text).unwrap(),
            Err(_) => json!("expected.json is missing"),
        };
        if outcome != expected {
            let difference = json_patch::diff(&expected, &outcome);
            wrong.push(format!(
                "{}: expected.json differs by {difference}",
                case.name
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn an_injected_pod_is_left_alone() {
    let mut injected = 0;
    for case in cases() {
        let outcome = case.outcome().await;
        let Some(pod) = outcome.get("pod") else {
            continue;
        };
        injected += 1;
        let mut review: Value = serde_json::from_slice(&case.body).unwrap();
        review["request"]["object"] = pod.clone();
        let (status, again) = case.post(review.to_string().into_bytes()).await;
        assert_eq!(status, 200, "{}", case.name);
        assert_eq!(again["response"]["allowed"], true, "{}", case.name);
        assert!(
            again["response"].get("patch").is_none(),
            "{}: {again}",
            case.name
        );
        let audit = &again["response"]["auditAnnotations"]["injection"];
        assert_eq!(
            audit, "skipped: the pod already has Linnet's sidecar",
            "{}",
            case.name
        );
    }
    assert!(injected >= 25, "only {injected} fixtures inject");
}

/// Besides what is compared, what must hold for every injected pod.
#[tokio::test]
async fn every_injected_pod_keeps_what_it_had() {
    for case in cases() {
        let outcome = case.outcome().await;
        let Some(pod) = outcome.get("pod") else {
            continue;
        };
        let review: Value = serde_json::from_slice(&case.body).unwrap();
        let original = &review["request"]["object"];
        for list in ["containers", "initContainers"] {
            for container in original["spec"][list].as_array().into_iter().flatten() {
                let found = pod["spec"][list].as_array().unwrap();
                let found = found.iter().find(|c| c["name"] == container["name"]);
                assert_eq!(
                    without_probes(found.unwrap()),
                    without_probes(container),
                    "{}",
                    case.name
                );
            }
        }
        for (field, value) in original["spec"].as_object().unwrap() {
            if !["containers", "initContainers", "volumes"].contains(&field.as_str()) {
                assert_eq!(&pod["spec"][field], value, "{}: {field}", case.name);
            }
        }
        // The pod as typed: what the API server would check.
        let typed: Result<k8s_openapi::api::core::v1::Pod, _> = serde_json::from_value(pod.clone());
        typed.unwrap_or_else(|error| panic!("{}: {error}", case.name));
    }
}

fn without_probes(container: &Value) -> Value {
    let mut container = container.clone();
    let fields = container.as_object_mut().unwrap();
    fields.retain(|field, _| !field.ends_with("Probe"));
    container
}
