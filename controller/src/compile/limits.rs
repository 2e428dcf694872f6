//! How large a resource may be: every bound on what a tenant writes, in one place.
//!
//! The bounds hold for the spec as it was written, before any of it is read into a type
//! or compiled. So a list of any name has one, also a list that a later version adds. A
//! resource beyond them is refused by name and field, and nobody else notices.

use super::{ConfigurationKind, Note};
use crate::object::{Configuration, Kind};
use linnet_mesh::authorization::PathPattern;
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
/// A subset's name, bytes. Each endpoint in the subset is told with it.
pub const SUBSET_NAME: usize = 63;
/// Destinations that a rule's requests are copied to, and filters of a route's rule.
pub const MIRRORS: usize = 16;
/// Hash tables of a rule, those of its subsets included, bytes; where a ring is rounded up,
/// twice of it. Each caller's sidecar may make all of them.
pub const HASH_TABLES: usize = 16 << 20;
/// Subsets that a service's endpoints are in, summed over endpoints and ports. Each is told
/// to each caller's sidecar by name.
pub const MEMBERSHIPS: usize = 100_000;
/// Resources of a namespace in force.
pub const RESOURCES_OF_NAMESPACE: usize = 10_000;
/// Specs of all resources of a namespace in force, bytes of JSON.
pub const SPECS_OF_NAMESPACE: usize = 32 << 20;

/// What a resource takes once it is compiled, as [`compiled`] counts it, bytes. Room for as
/// many rules as it may have.
pub const COMPILED_OF_RESOURCE: usize = 32 << 20;
/// The same of an AuthorizationPolicy or a RequestAuthentication: each sidecar that it is
/// for holds it.
pub const COMPILED_OF_POLICY: usize = 4 << 20;
/// The same of all resources of a namespace in force, bytes.
pub const COMPILED_OF_NAMESPACE: usize = 48 << 20;
/// The same of a namespace's AuthorizationPolicies and RequestAuthentications, bytes. A
/// sidecar may hold those of its own namespace and of the root namespaces, and the ones
/// before while it reads new ones.
pub const COMPILED_POLICIES_OF_NAMESPACE: usize = 8 << 20;
/// The same of all resources that a controller has in force, bytes: three eighths of
/// what its container may take.
pub const COMPILED_OF_MESH: usize = 192 << 20;
/// What each namespace has of that, whatever the others have taken, bytes.
pub const COMPILED_FLOOR_OF_NAMESPACE: usize = 1 << 20;

/// Labels, and places of tokens, that what stands in for a refused policy keeps, bytes.
pub const STAND_IN: usize = 16 << 10;

/// Remarks on a resource that are kept; the others are counted.
pub const NOTES: usize = 32;
/// A remark's field, and its text, bytes: what is longer is cut.
pub const NOTE: usize = 1024;
/// Sources of issuers' keys of a namespace, each counted once.
pub const KEY_SOURCES_OF_NAMESPACE: usize = 256;

/// What resources of a kind may have; the table of kinds has one for each.
pub(crate) struct Limits {
    /// Lists and maps that may not have [`ENTRIES`]: the field, entries.
    pub(crate) lists: &'static [(&'static str, usize)],
    /// Texts that may not have [`TEXT`]: the field, bytes.
    pub(crate) texts: &'static [(&'static str, usize)],
    /// The list of HTTP rules, and a rule's list of match entries. Both count together,
    /// since a rule with many match entries is as much work as many rules.
    pub(crate) rules: Option<(&'static str, &'static str)>,
    /// What its values take once they are compiled.
    pub(crate) charge: Charge,
}

impl Limits {
    /// Those of a kind of which nothing is known.
    pub(crate) const DEFAULT: Self = Self {
        lists: &[],
        texts: &[],
        rules: None,
        charge: Charge {
            text: 96,
            list: 96,
            entry: 768,
            object: 768,
        },
    };

    fn of(kind: Kind) -> &'static Self {
        ConfigurationKind::of(kind).map_or(&Self::DEFAULT, |entry| &entry.limits)
    }
}

/// Remarks on one resource; one is enough to refuse it.
const REMARKS: usize = 16;

