//! The AdmissionReview envelope (admission.k8s.io/v1), in and out.
//!
//! Only what can't be answered at all is an error of the HTTP kind: JSON that is
//! none, another version, no request. The API server then applies the webhook's
//! failure policy. Everything else is an answer: allowed as it is, allowed with a
//! patch, or refused with a message that its author can act on.
//!
//! What somebody wrote is repeated to them, and never at any length; JSON that
//! would take far more memory than it has bytes is refused before it is read.

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
use std::{borrow::Cow, collections::BTreeMap};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// The longest text that an answer or a log line repeats, in bytes.
pub const LONGEST_TEXT: usize = 4096;
/// The most warnings of an answer, and the longest, in bytes.
const WARNINGS: (usize, usize) = (32, 1024);
/// The longest uid and namespace of a request, in bytes: Kubernetes' own.
const LONGEST_NAME: usize = 253;

/// What a review's JSON may consist of. An object of a few bytes takes some
/// hundreds in memory.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The most objects.
    pub objects: usize,
    /// The most values, members and elements together.
    pub values: usize,
}

impl Size {
    /// Room for the largest pods: fifty times what a usual one has.
    pub const POD: Self = Self {
        objects: 8 * 1024,
        values: 64 * 1024,
    };
    /// Room for the largest resource that the compiler takes, before and after.
    pub const RESOURCE: Self = Self {
        objects: 96 * 1024,
        values: 512 * 1024,
    };

    /// Counts what a JSON text consists of, whether it is well formed or not.
    fn of(json: &[u8]) -> Self {
        let mut size = Self {
            objects: 0,
            values: 0,
        };
        let (mut quoted, mut escaped) = (false, false);
        for byte in json {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b'{' => size.objects += 1,
                b',' | b'[' | b':' => size.values += 1,
                _ => {}
            }
        }
        size
    }
}

/// A text, or its beginning and an ellipsis.
pub fn shorten(text: &str, longest: usize) -> Cow<'_, str> {
    if text.len() <= longest {
        return Cow::Borrowed(text);
    }
    let end = (0..=longest).rfind(|end| text.is_char_boundary(*end));
    Cow::Owned(format!("{}…", &text[..end.unwrap_or_default()]))
}

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
    /// More values than an object has.
    #[error(
        "the AdmissionReview has {} objects and {} values, of {} and {} at most: make the resource smaller",
        found.objects, found.values, most.objects, most.values
    )]
    TooLarge {
        /// What it has.
        found: Size,
        /// What it may have.
        most: Size,
    },
    /// A name that no object of Kubernetes has.
    #[error("the AdmissionReview's request.{field} has {length} bytes, of {LONGEST_NAME} at most")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Its length.
        length: usize,
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
        let error = self.to_string();
        let error = shorten(&error, LONGEST_TEXT);
        (status, Json(json!({"error": error}))).into_response()
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

/// Reads a review of at most this size.
///
/// # Errors
/// What can't be answered at all.
pub fn parse(body: &[u8], most: Size) -> Result<Request, ReviewError> {
    let found = Size::of(body);
    if found.objects > most.objects || found.values > most.values {
        return Err(ReviewError::TooLarge { found, most });
    }
    let envelope: Envelope = serde_json::from_slice(body)?;
    if envelope.api_version != API_VERSION || envelope.kind != KIND {
        let or_none = |text: String, none: &str| match text.as_str() {
            "" => none.to_owned(),
            text => shorten(text, LONGEST_NAME).into_owned(),
        };
        return Err(ReviewError::WrongVersion {
            api_version: or_none(envelope.api_version, "(no apiVersion)"),
            kind: or_none(envelope.kind, "(no kind)"),
        });
    }
    let request = envelope.request.ok_or(ReviewError::NoRequest)?;
    let request: Request = serde_json::from_value(request)?;
    let kind = &request.kind;
    let names = [
        ("uid", Some(&request.uid)),
        ("namespace", request.namespace.as_ref()),
        ("operation", Some(&request.operation)),
        ("subResource", request.sub_resource.as_ref()),
        ("kind.group", Some(&kind.group)),
        ("kind.version", Some(&kind.version)),
        ("kind.kind", Some(&kind.kind)),
    ];
    for (field, name) in names {
        let length = name.map_or(0, String::len);
        if length > LONGEST_NAME {
            return Err(ReviewError::TooLong { field, length });
        }
    }
    Ok(request)
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
            "message": shorten(message, LONGEST_TEXT),
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
    pub fn with_warnings(mut self, warnings: &[String]) -> Self {
        let (most, longest) = WARNINGS;
        let more = warnings.len().saturating_sub(most);
        let shown = warnings.iter().take(most);
        self.response.warnings = shown
            .map(|warning| shorten(warning, longest).into_owned())
            .collect();
        if more > 0 {
            self.response.warnings.push(format!("{more} more warnings"));
        }
        self
    }

    /// With a word for the API server's audit log.
    #[must_use]
    pub fn with_audit(mut self, key: &'static str, text: impl Into<String>) -> Self {
        let text = text.into();
        let text = shorten(&text, WARNINGS.1).into_owned();
        self.response.audit_annotations.insert(key, text);
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
