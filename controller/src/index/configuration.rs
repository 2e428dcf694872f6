//! Configuration resources: the version of each that is in force, and who comes
//! first where several speak of one thing.

mod key_users;
mod links;
mod usage;

use key_users::KeyUsers;
use links::Links;
pub(super) use links::{drop_from, touch_pods};
use usage::{Cost, Usage};

use super::Affected;
use crate::{
    compile::{
        AuthorizationPolicy, Compiled, ConfigurationKind, Context, DestinationRule, Key, Note,
        PeerAuthentication, RequestAuthentication, RuleHost, Scope, Subset, VirtualService,
        compile_within, limits,
    },
    object::{Configuration, Kind, Name, ObjectRef},
};
use linnet_discovery::limits::cut;
use linnet_mesh::{TrustDomain, names};
use std::collections::BTreeMap;

/// Remarks on a version that are logged.
const LOGGED: usize = 8;

/// Namespaces whose configuration is for the whole mesh, in the order asked.
pub(crate) const ROOTS: [&str; 2] = [names::CONTROL_PLANE_NAMESPACE, names::ISTIO_NAMESPACE];

/// A resource and what became of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) created: i64,
    pub(super) generation: i64,
    pub(super) origin: Option<String>,
    /// The last good version, which is in force.
    pub(super) compiled: Option<Compiled>,
    /// Remarks on the newest version.
    pub(super) notes: Vec<Note>,
    /// The newest version is not in force.
    pub(super) rejected: bool,
    /// What the version in force takes.
    pub(super) cost: Cost,
}

/// A version that may take force, its remarks and what it takes, or why it may not.
type Judged = Result<((Compiled, Vec<Note>), Cost), Vec<Note>>;

#[derive(Debug, Default)]
pub(super) struct Configurations {
    /// The own trust domain, then its other names.
    pub(super) trust_domains: Vec<TrustDomain>,
    entries: BTreeMap<ObjectRef, Entry>,
    links: Links,
    /// So far.
    pub(super) compilations: u64,
    usage: Usage,
    /// Who wants issuers' keys.
    pub(super) key_users: KeyUsers,
}

impl Configurations {
    pub(super) fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domains: vec![trust_domain],
            ..Self::default()
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&ObjectRef, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn entry(&self, reference: &ObjectRef) -> Option<&Entry> {
        self.entries.get(reference)
    }

    /// The version of a resource that is in force.
    pub(super) fn compiled(&self, kind: Kind, name: &Name) -> Option<&Compiled> {
        let name = name.clone();
        self.entries
            .get(&ObjectRef { kind, name })?
            .compiled
            .as_ref()
    }

    pub(super) fn set(
        &mut self,
        configuration: &Configuration,
        context: &Context,
        affected: &mut Affected,
    ) {
        let reference = configuration.reference();
        let namespace = &reference.name.namespace;
        let taken = self
            .entries
            .get(&reference)
            .map_or_else(Cost::default, |old| old.cost);
        self.usage.remove(namespace, taken);
        let (result, refused) = self.judge(configuration, &reference, context);
        self.compilations += 1;
        let log = configuration.origin.as_deref().unwrap_or("kubernetes");
        let old = self.entries.remove(&reference);
        let mut entry = Entry {
            created: configuration.created,
            generation: configuration.generation,
            origin: configuration.origin.clone(),
            compiled: None,
            notes: Vec::new(),
            rejected: false,
            cost: taken,
        };
        match result {
            Err(errors) => {
                for error in errors.iter().take(LOGGED) {
                    tracing::warn!(
                        origin = log,
                        "{reference}: {error}; the last good version stays in force"
                    );
                }
                metrics::counter!("linnet_rejected_resources_total", "kind" => reference.kind.as_str())
                    .increment(1);
                entry.notes = shortened(errors);
                entry.rejected = true;
                entry.cost = taken.with_notes(&entry.notes);
                let refused = refused.with_notes(&entry.notes);
                self.keep(&reference, (entry, refused), old, configuration, affected);
            }
            Ok(((compiled, notes), cost)) => {
                for note in notes.iter().take(LOGGED) {
                    tracing::info!(origin = log, "{reference}: {note}");
                }
                entry.notes = shortened(notes);
                entry.cost = cost.with_notes(&entry.notes);
                entry.compiled = Some(compiled);
                self.accept(&reference, entry, old, affected);
            }
        }
        if let Some(entry) = self.entries.get(&reference) {
            self.usage.add(&reference.name.namespace, entry.cost);
        }
    }

