//! What can be said of a resource without knowing any other: also at admission.

use super::path::{items, text};
use crate::{
    compile::Note,
    object::{Configuration, Kind},
};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Remarks on a resource beyond its verdict: rules that are never reached, and
/// weights that are no percentages.
/// `told` is what the compiler says already.
pub fn remarks(configuration: &Configuration, told: &[Note]) -> Vec<Note> {
    let spec = &configuration.spec;
    let mut notes = Vec::new();
    match configuration.kind {
        Kind::VirtualService => {
            for section in ["http", "tls", "tcp"] {
                let rules = items(spec, section);
                let matches: Vec<_> = rules.iter().map(|rule| entries(rule, "match")).collect();
                let passes_on: Vec<_> = rules
                    .iter()
                    .map(|rule| rule.get("delegate").is_some())
                    .collect();
                let field = format!("spec.{section}");
                shadowed(&field, &matches, &passes_on, "match", &mut notes);
                for (position, rule) in rules.iter().enumerate() {
                    weights(
                        &format!("spec.{section}[{position}].route"),
                        rule,
                        &mut notes,
                    );
                }
            }
            unseen(configuration, &mut notes);
        }
        Kind::HttpRoute | Kind::GrpcRoute => {
            // The most specific match goes first, so only equal ones shadow.
            let rules = items(spec, "rules");
            let matches: Vec<_> = rules.iter().map(|rule| entries(rule, "matches")).collect();
            repeated("spec.rules", &matches, "matches", &mut notes);
        }
        _ => {}
    }
    let unreached = |note: &&Note| note.text.starts_with(UNREACHED);
    let told: HashSet<_> = told
        .iter()
        .filter(unreached)
        .map(|note| &note.field)
        .collect();
    notes.retain(|note| !unreached(&note) || !told.contains(&note.field));
    notes
}

/// How the remark on a rule begins that another takes everything from, here as
/// in the compiler.
const UNREACHED: &str = "is never reached";

/// The conditions of a match entry, by path.
type Conditions = BTreeMap<String, Value>;

/// The match entries of a rule; one without conditions where it has none.
fn entries(rule: &Value, field: &str) -> Vec<Conditions> {
    let found: Vec<_> = items(rule, field).iter().map(conditions).collect();
    if found.is_empty() {
        vec![Conditions::new()]
    } else {
        found
    }
}

fn conditions(entry: &Value) -> Conditions {
    /// Conditions that are maps of others.
    const MAPS: [&str; 4] = ["headers", "withoutHeaders", "queryParams", "sourceLabels"];
    let mut conditions = Conditions::new();
    for (name, value) in entry.as_object().into_iter().flatten() {
        match value.as_object().filter(|_| MAPS.contains(&name.as_str())) {
            _ if name == "name" => {}
            Some(map) => {
                let each = map
                    .iter()
                    .map(|(key, value)| (format!("{name}.{key}"), value.clone()));
                conditions.extend(each);
            }
            None => {
                conditions.insert(name.clone(), value.clone());
            }
        }
    }
    // Every path starts so.
    if conditions
        .get("uri")
        .is_some_and(|uri| text(uri, "prefix") == "/")
    {
        conditions.remove("uri");
        conditions.remove("ignoreUriCase");
    }
    conditions
}

/// Whether whatever matches `later` matches `earlier` too.
fn covers(earlier: &Conditions, later: &Conditions) -> bool {
    // With another case rule, texts can't be compared.
    let same_case = earlier.get("ignoreUriCase") == later.get("ignoreUriCase");
    earlier.iter().all(|(name, wanted)| {
        let Some(given) = later.get(name) else {
            return false;
        };
        if name == "uri" && same_case && !text(wanted, "prefix").is_empty() {
            let prefix = text(wanted, "prefix");
            return ["exact", "prefix"]
                .iter()
                .any(|kind| text(given, kind).starts_with(prefix));
        }
        given == wanted && (name != "uri" || same_case)
    })
}

/// With how many earlier entries one is compared for covering it. Equal ones are
/// found among all: a resource of ten thousand rules must not take minutes.
const COMPARED: usize = 256;

/// The entries of the rules so far.
#[derive(Default)]
struct Seen<'a> {
    equal: HashMap<String, usize>,
    general: Vec<(usize, &'a Conditions)>,
    everything: Option<usize>,
}

