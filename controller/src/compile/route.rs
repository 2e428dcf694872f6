//! Routes of the Gateway API that attach to services: HTTPRoute and GRPCRoute,
//! one model once compiled.
//!
//! A match that can't be honoured is left out, never widened. A rule that can't
//! be followed as it is written still ends the search: what matches it is
//! answered 500, as the API wants it, and not sent where its author did not
//! mean it to go.

mod backends;
mod cors;
mod filters;
mod grpc_route;
mod http_route;
mod merge;
mod parents;
mod status;
mod values;

pub(super) use grpc_route::compile as compile_grpc;
pub(super) use http_route::compile as compile_http;
pub(crate) use merge::merge;
pub use parents::Parent;
pub use status::{Condition, ParentStatus};

use super::Note;
use crate::{
    object::{Configuration, Name},
    resource::gateway::ParentReference,
};
use backends::Reference;
use linnet_mesh::{
    ResourceRef,
    regexes::Budget,
    route::{Filters, RequestMatch, Share},
};
use std::sync::Arc;

/// A route as far as it is honoured.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The resource.
    pub source: Arc<ResourceRef>,
    /// The services it attaches to.
    pub parents: Vec<Parent>,
    rules: Vec<Rule>,
    /// Whether something in it can't be honoured, for each rule that was written.
    impaired: Vec<bool>,
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    /// Its place in the resource.
    position: u32,
    name: Option<String>,
    matches: Vec<Match>,
    backends: Vec<Reference>,
    filters: Filters,
    mirrors: Vec<(Reference, Share)>,
    /// Why it can't be followed.
    broken: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Match {
    request: RequestMatch,
    rank: Rank,
}

/// How specific a match is: the greater goes first, whichever route and rule it
/// stands in. What counts, and in which order, is the kind's affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank([usize; 5]);

/// What compiling a route has to know and finds out.
struct Compiler<'a> {
    namespace: &'a str,
    unknown: &'a [String],
    notes: &'a mut Vec<Note>,
    regexes: &'a mut Budget,
    /// The regular expressions take more than the resource may.
    exhausted: Vec<Note>,
    /// Why the rule at hand can't be followed.
    broken: Option<String>,
    /// Something of the rule at hand can't be honoured.
    impaired: bool,
    /// What is answered 500 where something can't be.
    stricken: &'static str,
}

/// Of a rule that can't be followed, and of a backend that can't be used.
const OF_RULE: &str = "requests that match the rule";
const OF_BACKEND: &str = "requests that draw the backend";

impl<'a> Compiler<'a> {
    fn new(
        configuration: &'a Configuration,
        unknown: &'a [String],
        notes: &'a mut Vec<Note>,
        regexes: &'a mut Budget,
    ) -> Self {
        Self {
            namespace: &configuration.name.namespace,
            unknown,
            notes,
            regexes,
            exhausted: Vec::new(),
            broken: None,
            impaired: false,
            stricken: OF_RULE,
        }
    }

    /// The rule at hand can't be followed.
    fn fail(&mut self, field: impl Into<String>, text: &str) {
        let field = field.into();
        self.broken
            .get_or_insert_with(|| format!("{field}: {text}"));
        self.impaired = true;
        let text = format!("{text}; {} are answered 500", self.stricken);
        self.notes.push(Note::new(field, text).error());
    }

    /// A match of the rule at hand can't be honoured.
    fn leave_out(&mut self, field: impl Into<String>, text: &str) {
        self.impaired = true;
        let text = format!("{text}; the match is left out");
        self.notes.push(Note::new(field, text).error());
    }

    fn note(&mut self, field: impl Into<String>, text: impl Into<String>) {
        self.notes.push(Note::new(field, text));
    }

    /// Compiles the rules, and names the fields that nothing acts on.
    fn route<R>(
        mut self,
        configuration: &Configuration,
        parents: &[ParentReference],
        hostnames: &[String],
        rules: &[R],
        compile: impl Fn(&mut Self, &str, &R) -> Rule,
    ) -> Result<Route, Vec<Note>> {
        let parents = self.parents(parents);
        if !hostnames.is_empty() && !parents.is_empty() {
            self.note(
                "spec.hostnames",
                "has no effect in a mesh: a route is for whatever calls the services it attaches to",
            );
        }
        let mut impaired = Vec::new();
        let mut compiled = Vec::new();
        for (position, rule) in rules.iter().enumerate() {
            (self.broken, self.impaired) = (None, false);
            let rule = compile(&mut self, &format!("spec.rules[{position}]"), rule);
            if !self.exhausted.is_empty() {
                return Err(self.exhausted);
            }
            impaired.push(self.impaired);
            compiled.push(Rule {
                position: u32::try_from(position).unwrap_or(u32::MAX),
                ..rule
            });
        }
        for field in self.unknown {
            let told = |note: &Note| field.starts_with(note.field.as_str());
            if !self.notes.iter().any(told) {
                self.notes.push(Note::not_honoured(field.as_str()));
            }
        }
        Ok(Route {
            source: Arc::new(ResourceRef::from(&configuration.reference())),
            parents,
            rules: compiled,
            impaired,
        })
    }
}

impl Route {
    /// The services that its rules lead to.
    pub fn destinations(&self) -> impl Iterator<Item = &Name> {
        self.rules
            .iter()
            .flat_map(Rule::references)
            .filter_map(Reference::service)
    }
}

impl Rule {
    fn references(&self) -> impl Iterator<Item = &Reference> {
        let mirrors = self.mirrors.iter().map(|(reference, _)| reference);
        self.backends.iter().chain(mirrors)
    }
}
