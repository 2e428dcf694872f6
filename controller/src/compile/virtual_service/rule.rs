//! Rules for HTTP requests.

use super::{Compiler, Destination, Surroundings, filters};
use crate::{compile::Note, object::Name, resource::HttpRoute};
use linnet_mesh::{
    ResourceRef, ServicePort,
    route::{Answer, Filters, HttpRule, Mirror, RequestMatch, Share},
};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    /// Its field's path, for verdicts.
    pub(super) path: String,
    position: u32,
    pub(super) name: Option<String>,
    /// `None`: always.
    pub(super) matches: Option<Vec<Match>>,
    pub(super) backends: Vec<Destination>,
    /// Whose rules stand here instead.
    pub(super) delegate: Option<Name>,
    pub(super) filters: Filters,
    pub(super) mirrors: Vec<(Destination, Share)>,
    /// A redirect goes to the port that was asked for.
    derive_port: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Match {
    pub(super) port: Option<u16>,
    pub(super) source_namespace: Option<String>,
    pub(super) request: RequestMatch,
}

impl Match {
    fn is_for(&self, port: u16, client: &str) -> bool {
        let namespace = self.source_namespace.as_deref();
        self.port.is_none_or(|wanted| wanted == port)
            && namespace.is_none_or(|namespace| namespace == client)
    }
}

impl Compiler<'_> {
    pub(super) fn rule(&mut self, position: usize, route: &HttpRoute) -> Option<Rule> {
        let path = format!("spec.http[{position}]");
        let mut matches = None;
        if !route.matches.is_empty() {
            let usable: Vec<_> = route
                .matches
                .iter()
                .enumerate()
                .filter_map(|(entry, m)| self.match_entry(&format!("{path}.match[{entry}]"), m))
                .collect();
            matches = Some(usable);
        }
        let filters = self.filters(&path, route);
        let delegate = self.delegate(&path, route);
        let acts = !route.route.is_empty() || filters.answer.is_some();
        if !acts && route.delegate.is_none() {
            self.errors.push(Note::new(
                format!("{path}.route"),
                "has no destination; add one with the host that requests go to",
            ));
        }
        let backends = self.destinations(&path, &route.route);
        let mirrors = self.mirrors(&path, route);
        if matches.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        Some(Rule {
            name: route.name.clone().filter(|name| !name.is_empty()),
            matches,
            backends,
            delegate,
            derive_port: filters::derives_port(route),
            filters,
            mirrors,
            path,
            position: u32::try_from(position).unwrap_or(u32::MAX),
        })
    }

    /// Names the rules that no request gets to.
    pub(super) fn note_shadowed(&mut self, rules: &[Rule]) {
        let takes_all = |rule: &Rule| {
            let mut entries = rule.matches.iter().flatten();
            rule.delegate.is_none()
                && (rule.matches.is_none() || entries.any(|entry| *entry == Match::default()))
        };
        let Some(last) = rules.iter().position(takes_all) else {
            return;
        };
        for rule in &rules[last + 1..] {
            self.notes.push(Note::new(
                rule.path.as_str(),
                format!(
                    "is never reached: {} stands before it and takes every request",
                    rules[last].path
                ),
            ));
        }
    }
}

impl Rule {
    /// The backends and mirrors.
    pub(super) fn destinations(&self) -> impl Iterator<Item = &Destination> {
        let mirrors = self.mirrors.iter().map(|(destination, _)| destination);
        self.backends.iter().chain(mirrors)
    }

    pub(super) fn at(
        &self,
        of: &ServicePort,
        client: &str,
        surroundings: &impl Surroundings,
        source: &Arc<ResourceRef>,
    ) -> Option<HttpRule> {
        let matches = match &self.matches {
            None => Vec::new(),
            Some(entries) => {
                let here: Vec<_> = entries
                    .iter()
                    .filter(|entry| entry.is_for(of.port, client))
                    .map(|entry| entry.request.clone())
                    .collect();
                if here.is_empty() {
                    return None;
                }
                here
            }
        };
        let backends = self.backends.iter();
        let backends = backends
            .map(|destination| destination.backend(of, surroundings))
            .collect();
        let mut filters = self.filters.clone();
        if let (true, Some(Answer::Redirect(redirect))) = (self.derive_port, &mut filters.answer) {
            redirect.port = Some(of.port);
        }
        filters.mirrors = self
            .mirrors
            .iter()
            .map(|(destination, share)| Mirror {
                backend: destination.backend(of, surroundings),
                share: *share,
            })
            .collect();
        Some(HttpRule {
            source: source.clone(),
            position: self.position,
            name: self.name.clone(),
            matches,
            backends,
            filters,
        })
    }
}
