//! What is wrong between resources, as far as the input holds the other side.

use super::{
    Input,
    path::{items, labels, selector, text},
};
use crate::{
    compile::{Context, Host, Note},
    index::ROOTS,
    object::{Configuration, Kind, Name, Object, carries},
};
use serde_json::Value;
use std::collections::HashMap;

/// What resources are judged by.
pub(super) struct Surroundings<'a> {
    input: &'a Input,
    context: &'a Context,
    /// The DestinationRules of each service.
    rules: HashMap<Name, Vec<&'a Configuration>>,
}

impl<'a> Surroundings<'a> {
    pub(super) fn of(input: &'a Input, context: &'a Context) -> Self {
        let mut rules: HashMap<Name, Vec<&Configuration>> = HashMap::new();
        for object in input.objects() {
            if let Object::Configuration(rule) = object
                && rule.kind == Kind::DestinationRule
                && let Host::Service(host) =
                    Host::parse(text(&rule.spec, "host"), &rule.name.namespace, context)
            {
                rules.entry(host).or_default().push(rule);
            }
        }
        Self {
            input,
            context,
            rules,
        }
    }

    /// Remarks on a resource that others of the input give cause for.
    pub(super) fn remarks(&self, configuration: &Configuration) -> Vec<Note> {
        let view = View {
            configuration,
            input: self.input,
            surroundings: self,
        };
        match configuration.kind {
            Kind::VirtualService => view.virtual_service(),
            Kind::DestinationRule => view.destination_rule(),
            Kind::PeerAuthentication | Kind::Telemetry => view.selected(),
            Kind::AuthorizationPolicy | Kind::RequestAuthentication => {
                let mut notes = view.selected();
                notes.extend(view.targets());
                notes
            }
            _ => Vec::new(),
        }
    }
}

struct View<'a> {
    configuration: &'a Configuration,
    input: &'a Input,
    surroundings: &'a Surroundings<'a>,
}

