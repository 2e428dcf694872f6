//! HTTPRoute.

use super::{Compiler, Match, Rank, Route, Rule, values::EXACT};
use crate::{
    compile::{Note, spec},
    object::Configuration,
    resource::gateway::{
        HttpRouteMatch, HttpRouteRule, HttpRouteSpec, NamedMatch, PathMatch, RouteRetry,
        RouteTimeouts,
    },
};
use linnet_mesh::{
    regexes::Budget,
    route::{QueryMatch, RequestMatch, RetryOn, RetryPolicy, StringMatch},
};

/// Times a request is sent again where `retry` does not say.
const ATTEMPTS: u32 = 2;

pub(in crate::compile) fn compile(
    configuration: &Configuration,
    notes: &mut Vec<Note>,
    regexes: &mut Budget,
) -> Result<Route, Vec<Note>> {
    let (spec, unknown) = spec::read::<HttpRouteSpec>(&configuration.spec)?;
    Compiler::new(configuration, &unknown, notes, regexes).route(
        configuration,
        &spec.parent_refs,
        &spec.hostnames,
        &spec.rules,
        Compiler::http_rule,
    )
}

impl Compiler<'_> {
    fn http_rule(&mut self, path: &str, rule: &HttpRouteRule) -> Rule {
        let mut matches: Vec<_> = rule
            .matches
            .iter()
            .enumerate()
            .filter_map(|(entry, m)| self.http_match(&format!("{path}.matches[{entry}]"), m))
            .collect();
        if rule.matches.is_empty() {
            matches.extend(self.http_match(path, &HttpRouteMatch::default()));
        }
        let mut compiled = self.filters(path, &rule.filters);
        if let Some(timeouts) = &rule.timeouts {
            let field = format!("{path}.timeouts.request");
            compiled.filters.timeout = self.duration(field, timeouts.request.as_deref());
        }
        compiled.filters.retry = self.retry(path, rule.retry.as_ref(), rule.timeouts.as_ref());
        let backends = self.backends(path, &rule.backend_refs);
        Rule {
            position: 0,
            name: rule.name.clone(),
            matches,
            backends,
            filters: compiled.filters,
            mirrors: compiled.mirrors,
            broken: self.broken.take(),
        }
    }

    fn http_match(&mut self, path: &str, entry: &HttpRouteMatch) -> Option<Match> {
        let (condition, kind, length) = self.path(&format!("{path}.path"), entry.path.as_ref())?;
        let headers = self.headers(&format!("{path}.headers"), &entry.headers)?;
        let query = self.query(&format!("{path}.queryParams"), &entry.query_params)?;
        let method = entry.method.clone().map(StringMatch::Exact);
        let rank = Rank([
            kind,
            length,
            usize::from(method.is_some()),
            headers.len(),
            query.len(),
        ]);
        let request = RequestMatch {
            path: Some(condition),
            method,
            headers,
            query,
            ..RequestMatch::default()
        };
        Some(Match { request, rank })
    }

    /// A condition on the path with its rank: exact, then regular expressions
    /// (whose place the API leaves open), then the longest prefix.
    fn path(
        &mut self,
        path: &str,
        entry: Option<&PathMatch>,
    ) -> Option<(StringMatch, usize, usize)> {
        let kind = entry.and_then(|entry| entry.r#type.as_deref());
        let value = entry.and_then(|entry| entry.value.as_deref());
        let value = value.unwrap_or("/");
        let kind = kind.unwrap_or("PathPrefix");
        if kind == EXACT || kind == "PathPrefix" {
            let field = format!("{path}.value");
            if !value.starts_with('/') {
                self.leave_out(field, &format!("{value:?} does not start with a slash"));
                return None;
            }
        }
        match kind {
            EXACT => Some((StringMatch::Exact(value.to_owned()), 2, 0)),
            "PathPrefix" => {
                let prefix = value.trim_end_matches('/');
                Some((StringMatch::Segments(prefix.to_owned()), 0, prefix.len()))
            }
            other => {
                let condition = self.text(path, Some(other), value)?;
                Some((condition, 1, value.len()))
            }
        }
    }

    /// Conditions on parameters; of several with one name the first counts.
    fn query(
        &mut self,
        path: &str,
        parameters: &[NamedMatch],
    ) -> Option<Vec<(String, QueryMatch)>> {
        let mut matches: Vec<(String, QueryMatch)> = Vec::new();
        for (position, parameter) in parameters.iter().enumerate() {
            let path = format!("{path}[{position}]");
            let name = &parameter.name;
            if matches.iter().any(|(known, _)| known == name) {
                self.note(path, format!("{name} stands there twice; the first counts"));
                continue;
            }
            let value = self.text(&path, parameter.r#type.as_deref(), &parameter.value)?;
            matches.push((name.clone(), QueryMatch::Value(value)));
        }
        Some(matches)
    }

    /// Connections that break are retried too where a rule has `retry`, as the
    /// API recommends.
    fn retry(
        &mut self,
        path: &str,
        retry: Option<&RouteRetry>,
        timeouts: Option<&RouteTimeouts>,
    ) -> Option<RetryPolicy> {
        let per_try = timeouts.and_then(|timeouts| timeouts.backend_request.as_deref());
        let per_try_timeout = self.duration(format!("{path}.timeouts.backendRequest"), per_try);
        let Some(retry) = retry else {
            return per_try_timeout.map(|_| RetryPolicy {
                per_try_timeout,
                ..RetryPolicy::DEFAULT
            });
        };
        let mut statuses = Vec::new();
        for (position, &code) in retry.codes.iter().enumerate() {
            match u16::try_from(code)
                .ok()
                .filter(|code| (400..600).contains(code))
            {
                Some(code) => statuses.push(code),
                None => {
                    let field = format!("{path}.retry.codes[{position}]");
                    self.fail(field, &format!("{code} is not a status from 400 to 599"));
                }
            }
        }
        let attempts = retry.attempts.map(u32::try_from);
        let attempts = attempts.unwrap_or(Ok(ATTEMPTS)).unwrap_or_else(|_| {
            self.fail(format!("{path}.retry.attempts"), "is no number of retries");
            0
        });
        let back_off = self.duration(format!("{path}.retry.backoff"), retry.backoff.as_deref());
        Some(RetryPolicy {
            attempts,
            on: RetryOn::CONNECT_FAILURE
                .and(RetryOn::REFUSED_STREAM)
                .and(RetryOn::RESET),
            statuses,
            per_try_timeout,
            back_off: back_off.unwrap_or(RetryPolicy::BACK_OFF),
            avoid_tried: true,
        })
    }
}
