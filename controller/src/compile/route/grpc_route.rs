//! GRPCRoute: a method is a path, `/package.Service/Method`.

use super::{Compiler, Match, Rank, Route, Rule, values::EXACT};
use crate::{
    compile::{Note, spec},
    object::Configuration,
    resource::gateway::{GrpcRouteMatch, GrpcRouteRule, GrpcRouteSpec, MethodMatch},
};
use linnet_mesh::{
    regexes::Budget,
    route::{RequestMatch, StringMatch},
};

/// Any service or method.
const ANY: &str = "[^/]+";

pub(in crate::compile) fn compile(
    configuration: &Configuration,
    notes: &mut Vec<Note>,
    regexes: &mut Budget,
) -> Result<Route, Vec<Note>> {
    let (spec, unknown) = spec::read::<GrpcRouteSpec>(&configuration.spec)?;
    Compiler::new(configuration, &unknown, notes, regexes).route(
        configuration,
        &spec.parent_refs,
        &spec.hostnames,
        &spec.rules,
        Compiler::grpc_rule,
    )
}

impl Compiler<'_> {
    fn grpc_rule(&mut self, path: &str, rule: &GrpcRouteRule) -> Rule {
        let mut matches: Vec<_> = rule
            .matches
            .iter()
            .enumerate()
            .filter_map(|(entry, m)| self.grpc_match(&format!("{path}.matches[{entry}]"), m))
            .collect();
        if rule.matches.is_empty() {
            matches.extend(self.grpc_match(path, &GrpcRouteMatch::default()));
        }
        let compiled = self.filters(path, &rule.filters);
        let filters = &compiled.filters;
        let of_http = [
            filters.answer.is_some(),
            filters.rewrite.is_some(),
            filters.cors.is_some(),
        ];
        if of_http.contains(&true) {
            let text = "redirects, rewrites and CORS are an HTTPRoute's";
            self.fail(format!("{path}.filters"), text);
        }
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

    fn grpc_match(&mut self, path: &str, entry: &GrpcRouteMatch) -> Option<Match> {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (mut condition, mut lengths) = (None, (0, 0));
        if let Some(method) = &entry.method {
            let (service, name) = (text(&method.service), text(&method.method));
            let length = |text: &Option<String>| text.as_deref().map_or(0, str::len);
            lengths = (length(&service), length(&name));
            condition = self.method(&format!("{path}.method"), method, service, name)?;
        }
        let headers = self.headers(&format!("{path}.headers"), &entry.headers)?;
        let rank = Rank([lengths.0, lengths.1, headers.len(), 0, 0]);
        let request = RequestMatch {
            path: condition,
            headers,
            ..RequestMatch::default()
        };
        Some(Match { request, rank })
    }

    /// `None`: it can't be honoured; `Some(None)`: any method.
    fn method(
        &mut self,
        path: &str,
        entry: &MethodMatch,
        service: Option<String>,
        method: Option<String>,
    ) -> Option<Option<StringMatch>> {
        let exact = match entry.r#type.as_deref().unwrap_or(EXACT) {
            EXACT => true,
            "RegularExpression" => false,
            other => {
                self.leave_out(format!("{path}.type"), &format!("{other:?} is not known"));
                return None;
            }
        };
        let part = |text: &str| {
            if exact {
                regex::escape(text)
            } else {
                format!("(?:{text})")
            }
        };
        match (service, method) {
            (None, None) => Some(None),
            (Some(service), Some(method)) if exact => {
                Some(Some(StringMatch::Exact(format!("/{service}/{method}"))))
            }
            (Some(service), None) if exact => {
                Some(Some(StringMatch::Segments(format!("/{service}"))))
            }
            (service, method) => {
                let part = |text: Option<String>| text.map_or_else(|| ANY.to_owned(), |t| part(&t));
                let pattern = format!("/{}/{}", part(service), part(method));
                self.regex(path, &pattern).map(Some)
            }
        }
    }
}
