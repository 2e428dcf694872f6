//! What an AdmissionReview asks of the injector, and how an outcome is answered.

use linnet_admission::review::{self, Answer, ReviewError, Size};
use serde_json::Value;

use crate::{
    decision::SkipReason,
    inject::{InjectError, Outcome, Verdict},
    view::PodView,
};

const AUDIT: &str = "injection";
/// The subresource through which a running pod gets ephemeral containers.
const EPHEMERAL: &str = "ephemeralcontainers";

/// A question that is about a pod's creation, or is not for us.
#[derive(Clone, Debug)]
pub enum Question {
    /// A pod is about to be created.
    CreatePod {
        /// The request's uid.
        uid: String,
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: Value,
        /// Whether nothing will be stored.
        dry_run: bool,
    },
    /// Somebody adds an ephemeral container to a pod, as `kubectl debug` does.
    Debug {
        /// The request's uid.
        uid: String,
        /// The pod's namespace.
        namespace: String,
        /// The pod as it is to be.
        pod: Value,
        /// The pod as it is.
        old: Option<Value>,
    },
    /// Anything else; it is allowed as it is.
    Other {
        /// The request's uid.
        uid: String,
        /// What it is about.
        what: String,
    },
}

/// Reads a review.
///
/// # Errors
/// What can't be answered at all.
pub fn parse(body: &[u8]) -> Result<Question, ReviewError> {
    let mut request = review::parse(body, Size::POD)?;
    let kind = &request.kind;
    let is_pod = kind.group.is_empty() && kind.version == "v1" && kind.kind == "Pod";
    let part = request.sub_resource.as_deref().unwrap_or_default();
    let debug = match (request.operation.as_str(), part) {
        ("CREATE", "") if is_pod => false,
        ("UPDATE", EPHEMERAL) if is_pod => true,
        _ => {
            return Ok(Question::Other {
                what: request.what(),
                uid: request.uid,
            });
        }
    };
    let does = if debug {
        "debugs a pod"
    } else {
        "creates a pod"
    };
    let pod = request.take_object(does)?;
    let named = request.namespace.filter(|namespace| !namespace.is_empty());
    let own = || pod.pointer("/metadata/namespace").and_then(Value::as_str);
    let namespace = named.unwrap_or_else(|| own().unwrap_or("default").to_owned());
    if debug {
        return Ok(Question::Debug {
            uid: request.uid,
            namespace,
            pod,
            old: request.old_object,
        });
    }
    Ok(Question::CreatePod {
        uid: request.uid,
        namespace,
        pod,
        dry_run: request.dry_run.unwrap_or_default(),
    })
}

/// The answer to an outcome of injection.
pub fn answer(uid: String, outcome: Outcome) -> Answer {
    let answer = Answer::allowed(uid).with_warnings(&outcome.warnings);
    match outcome.verdict {
        Verdict::Injected { patch, .. } => answer.with_patch(&patch).with_audit(AUDIT, "injected"),
        Verdict::Skipped(reason) => answer.with_audit(AUDIT, format!("skipped: {reason}")),
    }
}

/// The answer to ephemeral containers that take nothing of the sidecar's.
pub fn debugged(uid: String, warnings: &[String]) -> Answer {
    Answer::allowed(uid)
        .with_warnings(warnings)
        .with_audit(AUDIT, "ephemeral containers checked")
}

/// The answer to a question that is not about a pod's creation.
pub fn passed_by(uid: String, what: String) -> Answer {
    let verdict = Verdict::Skipped(SkipReason::NotAPod(what));
    let warnings = Vec::new();
    answer(uid, Outcome { verdict, warnings })
}

/// The answer that refuses a pod.
pub fn denied(uid: String, pod: &Value, namespace: &str, error: &InjectError) -> Answer {
    let name = PodView::parse(pod).map_or_else(|_| "<unreadable>".to_owned(), |p| p.display_name());
    let message = format!("Linnet can't inject pod {namespace}/{name}: {error}");
    Answer::denied(uid, &message).with_audit(AUDIT, "denied")
}

#[cfg(test)]
mod tests;
