//! The webhook's HTTP face: `POST /inject`.
//!
//! Answers come from memory, but for a namespace whose cached labels don't
//! explain why the API server called; see [`crate::namespaces`].

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use linnet_admission::{
    review::{Answer, LONGEST_TEXT, ReviewError, shorten},
    server::{self, Limits},
};
use serde_json::{Value, json};

use crate::{
    decision::{Namespace, SkipReason},
    inject::{self, InjectError, Outcome, Verdict, inject},
    injection::InjectionConfig,
    namespaces::{Namespaces, Unavailable},
    review::{self, Question},
    view::PodView,
};

/// The path that the webhook configuration names.
pub const PATH: &str = "/inject";
/// Shorter than the webhook configuration's 5 s, so that the caller learns why.
const TIMEOUT: Duration = Duration::from_secs(4);

/// What the webhook answers from.
#[derive(Clone)]
pub struct Webhook {
    config: Arc<InjectionConfig>,
    namespaces: Arc<dyn Namespaces>,
}

/// A review without an answer; the webhook's failure policy decides.
#[derive(Debug, thiserror::Error)]
enum WebhookError {
    #[error(transparent)]
    Review(#[from] ReviewError),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl IntoResponse for WebhookError {
    fn into_response(self) -> Response {
        count("error");
        let text = self.to_string();
        tracing::warn!(error = %shorten(&text, LONGEST_TEXT), "review not answered");
        match self {
            Self::Review(error) => error.into_response(),
            Self::Unavailable(error) => {
                let body = Json(json!({"error": error.to_string()}));
                (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
            }
        }
    }
}

impl Webhook {
    /// A webhook that injects by `config`.
    pub fn new(config: InjectionConfig, namespaces: Arc<dyn Namespaces>) -> Self {
        Self {
            config: Arc::new(config),
            namespaces,
        }
    }

    /// The HTTP service.
    pub fn router(self) -> Router {
        let router = Router::new().route(PATH, post(answer));
        server::guarded(router, TIMEOUT, Limits::PODS).with_state(self)
    }

    async fn review(&self, body: &[u8]) -> Result<Answer, WebhookError> {
        let (uid, namespace, pod, dry_run) = match review::parse(body)? {
            Question::CreatePod {
                uid,
                namespace,
                pod,
                dry_run,
            } => (uid, namespace, pod, dry_run),
            Question::Debug {
                uid,
                namespace,
                pod,
                old,
            } => return Ok(debug(uid, &namespace, &pod, old.as_ref())),
            Question::Other { uid, what } => {
                count("other");
                return Ok(review::passed_by(uid, what));
            }
        };
        let result = self.inject(&pod, &namespace).await?;
        record(&result, &namespace, &pod, dry_run);
        Ok(match result {
            Ok(outcome) => review::answer(uid, outcome),
            Err(error) => review::denied(uid, &pod, &namespace, &error),
        })
    }

    async fn inject(
        &self,
        pod: &Value,
        name: &str,
    ) -> Result<Result<Outcome, InjectError>, Unavailable> {
        let known = self.namespaces.cached(name);
        let labels = known.clone().unwrap_or_default();
        let outcome = inject(pod, &Namespace::new(name, labels.clone()), &self.config);
        if !depends_on_labels(&outcome, known.is_some()) {
            return Ok(outcome);
        }
        let fresh = self.namespaces.fresh(name).await?;
        if fresh == labels {
            return Ok(outcome);
        }
        Ok(inject(pod, &Namespace::new(name, fresh), &self.config))
    }
}

fn debug(uid: String, namespace: &str, pod: &Value, old: Option<&Value>) -> Answer {
    match inject::debug(pod, old) {
        Ok(warnings) => {
            count("debugged");
            review::debugged(uid, &warnings)
        }
        Err(error) => {
            count("denied");
            let text = error.to_string();
            let reason = shorten(&text, LONGEST_TEXT);
            tracing::warn!(namespace, %reason, "refused an ephemeral container");
            review::denied(uid, pod, namespace, &error)
        }
    }
}

/// Whether fresher labels could change the outcome: the call is unexplained, or
/// a namespace never seen might say no.
fn depends_on_labels(outcome: &Result<Outcome, InjectError>, namespace_known: bool) -> bool {
    match outcome.as_ref().map(|outcome| &outcome.verdict) {
        Ok(Verdict::Skipped(reason)) => *reason == SkipReason::NotSelected,
        Ok(Verdict::Injected { .. }) | Err(_) => !namespace_known,
    }
}

async fn answer(
    State(webhook): State<Webhook>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Answer>, WebhookError> {
    Ok(Json(
        webhook.review(&body.map_err(ReviewError::from)?).await?,
    ))
}

fn record(result: &Result<Outcome, InjectError>, namespace: &str, pod: &Value, dry_run: bool) {
    let name = PodView::parse(pod).map_or_else(|_| String::new(), |pod| pod.display_name());
    match result {
        Ok(outcome) => match &outcome.verdict {
            Verdict::Injected { .. } => {
                count("injected");
                let warnings = format!("{:?}", outcome.warnings);
                let warnings = shorten(&warnings, LONGEST_TEXT);
                tracing::info!(namespace, pod = name, dry_run, %warnings, "injected");
            }
            // Asked again after another webhook's patch.
            Verdict::Skipped(SkipReason::AlreadyInjected) => {
                count("already_injected");
                tracing::debug!(namespace, pod = name, dry_run, "already injected");
            }
            Verdict::Skipped(reason) => {
                count("skipped");
                tracing::info!(namespace, pod = name, dry_run, %reason, "not injected");
            }
        },
        Err(error) => {
            count("denied");
            let error = error.to_string();
            let error = shorten(&error, LONGEST_TEXT);
            tracing::warn!(namespace, pod = name, dry_run, %error, "refused");
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("linnet_injector_reviews_total", "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests;
