//! What a rule does besides choosing a destination.

use super::{Compiler, duration};
use crate::{
    compile::Note,
    resource::{
        FaultAbort, FaultDelay, HttpDirectResponse, HttpFault, HttpRedirect, HttpRewrite,
        HttpRoute, Percentage,
    },
};
use base64::Engine as _;
use http::{StatusCode, uri::Authority};
use linnet_mesh::route::{
    Abort, AbortStatus, Answer, Delay, DirectResponse, Fault, Filters, PathRewrite, Redirect,
    RedirectPath, Rewrite, Share,
};
use std::time::Duration;

/// Puts a redirect's path in the place of the matched prefix.
const PREFIX: &str = "%PREFIX()%";
/// gRPC's statuses by their number.
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Whether a redirect goes to the port that was asked for.
pub(super) fn derives_port(route: &HttpRoute) -> bool {
    let redirect = route.redirect.as_ref();
    redirect.and_then(|r| r.derive_port.as_deref()) == Some("FROM_REQUEST_PORT")
}

impl Compiler<'_> {
    pub(super) fn filters(&mut self, path: &str, route: &HttpRoute) -> Filters {
        let redirect = route.redirect.as_ref();
        let direct = route.direct_response.as_ref();
        let actions = [
            redirect.is_some(),
            direct.is_some(),
            !route.route.is_empty(),
        ];
        if actions.into_iter().filter(|action| *action).count() > 1 {
            self.errors.push(Note::new(
                path,
                "has several of route, redirect and directResponse; a rule does one of them",
            ));
        }
        let redirect = redirect.map(|r| self.redirect(&format!("{path}.redirect"), r));
        let direct = direct.map(|d| self.direct(&format!("{path}.directResponse"), d));
        let timeout = route.timeout.as_deref();
        Filters {
            answer: redirect
                .map(Answer::Redirect)
                .or(direct.map(Answer::Direct)),
            fault: route
                .fault
                .as_ref()
                .map(|fault| self.fault(&format!("{path}.fault"), fault)),
            rewrite: route
                .rewrite
                .as_ref()
                .and_then(|rewrite| self.rewrite(&format!("{path}.rewrite"), rewrite)),
            headers: self.header_filters(&format!("{path}.headers"), route.headers.as_ref()),
            timeout: timeout
                .and_then(|text| self.duration(&format!("{path}.timeout"), text))
                .filter(|timeout| !timeout.is_zero()),
            retry: route
                .retries
                .as_ref()
                .map(|retries| self.retries(&format!("{path}.retries"), retries)),
            cors: route
                .cors_policy
                .as_ref()
                .map(|policy| self.cors(&format!("{path}.corsPolicy"), policy)),
            // Known when the services are.
            mirrors: Vec::new(),
        }
    }

    pub(super) fn error(&mut self, field: impl Into<String>, text: impl Into<String>) {
        self.errors.push(Note::new(field, text));
    }

    pub(super) fn duration(&mut self, field: &str, text: &str) -> Option<Duration> {
        match duration::parse(text) {
            Ok(duration) => Some(duration),
            Err(error) => {
                self.error(field, error);
                None
            }
        }
    }

    fn status(&mut self, field: String, number: i64) -> Option<StatusCode> {
        let status = u16::try_from(number)
            .ok()
            .filter(|number| (200..600).contains(number))
            .and_then(|number| StatusCode::from_u16(number).ok());
        if status.is_none() {
            self.error(field, format!("{number} is not a status from 200 to 599"));
        }
        status
    }

    fn redirect(&mut self, path: &str, redirect: &HttpRedirect) -> Redirect {
        let code = redirect.redirect_code.filter(|&code| code != 0);
        let code = code.unwrap_or(301);
        if ![301, 302, 303, 307, 308].contains(&code) {
            let field = format!("{path}.redirectCode");
            self.error(field, format!("{code} is none of 301, 302, 303, 307, 308"));
        }
        let status = u16::try_from(code)
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok());
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let scheme = text(&redirect.scheme);
        if let Some(scheme) = &scheme
            && scheme != "http"
            && scheme != "https"
        {
            let field = format!("{path}.scheme");
            self.error(field, format!("{scheme:?} is neither http nor https"));
        }
        let authority = text(&redirect.authority);
        if let Some(text) = &authority {
            self.authority(&format!("{path}.authority"), text);
        }
        let derive = redirect.derive_port.as_deref().unwrap_or_default();
        if !["", "FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"].contains(&derive) {
            let field = format!("{path}.derivePort");
            let known = "FROM_PROTOCOL_DEFAULT or FROM_REQUEST_PORT";
            self.error(field, format!("{derive:?} is not {known}"));
        }
        let port = redirect.port.filter(|&port| port != 0);
        let uri = text(&redirect.uri);
        let uri = uri.map(|uri| match uri.strip_prefix(PREFIX) {
            Some(text) => RedirectPath::Prefix(text.to_owned()),
            None => RedirectPath::Full(uri),
        });
        if let Some(RedirectPath::Full(text) | RedirectPath::Prefix(text)) = &uri {
            self.target(&format!("{path}.uri"), text);
        }
        Redirect {
            status: status.unwrap_or(StatusCode::MOVED_PERMANENTLY),
            scheme,
            authority,
            port: port.and_then(|port| self.port(&format!("{path}.port"), port)),
            path: uri,
        }
    }

    fn authority(&mut self, field: &str, text: &str) -> Option<Authority> {
        let parsed = text.parse().ok();
        if parsed.is_none() || text.contains('@') {
            self.error(
                field,
                format!("{text:?} is not a host, with or without port"),
            );
        }
        parsed
    }

    /// Text that makes a path, maybe with something behind it.
    fn target(&mut self, field: &str, text: &str) {
        let path = format!("/{text}");
        if http::uri::PathAndQuery::try_from(path.as_str()).is_err() || text.contains('#') {
            self.error(field, format!("{text:?} is not a path"));
        }
    }

    fn direct(&mut self, path: &str, direct: &HttpDirectResponse) -> DirectResponse {
        let status = self.status(format!("{path}.status"), direct.status);
        let body = direct.body.as_ref();
        let string = body.and_then(|body| body.string.clone());
        let bytes = body.and_then(|body| body.bytes.as_deref());
        let body = match (string, bytes) {
            (Some(_), Some(_)) => {
                let field = format!("{path}.body");
                self.error(field, "sets both string and bytes; a body is one of them");
                Vec::new()
            }
            (Some(text), None) => text.into_bytes(),
            (None, Some(text)) => base64::engine::general_purpose::STANDARD
                .decode(text)
                .unwrap_or_else(|_| {
                    self.error(format!("{path}.body.bytes"), "is not base64");
                    Vec::new()
                }),
            (None, None) => Vec::new(),
        };
        DirectResponse {
            status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            body,
        }
    }

    fn rewrite(&mut self, path: &str, rewrite: &HttpRewrite) -> Option<Rewrite> {
        let uri = rewrite.uri.clone().filter(|uri| !uri.is_empty());
        let regex = rewrite.uri_regex_rewrite.as_ref();
        let new = match (uri, regex) {
            (Some(_), Some(_)) => {
                self.error(
                    path,
                    "sets both uri and uriRegexRewrite; a path has one rewrite",
                );
                None
            }
            (Some(uri), None) => {
                self.target(&format!("{path}.uri"), &uri);
                Some(PathRewrite::Matched(uri))
            }
            (None, Some(regex)) => {
                match PathRewrite::regex_within(&regex.pattern, &regex.rewrite, self.regexes) {
                    Ok(rewrite) => Some(rewrite),
                    Err(error) => {
                        let reason = crate::compile::string_match::reason(&error);
                        self.error(format!("{path}.uriRegexRewrite.match"), reason);
                        None
                    }
                }
            }
            (None, None) => None,
        };
        let authority = rewrite.authority.as_deref().filter(|text| !text.is_empty());
        let authority =
            authority.and_then(|text| self.authority(&format!("{path}.authority"), text));
        (new.is_some() || authority.is_some()).then_some(Rewrite {
            path: new,
            authority,
        })
    }

    fn fault(&mut self, path: &str, fault: &HttpFault) -> Fault {
        Fault {
            delay: fault
                .delay
                .as_ref()
                .and_then(|delay| self.delay(&format!("{path}.delay"), delay)),
            abort: fault
                .abort
                .as_ref()
                .and_then(|abort| self.abort(&format!("{path}.abort"), abort)),
        }
    }

    fn share(&mut self, path: &str, percentage: Option<Percentage>) -> Share {
        let field = format!("{path}.percentage");
        match percentage.map(|percentage| percentage.value) {
            None => {
                self.notes.push(Note::new(
                    field,
                    "is missing, which means 0 %: the fault is never injected",
                ));
                Share::default()
            }
            Some(value) => self.percentage(&field, Percentage { value }),
        }
    }

    pub(super) fn percentage(&mut self, field: &str, percentage: Percentage) -> Share {
        let Percentage { value } = percentage;
        if !(0.0..=100.0).contains(&value) {
            self.error(field, format!("{value} is not between 0 and 100"));
        }
        Share::percent(value)
    }

    fn delay(&mut self, path: &str, delay: &FaultDelay) -> Option<Delay> {
        let field = format!("{path}.fixedDelay");
        if delay.exponential_delay.is_some() {
            let other = format!("{path}.exponentialDelay");
            let text = "has no effect, in Istio neither: use fixedDelay";
            self.notes.push(Note::new(other, text));
        }
        let Some(text) = delay.fixed_delay.as_deref() else {
            self.error(field, "is missing; say how long to wait");
            return None;
        };
        let duration = self.duration(&field, text)?;
        let older = delay.percent.map(|percent| Percentage {
            value: percent as f64,
        });
        let share = self.share(path, delay.percentage.or(older));
        Some(Delay { share, duration })
    }

    fn abort(&mut self, path: &str, abort: &FaultAbort) -> Option<Abort> {
        if abort.http2_error.is_some() {
            let field = format!("{path}.http2Error");
            let text = "has no effect, in Istio neither: use httpStatus or grpcStatus";
            self.notes.push(Note::new(field, text));
        }
        let status = match (abort.http_status, abort.grpc_status.as_deref()) {
            (Some(number), None) => {
                AbortStatus::Http(self.status(format!("{path}.httpStatus"), number)?)
            }
            (None, Some(text)) => {
                let known = GRPC.iter().position(|name| *name == text);
                let number = text
                    .parse()
                    .ok()
                    .or(known)
                    .filter(|&code| code < GRPC.len());
                let Some(code) = number.and_then(|code| u16::try_from(code).ok()) else {
                    let field = format!("{path}.grpcStatus");
                    self.error(field, format!("{text:?} is not a gRPC status"));
                    return None;
                };
                AbortStatus::Grpc(code)
            }
            _ => {
                self.error(path, "needs one of httpStatus and grpcStatus");
                return None;
            }
        };
        let share = self.share(path, abort.percentage);
        Some(Abort { share, status })
    }
}
