//! Golden pairs: an AdmissionReview as the API server sends it, and what comes
//! back. A case is a folder of `tests/fixtures/admission` with `review.json` and
//! `expected.json`; `UPDATE_GOLDEN=1` writes the latter.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that panics is a test that fails"
)]

use axum::body::{Body, to_bytes};
use http::Request;
use linnet_admission::server::Limits;
use linnet_controller::{admission, compile::Context};
use serde_json::{Value, json};
use std::{fs, path::PathBuf};
use tower::ServiceExt;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/admission")
}

async fn send(request: Request<Body>) -> (u16, Value) {
    let context = Context {
        cluster_domain: "cluster.local".to_owned(),
    };
    let response = admission::router(context).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

async fn post(body: Vec<u8>) -> (u16, Value) {
    send(
        Request::post(admission::PATH)
            .body(Body::from(body))
            .unwrap(),
    )
    .await
}

#[tokio::test]
async fn answers_are_as_reviewed() {
    let mut cases: Vec<_> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    assert!(cases.len() >= 25, "{}", cases.len());
    for case in cases {
        let (status, body) = post(fs::read(case.join("review.json")).unwrap()).await;
        let made = json!({"status": status, "answer": body});
        let made = serde_json::to_string_pretty(&made).unwrap() + "\n";
        let expected = case.join("expected.json");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&expected, &made).unwrap();
        }
        let kept = fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(made, kept, "{}", case.display());
    }
}

#[tokio::test]
async fn a_body_has_a_limit() {
    let review = fs::read(root().join("accepted/review.json")).unwrap();
    let padded = |size| {
        let mut body = review.clone();
        body.resize(size, b' ');
        body
    };
    assert_eq!(post(padded(Limits::RESOURCES.body)).await.0, 200);
    assert_eq!(post(padded(Limits::RESOURCES.body + 1)).await.0, 413);
}

#[tokio::test]
async fn only_posts_to_the_path_are_reviews() {
    let ask =
        async |request: http::request::Builder| send(request.body(Body::empty()).unwrap()).await.0;
    assert_eq!(ask(Request::get(admission::PATH)).await, 405);
    assert_eq!(ask(Request::post("/")).await, 404);
    assert_eq!(ask(Request::get("/healthz/live")).await, 200);
}
