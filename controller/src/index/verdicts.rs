//! What became of each resource, conflicts with others included.

use super::{
    Index,
    configuration::{Configurations, Entry, ROOTS},
};
use crate::{
    compile::{
        Compiled, ConfigurationKind, DestinationRule, Note, PeerAuthentication, Route, RuleHost,
        Scope, Status, StatusKind, Verdict, VirtualService, limits,
    },
    object::{Kind, Name, ObjectRef},
};
use linnet_mesh::ResourceRef;

/// Reports whether verdicts on resources of a kind are conditions of their status.
fn has_conditions(kind: Kind) -> bool {
    ConfigurationKind::of(kind).is_some_and(|of| of.status == StatusKind::Conditions)
}

impl Index {
    /// A verdict for every resource, and one for every file and annotation that
    /// can't be read.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let problems = self.problems.iter().map(|(origin, reason)| Verdict {
            resource: ResourceRef {
                kind: "File".to_owned(),
                namespace: String::new(),
                name: origin.clone(),
            },
            origin: None,
            generation: 0,
            status: Status::Rejected,
            messages: vec![Note::new("content", reason.as_str()).error()],
        });
        self.configurations
            .entries()
            .map(|(reference, entry)| self.verdict(reference, entry))
            .chain(problems)
            .chain(self.bad_annotations())
            .chain(self.overruled_ports())
            .collect()
    }

    /// The verdicts on resources whose status has conditions of their own; a
    /// route of the Gateway API has some for each parent.
    pub fn verdicts_in_conditions(&self) -> impl Iterator<Item = (ObjectRef, Verdict)> {
        self.configurations
            .entries()
            .filter(|(reference, _)| has_conditions(reference.kind))
            .map(|(reference, entry)| (reference.clone(), self.verdict(reference, entry)))
    }

    fn verdict(&self, reference: &ObjectRef, entry: &Entry) -> Verdict {
        let mut messages = entry.notes.clone();
        messages.extend(entry.compiled.as_ref().and_then(stand_in));
        let mut status = Status::Accepted;
        if entry.rejected {
            status = Status::Rejected;
            messages = messages.into_iter().map(Note::error).collect();
        } else if let Some(compiled) = &entry.compiled {
            let conflicts = match compiled {
                Compiled::VirtualService(service) => self.older_routes(&reference.name, service),
                Compiled::DestinationRule(_) => self.older_subsets(&reference.name),
                Compiled::Route(route) => self.overruled_routes(reference, route),
                Compiled::AuthorizationPolicy(_) | Compiled::RequestAuthentication(_) => Vec::new(),
                Compiled::PeerAuthentication(policy) => self.older_policy(reference.kind, policy),
                Compiled::Telemetry(telemetry) => self.older_telemetry(telemetry),
            };
            if !conflicts.is_empty() {
                status = Status::Conflicting;
            }
            messages.extend(conflicts);
            if let Compiled::VirtualService(service) = compiled {
                messages.extend(self.orphan(&reference.name, service));
                messages.extend(service.dangling(&self.seen_by(&reference.name.namespace)));
            }
            if let Compiled::DestinationRule(rule) = compiled {
                messages.extend(self.too_many_memberships(&reference.name.namespace, rule));
            }
            if let Compiled::RequestAuthentication(policy) = compiled {
                messages.extend(self.remarks_on_keys(policy));
            }
            if let Compiled::Route(route) = compiled {
                let surroundings = self.seen_by(&reference.name.namespace);
                messages.extend(route.detached(&surroundings));
                messages.extend(route.dangling(&surroundings));
            }
        }
        Verdict {
            resource: ResourceRef::from(reference),
            origin: entry.origin.clone(),
            generation: entry.generation,
            status,
            messages,
        }
    }

    fn overruled_routes(&self, reference: &ObjectRef, route: &Route) -> Vec<Note> {
        self.overruled_parents(reference, route)
            .map(|text| Note::new("spec.parentRefs", text))
            .collect()
    }

    fn older_routes(&self, name: &Name, service: &VirtualService) -> Vec<Note> {
        let older = |host: &Name| {
            self.configurations
                .routes_of(host)
                .take_while(|(other, _)| *other != name)
                .find(|(_, other)| other.visibility.overlaps(&service.visibility))
                .map(|(other, _)| other)
        };
        let of_scope = |scope: &Scope| {
            self.configurations
                .routes_of_scope(scope)
                .take_while(|(other, _)| *other != name)
                .find(|(_, other)| other.visibility.overlaps(&service.visibility))
                .map(|(other, _)| other)
        };
        let note = |other: &Name, what: &dyn std::fmt::Display| {
            Note::new(
                "spec.hosts",
                format!(
                    "VirtualService {other} is older and routes {what} already: its rules count"
                ),
            )
        };
        let hosts = service.hosts.iter();
        let hosts = hosts.filter_map(|host| {
            if let Some(route) = self.attached_to(host) {
                let text = format!("{route} attaches to {host} and goes first: its rules count");
                return Some(Note::new("spec.hosts", text));
            }
            Some(note(older(host)?, host))
        });
        let scopes = service.scopes.iter();
        let scopes = scopes.filter_map(|scope| Some(note(of_scope(scope)?, scope)));
        hosts.chain(scopes).collect()
    }

    /// A delegate that nobody delegates to.
    fn orphan(&self, name: &Name, service: &VirtualService) -> Option<Note> {
        let mut roots = self.configurations.roots_of(name);
        (service.is_delegate && roots.next().is_none()).then(|| {
            Note::new(
                "spec.hosts",
                "names no host, and no VirtualService delegates to this one: nothing follows its rules",
            )
        })
    }

    fn older_subsets(&self, name: &Name) -> Vec<Note> {
        let Some(rule) = self.configurations.destination_rule(name) else {
            return Vec::new();
        };
        let Some(RuleHost::Service(host)) = &rule.host else {
            return Vec::new();
        };
        let mut notes = Vec::new();
        let older = self
            .configurations
            .rules_of(host)
            .take_while(|(other, _)| *other != name)
            .filter(|(other, _)| other.namespace == name.namespace);
        for (other, older) in older {
            if rule.policy.is_some() && older.policy.is_some() {
                notes.push(Note::new(
                    "spec.trafficPolicy",
                    format!(
                        "DestinationRule {other} is older and says how {host} is called already: its policy counts"
                    ),
                ));
            }
            for subset in &older.subsets {
                if rule.subsets.iter().any(|mine| mine.name == subset.name) {
                    notes.push(Note::new(
                        "spec.subsets",
                        format!(
                            "DestinationRule {other} is older and defines subset {} already: its labels count",
                            subset.name
                        ),
                    ));
                }
            }
        }
        notes
    }

    /// Subsets that do not apply, since endpoints are in too many.
    fn too_many_memberships(&self, namespace: &str, rule: &DestinationRule) -> Option<Note> {
        let Some(RuleHost::Service(host)) = &rule.host else {
            return None;
        };
        let rules = self.rules(host, namespace);
        let counts = rules.iter().any(|other| other.source == rule.source);
        let subsets = Configurations::subsets(&rules);
        let text = || {
            format!(
                "the endpoints of {host} are in more than {} subsets, summed over endpoints and ports: none of its subsets applies, and requests to them are answered 503",
                limits::MEMBERSHIPS
            )
        };
        (counts && !rule.subsets.is_empty() && self.has_too_many_memberships(host, &subsets))
            .then(|| Note::new("spec.subsets", text()).error())
    }

    fn older_policy(&self, kind: Kind, policy: &PeerAuthentication) -> Vec<Note> {
        let mesh_wide = |namespace: &str| ROOTS.contains(&namespace);
        let other = if kind == Kind::MeshPolicy {
            self.configurations
                .mesh_policy()
                .filter(|other| other.mode.is_some())
        } else if policy.selector.is_none() && mesh_wide(&policy.namespace) {
            self.configurations.mesh_policy()
        } else {
            self.configurations
                .policies_of(&policy.namespace)
                .find(|other| other.selector == policy.selector)
        };
        other
            .filter(|other| other.source != policy.source)
            .filter(|other| other.mode != policy.mode || other.ports != policy.ports)
            .map(|other| {
                Note::new(
                    "spec",
                    format!("{} goes first: its mode counts", other.source),
                )
            })
            .into_iter()
            .collect()
    }
}

/// What is in force instead of a policy that can't be compiled.
fn stand_in(compiled: &Compiled) -> Option<Note> {
    match compiled {
        Compiled::AuthorizationPolicy(policy) if policy.stand_in => Some(Note::new(
            "spec",
            "there is no good version to keep in force, so the workloads it selects are closed: what it might deny is denied",
        )),
        Compiled::RequestAuthentication(policy) if policy.stand_in => Some(Note::new(
            "spec",
            "there is no good version to keep in force, so the workloads it selects refuse every token where it looks for them",
        )),
        _ => None,
    }
}
