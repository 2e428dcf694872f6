//! Conditions and values that both kinds of routes have.

use super::Compiler;
use crate::{
    compile::{Note, string_match::reason, virtual_service::duration},
    resource::gateway::{HeaderModifier, NamedMatch, RouteHeader},
};
use http::{HeaderName, HeaderValue};
use linnet_mesh::{
    regexes::RegexError,
    route::{HeaderEdits, HeaderMatch, StringMatch, WholeRegex},
};
use std::time::Duration;

/// A condition's default, and what every condition may be.
pub(super) const EXACT: &str = "Exact";
const REGULAR_EXPRESSION: &str = "RegularExpression";

impl Compiler<'_> {
    /// Text that is compared as its `type` says.
    pub(super) fn text(
        &mut self,
        path: &str,
        kind: Option<&str>,
        value: &str,
    ) -> Option<StringMatch> {
        match kind.unwrap_or(EXACT) {
            EXACT => Some(StringMatch::Exact(value.to_owned())),
            REGULAR_EXPRESSION => self.regex(&format!("{path}.value"), value),
            other => {
                self.leave_out(format!("{path}.type"), &format!("{other:?} is not known"));
                None
            }
        }
    }

    pub(super) fn regex(&mut self, field: &str, pattern: &str) -> Option<StringMatch> {
        match WholeRegex::within(pattern, self.regexes) {
            Ok(regex) => Some(StringMatch::Regex(regex)),
            // What is too much for the resource is not for it to be half in force.
            Err(RegexError::Spent) => None,
            Err(error @ RegexError::Large { .. }) => {
                self.exhausted
                    .push(Note::new(field, reason(&error)).error());
                None
            }
            Err(error) => {
                self.leave_out(field, &reason(&error));
                None
            }
        }
    }

    /// Conditions on headers; of several with one name the first counts.
    pub(super) fn headers(
        &mut self,
        path: &str,
        headers: &[NamedMatch],
    ) -> Option<Vec<HeaderMatch>> {
        let mut matches: Vec<HeaderMatch> = Vec::new();
        for (position, header) in headers.iter().enumerate() {
            let path = format!("{path}[{position}]");
            let Ok(name) = header.name.parse::<HeaderName>() else {
                let text = format!("{:?} is not a header's name", header.name);
                self.leave_out(format!("{path}.name"), &text);
                return None;
            };
            if matches.iter().any(|known| known.name == name) {
                self.note(path, format!("{name} stands there twice; the first counts"));
                continue;
            }
            let value = self.text(&path, header.r#type.as_deref(), &header.value)?;
            matches.push(HeaderMatch {
                name,
                value: Some(value),
                negate: false,
            });
        }
        Some(matches)
    }

    pub(super) fn edits(&mut self, path: &str, modifier: &HeaderModifier) -> HeaderEdits {
        let remove = modifier.remove.iter().enumerate();
        let remove = remove
            .filter_map(|(position, name)| {
                self.editable(&format!("{path}.remove[{position}]"), name)
            })
            .collect();
        HeaderEdits {
            remove,
            set: self.values(&format!("{path}.set"), &modifier.set),
            add: self.values(&format!("{path}.add"), &modifier.add),
        }
    }

    fn values(&mut self, path: &str, headers: &[RouteHeader]) -> Vec<(HeaderName, HeaderValue)> {
        let mut pairs: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (position, header) in headers.iter().enumerate() {
            let path = format!("{path}[{position}]");
            let Some(name) = self.editable(&format!("{path}.name"), &header.name) else {
                continue;
            };
            if pairs.iter().any(|(known, _)| *known == name) {
                self.note(path, format!("{name} stands there twice; the first counts"));
                continue;
            }
            match HeaderValue::from_str(&header.value) {
                Ok(value) => pairs.push((name, value)),
                Err(_) => {
                    let text = format!("{:?} is not a header's value", header.value);
                    self.fail(format!("{path}.value"), &text);
                }
            }
        }
        pairs
    }

    /// A header that a route may edit.
    fn editable(&mut self, field: &str, name: &str) -> Option<HeaderName> {
        use crate::compile::virtual_service::headers::NOT_A_ROUTES;
        let Ok(parsed) = name.parse::<HeaderName>() else {
            self.fail(field, &format!("{name:?} is not a header's name"));
            return None;
        };
        if parsed == http::header::HOST || NOT_A_ROUTES.contains(&parsed.as_str()) {
            self.note(
                field,
                "has no effect: this header says where a message goes or how it is framed",
            );
            return None;
        }
        Some(parsed)
    }

    pub(super) fn duration(&mut self, field: String, text: Option<&str>) -> Option<Duration> {
        match duration::parse(text?) {
            Ok(duration) => Some(duration).filter(|duration| !duration.is_zero()),
            Err(error) => {
                self.fail(field, &error);
                None
            }
        }
    }

    /// A port's number.
    pub(super) fn port(&mut self, field: &str, number: i64) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|&port| port != 0);
        if port.is_none() {
            self.fail(
                field,
                &format!("{number} is not a port; ports go from 1 to 65535"),
            );
        }
        port
    }
}
