//! One list of rules from several routes: the most specific match first,
//! whichever route it stands in, then the oldest route.

use super::{Match, Route, Rule, backends::unresolved};
use crate::compile::Surroundings;
use linnet_mesh::{
    ResourceRef, ServicePort,
    route::{Answer, Backend, Filters, HttpRoutes, HttpRule, Mirror, Redirect, RequestMatch},
};
use std::sync::Arc;

/// The rules of routes for one service port; the oldest route comes first in
/// `routes`.
pub(crate) fn merge(
    routes: &[&Route],
    of: &ServicePort,
    surroundings: &impl Surroundings,
) -> HttpRoutes {
    let mut entries: Vec<(&Match, &Rule, &Route)> = routes
        .iter()
        .flat_map(|route| route.rules.iter().map(move |rule| (rule, *route)))
        .flat_map(|(rule, route)| rule.matches.iter().map(move |entry| (entry, rule, route)))
        .collect();
    // Stable: what is as specific stays in the order of age and of the rules.
    entries.sort_by_key(|(entry, ..)| std::cmp::Reverse(entry.rank));
    let rules = entries
        .chunk_by(|(_, a, _), (_, b, _)| std::ptr::eq(*a, *b))
        .filter_map(|entries| {
            let (_, rule, route) = entries.first()?;
            let matches = entries.iter().map(|(entry, ..)| entry.request.clone());
            Some(rule.at(&route.source, matches.collect(), of, surroundings))
        })
        .collect();
    HttpRoutes {
        sources: routes.iter().map(|route| route.source.clone()).collect(),
        rules,
    }
}

impl Rule {
    fn at(
        &self,
        source: &Arc<ResourceRef>,
        matches: Vec<RequestMatch>,
        of: &ServicePort,
        surroundings: &impl Surroundings,
    ) -> HttpRule {
        if let Some(broken) = &self.broken {
            return HttpRule {
                source: source.clone(),
                position: self.position,
                name: self.name.clone(),
                matches,
                backends: vec![unresolved(of, broken.clone())],
                filters: Filters::default(),
            };
        }
        let mut filters = self.filters.clone();
        if let Some(Answer::Redirect(redirect)) = &mut filters.answer {
            redirect.port = redirect.port.or_else(|| Some(port(redirect, of)));
        }
        filters.mirrors = self
            .mirrors
            .iter()
            .map(|(reference, share)| Mirror {
                backend: reference.backend(of, surroundings),
                share: *share,
            })
            .collect();
        let backends = match filters.answer {
            Some(_) => Vec::new(),
            None => self.backends_at(of, surroundings),
        };
        HttpRule {
            source: source.clone(),
            position: self.position,
            name: self.name.clone(),
            matches,
            backends,
            filters,
        }
    }

    /// Where nothing is named or everything has weight 0, there is an answer to
    /// give too.
    fn backends_at(&self, of: &ServicePort, surroundings: &impl Surroundings) -> Vec<Backend> {
        let instead = if self.backends.is_empty() {
            Some("the rule names no backend")
        } else if self.backends.iter().all(|backend| backend.weight == 0) {
            Some("the rule gives every backend weight 0")
        } else {
            None
        };
        if let Some(reason) = instead {
            return vec![unresolved(of, reason.to_owned())];
        }
        self.backends
            .iter()
            .map(|reference| reference.backend(of, surroundings))
            .collect()
    }
}

/// The port of a redirect that names none: its scheme's own, or the one that
/// was asked for.
fn port(redirect: &Redirect, of: &ServicePort) -> u16 {
    match redirect.scheme.as_deref() {
        Some("https") => 443,
        Some(_) => 80,
        None => of.port,
    }
}