impl View<'_> {
    fn namespace(&self) -> &str {
        &self.configuration.name.namespace
    }

    fn service(&self, host: &str, namespace: &str) -> Option<Name> {
        match Host::parse(host, namespace, self.surroundings.context) {
            Host::Service(name) => Some(name),
            _ => None,
        }
    }

    /// Whether a service is known not to exist.
    fn is_unknown(&self, service: &Name) -> bool {
        self.input.has_services() && self.input.service(service).is_none()
    }

    fn virtual_service(&self) -> Vec<Note> {
        let spec = &self.configuration.spec;
        let mut notes = Vec::new();
        let mut ports = Some(Vec::new());
        for (position, host) in items(spec, "hosts").iter().enumerate() {
            let name = host
                .as_str()
                .and_then(|host| self.service(host, self.namespace()));
            match &name {
                Some(name) if self.is_unknown(name) => notes.push(Note::new(
                    format!("spec.hosts[{position}]"),
                    format!("service {name} does not exist: the rules route nothing for it"),
                )),
                _ => {}
            }
            let found = name.and_then(|name| self.input.service(&name));
            ports = ports.zip(found).map(|(mut ports, service): (Vec<u16>, _)| {
                ports.extend(service.ports.iter().map(|port| port.port));
                ports
            });
        }
        for section in ["http", "tls", "tcp"] {
            for (position, rule) in items(spec, section).iter().enumerate() {
                let field = format!("spec.{section}[{position}]");
                if let Some(ports) = ports.as_ref().filter(|ports| !ports.is_empty()) {
                    notes.extend(unserved_ports(&field, rule, ports));
                }
                for (number, route) in items(rule, "route").iter().enumerate() {
                    let path = format!("{field}.route[{number}].destination.subset");
                    notes.extend(
                        route
                            .get("destination")
                            .and_then(|destination| self.hidden_subset(path, destination)),
                    );
                }
            }
        }
        notes
    }

    /// A subset that somebody defines, but not for this resource's namespace.
    fn hidden_subset(&self, field: String, destination: &Value) -> Option<Note> {
        let subset = text(destination, "subset");
        let host = self.service(text(destination, "host"), self.namespace())?;
        if subset.is_empty() {
            return None;
        }
        let mut hidden = None;
        for rule in self.surroundings.rules.get(&host).into_iter().flatten() {
            let namespace = &*rule.name.namespace;
            let defines = items(&rule.spec, "subsets")
                .iter()
                .any(|known| text(known, "name") == subset);
            if !defines {
                continue;
            }
            let looked_at = namespace == self.namespace()
                || namespace == &*host.namespace
                || ROOTS.contains(&namespace);
            if looked_at && exports_to(rule, self.namespace()) {
                return None;
            }
            hidden = Some((&rule.name, looked_at));
        }
        let (rule, looked_at) = hidden?;
        let reason = if looked_at {
            format!(
                "exportTo of DestinationRule {rule}, which defines it, does not name this namespace"
            )
        } else {
            format!(
                "DestinationRule {rule} defines it, but for its own namespace only; move it to {}, the service's",
                host.namespace
            )
        };
        Some(Note::new(field, reason))
    }

    fn destination_rule(&self) -> Vec<Note> {
        let spec = &self.configuration.spec;
        let Some(host) = self.service(text(spec, "host"), self.namespace()) else {
            return Vec::new();
        };
        if self.is_unknown(&host) {
            return vec![Note::new(
                "spec.host",
                format!("service {host} does not exist: the rule applies to nothing"),
            )];
        }
        let Some(service) = self.input.selector(&host) else {
            return Vec::new();
        };
        let pods =
            self.input.pods().iter().filter(|pods| {
                *pods.namespace == *host.namespace && carries(&pods.labels, service)
            });
        let mut pods = pods.peekable();
        if pods.peek().is_none() {
            // Nothing is known of the service's pods, or it has none at all.
            return Vec::new();
        }
        let pods: Vec<_> = pods.collect();
        let without = |subset: &Value| {
            let wanted = labels(subset.get("labels"));
            !pods.iter().any(|pods| carries(&pods.labels, &wanted))
        };
        items(spec, "subsets")
            .iter()
            .enumerate()
            .filter(|(_, subset)| without(subset))
            .map(|(position, subset)| {
                Note::new(
                    format!("spec.subsets[{position}]"),
                    format!(
                        "subset {} has no endpoint: no pod of service {host} carries {}",
                        text(subset, "name"),
                        selector(&labels(subset.get("labels")))
                    ),
                )
            })
            .collect()
    }

    /// A selector that selects nothing.
    fn selected(&self) -> Vec<Note> {
        let wanted = labels(self.configuration.spec.pointer("/selector/matchLabels"));
        if wanted.is_empty() || self.input.pods().is_empty() {
            return Vec::new();
        }
        // A Telemetry that selects is for its own namespace, root or not.
        let mesh_wide =
            ROOTS.contains(&self.namespace()) && self.configuration.kind != Kind::Telemetry;
        let selects = self.input.pods().iter().any(|pods| {
            (mesh_wide || pods.namespace == self.namespace()) && carries(&pods.labels, &wanted)
        });
        if selects {
            return Vec::new();
        }
        let place = if mesh_wide {
            "in the mesh".to_owned()
        } else {
            format!("of namespace {}", self.namespace())
        };
        vec![Note::new(
            "spec.selector.matchLabels",
            format!(
                "no pod {place} carries {}: it applies to nothing",
                selector(&wanted)
            ),
        )]
    }

    /// Services that a policy is for, and that are not there.
    fn targets(&self) -> Vec<Note> {
        let spec = &self.configuration.spec;
        let targets = items(spec, "targetRefs").iter().enumerate();
        targets
            .filter(|(_, target)| text(target, "kind") == "Service")
            .map(|(position, target)| (position, Name::new(self.namespace(), text(target, "name"))))
            .filter(|(_, service)| self.is_unknown(service))
            .map(|(position, service)| {
                Note::new(
                    format!("spec.targetRefs[{position}].name"),
                    format!("service {service} does not exist: the policy applies to nothing"),
                )
            })
            .collect()
    }
}

/// Conditions on a port that none of the hosts has.
fn unserved_ports(rule: &str, route: &Value, ports: &[u16]) -> Vec<Note> {
    let entries = items(route, "match").iter().enumerate();
    entries
        .filter_map(|(position, entry)| {
            let port = entry.get("port")?.as_u64()?;
            let known = ports.iter().any(|known| u64::from(*known) == port);
            (!known).then(|| {
                Note::new(
                    format!("{rule}.match[{position}].port"),
                    format!("nobody can match it: none of the hosts has a port {port}"),
                )
            })
        })
        .collect()
}

fn exports_to(rule: &Configuration, namespace: &str) -> bool {
    let export_to = items(&rule.spec, "exportTo");
    export_to.is_empty()
        || export_to
            .iter()
            .filter_map(Value::as_str)
            .any(|to| match to {
                "*" => true,
                "." => *rule.name.namespace == *namespace,
                name => name == namespace,
            })
}
