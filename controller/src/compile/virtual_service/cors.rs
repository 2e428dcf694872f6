//! Who may call from a browser.

use super::Compiler;
use crate::{
    compile::{Note, string_match},
    resource::CorsPolicy,
};
use http::{HeaderName, HeaderValue, Method};
use linnet_mesh::route::{Cors, OriginMatch, StringMatch, UnmatchedPreflights};

impl Compiler<'_> {
    pub(super) fn cors(&mut self, path: &str, policy: &CorsPolicy) -> Cors {
        let unmatched = match policy.unmatched_preflights.as_deref().unwrap_or_default() {
            "" | "UNSPECIFIED" | "FORWARD" => UnmatchedPreflights::Forward,
            "IGNORE" => UnmatchedPreflights::Answer,
            other => {
                let field = format!("{path}.unmatchedPreflights");
                self.error(field, format!("{other:?} is neither FORWARD nor IGNORE"));
                UnmatchedPreflights::default()
            }
        };
        Cors {
            origins: self.origins(path, policy),
            methods: self.list::<Method>(&format!("{path}.allowMethods"), &policy.allow_methods),
            headers: self
                .list::<HeaderName>(&format!("{path}.allowHeaders"), &policy.allow_headers),
            expose: self
                .list::<HeaderName>(&format!("{path}.exposeHeaders"), &policy.expose_headers),
            max_age: policy
                .max_age
                .as_deref()
                .and_then(|text| self.max_age(&format!("{path}.maxAge"), text)),
            credentials: policy.allow_credentials.unwrap_or_default(),
            unmatched,
        }
    }

    fn origins(&mut self, path: &str, policy: &CorsPolicy) -> Vec<OriginMatch> {
        let mut origins = Vec::new();
        for (position, origin) in policy.allow_origins.iter().enumerate() {
            let field = format!("{path}.allowOrigins[{position}]");
            match string_match::read(origin, &field, self.regexes) {
                Ok(Some(condition)) => origins.push(meant(condition)),
                Ok(None) => self.error(field, "sets none of exact, prefix and regex"),
                Err(error) => self.errors.push(error),
            }
        }
        if !policy.allow_origin.is_empty() {
            let field = format!("{path}.allowOrigin");
            if origins.is_empty() {
                let older = policy.allow_origin.iter().cloned();
                origins.extend(older.map(StringMatch::Exact).map(meant));
            } else {
                self.notes.push(Note::new(
                    field,
                    "has no effect beside allowOrigins, which replaces it",
                ));
            }
        }
        if origins.is_empty() {
            self.notes.push(Note::new(
                format!("{path}.allowOrigins"),
                "is empty, so no origin is allowed",
            ));
        }
        origins
    }

    /// A list as it is sent.
    fn list<T: std::str::FromStr>(&mut self, path: &str, texts: &[String]) -> Option<HeaderValue> {
        for (position, text) in texts.iter().enumerate() {
            if text != "*" && text.parse::<T>().is_err() {
                let kind = if path.ends_with("Methods") {
                    "method"
                } else {
                    "header"
                };
                self.error(
                    format!("{path}[{position}]"),
                    format!("{text:?} is not the name of a {kind}"),
                );
            }
        }
        let any = texts.iter().any(|text| text == "*");
        let list = if any { "*".to_owned() } else { texts.join(",") };
        list.parse().ok().filter(|_| !texts.is_empty())
    }

    fn max_age(&mut self, field: &str, text: &str) -> Option<u64> {
        let age = self.duration(field, text)?;
        if age.subsec_nanos() != 0 {
            self.error(field, format!("{text:?} is not in whole seconds"));
        }
        Some(age.as_secs())
    }
}

/// An exact `*` means every origin.
fn meant(condition: StringMatch) -> OriginMatch {
    match condition {
        StringMatch::Exact(text) if text == "*" => OriginMatch::Any,
        condition => OriginMatch::Text(condition),
    }
}
