//! The operator's door, on loopback only: what is configured, why a request
//! would go where it goes, the log filter, drain, the certificate.
//!
//! Whoever is in the pod may use it. A browser is not: a request that a web page
//! could have caused is refused, so that `linnet demo` on a laptop is not at the
//! mercy of the pages its user visits.

#[cfg(test)]
mod tests;

use crate::why::{
    self, Authorization, Explainer, InboundAnswer, InboundQuestion, OutboundAnswer,
    OutboundQuestion,
};
use axum::{
    Json, Router,
    extract::{Query, Request, State as Extract},
    http::{HeaderMap, StatusCode, header, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use linnet_mesh::SpiffeId;
use linnet_runtime::logging;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{net::IpAddr, sync::Arc};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// What the admin endpoints act on.
#[derive(Clone)]
pub struct State {
    /// What is configured and known, as JSON.
    pub dump: Arc<dyn Fn() -> Value + Send + Sync>,
    /// The log filter.
    pub log: logging::Handle,
    /// Begins the drain.
    pub drain: Arc<dyn Fn() + Send + Sync>,
    /// The workload's certificate.
    pub certificate: linnet_workload::Handle,
    /// Says what becomes of a request.
    pub(crate) explainer: Explainer,
    /// The pod's address, which the kubelet probes.
    pub(crate) own_ip: Option<IpAddr>,
}

/// `GET /healthz`, `/config`, `/certificates`, `/authorization` and `/log`,
/// `PUT /log?filter=…`, `POST /drain`, `/why` and `/why/inbound`.
pub fn router(state: State) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/config", get(config))
        .route("/certificates", get(certificates))
        .route("/log", get(log).merge(put(set_log)))
        .route("/drain", post(drain))
        .route("/why", post(why))
        .route("/why/inbound", post(why_inbound))
        .route("/authorization", get(authorization))
        .layer(middleware::from_fn(refuse_browsers))
        .with_state(state)
}

/// Refuses what a page in a browser could send: it names its origin, or, after
/// rebinding a name of its own to this address, a host that is not loopback.
async fn refuse_browsers(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) || !is_local(headers) {
        let text = "the admin endpoints are for tools on this host: no Origin header, and a Host of localhost or an address\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else {
        return true;
    };
    let Ok(host) = Authority::try_from(host.as_bytes()) else {
        return false;
    };
    let host = host.host();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok()
}

async fn config(Extract(state): Extract<State>) -> Json<Value> {
    Json((state.dump)())
}

async fn why(
    Extract(state): Extract<State>,
    Json(question): Json<OutboundQuestion>,
) -> Result<Json<OutboundAnswer>, BadQuestion> {
    let current = state.certificate.current();
    let identity = current.map(|workload| workload.id().clone());
    let answer = state.explainer.explain(&question, identity).await;
    Ok(Json(answer.map_err(BadQuestion)?))
}

async fn why_inbound(
    Extract(state): Extract<State>,
    Json(question): Json<InboundQuestion>,
) -> Result<Json<InboundAnswer>, BadQuestion> {
    let inbound = state.explainer.directory.inbound().clone();
    let current = state.certificate.current();
    let is_own = |id: &SpiffeId| current.as_ref().is_none_or(|own| own.is_of_own_domain(id));
    let answer = why::explain_inbound(&inbound, &question, state.own_ip, is_own);
    Ok(Json(answer.map_err(BadQuestion)?))
}

async fn authorization(Extract(state): Extract<State>) -> Json<Authorization> {
    Json(why::authorization(&state.explainer.directory.inbound()))
}

struct BadQuestion(why::Invalid);

impl IntoResponse for BadQuestion {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, format!("{}\n", self.0)).into_response()
    }
}

async fn log(Extract(state): Extract<State>) -> String {
    format!("{}\n", state.log.current())
}

#[derive(Deserialize)]
struct Filter {
    filter: String,
}

async fn set_log(Extract(state): Extract<State>, Query(query): Query<Filter>) -> Response {
    match state.log.reload(&query.filter) {
        Ok(()) => {
            tracing::info!(filter = query.filter, "log filter changed");
            format!("{}\n", state.log.current()).into_response()
        }
        Err(error @ logging::Error::Filter { .. }) => {
            (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn drain(Extract(state): Extract<State>) -> (StatusCode, &'static str) {
    tracing::info!("drain asked for by the admin endpoint");
    (state.drain)();
    (StatusCode::ACCEPTED, "draining\n")
}

async fn certificates(Extract(state): Extract<State>) -> Response {
    let Some(workload) = state.certificate.current() else {
        let text =
            "this workload has no certificate yet; the log has the identity service's answer\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let text = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_else(|_| time.to_string());
    let left = workload.not_after() - OffsetDateTime::now_utc();
    Json(json!({
        "identity": workload.id().as_str(),
        "not_before": text(workload.not_before()),
        "not_after": text(workload.not_after()),
        "expires_in_seconds": left.whole_seconds(),
        "generation": state.certificate.generation(),
        "certificates": workload.chain().len(),
        "root": workload.root().map(|(root, _)| root),
        "clock_skew_seconds": state.certificate.clock_skew(),
        "trust_domain_aliases": workload.federation().aliases,
        "federated_trust_domains": workload.federation().bundles.keys().collect::<Vec<_>>(),
    }))
    .into_response()
}
