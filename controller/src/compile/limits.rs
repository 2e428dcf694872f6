//! How large a resource may be: every bound on what a tenant writes, in one place.
//!
//! The bounds hold for the spec as it was written, before any of it is read into a type
//! or compiled. So a list of any name has one, also a list that a later version adds. A
//! resource beyond them is refused by name and field, and nobody else notices.

use super::Note;
use crate::object::{Configuration, Kind};
use serde_json::Value;
use std::fmt::Write as _;

/// A spec, bytes of JSON: what the API server takes of an object.
pub const SPEC: usize = 3 << 19;
/// Values in a spec, lists and maps included.
pub const VALUES: usize = 200_000;
/// Entries of a list or map that [`LISTS`] does not name.
pub const ENTRIES: usize = 256;
/// A text that [`TEXTS`] does not name, bytes.
pub const TEXT: usize = 4096;
/// HTTP rules of a resource, each counted as often as it has match entries.
pub const RULES: usize = 5000;
/// Regular expressions of a resource, before one of them is compiled.
pub const REGEXES: usize = 500;
/// Resources of a namespace in force.
pub const RESOURCES_OF_NAMESPACE: usize = 10_000;
/// Specs of all resources of a namespace in force, bytes of JSON.
pub const SPECS_OF_NAMESPACE: usize = 32 << 20;

/// Remarks on a resource that are kept; the others are counted.
pub const NOTES: usize = 32;
/// Sources of issuers' keys of a namespace, each counted once.
pub const KEY_SOURCES_OF_NAMESPACE: usize = 256;

/// Lists and maps that may have more than [`ENTRIES`]: the kind, the field, entries.
pub const LISTS: [(Kind, &str, usize); 14] = [
    (Kind::VirtualService, "hosts", 1000),
    (Kind::VirtualService, "http", RULES),
    (Kind::VirtualService, "http[].match", RULES),
    (Kind::VirtualService, "tls", RULES),
    (Kind::VirtualService, "tcp", RULES),
    (Kind::DestinationRule, "subsets", 1000),
    (Kind::HttpRoute, "rules", RULES),
    (Kind::HttpRoute, "rules[].matches", RULES),
    (Kind::GrpcRoute, "rules", RULES),
    (Kind::GrpcRoute, "rules[].matches", RULES),
    (Kind::AuthorizationPolicy, "rules", 1000),
    (
        Kind::AuthorizationPolicy,
        "rules[].from[].source.ipBlocks",
        4096,
    ),
    (
        Kind::AuthorizationPolicy,
        "rules[].from[].source.notIpBlocks",
        4096,
    ),
    (
        Kind::AuthorizationPolicy,
        "rules[].to[].operation.paths",
        4096,
    ),
];

/// Texts that may have more than [`TEXT`]: the kind, the field, bytes.
pub const TEXTS: [(Kind, &str, usize); 3] = [
    (
        Kind::VirtualService,
        "http[].directResponse.body.string",
        64 << 10,
    ),
    (
        Kind::VirtualService,
        "http[].directResponse.body.bytes",
        96 << 10,
    ),
    (Kind::RequestAuthentication, "jwtRules[].jwks", 256 << 10),
];

/// Remarks on one resource; one is enough to refuse it.
const REMARKS: usize = 16;

/// Says what of a resource is more than it may have.
pub(super) fn check(configuration: &Configuration) -> Vec<Note> {
    let mut walk = Walk {
        kind: configuration.kind,
        path: Vec::new(),
        size: 0,
        values: 0,
        regexes: 0,
        notes: Vec::new(),
    };
    walk.value(&configuration.spec);
    for (what, count, most) in [
        ("bytes", walk.size, SPEC),
        ("values", walk.values, VALUES),
        ("regular expressions", walk.regexes, REGEXES),
    ] {
        if count > most {
            let text = format!("has {count} {what}; more than {most} are not taken");
            walk.notes.push(Note::new("spec", text));
        }
    }
    let mut notes = walk.notes;
    notes.extend(rules(configuration));
    notes
}