    /// A version takes force. One that says the same as the one before leaves that in
    /// its place, since others share what it was compiled to.
    fn accept(
        &mut self,
        reference: &ObjectRef,
        mut entry: Entry,
        old: Option<Entry>,
        affected: &mut Affected,
    ) {
        match old {
            Some(old) if old.compiled == entry.compiled && old.created == entry.created => {
                entry.compiled = old.compiled;
            }
            old => {
                if let Some(old) = old {
                    self.unlink(reference, &old, affected);
                }
                self.link(reference, &entry, affected);
            }
        }
        self.entries.insert(reference.clone(), entry);
    }

    /// Compiles a version, and says what it takes in force and what it takes refused.
    fn judge(
        &self,
        configuration: &Configuration,
        reference: &ObjectRef,
        context: &Context,
    ) -> (Judged, Cost) {
        let cost = Cost::compiled(configuration, self.trust_domains.len());
        let namespace = &reference.name.namespace;
        let room = self.usage.room(namespace, cost);
        // What is refused is kept with its remarks, so it counts where there is room.
        let mut refused = Cost::refused(configuration);
        if self.usage.room(namespace, refused).is_err() {
            refused = Cost::default();
        }
        let too_much = limits::check(configuration);
        let result = match too_much.is_empty() {
            true => room.map_err(|note| vec![note]),
            false => Err(too_much),
        };
        let result = result.and_then(|mut regexes| {
            let (compiled, notes) = compile_within(configuration, context, &mut regexes)?;
            self.key_users.check(&reference.name, &compiled)?;
            let compiled = (compiled.under(&self.trust_domains), notes);
            Ok((compiled, cost.with_regexes(regexes.used())))
        });
        (result, refused)
    }

    /// A version that can't take force leaves the one before in force; where
    /// there is none, what must fail closed does.
    fn keep(
        &mut self,
        reference: &ObjectRef,
        (mut entry, refused): (Entry, Cost),
        old: Option<Entry>,
        configuration: &Configuration,
        affected: &mut Affected,
    ) {
        let fails_closed = limits::is_policy(reference.kind);
        let stands_in = |entry: &Entry| entry.compiled.as_ref().is_none_or(Compiled::stands_in);
        match old {
            Some(old) if !fails_closed || !stands_in(&old) => {
                entry.created = old.created;
                entry.compiled = old.compiled;
            }
            old => {
                entry.compiled = ConfigurationKind::stand_in(configuration);
                entry.cost = refused;
                if let Some(old) = old {
                    self.unlink(reference, &old, affected);
                }
                self.link(reference, &entry, affected);
            }
        }
        self.entries.insert(reference.clone(), entry);
    }

