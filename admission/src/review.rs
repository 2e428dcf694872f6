//! The AdmissionReview envelope (admission.k8s.io/v1), in and out.
//!
//! Only what can't be answered at all is an error of the HTTP kind: JSON that is
//! none, another version, no request. The API server then applies the webhook's
//! failure policy. Everything else is an answer: allowed as it is, allowed with a
//! patch, or refused with a message that its author can act on.

use axum::{
    Json,
    extract::rejection::BytesRejection,
    http::StatusCode,
    response::{IntoResponse, Response as HttpResponse},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use json_patch::Patch;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

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
    /// A creation or change without the object.
    #[error("the AdmissionReview's request {uid} {what} and has no object")]
    NoObject {
        /// The request's uid.
        uid: String,
        /// What it does.
        what: &'static str,
    },
    /// A body that is too large, or ended early.
    #[error(transparent)]
    Body(#[from] BytesRejection),
}

impl IntoResponse for ReviewError {
    fn into_response(self) -> HttpResponse {
        let status = match &self {
            Self::Body(rejection) => rejection.status(),
            _ => StatusCode::BAD_REQUEST,
        };
        (status, Json(json!({"error": self.to_string()}))).into_response()
    }
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
    /// The object as it was, at a change.
    #[serde(default)]
    pub old_object: Option<Value>,
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

/// Reads a review.
///
/// # Errors
/// What can't be answered at all.
pub fn parse(body: &[u8]) -> Result<Request, ReviewError> {
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
    Ok(serde_json::from_value(request)?)
}

impl Request {
    /// What it is about, in words: `UPDATE of a Pod/status`.
    pub fn what(&self) -> String {
        let sub_resource = self.sub_resource.as_deref().unwrap_or_default();
        let slash = if sub_resource.is_empty() { "" } else { "/" };
        let kind = &self.kind.kind;
        format!("{} of a {kind}{slash}{sub_resource}", self.operation)
    }

    /// The object, which a creation or a change must have.
    ///
    /// # Errors
    /// There is none; `what` is told as what the request does.
    pub fn take_object(&mut self, what: &'static str) -> Result<Value, ReviewError> {
        let object = self.object.take().filter(|object| !object.is_null());
        object.ok_or_else(|| ReviewError::NoObject {
            uid: self.uid.clone(),
            what,
        })
    }
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
    /// Goes to the API server's audit log, where the reason can still be found a
    /// month later.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<&'static str, String>,
}

impl Answer {
    /// Let it pass as it is.
    pub fn allowed(uid: String) -> Self {
        Self::new(Response {
            uid,
            allowed: true,
            ..Response::default()
        })
    }

    /// Refuse it, for the reason that its author reads.
    pub fn denied(uid: String, message: &str) -> Self {
        let status = json!({
            "status": "Failure",
            "code": 422,
            "reason": "Invalid",
            "message": message,
        });
        Self::new(Response {
            uid,
            status: Some(status),
            ..Response::default()
        })
    }

    /// With changes to the object.
    #[must_use]
    pub fn with_patch(mut self, patch: &Patch) -> Self {
        self.response.patch_type = Some("JSONPatch");
        self.response.patch = Some(BASE64_STANDARD.encode(json!(patch).to_string()));
        self
    }

    /// With remarks that `kubectl` shows to the author.
    #[must_use]
    pub fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        self.response.warnings = warnings;
        self
    }

    /// With a word for the API server's audit log.
    #[must_use]
    pub fn with_audit(mut self, key: &'static str, text: impl Into<String>) -> Self {
        self.response.audit_annotations.insert(key, text.into());
        self
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
