use std::collections::BTreeMap;

use axum::body::Body;
use http_body_util::BodyExt;
use linnet_admission::server::Limits;
use tower::ServiceExt;

use super::*;
use crate::namespaces::{Fresh, Labels};

/// A cache and what the API server would say.
struct Known {
    cached: Option<Labels>,
    fresh: Option<Labels>,
}

impl Namespaces for Known {
    fn cached(&self, _name: &str) -> Option<Labels> {
        self.cached.clone()
    }

    fn fresh<'a>(&'a self, name: &'a str) -> Fresh<'a> {
        let fresh = self.fresh.clone().ok_or_else(|| Unavailable {
            name: name.to_owned(),
            reason: "connection refused".to_owned(),
        });
        Box::pin(async move { fresh })
    }
}

fn labels(value: &str) -> Option<Labels> {
    Some([("istio-injection".to_owned(), value.to_owned())].into())
}

fn creation(namespace: &str, labels: &Value) -> Vec<u8> {
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "operation": "CREATE", "namespace": namespace,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "object": {"metadata": {"name": "p", "labels": labels}, "spec": {"containers": [{"name": "a"}]}},
    }});
    review.to_string().into_bytes()
}

async fn post(known: Known, body: Vec<u8>) -> (u16, Value) {
    send(
        known,
        http::Request::post(PATH).body(Body::from(body)).unwrap(),
    )
    .await
}

async fn send(known: Known, request: http::Request<Body>) -> (u16, Value) {
    let router = Webhook::new(InjectionConfig::default(), Arc::new(known)).router();
    let response = router.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn a_stale_cache_is_looked_past() {
    let none = Some(BTreeMap::new());
    // (cached, fresh, pod's labels) and whether it is injected.
    let cases = [
        (none.clone(), labels("enabled"), json!({}), true),
        (None, labels("enabled"), json!({}), true),
        (none.clone(), none.clone(), json!({}), false),
        (
            None,
            labels("disabled"),
            json!({"linnet.io/inject": "enabled"}),
            false,
        ),
        (labels("enabled"), None, json!({}), true),
        (labels("disabled"), None, json!({}), false),
    ];
    for (cached, fresh, pod, injected) in cases {
        let case = format!("{cached:?} {fresh:?} {pod}");
        let (status, answer) = post(Known { cached, fresh }, creation("shop", &pod)).await;
        assert_eq!(status, 200, "{case}: {answer}");
        assert_eq!(
            answer["response"].get("patch").is_some(),
            injected,
            "{case}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_system_pod_never_waits_for_the_api_server() {
    let unknown = Known {
        cached: None,
        fresh: None,
    };
    let (status, answer) = post(unknown, creation("kube-system", &json!({}))).await;
    assert_eq!(
        (status, &answer["response"]["allowed"]),
        (200, &json!(true))
    );
}

#[tokio::test]
async fn an_unreachable_api_server_leaves_it_to_the_failure_policy() {
    let unknown = Known {
        cached: None,
        fresh: None,
    };
    let (status, answer) = post(unknown, creation("shop", &json!({}))).await;
    assert_eq!(status, 503);
    assert_eq!(
        answer["error"],
        "namespace shop: its labels can't be read: connection refused"
    );
}

#[tokio::test]
async fn a_body_has_a_limit() {
    let known = || Known {
        cached: labels("enabled"),
        fresh: None,
    };
    let padded = |size: usize| {
        let mut body = creation("shop", &json!({}));
        body.resize(size, b' ');
        body
    };
    assert_eq!(post(known(), padded(Limits::PODS.body)).await.0, 200);
    let (status, answer) = post(known(), padded(Limits::PODS.body + 1)).await;
    assert_eq!(status, 413);
    assert!(answer["error"].is_string(), "{answer}");
}

#[tokio::test]
async fn only_posts_to_the_path_are_reviews() {
    let known = || Known {
        cached: None,
        fresh: None,
    };
    let get = http::Request::get(PATH).body(Body::empty()).unwrap();
    assert_eq!(send(known(), get).await.0, 405);
    let elsewhere = http::Request::post("/").body(Body::empty()).unwrap();
    assert_eq!(send(known(), elsewhere).await.0, 404);
    let alive = http::Request::get("/healthz/live")
        .body(Body::empty())
        .unwrap();
    assert_eq!(send(known(), alive).await.0, 200);
}

/// Somebody who is not the API server: what comes back is a refusal, at once.
#[tokio::test]
async fn a_body_of_an_odd_shape_is_refused() {
    let review = |request: &str| {
        let head =
            r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": "#;
        format!("{head}{request}}}").into_bytes()
    };
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let of_pod = |object: &str| {
        let kind = r#"{"group": "", "version": "v1", "kind": "Pod"}"#;
        review(&format!(
            r#"{{"uid": "u", "operation": "CREATE", "namespace": "shop", "kind": {kind}, "object": {object}}}"#
        ))
    };
    for body in [
        Vec::new(),
        b"\xff\xfe".to_vec(),
        deep(500_000).into_bytes(),
        review("null"),
        review("[]"),
        review(r#"{"uid": 7}"#),
        review(&deep(100_000)),
        of_pod("null"),
        of_pod(&deep(100_000)),
    ] {
        let unknown = Known {
            cached: labels("enabled"),
            fresh: None,
        };
        let start = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        let (status, answer) = post(unknown, body).await;
        assert_eq!(status, 400, "{start}: {answer}");
    }
    for object in [
        "7",
        "[]",
        r#"{"spec": 7}"#,
        r#"{"spec": {"containers": {}}}"#,
    ] {
        let known = Known {
            cached: labels("enabled"),
            fresh: labels("enabled"),
        };
        let (status, answer) = post(known, of_pod(object)).await;
        let patched = answer["response"].get("patch").is_some();
        assert!(status == 200 && !patched, "{object}: {status} {answer}");
    }
}

/// Who may debug a pod may also take its label off: the pod itself tells whether it has the
/// sidecar.
#[test]
fn no_label_hides_a_pod_s_ephemeral_containers_from_review() {
    let manifest = include_str!("../../../manifests/base/webhook.yaml");
    let (_, review) = manifest
        .split_once("- name: ephemeral.injector.linnet.io")
        .unwrap();
    let review = review.split("\n- name:").next().unwrap();
    assert!(review.contains("pods/ephemeralcontainers"));
    assert!(!review.contains("objectSelector"), "{review}");
}
