//! The HTTP API: `POST /v1/certificates` and `GET /v1/bundle`.
//!
//! One function maps every refusal to a status, a reason and a counter. What is
//! logged names the caller and never the token.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use linnet_mesh::SpiffeId;
use linnet_runtime::serve::Peer;
use linnet_workload::Federation;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tower_http::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};

use crate::{
    attest::{Attest, AttestError, Caller},
    authority::{Authority, SignError, Signed},
    csr::{CsrError, ProvenKey},
    limit::{Limiter, TooMany},
};

/// A request may be this long.
const BODY_LIMIT: usize = 64 * 1024;
/// A token may be this long; Kubernetes' have about 1 KiB.
const TOKEN_LIMIT: usize = 16 * 1024;
/// A request may take this long, the Kubernetes API's part included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Seconds after which to ask again what could not be answered.
const RETRY_UNAVAILABLE: u64 = 1;
/// The shortest lifetime that may be asked for.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(60);

/// What requests are answered with.
pub(crate) struct Service {
    pub(crate) authority: Arc<Authority>,
    pub(crate) attest: Box<dyn Attest>,
    pub(crate) limiter: Limiter,
    pub(crate) trust_domain: linnet_mesh::TrustDomain,
    pub(crate) federation: Arc<ArcSwap<Federation>>,
}

#[derive(Deserialize)]
struct Asked {
    csr: String,
    lifetime_seconds: Option<u64>,
}

#[derive(Serialize)]
struct Answer {
    certificates: String,
    trust_bundle: String,
    #[serde(flatten)]
    federation: Federation,
    identity: String,
    not_after: String,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the request cannot be read: {0}")]
    BadRequest(String),
    #[error("the body is longer than {BODY_LIMIT} bytes")]
    TooLarge,
    #[error("no token: the header Authorization: Bearer is missing or malformed")]
    NoToken,
    #[error(transparent)]
    Attest(#[from] AttestError),
    #[error("the service account's name makes no identity: {0}")]
    Identity(#[from] linnet_mesh::spiffe::ParseError),
    #[error("too many requests; ask again in {} s", .0.retry_after)]
    RateLimited(TooMany),
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error("lifetime_seconds: {0} is less than {shortest}", shortest = SHORTEST_LIFETIME.as_secs())]
    Lifetime(u64),
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl Refusal {
    /// The status, and the word that counters and clients know it by.
    fn class(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::NoToken => (StatusCode::UNAUTHORIZED, "no_token"),
            Self::Attest(AttestError::BadToken(_)) => (StatusCode::UNAUTHORIZED, "bad_token"),
            Self::Attest(AttestError::Expired) => (StatusCode::UNAUTHORIZED, "expired_token"),
            Self::Attest(AttestError::WrongAudience(_)) => {
                (StatusCode::UNAUTHORIZED, "wrong_audience")
            }
            Self::Attest(AttestError::NotBound(_)) => (StatusCode::FORBIDDEN, "unbound_token"),
            Self::Attest(AttestError::NotServiceAccount(_)) | Self::Identity(_) => {
                (StatusCode::FORBIDDEN, "not_a_workload")
            }
            Self::Attest(AttestError::Unavailable(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "attestation_unavailable")
            }
            Self::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::Csr(CsrError::Size(_)) => (StatusCode::PAYLOAD_TOO_LARGE, "bad_csr"),
            Self::Csr(_) => (StatusCode::BAD_REQUEST, "bad_csr"),
            Self::Lifetime(_) => (StatusCode::BAD_REQUEST, "bad_lifetime"),
            Self::Sign(SignError::Stale(_)) => (StatusCode::SERVICE_UNAVAILABLE, "root_unread"),
            Self::Sign(_) => (StatusCode::INTERNAL_SERVER_ERROR, "signing_failed"),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, reason) = self.class();
        let body = Json(serde_json::json!({ "error": self.to_string(), "reason": reason }));
        let mut response = (status, body).into_response();
        let retry_after = match self {
            Self::RateLimited(TooMany { retry_after }) => Some(retry_after),
            _ if status == StatusCode::SERVICE_UNAVAILABLE => Some(RETRY_UNAVAILABLE),
            _ => None,
        };
        if let Some(seconds) = retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// The API.
pub(crate) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/v1/certificates", post(certificates))
        .route("/v1/bundle", get(bundle))
        .with_state(service)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::SERVICE_UNAVAILABLE,
            TIMEOUT,
        ))
        .layer(CatchPanicLayer::new())
}