/// Says what of a resource is more than it may have.
pub(crate) fn check(configuration: &Configuration) -> Vec<Note> {
    let mut walk = Walk {
        limits: Limits::of(configuration.kind),
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
    let (size, most) = (compiled(configuration), compiled_of_one(configuration.kind));
    if notes.is_empty() && size > most {
        let text =
            format!("takes up to {size} bytes once it is compiled; more than {most} are not taken");
        notes.push(Note::new("spec", text));
    }
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

/// Returns how many bytes one resource of a kind may take once it is compiled.
fn compiled_of_one(kind: Kind) -> usize {
    match is_policy(kind) {
        true => COMPILED_OF_POLICY,
        false => COMPILED_OF_RESOURCE,
    }
}

/// Returns how many bytes remarks take.
pub(crate) fn of_notes(notes: &[Note]) -> usize {
    let notes = notes.iter();
    notes
        .map(|note| 128 + note.field.len() + note.text.len())
        .sum()
}

/// Reports whether sidecars hold all resources of a kind that are for them, whatever they
/// call.
pub(crate) fn is_policy(kind: Kind) -> bool {
    ConfigurationKind::of(kind).is_some_and(ConfigurationKind::fails_closed)
}

/// Returns how many bytes a resource takes in memory once it is compiled, at most. It is
/// worked out from the spec alone, so a resource can be refused before anything of it is
/// compiled. Regular expressions are counted apart.
pub fn compiled(configuration: &Configuration) -> usize {
    let Configuration { kind, spec, .. } = configuration;
    let hosts = spec
        .get("hosts")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    OF_EACH + OF_HOST * hosts + Limits::of(*kind).charge.value(*kind, spec)
}

/// What each resource takes, whatever it says, bytes.
const OF_EACH: usize = 4096;
/// What a host takes, by which a resource is found, besides its text, bytes.
const OF_HOST: usize = 640;
/// What values take besides what they hold, bytes.
pub(crate) struct Charge {
    /// A text, besides its length.
    pub(crate) text: usize,
    /// A list, besides its entries.
    pub(crate) list: usize,
    /// An object in a list: its type has room for the fields that it leaves out.
    pub(crate) entry: usize,
    /// An object in a field.
    pub(crate) object: usize,
}

impl Charge {
    fn value(&self, kind: Kind, value: &Value) -> usize {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 64,
            Value::String(text) => self.text + text.len() + more_of_text(kind, text),
            Value::Array(values) => {
                let values = values.iter().map(|value| match value {
                    Value::Object(_) => self.entry + self.value(kind, value),
                    value => self.value(kind, value),
                });
                self.list + values.sum::<usize>()
            }
            Value::Object(fields) => {
                let fields = fields
                    .iter()
                    .map(|(name, value)| name.len() + self.value(kind, value));
                self.object + fields.sum::<usize>()
            }
        }
    }
}

/// What a text becomes besides itself: the other forms of a path, or the keys it spells out.
fn more_of_text(kind: Kind, text: &str) -> usize {
    match kind {
        Kind::AuthorizationPolicy if PathPattern::may_have_forms(text) => {
            PathPattern::most_of_forms(text)
        }
        Kind::RequestAuthentication if text.len() > TEXT => 3 * text.len(),
        _ => 0,
    }
}

/// A rule with many match entries is as much work as many rules.
fn rules(configuration: &Configuration) -> Option<Note> {
    let (field, entries) = Limits::of(configuration.kind).rules?;
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
    limits: &'static Limits,
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
                self.length("bytes", text.len(), TEXT, self.limits.texts);
            }
            Value::Array(values) => {
                self.size += 2;
                // The sum of rules and match entries is counted apart.
                self.length("entries", values.len(), ENTRIES, self.limits.lists);
                for (position, value) in values.iter().enumerate() {
                    self.step(Step::Entry(position), value);
                }
            }
            Value::Object(fields) => {
                self.size += 2;
                self.length("entries", fields.len(), ENTRIES, self.limits.lists);
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

    fn length(&mut self, what: &str, length: usize, most: usize, others: &[(&str, usize)]) {
        // Few are as long as that, and only their fields are looked up.
        if length
            <= others
                .iter()
                .fold(most, |least, (_, most)| least.min(*most))
        {
            return;
        }
        let path = self.path(false);
        let mut others = others.iter();
        let other = others.find(|(field, _)| *field == path);
        let most = other.map_or(most, |(_, most)| *most);
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
