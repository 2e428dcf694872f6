//! Delegates: rules of another VirtualService in the place of one rule.
//!
//! One level: a delegate names no host, and delegates no further. Its rules are
//! taken within the bounds of the root's match; one that asks for more than
//! those allow is left out, as the API has it.

use super::{
    Compiler, Surroundings, VirtualService,
    rule::{Match, Rule},
};
use crate::{
    compile::{Note, limits},
    object::Name,
    resource::HttpRoute,
};
use linnet_mesh::route::{HeaderFilters, HeaderMatch, QueryMatch, RequestMatch, StringMatch};

impl Compiler<'_> {
    pub(super) fn delegate(&mut self, path: &str, route: &HttpRoute) -> Option<Name> {
        let delegate = route.delegate.as_ref()?;
        let field = format!("{path}.delegate");
        if self.is_delegate {
            let text = "stands in a VirtualService without hosts, which is a delegate itself; delegates go one level deep";
            self.error(field, text);
            return None;
        }
        if !route.route.is_empty() || route.redirect.is_some() || route.direct_response.is_some() {
            self.error(
                field.as_str(),
                "stands beside route, redirect or directResponse; a rule does one of them",
            );
        }
        if delegate.name.is_empty() {
            self.error(format!("{field}.name"), "is missing; name a VirtualService");
        }
        let namespace = Some(delegate.namespace.as_str()).filter(|text| !text.is_empty());
        Some(Name::new(
            namespace.unwrap_or(self.namespace),
            delegate.name.as_str(),
        ))
    }
}

impl VirtualService {
    /// A delegate, or why its rules don't count.
    pub(super) fn delegate<'a>(
        &self,
        name: &Name,
        surroundings: &'a impl Surroundings,
    ) -> Result<&'a VirtualService, String> {
        let delegate = surroundings
            .virtual_service(name)
            .ok_or_else(|| format!("there is no VirtualService {name} in force"))?;
        if !delegate.is_delegate {
            return Err(format!(
                "VirtualService {name} names hosts of its own, so it is no delegate"
            ));
        }
        if !delegate.visibility.includes(&self.source.namespace) {
            return Err(format!(
                "VirtualService {name} is not exported to namespace {}",
                self.source.namespace
            ));
        }
        Ok(delegate)
    }

    /// A rule's delegate, or why its rules don't count. Rules are made from both, so their
    /// numbers multiply; `made` is how many there are already, of all rules before it.
    pub(super) fn counted_delegate<'a>(
        &self,
        rule: &Rule,
        name: &Name,
        surroundings: &'a impl Surroundings,
        made: &mut usize,
    ) -> Result<&'a VirtualService, String> {
        let delegate = self.delegate(name, surroundings)?;
        let entries = |rule: &Rule| {
            rule.matches
                .as_ref()
                .map_or(1, |entries| entries.len().max(1))
        };
        let theirs: usize = delegate.http.iter().flatten().map(entries).sum();
        let together = theirs.saturating_mul(entries(rule)).saturating_add(*made);
        if together > limits::RULES {
            return Err(format!(
                "with those of VirtualService {name} there would be {together} rules or match entries; more than {} are not taken",
                limits::RULES
            ));
        }
        *made = together;
        Ok(delegate)
    }

    /// Delegates that don't count, and rules of theirs that don't, by field.
    pub(super) fn delegation(&self, surroundings: &impl Surroundings) -> Vec<Note> {
        let (mut notes, mut made) = (Vec::new(), 0);
        for root in self.http.iter().flatten() {
            let Some(name) = &root.delegate else {
                continue;
            };
            let field = format!("{}.delegate", root.path);
            match self.counted_delegate(root, name, surroundings, &mut made) {
                Err(reason) => {
                    notes.push(Note::new(field, format!("{reason}; the rule is passed by")));
                }
                Ok(delegate) => {
                    let rules = delegate.http.iter().flatten();
                    let outside = rules.filter(|rule| merged(root, rule).is_none());
                    notes.extend(outside.map(|rule| {
                        Note::new(
                            field.as_str(),
                            format!(
                                "{} of VirtualService {name} matches what this rule does not; it is left out",
                                rule.path
                            ),
                        )
                    }));
                }
            }
        }
        notes
    }
}

