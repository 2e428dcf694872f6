//! Requests from pages of other origins.

use super::support::{Sidecar, Upstream, get, local, rule, text};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use linnet_mesh::route::{Cors, Filters, HttpRule, OriginMatch, StringMatch};

const SHOP: &str = "https://shop.example.com";

fn allowing(origin: &str) -> HttpRule {
    rule(Filters {
        cors: Some(Cors {
            origins: vec![OriginMatch::Text(StringMatch::Exact(origin.into()))],
            methods: Some(HeaderValue::from_static("GET")),
            ..Cors::default()
        }),
        ..Filters::default()
    })
}

fn from(origin: &str) -> Request<Full<Bytes>> {
    let mut request = get("/");
    let origin = HeaderValue::from_str(origin).unwrap();
    request.headers_mut().insert("origin", origin);
    request
}

fn preflight(origin: &str) -> Request<Full<Bytes>> {
    let mut request = from(origin);
    *request.method_mut() = Method::OPTIONS;
    let method = HeaderValue::from_static("GET");
    let headers = request.headers_mut();
    headers.insert("access-control-request-method", method);
    request
}

#[tokio::test]
async fn a_preflight_is_answered_here_and_a_stranger_s_by_the_backend() {
    local(async {
        let upstream = Upstream::ok().await;
        let sidecar = Sidecar::new(Some(vec![allowing(SHOP)]), &[upstream.address]);
        let answer = sidecar.send(preflight(SHOP)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["access-control-allow-origin"], SHOP);
        assert_eq!(answer.headers()["access-control-allow-methods"], "GET");
        assert_eq!(upstream.count(), 0);
        let answer = sidecar.send(preflight("https://other.example.com")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(upstream.count(), 1);
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
        assert_eq!(sidecar.flags(2).await, ["-", "-"]);
    })
    .await;
}

#[tokio::test]
async fn responses_and_errors_show_themselves_to_allowed_origins() {
    local(async {
        let upstream = Upstream::ok().await;
        let sidecar = Sidecar::new(Some(vec![allowing(SHOP)]), &[upstream.address]);
        let answer = sidecar.send(from(SHOP)).await;
        assert_eq!(answer.headers()["access-control-allow-origin"], SHOP);
        for request in [get("/"), from("https://other.example.com")] {
            let answer = sidecar.send(request).await;
            assert!(!answer.headers().contains_key("access-control-allow-origin"));
        }
        assert_eq!(upstream.count(), 3);

        let sidecar = Sidecar::new(Some(vec![allowing(SHOP)]), &[]);
        let answer = sidecar.send(from(SHOP)).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["access-control-allow-origin"], SHOP);
        assert!(text(answer).await.contains("has no endpoint"));
        assert_eq!(sidecar.flags(1).await, ["UH"]);
    })
    .await;
}