/// Bytes of a spec as JSON, about.
pub(crate) fn size(spec: &Value) -> usize {
    match spec {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 3,
        Value::Array(values) => values.iter().map(size).sum::<usize>() + 2,
        Value::Object(fields) => {
            let fields = fields.iter();
            fields
                .map(|(name, value)| name.len() + 4 + size(value))
                .sum::<usize>()
                + 2
        }
    }
}

/// A rule with many match entries is as much work as many rules.
fn rules(configuration: &Configuration) -> Option<Note> {
    let (field, entries) = match configuration.kind {
        Kind::VirtualService => ("http", "match"),
        Kind::HttpRoute | Kind::GrpcRoute => ("rules", "matches"),
        _ => return None,
    };
    let rules = configuration.spec.get(field)?.as_array()?;
    let entries = |rule: &Value| rule.get(entries)?.as_array().map(Vec::len);
    let rules = rules
        .iter()
        .map(|rule| entries(rule).unwrap_or_default().max(1));
    let count: usize = rules.sum();
    let text = format!(
        "has {count} rules or match entries; more than {RULES} are not taken, so spread them over the services' own resources or delegates"
    );
    (count > RULES).then(|| Note::new(format!("spec.{field}"), text))
}

enum Step<'a> {
    Field(&'a str),
    Entry(usize),
}

struct Walk<'a> {
    kind: Kind,
    path: Vec<Step<'a>>,
    size: usize,
    values: usize,
    regexes: usize,
    notes: Vec<Note>,
}

impl<'a> Walk<'a> {
    fn value(&mut self, value: &'a Value) {
        self.values += 1;
        match value {
            Value::String(text) => {
                self.size += text.len() + 3;
                self.length("bytes", text.len(), TEXT, &TEXTS);
            }
            Value::Array(values) => {
                self.size += 2;
                // The sum of rules and match entries is counted apart.
                self.length("entries", values.len(), ENTRIES, &LISTS);
                for (position, value) in values.iter().enumerate() {
                    self.step(Step::Entry(position), value);
                }
            }
            Value::Object(fields) => {
                self.size += 2;
                self.length("entries", fields.len(), ENTRIES, &LISTS);
                let of_route = fields.get("type").and_then(Value::as_str);
                self.regexes += usize::from(of_route == Some("RegularExpression"));
                for (name, value) in fields {
                    self.size += name.len() + 4;
                    if name.len() > TEXT {
                        self.note(&format!("has a name of {} bytes", name.len()), TEXT);
                        continue;
                    }
                    self.regexes += usize::from(["regex", "uriRegexRewrite"].contains(&&**name));
                    self.step(Step::Field(name), value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => self.size += 8,
        }
    }

    fn step(&mut self, step: Step<'a>, value: &'a Value) {
        self.path.push(step);
        self.value(value);
        self.path.pop();
    }

    fn length(&mut self, what: &str, length: usize, most: usize, others: &[(Kind, &str, usize)]) {
        if length <= most {
            return;
        }
        let path = self.path(false);
        let mut others = others.iter();
        let other = others.find(|(kind, field, _)| *kind == self.kind && *field == path);
        let most = other.map_or(most, |(_, _, most)| *most);
        // Rules are counted with their match entries, in one remark.
        if length > most && most != RULES {
            self.note(&format!("has {length} {what}"), most);
        }
    }

    fn note(&mut self, text: &str, most: usize) {
        if self.notes.len() < REMARKS {
            let field = match self.path(true) {
                path if path.is_empty() => "spec".to_owned(),
                path => format!("spec.{path}"),
            };
            let text = format!("{text}; more than {most} are not taken");
            self.notes.push(Note::new(field, text));
        }
    }

    /// Where the walk is, with the places in lists or without.
    fn path(&self, with_places: bool) -> String {
        let mut path = String::new();
        for step in &self.path {
            // Writing to a String can't fail.
            let _ = match step {
                Step::Field(name) if path.is_empty() => write!(path, "{name}"),
                Step::Field(name) => write!(path, ".{name}"),
                Step::Entry(place) if with_places => write!(path, "[{place}]"),
                Step::Entry(_) => write!(path, "[]"),
            };
        }
        path
    }
}

#[cfg(test)]
mod tests;
