//! What became of resources: for operators who ask the controller, and in the
//! resources' own status.
//!
//! The answers are only for callers on this host (`kubectl port-forward` is one): they
//! name all workloads.

pub mod lease;
mod writer;

pub use writer::write;

use crate::discovery::{Handle, Stopped};
use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use linnet_runtime::serve::Peer;

/// `GET /debug/verdicts`, `/debug/proxies` and `/debug/convergence`.
pub fn router(handle: Handle) -> Router {
    Router::new()
        .route("/debug/verdicts", get(verdicts))
        .route("/debug/proxies", get(proxies))
        .route("/debug/convergence", get(convergence))
        .with_state(handle)
        .layer(middleware::from_fn(local_only))
}

async fn local_only(Extension(peer): Extension<Peer>, request: Request, next: Next) -> Response {
    if peer.address.ip().to_canonical().is_loopback() {
        next.run(request).await
    } else {
        let advice = "only from this host: use kubectl port-forward\n";
        (StatusCode::FORBIDDEN, advice).into_response()
    }
}

async fn verdicts(State(handle): State<Handle>) -> Result<Response, Unavailable> {
    Ok(Json(handle.verdicts().await?).into_response())
}

async fn proxies(State(handle): State<Handle>) -> Result<Response, Unavailable> {
    Ok(Json(handle.proxies().await?).into_response())
}

async fn convergence(State(handle): State<Handle>) -> Result<Response, Unavailable> {
    Ok(Json(handle.last_change().await?).into_response())
}

struct Unavailable(Stopped);

impl From<Stopped> for Unavailable {
    fn from(stopped: Stopped) -> Self {
        Self(stopped)
    }
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", self.0)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{compile::Context, discovery, index::Index, manifest::parse_yaml, source};
    use axum::body::{Body, to_bytes};
    use linnet_mesh::TrustDomain;
    use source::Change;
    use tower::ServiceExt;

    async fn ask(handle: &Handle, path: &str, from: &str) -> (StatusCode, String) {
        let peer = Peer {
            address: from.parse().unwrap(),
            identity: None,
        };
        let request = Request::get(path)
            .extension(peer)
            .body(Body::empty())
            .unwrap();
        let response = router(handle.clone()).oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn verdicts_are_for_this_host_only() {
        let (sink, events) = source::channel();
        let context = Context {
            cluster_domain: "cluster.local".to_owned(),
        };
        let (handle, _) = discovery::spawn(Index::new(context, TrustDomain::default()), events, ());
        let yaml = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {}\n";
        for object in parse_yaml(yaml, "v.yaml").unwrap() {
            sink.send(Change::Apply(object)).await.unwrap();
        }
        // The hub takes what has arrived in any order: ask until it is there.
        let verdicts = loop {
            let (status, body) = ask(&handle, "/debug/verdicts", "127.0.0.1:1").await;
            assert_eq!(status, StatusCode::OK);
            if body != "[]" {
                break body;
            }
        };
        assert_eq!(
            verdicts,
            r#"[{"resource":"VirtualService default/v","origin":"v.yaml, document 1","generation":0,"status":"rejected","messages":[{"field":"spec.hosts","text":"names no host; name the service whose requests are to be routed","severity":"error"}]}]"#
        );
        let (status, body) = ask(&handle, "/debug/proxies", "[::1]:1").await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, "[]"));
        let (status, body) = ask(&handle, "/debug/convergence", "[::1]:1").await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, "null"));
        for path in ["/debug/verdicts", "/debug/proxies", "/debug/convergence"] {
            let (status, _) = ask(&handle, path, "10.0.0.1:1").await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
        }
    }
}
