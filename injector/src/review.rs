//! The AdmissionReview envelope (admission.k8s.io/v1), in and out.
//!
//! Only what can't be answered at all is an error of the HTTP kind: JSON that is
//! none, another version, no request. The API server then applies the webhook's
//! failure policy. Everything else is an answer: allowed as it is, allowed with a
//! patch, or refused with a message that its author can act on.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    decision::SkipReason,
    inject::{InjectError, Outcome, Verdict},
    view::PodView,
};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// Why a body is no review that can be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Not JSON, or not of a review's shape.
    #[error("the body is not an AdmissionReview: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Another API version or kind.
    #[error(
        "the body is {api_version} {kind}; this webhook takes {API_VERSION} {KIND}: set admissionReviewVersions: [\"v1\"] in its configuration"
    )]
    WrongVersion {
        /// The version found.
        api_version: String,
        /// The kind found.
        kind: String,
    },
    /// A review without a request.
    #[error("the AdmissionReview has no request")]
    NoRequest,
    /// A pod's creation without the pod.
    #[error("the AdmissionReview's request {0} creates a pod and has no object")]
    NoObject(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    // Read only once the version is known: another version's may differ.
    request: Option<Value>,
}

/// What the API server asks.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Names the request; the answer repeats it.
    pub uid: String,
    /// What kind of object it is about.
    pub kind: GroupVersionKind,
    /// A subresource, such as `status`; empty for the object itself.
    #[serde(default)]
    pub sub_resource: Option<String>,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: String,
    /// The object's namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Whether nothing will be stored. Answers are the same: nothing here has a
    /// side effect.
    #[serde(default)]
    pub dry_run: Option<bool>,
    /// The object.
    #[serde(default)]
    pub object: Option<Value>,
}

/// A kind with its group and version.
#[derive(Clone, Debug, Deserialize)]
pub struct GroupVersionKind {
    /// The API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind.
    pub kind: String,
}

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
    /// Anything else; it is allowed as it is.
    Other {
        /// The request's uid.
        uid: String,
        /// What it is about.
        what: String,
    },
}

/// Reads a review.
pub fn parse(body: &[u8]) -> Result<Question, ReviewError> {
    let envelope: Envelope = serde_json::from_slice(body)?;
    if envelope.api_version != API_VERSION || envelope.kind != KIND {
        let or_none = |text: String, none: &str| {
            if text.is_empty() {
                none.to_owned()
            } else {
                text
            }
        };
        return Err(ReviewError::WrongVersion {
            api_version: or_none(envelope.api_version, "(no apiVersion)"),
            kind: or_none(envelope.kind, "(no kind)"),
        });
    }
    let request = envelope.request.ok_or(ReviewError::NoRequest)?;
    let request: Request = serde_json::from_value(request)?;
    let GroupVersionKind {
        group,
        version,
        kind,
    } = &request.kind;
    let sub_resource = request.sub_resource.as_deref().unwrap_or_default();
    let is_pod = group.is_empty() && version == "v1" && kind == "Pod" && sub_resource.is_empty();
    if !is_pod || request.operation != "CREATE" {
        let slash = if sub_resource.is_empty() { "" } else { "/" };
        return Ok(Question::Other {
            what: format!("{} of a {kind}{slash}{sub_resource}", request.operation),
            uid: request.uid,
        });
    }
    let Some(pod) = request.object.filter(|object| !object.is_null()) else {
        return Err(ReviewError::NoObject(request.uid));
    };
    let named = request.namespace.filter(|namespace| !namespace.is_empty());
    let own = || pod.pointer("/metadata/namespace").and_then(Value::as_str);
    let namespace = named.unwrap_or_else(|| own().unwrap_or("default").to_owned());
    Ok(Question::CreatePod {
        uid: request.uid,
        namespace,
        pod,
        dry_run: request.dry_run.unwrap_or_default(),
    })
}

/// The answer, ready to be sent.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// Goes to the API server's audit log, where "why has this pod no sidecar"
    /// can still be answered a month later.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_annotations: Option<Value>,
}

impl Answer {
    /// The answer to an outcome of injection.
    pub fn of(uid: String, outcome: Outcome) -> Self {
        let (patch, audit) = match outcome.verdict {
            Verdict::Injected { patch, .. } => (Some(patch), "injected".to_owned()),
            Verdict::Skipped(reason) => (None, format!("skipped: {reason}")),
        };
        let patch = patch.map(|patch| BASE64_STANDARD.encode(json!(patch).to_string()));
        Self::new(Response {
            uid,
            allowed: true,
            patch_type: patch.as_ref().map(|_| "JSONPatch"),
            patch,
            warnings: outcome.warnings,
            audit_annotations: Some(json!({"injection": audit})),
            ..Response::default()
        })
    }

    /// The answer to a question that is not about a pod's creation.
    pub fn allowed(uid: String, what: String) -> Self {
        let verdict = Verdict::Skipped(SkipReason::NotAPod(what));
        let warnings = Vec::new();
        Self::of(uid, Outcome { verdict, warnings })
    }

    /// The answer that refuses a pod.
    pub fn denied(uid: String, pod: &Value, namespace: &str, error: &InjectError) -> Self {
        let name =
            PodView::parse(pod).map_or_else(|_| "<unreadable>".to_owned(), |p| p.display_name());
        let status = json!({
            "status": "Failure",
            "code": 422,
            "reason": "Invalid",
            "message": format!("Linnet can't inject pod {namespace}/{name}: {error}"),
        });
        Self::new(Response {
            uid,
            status: Some(status),
            audit_annotations: Some(json!({"injection": "denied"})),
            ..Response::default()
        })
    }

    fn new(response: Response) -> Self {
        Self {
            api_version: API_VERSION,
            kind: KIND,
            response,
        }
    }
}

#[cfg(test)]
mod tests;
