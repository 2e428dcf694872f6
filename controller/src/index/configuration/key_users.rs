//! Who wants which issuers' keys, kept as policies come and go.
//!
//! What fetched keys concern is found without a look at the policies of others, and a
//! namespace has so many sources, since each is fetched again and again.

use super::limits;
use crate::{
    compile::{Compiled, KeySource, Note, RequestAuthentication},
    index::KeySources,
    object::Name,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

#[derive(Debug, Default)]
pub(in crate::index) struct KeyUsers {
    /// The policies of each namespace.
    users: BTreeMap<KeySource, BTreeMap<Arc<str>, BTreeSet<Name>>>,
    /// The sources of each namespace.
    sources: HashMap<Arc<str>, BTreeSet<KeySource>>,
}

impl KeyUsers {
    /// Reports whether anybody wants the keys of a source.
    pub(in crate::index) fn has(&self, source: &KeySource) -> bool {
        self.users.contains_key(source)
    }

    /// How many sources there are.
    pub(in crate::index) fn len(&self) -> usize {
        self.users.len()
    }

    /// The namespaces whose policies want the keys of a source.
    pub(in crate::index) fn of(&self, source: &KeySource) -> impl Iterator<Item = &Arc<str>> {
        self.users.get(source).into_iter().flat_map(BTreeMap::keys)
    }

    /// All sources, each with the namespaces whose policies want its keys.
    pub(in crate::index) fn all(&self) -> KeySources {
        let users = self.users.iter();
        users
            .map(|(source, users)| (source.clone(), users.keys().cloned().collect()))
            .collect()
    }

    /// Says whether a policy's sources are more than its namespace may have.
    pub(super) fn check(&self, name: &Name, compiled: &Compiled) -> Result<(), Vec<Note>> {
        let Compiled::RequestAuthentication(policy) = compiled else {
            return Ok(());
        };
        let wanted: BTreeSet<&KeySource> = policy.key_sources().map(|(_, source)| source).collect();
        let known = self.sources.get(&policy.namespace);
        let only_its_own = |source: &&KeySource| {
            let users = self.users.get(*source);
            let users = users.and_then(|users| users.get(&policy.namespace));
            users.is_some_and(|users| users.len() == 1 && users.contains(name))
        };
        let kept = known.into_iter().flatten();
        let kept = kept.filter(|source| !only_its_own(source) && !wanted.contains(source));
        let count = kept.count() + wanted.len();
        if count <= limits::KEY_SOURCES_OF_NAMESPACE {
            return Ok(());
        }
        let text = format!(
            "would make {count} sources of keys in the namespace; more than {} are not taken",
            limits::KEY_SOURCES_OF_NAMESPACE
        );
        Err(vec![Note::new("spec.jwtRules", text)])
    }

    pub(super) fn link(&mut self, name: &Name, policy: &RequestAuthentication) {
        let namespace = &policy.namespace;
        for (_, source) in policy.key_sources() {
            let users = self.users.entry(source.clone()).or_default();
            let users = users.entry(namespace.clone()).or_default();
            users.insert(name.clone());
            let sources = self.sources.entry(namespace.clone()).or_default();
            sources.insert(source.clone());
        }
    }

    pub(super) fn unlink(&mut self, name: &Name, policy: &RequestAuthentication) {
        let namespace = &policy.namespace;
        for (_, source) in policy.key_sources() {
            let Some(all) = self.users.get_mut(source) else {
                continue;
            };
            let Some(users) = all.get_mut(namespace) else {
                continue;
            };
            users.remove(name);
            if !users.is_empty() {
                continue;
            }
            all.remove(namespace);
            if all.is_empty() {
                self.users.remove(source);
            }
            super::drop_from(&mut self.sources, namespace, source);
        }
    }
}
