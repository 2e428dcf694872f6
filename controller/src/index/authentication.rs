//! Whose tokens a workload takes: the rules of the policies that are for it, with
//! the keys that were fetched for them.

use super::{
    Affected, Index,
    configuration::{ROOTS, touch_pods},
};
use crate::{
    compile::{KeySource, Keys, Note, RequestAuthentication, TokenRule},
    object::Name,
    source::KeyFetch,
};
use linnet_mesh::authentication::{Authentication, Jwk, JwtRule};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

/// Remarks on the keys of one source that are kept.
const NOTES: usize = 16;

/// Where keys are to be fetched, each with the namespaces whose policies want them.
pub type KeySources = BTreeMap<KeySource, BTreeSet<Arc<str>>>;

/// Keys that were fetched, and what is to be said of them.
#[derive(Debug, Default)]
pub(super) struct FetchedKeys {
    sources: HashMap<KeySource, State>,
    rules: Mutex<Rules>,
}

/// Rules with the keys that were fetched for them, so that all workloads share one. By
/// the place in memory of the rule as it was compiled, which the value holds.
type Rules = HashMap<usize, (Arc<JwtRule>, Arc<JwtRule>)>;

#[derive(Debug, Default)]
struct State {
    /// The last good ones.
    keys: Option<Arc<[Jwk]>>,
    problem: Option<String>,
    notes: Vec<String>,
}

impl FetchedKeys {
    /// Takes what a fetch has come to; whether the keys are others.
    fn take(&mut self, source: KeySource, fetched: KeyFetch) -> bool {
        let state = self.sources.entry(source).or_default();
        match fetched.keys {
            Ok(keys) => {
                state.problem = None;
                state.notes = fetched.notes;
                let more = state.notes.len().saturating_sub(NOTES);
                state.notes.truncate(NOTES);
                if more > 0 {
                    state.notes.push(format!("{more} more keys are not used"));
                }
                let same = state.keys.as_ref() == Some(&keys);
                state.keys = Some(keys);
                !same
            }
            Err(problem) => {
                // A rule without keys says what the matter is.
                let told = state.problem.replace(problem);
                state.keys.is_none() && told != state.problem
            }
        }
    }

    fn rule(&self, rule: &TokenRule) -> Arc<JwtRule> {
        let Keys::Fetched(source) = &rule.keys else {
            return rule.rule.clone();
        };
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let known = rules.entry(Arc::as_ptr(&rule.rule) as usize);
        let known = known.or_insert_with(|| {
            let with_keys = Arc::new(self.with_keys(&rule.rule, source));
            (rule.rule.clone(), with_keys)
        });
        known.1.clone()
    }

    /// Forgets the rules of policies that are no longer in force.
    pub(super) fn forget_unused(&mut self) {
        let rules = self.rules.get_mut().unwrap_or_else(PoisonError::into_inner);
        rules.retain(|_, (compiled, _)| Arc::strong_count(compiled) > 1);
    }

    /// Forgets the rules whose keys come from a URL.
    fn forget_keys_of(&mut self, url: &str) {
        let rules = self.rules.get_mut().unwrap_or_else(PoisonError::into_inner);
        rules.retain(|_, (compiled, _)| compiled.keys_from != url);
    }

    fn with_keys(&self, rule: &JwtRule, source: &KeySource) -> JwtRule {
        let state = self.sources.get(source);
        let keys = state.and_then(|state| state.keys.as_ref());
        let problem = || {
            let told = state.and_then(|state| state.problem.clone());
            told.unwrap_or_else(|| format!("{source} has not answered yet"))
        };
        JwtRule {
            keys: keys.map(|keys| keys.to_vec()).unwrap_or_default(),
            problem: keys.is_none().then(problem),
            ..rule.clone()
        }
    }
}

impl Index {
    /// Whose tokens a pod takes; `None`: it looks for none.
    pub(super) fn authentication(
        &self,
        pod: &Name,
        labels: &BTreeMap<String, String>,
    ) -> Option<Arc<Authentication>> {
        let roots = ROOTS.into_iter().filter(|root| **root != *pod.namespace);
        let rules = roots
            .chain([&*pod.namespace])
            .flat_map(|namespace| self.configurations.authentication_of(namespace))
            .filter(|policy| self.is_for(&policy.target, pod, labels))
            .flat_map(|policy| &policy.rules)
            .map(|rule| self.keys.rule(rule));
        Authentication::new(rules).map(Arc::new)
    }

    /// Where keys are to be fetched, and for the policies of which namespaces.
    pub fn key_sources(&self) -> KeySources {
        self.configurations.key_users.all()
    }

    /// Takes what fetching has come to.
    pub(super) fn take_keys(&mut self, source: &KeySource, fetched: KeyFetch) {
        let users = &self.configurations.key_users;
        // Only where some are wanted no more is there a look at all.
        if self.keys.sources.len() > users.len() || !users.has(source) {
            self.keys.sources.retain(|known, _| users.has(known));
        }
        if !users.has(source) {
            return;
        }
        if self.keys.take(source.clone(), fetched) {
            self.keys.forget_keys_of(&source.url);
            self.touch_users(source);
        }
    }

    fn touch_users(&mut self, source: &KeySource) {
        let affected: &mut Affected = &mut self.affected;
        for namespace in self.configurations.key_users.of(source) {
            touch_pods(namespace, affected);
        }
    }

    /// What is to be said of a policy's fetched keys.
    pub(super) fn remarks_on_keys(&self, policy: &RequestAuthentication) -> Vec<Note> {
        let mut notes = Vec::new();
        for (position, source) in policy.key_sources() {
            let field = if source.openid { "issuer" } else { "jwksUri" };
            let field = format!("spec.jwtRules[{position}].{field}");
            let Some(state) = self.keys.sources.get(source) else {
                continue;
            };
            let used = state.notes.iter();
            notes.extend(used.map(|note| Note::new(field.as_str(), note.as_str())));
            if let Some(problem) = &state.problem {
                notes.push(match state.keys {
                    Some(_) => Note::new(
                        field,
                        format!("{problem}; the keys of the last good answer stay in force"),
                    ),
                    None => Note::new(
                        field,
                        format!("{problem}; the tokens of this issuer are refused until then"),
                    )
                    .error(),
                });
            }
        }
        notes
    }
}
