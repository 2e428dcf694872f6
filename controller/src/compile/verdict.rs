//! What became of a resource, in words for who wrote it.

use linnet_mesh::ResourceRef;
use serde::{Serialize, Serializer};
use std::fmt;

/// What became of a resource.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The resource.
    #[serde(serialize_with = "as_text")]
    pub resource: ResourceRef,
    /// The file and document it stands in, where it comes from a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The generation that this is about.
    pub generation: i64,
    /// Whether it took force.
    pub status: Status,
    /// What there is to say about its fields.
    pub messages: Vec<Note>,
}

/// Whether a resource took force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// In force, but for what the messages name.
    Accepted,
    /// Another resource says otherwise and goes first.
    Conflicting,
    /// Not in force; its last good version is, if there was one.
    Rejected,
}

/// A remark on a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The field's path, `spec.http[0].route[1].weight`.
    pub field: String,
    /// The remark.
    pub text: String,
    /// How much it matters.
    pub severity: Severity,
}

/// How much a remark matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something may not do what its author thinks.
    #[default]
    Warning,
    /// Something fails: the resource is not in force, or requests are.
    Error,
}

impl Note {
    /// A remark on a field.
    pub fn new(field: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            text: text.into(),
            severity: Severity::Warning,
        }
    }

    /// The same remark about something that fails.
    #[must_use]
    pub fn error(self) -> Self {
        Self {
            severity: Severity::Error,
            ..self
        }
    }

    /// The remark on a field that nothing acts on.
    pub fn not_honoured(field: impl Into<String>) -> Self {
        Self::new(field, "is not honoured yet; it has no effect")
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.text)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        write!(f, "{}: ", self.resource)?;
        f.write_str(match self.status {
            Status::Accepted => "accepted",
            Status::Conflicting => "conflicting",
            Status::Rejected => "rejected",
        })?;
        for note in &self.messages {
            write!(f, "; {note}")?;
        }
        Ok(())
    }
}

fn as_text<S: Serializer>(resource: &ResourceRef, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(resource)
}