/// A delegate's rule in the place of a root's; `None`: it asks for requests
/// that the root does not give it.
pub(super) fn merged(root: &Rule, leaf: &Rule) -> Option<Rule> {
    let matches = match (&root.matches, &leaf.matches) {
        (None, entries) | (entries, None) => entries.clone(),
        (Some(roots), Some(leaves)) => Some(merged_entries(roots, leaves)?),
    };
    let mut rule = leaf.clone();
    rule.matches = matches;
    rule.name = match (&root.name, &leaf.name) {
        (Some(root), Some(leaf)) => Some(format!("{root}-{leaf}")),
        (root, leaf) => leaf.clone().or_else(|| root.clone()),
    };
    let (filters, roots) = (&mut rule.filters, &root.filters);
    filters.rewrite = filters.rewrite.take().or_else(|| roots.rewrite.clone());
    filters.timeout = filters.timeout.or(roots.timeout);
    filters.retry = filters.retry.take().or_else(|| roots.retry.clone());
    filters.fault = filters.fault.take().or_else(|| roots.fault.clone());
    filters.cors = filters.cors.take().or_else(|| roots.cors.clone());
    if filters.headers == HeaderFilters::default() {
        filters.headers = roots.headers.clone();
    }
    if rule.mirrors.is_empty() {
        rule.mirrors = root.mirrors.clone();
    }
    Some(rule)
}

/// Each of the delegate's entries within each of the root's that allows it.
fn merged_entries(roots: &[Match], leaves: &[Match]) -> Option<Vec<Match>> {
    let mut all = Vec::new();
    for leaf in leaves {
        let before = all.len();
        all.extend(roots.iter().filter_map(|root| merged_entry(root, leaf)));
        if all.len() == before {
            return None;
        }
    }
    Some(all)
}

fn merged_entry(root: &Match, leaf: &Match) -> Option<Match> {
    let (outer, inner) = (&root.request, &leaf.request);
    if outer.ignore_path_case != inner.ignore_path_case {
        return None;
    }
    let mut source_labels = outer.source_labels.clone();
    for (key, value) in &inner.source_labels {
        if source_labels
            .insert(key.clone(), value.clone())
            .is_some_and(|other| other != *value)
        {
            return None;
        }
    }
    Some(Match {
        port: one(root.port.as_ref(), leaf.port.as_ref())?,
        source_namespace: one(
            root.source_namespace.as_ref(),
            leaf.source_namespace.as_ref(),
        )?,
        request: RequestMatch {
            path: within(outer.path.as_ref(), inner.path.as_ref())?,
            ignore_path_case: inner.ignore_path_case,
            method: within(outer.method.as_ref(), inner.method.as_ref())?,
            authority: within(outer.authority.as_ref(), inner.authority.as_ref())?,
            scheme: within(outer.scheme.as_ref(), inner.scheme.as_ref())?,
            headers: merged_headers(&outer.headers, &inner.headers)?,
            query: merged_query(&outer.query, &inner.query)?,
            source_labels,
        },
    })
}

/// The one that is set; `None`: both are, and differ.
fn one<T: Clone + PartialEq>(root: Option<&T>, leaf: Option<&T>) -> Option<Option<T>> {
    match (root, leaf) {
        (Some(root), Some(leaf)) if root != leaf => None,
        (root, leaf) => Some(leaf.or(root).cloned()),
    }
}

/// The narrower condition, which must be the delegate's. Of regular expressions
/// nobody can tell, so they don't go together with anything.
fn within(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> Option<Option<StringMatch>> {
    let allowed = match (root, leaf) {
        (None, _) | (_, None) => true,
        (Some(StringMatch::Exact(root)), Some(StringMatch::Exact(leaf))) => root == leaf,
        (
            Some(StringMatch::Prefix(root)),
            Some(StringMatch::Exact(leaf) | StringMatch::Prefix(leaf)),
        ) => leaf.starts_with(root.as_str()),
        _ => false,
    };
    allowed.then(|| leaf.or(root).cloned())
}

fn merged_headers(roots: &[HeaderMatch], leaves: &[HeaderMatch]) -> Option<Vec<HeaderMatch>> {
    let same = |a: &HeaderMatch, b: &HeaderMatch| a.name == b.name && a.negate == b.negate;
    let mut headers = leaves.to_vec();
    for root in roots {
        match headers.iter_mut().find(|leaf| same(leaf, root)) {
            None => headers.push(root.clone()),
            // Two exclusions of one header: neither contains the other.
            Some(leaf) if leaf.negate && leaf.value != root.value => return None,
            Some(leaf) => leaf.value = within(root.value.as_ref(), leaf.value.as_ref())?,
        }
    }
    Some(headers)
}

fn merged_query(
    roots: &[(String, QueryMatch)],
    leaves: &[(String, QueryMatch)],
) -> Option<Vec<(String, QueryMatch)>> {
    let value = |condition: &QueryMatch| match condition {
        QueryMatch::Present => None,
        QueryMatch::Value(value) => Some(value.clone()),
    };
    let mut query = leaves.to_vec();
    for (name, root) in roots {
        match query.iter_mut().find(|(leaf, _)| leaf == name) {
            None => query.push((name.clone(), root.clone())),
            Some((_, leaf)) => {
                let narrower = within(value(root).as_ref(), value(leaf).as_ref())?;
                *leaf = narrower.map_or(QueryMatch::Present, QueryMatch::Value);
            }
        }
    }
    Some(query)
}
