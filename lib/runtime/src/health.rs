//! Readiness, liveness and metrics over HTTP, on a plain port of their own.

use std::{sync::OnceLock, thread, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::readiness::Readiness;

/// Istio's buckets for durations in milliseconds, so that dashboards fit.
const MILLISECONDS: [f64; 19] = [
    0.5, 1., 5., 10., 25., 50., 100., 250., 500., 1000., 2500., 5000., 10_000., 30_000., 60_000.,
    300_000., 600_000., 1_800_000., 3_600_000.,
];
/// Buckets for durations in seconds.
const SECONDS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10.,
];
/// Buckets for sizes in bytes.
const BYTES: [f64; 9] = [1., 10., 100., 1e3, 1e4, 1e5, 1e6, 1e7, 1e8];
/// How often histograms are folded while nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// The process's metrics: installs the recorder at the first call and returns
/// the same handle ever after.
pub fn metrics_recorder() -> PrometheusHandle {
    static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();
    INSTALLED.get_or_init(install).clone()
}

fn install() -> PrometheusHandle {
    let buckets = [
        ("_milliseconds", MILLISECONDS.as_slice()),
        ("_seconds", SECONDS.as_slice()),
        ("_bytes", BYTES.as_slice()),
    ];
    let recorder = buckets
        .into_iter()
        .fold(PrometheusBuilder::new(), |builder, (suffix, values)| {
            builder
                .set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), values)
                .expect("the list of buckets is not empty")
        })
        .build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("another metrics recorder is installed; /metrics will be empty");
    }
    let upkeep = handle.clone();
    // A thread and not a task: it outlives any one runtime of the process.
    let spawned = thread::Builder::new()
        .name("metrics".to_owned())
        .spawn(move || {
            loop {
                thread::sleep(UPKEEP);
                upkeep.run_upkeep();
            }
        });
    if let Err(error) = spawned {
        tracing::warn!(%error, "histograms are folded at scrapes only");
    }
    handle
}

/// [`checks`] and `/metrics`.
pub fn router(readiness: Readiness, metrics: PrometheusHandle) -> Router {
    checks(readiness).route("/metrics", get(render).with_state(metrics))
}

/// `GET /healthz/ready` (200, or 503, the gates that are left, and why) and
/// `/healthz/live`.
pub fn checks(readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz/ready", get(ready).with_state(readiness))
        .route("/healthz/live", get(async || "ok\n"))
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let pending = readiness.reasons();
    if pending.is_empty() {
        return "ready\n".into_response();
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("waiting for: {}\n", pending.join(", ")),
    )
        .into_response()
}

async fn render(State(metrics): State<PrometheusHandle>) -> Response {
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        metrics.render(),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn get(router: &Router, path: &str) -> (StatusCode, String) {
        let request = http::Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_names_what_is_awaited() {
        let readiness = Readiness::new();
        let router = router(readiness.clone(), metrics_recorder());
        let gate = readiness.gate("identity");
        let (status, body) = get(&router, "/healthz/ready").await;
        assert_eq!(
            (status, body.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "waiting for: identity\n")
        );
        drop(gate);
        assert_eq!(get(&router, "/healthz/ready").await.0, StatusCode::OK);
        assert_eq!(get(&router, "/healthz/live").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_are_shared_by_the_process() {
        let router = router(Readiness::new(), metrics_recorder());
        metrics_recorder();
        metrics::counter!("linnet_runtime_test_total").increment(3);
        metrics::histogram!("linnet_runtime_test_seconds").record(0.02);
        let (status, body) = get(&router, "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("linnet_runtime_test_total 3"), "{body}");
        assert!(
            body.contains("linnet_runtime_test_seconds_bucket{le=\"0.025\"} 1"),
            "{body}"
        );
    }
}