    /// The AuthorizationPolicies of a namespace, by name.
    pub(super) fn authorization_of(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = &AuthorizationPolicy> {
        self.all(
            &Key::AuthorizationPolicies(namespace.into()),
            Compiled::authorization_policy,
        )
        .map(|(_, policy)| policy)
    }

    /// The RequestAuthentications of a namespace, by name.
    pub(super) fn authentication_of(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = &RequestAuthentication> {
        self.all(
            &Key::RequestAuthentications(namespace.into()),
            Compiled::request_authentication,
        )
        .map(|(_, policy)| policy)
    }

    pub(super) fn remove(&mut self, reference: &ObjectRef, affected: &mut Affected) {
        if let Some(entry) = self.entries.remove(reference) {
            self.usage.remove(&reference.name.namespace, entry.cost);
            self.unlink(reference, &entry, affected);
        }
    }

    /// The VirtualServices that delegate to one.
    pub(super) fn roots_of(&self, delegate: &Name) -> impl Iterator<Item = &VirtualService> {
        self.all(&Key::Delegate(delegate.clone()), Compiled::virtual_service)
            .map(|(_, root)| root)
    }

    /// The routes of the Gateway API that attach to a service: the oldest first, and by name
    /// those of one second.
    pub(super) fn attached_to(&self, service: &Name) -> impl Iterator<Item = ObjectRef> {
        let links = self.links.of(&Key::RouteParent(service.clone()));
        links.map(|(kind, name)| ObjectRef {
            kind,
            name: name.clone(),
        })
    }

    /// The resources in force under a key, in the order in which they count.
    pub(super) fn all<'a, T>(
        &'a self,
        key: &Key,
        as_kind: fn(&'a Compiled) -> Option<T>,
    ) -> impl Iterator<Item = (&'a Name, T)> + use<'a, T> {
        let links = self.links.of(key);
        links.filter_map(move |(kind, name)| {
            let value = as_kind(self.compiled(kind, name)?)?;
            Some((name, value))
        })
    }

    pub(super) fn virtual_service(&self, name: &Name) -> Option<&VirtualService> {
        self.compiled(Kind::VirtualService, name)?.virtual_service()
    }

    pub(super) fn destination_rule(&self, name: &Name) -> Option<&DestinationRule> {
        self.compiled(Kind::DestinationRule, name)?
            .destination_rule()
    }

    /// The VirtualServices of a host, in the order in which they count: those
    /// that name it before those of its namespace and of the mesh, and of these
    /// the oldest first.
    pub(super) fn routes_of(&self, host: &Name) -> impl Iterator<Item = (&Name, &VirtualService)> {
        let namespace = Scope::Namespace(host.namespace.clone());
        let keys = [
            Key::RoutedHost(host.clone()),
            Key::RoutedScope(namespace),
            Key::RoutedScope(Scope::Mesh),
        ];
        let keys = keys.into_iter();
        keys.flat_map(|key| self.all(&key, Compiled::virtual_service))
    }

    /// The VirtualServices of a pattern, oldest first.
    pub(super) fn routes_of_scope(
        &self,
        scope: &Scope,
    ) -> impl Iterator<Item = (&Name, &VirtualService)> {
        self.all(&Key::RoutedScope(scope.clone()), Compiled::virtual_service)
    }

    /// The DestinationRules of a host, oldest first.
    pub(super) fn rules_of(&self, host: &Name) -> impl Iterator<Item = (&Name, &DestinationRule)> {
        self.all(&Key::RuleHost(host.clone()), Compiled::destination_rule)
    }

    /// The DestinationRules in force for a service's callers of a namespace,
    /// oldest first: those of their own namespace, else of the service's, else of
    /// the roots; in each the ones with the most specific host.
    pub(super) fn rules_for(
        &self,
        service: &Name,
        client: &str,
        host: &str,
    ) -> Vec<&DestinationRule> {
        let lookup = [client, &service.namespace].into_iter().chain(ROOTS);
        for namespace in lookup {
            let counts = |(name, rule): &(&Name, &DestinationRule)| {
                &*name.namespace == namespace && rule.visibility.includes(client)
            };
            let exact = self.rules_of(service).filter(counts);
            let exact: Vec<_> = exact.map(|(_, rule)| rule).collect();
            if !exact.is_empty() {
                return exact;
            }
            let wide = self.wide_rules().filter(counts).filter_map(|(_, rule)| {
                let Some(RuleHost::Ending(ending)) = &rule.host else {
                    return None;
                };
                host.ends_with(ending).then_some((ending.len(), rule))
            });
            let wide: Vec<_> = wide.collect();
            if let Some(longest) = wide.iter().map(|(length, _)| *length).max() {
                let most_specific = wide.into_iter().filter(|(length, _)| *length == longest);
                return most_specific.map(|(_, rule)| rule).collect();
            }
        }
        Vec::new()
    }

    fn wide_rules(&self) -> impl Iterator<Item = (&Name, &DestinationRule)> {
        self.all(&Key::RulePattern, Compiled::destination_rule)
    }

    /// The subsets that rules define; the first of a name counts.
    pub(super) fn subsets<'a>(rules: &[&'a DestinationRule]) -> Vec<&'a Subset> {
        let mut subsets: Vec<&Subset> = Vec::new();
        for subset in rules.iter().flat_map(|rule| &rule.subsets) {
            if !subsets.iter().any(|known| known.name == subset.name) {
                subsets.push(subset);
            }
        }
        subsets
    }

    /// The policies of a namespace (empty: MeshPolicies), oldest first.
    pub(super) fn policies_of(&self, namespace: &str) -> impl Iterator<Item = &PeerAuthentication> {
        self.all(
            &Key::PeerAuthentications(namespace.into()),
            Compiled::peer_authentication,
        )
        .map(|(_, policy)| policy)
    }
}

/// As many remarks as are kept, those of what fails first, and how many more there were.
fn shortened(mut notes: Vec<Note>) -> Vec<Note> {
    if notes.len() > limits::NOTES {
        let more = notes.len() - limits::NOTES;
        notes.sort_by_key(|note| std::cmp::Reverse(note.severity));
        notes.truncate(limits::NOTES);
        let text = format!("{more} more; `linnet analyze` shows all");
        notes.push(Note::new("spec", text));
    }
    for note in &mut notes {
        cut(&mut note.field, limits::NOTE);
        cut(&mut note.text, limits::NOTE);
    }
    notes
}
