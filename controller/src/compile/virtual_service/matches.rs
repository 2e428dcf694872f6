//! The conditions of a match entry.

use super::{Compiler, MESH, rule::Match};
use crate::{
    compile::{Note, string_match},
    resource::{HttpMatchRequest, StringMatch},
};
use linnet_mesh::route::{self, HeaderMatch, QueryMatch, RequestMatch};
use std::collections::BTreeMap;

impl Compiler<'_> {
    pub(super) fn match_entry(&mut self, path: &str, entry: &HttpMatchRequest) -> Option<Match> {
        let usable = self.is_usable(path);
        let port = match entry.port {
            None => None,
            Some(number) => Some(self.port(&format!("{path}.port"), number)?),
        };
        let request = RequestMatch {
            path: self.condition(&format!("{path}.uri"), entry.uri.as_ref()),
            ignore_path_case: entry.ignore_uri_case,
            method: self.condition(&format!("{path}.method"), entry.method.as_ref()),
            authority: self.condition(&format!("{path}.authority"), entry.authority.as_ref()),
            scheme: self.condition(&format!("{path}.scheme"), entry.scheme.as_ref()),
            headers: {
                let mut headers = self.headers(&format!("{path}.headers"), &entry.headers, false);
                let without = format!("{path}.withoutHeaders");
                headers.extend(self.headers(&without, &entry.without_headers, true));
                headers
            },
            query: self.query(&format!("{path}.queryParams"), &entry.query_params),
            source_labels: entry.source_labels.clone(),
        };
        let in_mesh = entry.gateways.is_empty() || entry.gateways.iter().any(|g| g == MESH);
        (usable && in_mesh).then_some(Match {
            port,
            source_namespace: entry
                .source_namespace
                .clone()
                .filter(|namespace| !namespace.is_empty()),
            request,
        })
    }

    fn condition(
        &mut self,
        path: &str,
        condition: Option<&StringMatch>,
    ) -> Option<route::StringMatch> {
        match string_match::read(condition?, path, self.regexes) {
            Ok(Some(condition)) => return Some(condition),
            Ok(None) => self
                .errors
                .push(Note::new(path, "sets none of exact, prefix and regex")),
            Err(error) => self.errors.push(error),
        }
        None
    }

    fn query(
        &mut self,
        path: &str,
        conditions: &BTreeMap<String, StringMatch>,
    ) -> Vec<(String, QueryMatch)> {
        let mut query = Vec::new();
        for (name, condition) in conditions {
            match string_match::read(condition, &format!("{path}.{name}"), self.regexes) {
                Ok(value) => {
                    let condition = value.map_or(QueryMatch::Present, QueryMatch::Value);
                    query.push((name.clone(), condition));
                }
                Err(error) => self.errors.push(error),
            }
        }
        query
    }

    fn headers(
        &mut self,
        path: &str,
        conditions: &BTreeMap<String, StringMatch>,
        negate: bool,
    ) -> Vec<HeaderMatch> {
        let mut headers = Vec::new();
        for (name, condition) in conditions {
            let field = format!("{path}.{name}");
            let name = name.parse::<http::HeaderName>().map_err(|_| {
                Note::new(
                    field.as_str(),
                    "is not a header name; use lower-case letters, digits and '-'",
                )
            });
            match (name, string_match::read(condition, &field, self.regexes)) {
                (Ok(name), Ok(value)) => headers.push(HeaderMatch {
                    name,
                    value,
                    negate,
                }),
                (name, value) => {
                    self.errors.extend(name.err());
                    self.errors.extend(value.err());
                }
            }
        }
        headers
    }
}
