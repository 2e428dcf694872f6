//! What an operator can ask the controller: the verdict on every resource, and
//! what each proxy has.
//!
//! Only for callers on this host (`kubectl port-forward` is one): the answers
//! name all workloads.

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

/// `GET /debug/verdicts` and `GET /debug/proxies`.
pub fn router(handle: Handle) -> Router {
    Router::new()
        .route("/debug/verdicts", get(verdicts))
        .route("/debug/proxies", get(proxies))
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