impl<'a> Seen<'a> {
    /// The rule that takes all that an entry would.
    fn cover(&self, entry: &Conditions) -> Option<usize> {
        let equal = || self.equal.get(&key(entry)).copied();
        let general = || {
            let mut general = self.general.iter();
            Some(general.find(|(_, earlier)| covers(earlier, entry))?.0)
        };
        self.everything.or_else(equal).or_else(general)
    }

    fn add(&mut self, rule: usize, entry: &'a Conditions) {
        if entry.is_empty() {
            self.everything.get_or_insert(rule);
        }
        self.equal.entry(key(entry)).or_insert(rule);
        if self.general.len() < COMPARED {
            self.general.push((rule, entry));
        }
    }
}

fn key(entry: &Conditions) -> String {
    // A map of JSON values is JSON.
    serde_json::to_string(entry).unwrap_or_default()
}

/// Rules and match entries that an earlier one takes everything from.
/// What a rule that `passes_on` (to a delegate) would take may come back.
fn shadowed(
    section: &str,
    rules: &[Vec<Conditions>],
    passes_on: &[bool],
    field: &str,
    notes: &mut Vec<Note>,
) {
    let mut seen = Seen::default();
    for (position, entries) in rules.iter().enumerate() {
        let rule = format!("{section}[{position}]");
        let by: Vec<_> = entries.iter().map(|entry| seen.cover(entry)).collect();
        if let Some(first) = by.iter().flatten().next()
            && by.iter().all(Option::is_some)
        {
            let what = match seen.everything {
                Some(all) if all == *first => "every request",
                _ => "all that it would",
            };
            let reason =
                format!("{UNREACHED}: {section}[{first}] stands before it and takes {what}");
            notes.push(Note::new(&rule, reason));
        } else {
            for (entry, by) in by.iter().enumerate() {
                if let Some(first) = by {
                    notes.push(Note::new(
                        format!("{rule}.{field}[{entry}]"),
                        format!("never decides: {section}[{first}] matches all that it would"),
                    ));
                }
            }
        }
        for entry in entries.iter().filter(|_| !passes_on[position]) {
            seen.add(position, entry);
        }
    }
}

/// Match entries that stand there a second time.
fn repeated(section: &str, rules: &[Vec<Conditions>], field: &str, notes: &mut Vec<Note>) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (position, entries) in rules.iter().enumerate() {
        for (number, entry) in entries.iter().enumerate() {
            let first = *seen.entry(key(entry)).or_insert(position);
            if first != position {
                notes.push(Note::new(
                    format!("{section}[{position}].{field}[{number}]"),
                    format!("never decides: {section}[{first}] matches the same and goes first"),
                ));
            }
        }
    }
}

/// Weights are shares of their sum; most authors mean percent.
fn weights(field: &str, rule: &Value, notes: &mut Vec<Note>) {
    let destinations = items(rule, "route");
    let weights: Vec<u64> = destinations
        .iter()
        .filter_map(|destination| destination.get("weight")?.as_u64())
        .collect();
    let sum: u64 = weights.iter().sum();
    if destinations.len() < 2 || weights.len() < destinations.len() || sum == 100 || sum == 0 {
        return;
    }
    let shares: Vec<_> = weights
        .iter()
        .map(|weight| format!("{} %", (weight * 1000 / sum) as f64 / 10.0))
        .collect();
    notes.push(Note::new(
        field,
        format!(
            "the weights of its destinations add up to {sum}, not 100; they count as shares: {}",
            shares.join(", ")
        ),
    ));
}

/// Rules for callers that do not see the resource.
fn unseen(configuration: &Configuration, notes: &mut Vec<Note>) {
    let export_to: Vec<&str> = items(&configuration.spec, "exportTo")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    if export_to.is_empty() || export_to.contains(&"*") {
        return;
    }
    let own = &*configuration.name.namespace;
    let sees = |namespace: &str| {
        export_to.contains(&namespace) || namespace == own && export_to.contains(&".")
    };
    for section in ["http", "tls", "tcp"] {
        for (rule, route) in items(&configuration.spec, section).iter().enumerate() {
            for (entry, condition) in items(route, "match").iter().enumerate() {
                let namespace = text(condition, "sourceNamespace");
                if !namespace.is_empty() && !sees(namespace) {
                    notes.push(Note::new(
                        format!("spec.{section}[{rule}].match[{entry}].sourceNamespace"),
                        format!("nobody can match it: spec.exportTo does not let namespace {namespace} see the rules"),
                    ));
                }
            }
        }
    }
}
