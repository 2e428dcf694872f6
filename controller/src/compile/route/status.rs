//! What became of a route, for each of its parents, in the API's own words.

use super::{Parent, Route};
use crate::{
    compile::{Note, Severity, Surroundings},
    resource::gateway::ParentReference,
};

/// A condition, as far as it is ours to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its type, `Accepted`.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why, as one word.
    pub reason: &'static str,
    /// Why, in words.
    pub message: String,
}

/// A parent and what became of the route there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// As it was written.
    pub parent: ParentReference,
    /// The conditions.
    pub conditions: Vec<Condition>,
}

/// The longest message, bytes; the API takes 32 KiB.
const LONGEST: usize = 4096;

impl Route {
    /// What became of it. `refused`: why none of it is in force, whatever the
    /// parent; `overruled`: by whom, at a parent.
    pub fn status(
        &self,
        notes: &[Note],
        refused: bool,
        overruled: impl Fn(&Parent) -> Option<String>,
        surroundings: &impl Surroundings,
    ) -> Vec<ParentStatus> {
        let resolved = self.resolved(surroundings);
        let all = !self.impaired.is_empty() && self.impaired.iter().all(|impaired| *impaired);
        let partly = self.impaired.iter().any(|impaired| *impaired);
        let remarks = |worst: Severity| {
            let told = notes.iter().filter(|note| note.severity >= worst);
            message(told.map(ToString::to_string))
        };
        let errors = remarks(Severity::Error);
        let accepted = |parent: &Parent| {
            let no = |reason, message| condition("Accepted", false, reason, message);
            if refused || all {
                return no("UnsupportedValue", errors.clone());
            }
            if let Err(none) = parent.ports(surroundings) {
                return no("NoMatchingParent", none.0);
            }
            match overruled(parent) {
                Some(text) => no("Conflicted", text),
                None => condition("Accepted", true, "Accepted", remarks(Severity::Warning)),
            }
        };
        self.parents
            .iter()
            .map(|parent| {
                let mut conditions = vec![accepted(parent), resolved.clone()];
                if partly && !all && !refused {
                    let text = errors.clone();
                    conditions.push(condition(
                        "PartiallyInvalid",
                        true,
                        "UnsupportedValue",
                        text,
                    ));
                }
                ParentStatus {
                    parent: parent.reference.clone(),
                    conditions,
                }
            })
            .collect()
    }

    fn resolved(&self, surroundings: &impl Surroundings) -> Condition {
        let dangling: Vec<_> = self
            .rules
            .iter()
            .flat_map(super::Rule::references)
            .filter_map(|reference| reference.resolve(surroundings).err())
            .collect();
        match dangling.first() {
            None => condition("ResolvedRefs", true, "ResolvedRefs", String::new()),
            Some(first) => {
                let reason = first.reason;
                let text = message(dangling.into_iter().map(|dangling| dangling.text));
                condition("ResolvedRefs", false, reason, text)
            }
        }
    }

    /// References that lead nowhere, by field.
    pub fn dangling(&self, surroundings: &impl Surroundings) -> Vec<Note> {
        let mut notes = Vec::new();
        for rule in &self.rules {
            for reference in &rule.backends {
                if let Err(dangling) = reference.resolve(surroundings) {
                    notes.push(reference.remark(&dangling, "requests are answered 500"));
                }
            }
            for (reference, _) in &rule.mirrors {
                if let Err(dangling) = reference.resolve(surroundings) {
                    notes.push(reference.remark(&dangling, "nothing is mirrored there"));
                }
            }
        }
        notes
    }

    /// Parents that are none, by field.
    pub fn detached(&self, surroundings: &impl Surroundings) -> Vec<Note> {
        let mut notes = Vec::new();
        for parent in &self.parents {
            if let Err(none) = parent.ports(surroundings) {
                let text = format!("{}; nothing follows the route there", none.0);
                notes.push(Note::new("spec.parentRefs", text).error());
            }
        }
        notes
    }
}

fn condition(kind: &'static str, holds: bool, reason: &'static str, message: String) -> Condition {
    Condition {
        kind,
        holds,
        reason,
        message,
    }
}

fn message(texts: impl Iterator<Item = String>) -> String {
    let mut message = texts.collect::<Vec<_>>().join("; ");
    if message.len() > LONGEST {
        let end = message.floor_char_boundary(LONGEST);
        message.truncate(end);
        message.push('…');
    }
    message
}
