//! Header edits.

use super::Compiler;
use crate::{
    compile::Note,
    resource::{HeaderOperations, Headers},
};
use http::{HeaderName, HeaderValue};
use linnet_mesh::route::{HeaderEdits, HeaderFilters};
use std::collections::BTreeMap;

/// Headers that frame a message or belong to one connection.
pub(in crate::compile) const NOT_A_ROUTES: [&str; 7] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

impl Compiler<'_> {
    pub(super) fn header_filters(
        &mut self,
        path: &str,
        headers: Option<&Headers>,
    ) -> HeaderFilters {
        let Some(headers) = headers else {
            return HeaderFilters::default();
        };
        HeaderFilters {
            request: self.edits(&format!("{path}.request"), headers.request.as_ref(), true),
            response: self.edits(
                &format!("{path}.response"),
                headers.response.as_ref(),
                false,
            ),
        }
    }

    fn edits(
        &mut self,
        path: &str,
        operations: Option<&HeaderOperations>,
        request: bool,
    ) -> HeaderEdits {
        let Some(operations) = operations else {
            return HeaderEdits::default();
        };
        let set = self.values(&format!("{path}.set"), &operations.set, request);
        let add = self.values(&format!("{path}.add"), &operations.add, false);
        let remove = operations.remove.iter().enumerate();
        let remove = remove
            .filter_map(|(position, name)| {
                self.header_name(&format!("{path}.remove[{position}]"), name, false)
            })
            .collect();
        HeaderEdits { remove, set, add }
    }

    fn values(
        &mut self,
        path: &str,
        values: &BTreeMap<String, String>,
        host: bool,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut pairs = Vec::new();
        for (name, text) in values {
            let field = format!("{path}.{name}");
            let Some(name) = self.header_name(&field, name, host) else {
                continue;
            };
            if text.replace("%%", "").contains('%') {
                self.notes.push(Note::new(
                    field.as_str(),
                    "has a % of a variable; variables are not honoured yet, the text is sent as it is",
                ));
            }
            match HeaderValue::from_str(&text.replace("%%", "%")) {
                Ok(value) => pairs.push((name, value)),
                Err(_) => self.errors.push(Note::new(
                    field,
                    format!("{text:?} is not a header's value"),
                )),
            }
        }
        pairs
    }

    /// A header that a route may edit; `host` and `:authority` where they may
    /// be set.
    fn header_name(&mut self, field: &str, name: &str, host: bool) -> Option<HeaderName> {
        let is_host = name == ":authority" || name.eq_ignore_ascii_case("host");
        if is_host && host {
            return Some(http::header::HOST);
        }
        let name = name.to_ascii_lowercase();
        if is_host || name.starts_with(':') || NOT_A_ROUTES.contains(&name.as_str()) {
            self.notes.push(Note::new(
                field,
                "has no effect: this header says where a message goes or how it is framed",
            ));
            return None;
        }
        let parsed = name.parse().ok();
        if parsed.is_none() {
            self.errors.push(Note::new(
                field,
                format!("{name:?} is not a header name; use letters, digits and '-'"),
            ));
        }
        parsed
    }
}
