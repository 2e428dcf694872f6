use super::*;
use axum::body::Body;
use http_body_util::BodyExt;
use linnet_workload::testing::Authority as TestAuthority;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tower::ServiceExt;

struct Admin {
    router: Router,
    drained: Arc<AtomicUsize>,
}

fn admin() -> Admin {
    let drained = Arc::new(AtomicUsize::new(0));
    let counter = drained.clone();
    let router = router(State {
        dump: Arc::new(|| json!({"services": ["payment"]})),
        log: logging::init("info"),
        drain: Arc::new(move || {
            counter.fetch_add(1, SeqCst);
        }),
        certificate: linnet_workload::Handle::fixed(
            TestAuthority::default().workload("default", "payment"),
        ),
        explainer: Explainer {
            directory: crate::directory::Directory::new(Vec::new()).0,
        },
        own_ip: None,
    });
    Admin { router, drained }
}

impl Admin {
    async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (StatusCode, String) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn config_is_what_the_data_path_says() {
    let (status, body) = admin().ask("GET", "/config", &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body, r#"{"services":["payment"]}"#);
}

#[tokio::test]
async fn certificate_is_shown_without_its_key() {
    let (status, body) = admin().ask("GET", "/certificates", &[]).await;
    assert_eq!(status, StatusCode::OK);
    let shown: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        shown["identity"],
        "spiffe://cluster.local/ns/default/sa/payment"
    );
    let left = shown["expires_in_seconds"].as_i64().unwrap();
    assert!((3_500..=3_600).contains(&left), "{left}");
    assert!(shown["not_after"].as_str().unwrap().ends_with('Z'));
    assert!(!body.to_ascii_lowercase().contains("key"), "{body}");
}

#[tokio::test]
async fn log_filter_changes_or_the_mistake_is_told() {
    let admin = admin();
    let (status, body) = admin
        .ask("PUT", "/log?filter=info,linnet_proxy%3Ddebug", &[])
        .await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let (status, body) = admin.ask("PUT", "/log?filter=linnet%3Dloud", &[]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("linnet=loud"), "{body}");
    let (_, body) = admin.ask("GET", "/log", &[]).await;
    assert!(body.contains("linnet_proxy=debug"), "{body}");
    let (status, _) = admin.ask("PUT", "/log", &[]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn drain_begins_by_post_only() {
    let admin = admin();
    let (status, _) = admin.ask("GET", "/drain", &[]).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(admin.drained.load(SeqCst), 0);
    let (status, _) = admin.ask("POST", "/drain", &[]).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(admin.drained.load(SeqCst), 1);
}

#[tokio::test]
async fn browsers_are_refused() {
    let admin = admin();
    for headers in [
        &[("origin", "https://evil.example")][..],
        &[("host", "evil.example:15000")],
    ] {
        let (status, _) = admin.ask("POST", "/drain", headers).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{headers:?}");
    }
    assert_eq!(admin.drained.load(SeqCst), 0);
    for host in [
        "localhost:15000",
        "127.0.0.1:15000",
        "[::1]:15000",
        "127.0.0.1",
    ] {
        let (status, _) = admin.ask("GET", "/healthz", &[("host", host)]).await;
        assert_eq!(status, StatusCode::OK, "{host}");
    }
}