async fn bundle(State(service): State<Arc<Service>>) -> Response {
    let pem = service.authority.bundle_pem().to_string();
    ([(header::CONTENT_TYPE, "application/x-pem-file")], pem).into_response()
}

async fn certificates(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Json<Answer>, Refusal> {
    let mut caller = None;
    let result = service.issue(&peer, request, &mut caller).await;
    let counted = |result| metrics::counter!("linnet_identity_requests_total", "result" => result);
    let namespace = caller.as_ref().map(|caller| caller.namespace.as_str());
    let service_account = caller
        .as_ref()
        .map(|caller| caller.service_account.as_str());
    let pod = caller.as_ref().and_then(|caller| caller.pod.as_deref());
    match &result {
        Ok(answer) => {
            counted("issued").increment(1);
            tracing::info!(
                identity = answer.identity,
                pod,
                not_after = answer.not_after,
                "issued"
            );
        }
        Err(refusal) => {
            let (status, reason) = refusal.class();
            counted(reason).increment(1);
            tracing::warn!(peer = %peer.address, namespace, service_account, pod, status = status.as_u16(), reason, error = %refusal, "refused");
        }
    }
    result.map(Json)
}

impl Service {
    async fn issue(
        &self,
        peer: &Peer,
        request: Request,
        attested: &mut Option<Caller>,
    ) -> Result<Answer, Refusal> {
        let arrival = self.limiter.arrive(peer.address.ip());
        let arrival = arrival.map_err(Refusal::RateLimited)?;
        // Nothing of the body is read for who is over budget.
        let headers = request.headers().clone();
        let body = Bytes::from_request(request, &()).await;
        let body = body.map_err(|error| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Refusal::TooLarge,
            _ => Refusal::BadRequest(error.body_text()),
        })?;
        let asked: Asked = serde_json::from_slice(&body)
            .map_err(|error| Refusal::BadRequest(error.to_string()))?;
        let caller = attested.insert(self.attest.attest(bearer(&headers)?).await?);
        // What all share is spent from here on, by who has proven who they are.
        self.limiter
            .attested(&arrival, caller)
            .map_err(Refusal::RateLimited)?;
        let id = SpiffeId::new(
            &self.trust_domain,
            &caller.namespace,
            &caller.service_account,
        )?;
        let key = ProvenKey::from_pem(&asked.csr)?;
        let signed = self.sign(&key, &id, asked.lifetime_seconds)?;
        Ok(Answer {
            certificates: signed.chain_pem,
            trust_bundle: self.authority.bundle_pem().to_string(),
            federation: Federation::clone(&self.federation.load()),
            identity: id.to_string(),
            not_after: signed.not_after.format(&Rfc3339).unwrap_or_default(),
        })
    }

    /// A caller may ask for less than the configured lifetime, not for more.
    fn sign(&self, key: &ProvenKey, id: &SpiffeId, asked: Option<u64>) -> Result<Signed, Refusal> {
        let lifetime = match asked {
            Some(seconds) if seconds < SHORTEST_LIFETIME.as_secs() => {
                return Err(Refusal::Lifetime(seconds));
            }
            Some(seconds) => time::Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX)),
            None => self.authority.lifetime(),
        };
        Ok(self
            .authority
            .sign(key.public_key(), id, lifetime, OffsetDateTime::now_utc())?)
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let value = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let (scheme, token) = value
        .and_then(|value| value.split_once(' '))
        .ok_or(Refusal::NoToken)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > TOKEN_LIMIT {
        return Err(Refusal::NoToken);
    }
    Ok(token)
}
