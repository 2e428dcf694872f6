//! What a rule does besides choosing a backend.

use super::{Compiler, backends::Reference};
use crate::resource::gateway::{
    PathModifier, RequestMirror, RequestRedirect, RouteFilter, UrlRewrite,
};
use http::{StatusCode, uri::Authority};
use linnet_mesh::route::{Answer, Filters, PathRewrite, Redirect, RedirectPath, Rewrite, Share};

/// Filters, and what is known of mirrors before services are.
#[derive(Default)]
pub(super) struct Compiled {
    pub(super) filters: Filters,
    pub(super) mirrors: Vec<(Reference, Share)>,
}

/// A redirect's or rewrite's new path.
enum NewPath {
    Full(String),
    Prefix(String),
}

impl Compiler<'_> {
    pub(super) fn filters(&mut self, path: &str, filters: &[RouteFilter]) -> Compiled {
        let mut compiled = Compiled::default();
        let mut seen: Vec<&str> = Vec::new();
        for (position, filter) in filters.iter().enumerate() {
            let path = format!("{path}.filters[{position}]");
            let kind = filter.r#type.as_str();
            if kind != "RequestMirror" && seen.contains(&kind) {
                self.fail(path, &format!("there is a {kind} already"));
                continue;
            }
            seen.push(kind);
            self.filter(&path, filter, &mut compiled);
        }
        if compiled.filters.answer.is_some() && compiled.filters.rewrite.is_some() {
            let text = "has both RequestRedirect and URLRewrite; a rule does one of them";
            self.fail(format!("{path}.filters"), text);
        }
        compiled
    }

    fn filter(&mut self, path: &str, filter: &RouteFilter, compiled: &mut Compiled) {
        let Compiled { filters, mirrors } = compiled;
        let kind = filter.r#type.as_str();
        let known = match kind {
            "RequestHeaderModifier" => filter.request_header_modifier.as_ref().map(|modifier| {
                let path = format!("{path}.requestHeaderModifier");
                filters.headers.request = self.edits(&path, modifier);
            }),
            "ResponseHeaderModifier" => filter.response_header_modifier.as_ref().map(|modifier| {
                let path = format!("{path}.responseHeaderModifier");
                filters.headers.response = self.edits(&path, modifier);
            }),
            "RequestMirror" => filter.request_mirror.as_ref().map(|mirror| {
                mirrors.push(self.mirror(&format!("{path}.requestMirror"), mirror));
            }),
            "RequestRedirect" => filter.request_redirect.as_ref().map(|redirect| {
                let redirect = self.redirect(&format!("{path}.requestRedirect"), redirect);
                filters.answer = Some(Answer::Redirect(redirect));
            }),
            "URLRewrite" => filter.url_rewrite.as_ref().map(|rewrite| {
                filters.rewrite = self.rewrite(&format!("{path}.urlRewrite"), rewrite);
            }),
            "CORS" => filter.cors.as_ref().map(|cors| {
                filters.cors = Some(self.cors(&format!("{path}.cors"), cors));
            }),
            _ => {
                self.fail(path, &format!("the filter {kind} is not honoured"));
                return;
            }
        };
        if known.is_none() {
            self.fail(path, &format!("says {kind} without its part"));
        }
    }

    fn mirror(&mut self, path: &str, mirror: &RequestMirror) -> (Reference, Share) {
        let share = match (mirror.percent, mirror.fraction) {
            (None, None) => Some(Share::ALL),
            (Some(percent), None) => share(percent, 100),
            (None, Some(fraction)) => {
                share(fraction.numerator, fraction.denominator.unwrap_or(100))
            }
            (Some(_), Some(_)) => None,
        };
        if share.is_none() {
            let text = "needs one share from nothing to all, as percent or as fraction";
            self.fail(path, text);
        }
        let reference = self.reference(&format!("{path}.backendRef"), &mirror.backend_ref);
        (reference, share.unwrap_or_default())
    }

    /// The port is filled in where the service is known.
    fn redirect(&mut self, path: &str, redirect: &RequestRedirect) -> Redirect {
        let code = redirect.status_code.unwrap_or(302);
        let status = u16::try_from(code)
            .ok()
            .filter(|code| [301, 302, 303, 307, 308].contains(code))
            .and_then(|code| StatusCode::from_u16(code).ok());
        if status.is_none() {
            let text = format!("{code} is none of 301, 302, 303, 307, 308");
            self.fail(format!("{path}.statusCode"), &text);
        }
        if let Some(scheme) = &redirect.scheme
            && scheme != "http"
            && scheme != "https"
        {
            let text = format!("{scheme:?} is neither http nor https");
            self.fail(format!("{path}.scheme"), &text);
        }
        let new = redirect.path.as_ref();
        let host = redirect.hostname.as_deref();
        let host = host.and_then(|host| self.authority(&format!("{path}.hostname"), host));
        Redirect {
            status: status.unwrap_or(StatusCode::FOUND),
            scheme: redirect.scheme.clone(),
            authority: host.map(|host| host.to_string()),
            port: redirect
                .port
                .and_then(|port| self.port(&format!("{path}.port"), port)),
            path: new
                .and_then(|new| self.new_path(&format!("{path}.path"), new))
                .map(|new| match new {
                    NewPath::Full(text) => RedirectPath::Full(text),
                    NewPath::Prefix(text) => RedirectPath::Prefix(text),
                }),
        }
    }

    fn rewrite(&mut self, path: &str, rewrite: &UrlRewrite) -> Option<Rewrite> {
        let new = rewrite.path.as_ref();
        let host = rewrite.hostname.as_deref();
        let rewrite = Rewrite {
            path: new
                .and_then(|new| self.new_path(&format!("{path}.path"), new))
                .map(|new| match new {
                    NewPath::Full(text) => PathRewrite::Full(text),
                    NewPath::Prefix(text) => PathRewrite::Matched(text),
                }),
            authority: host.and_then(|host| self.authority(&format!("{path}.hostname"), host)),
        };
        (rewrite != Rewrite::default()).then_some(rewrite)
    }

    fn authority(&mut self, field: &str, host: &str) -> Option<Authority> {
        let parsed = host.parse().ok().filter(|_| !host.contains(['@', ':']));
        if parsed.is_none() {
            self.fail(field, &format!("{host:?} is not a host"));
        }
        parsed
    }

    fn new_path(&mut self, path: &str, new: &PathModifier) -> Option<NewPath> {
        let (field, text, made): (_, _, fn(String) -> NewPath) = match new.r#type.as_str() {
            "ReplaceFullPath" => ("replaceFullPath", &new.replace_full_path, NewPath::Full),
            "ReplacePrefixMatch" => (
                "replacePrefixMatch",
                &new.replace_prefix_match,
                NewPath::Prefix,
            ),
            other => {
                self.fail(format!("{path}.type"), &format!("{other:?} is not known"));
                return None;
            }
        };
        let text = text.as_deref().unwrap_or_default();
        let whole = format!("/{text}");
        if http::uri::PathAndQuery::try_from(whole.as_str()).is_err() || text.contains(['#', '?']) {
            self.fail(
                format!("{path}.{field}"),
                &format!("{text:?} is not a path"),
            );
            return None;
        }
        Some(made(text.to_owned()))
    }
}

fn share(numerator: i64, denominator: i64) -> Option<Share> {
    let valid = denominator > 0 && (0..=denominator).contains(&numerator);
    valid.then(|| Share::percent(numerator as f64 * 100.0 / denominator as f64))
}
