//! Services that declare a pod's port to speak no HTTP, where another Service declares it
//! to speak HTTP: HTTP counts, for both, and the first hears of it.
//!
//! What is known is kept, and looked at again only for Services that changed or share
//! pods with one that did. So a list of verdicts costs no walk over all endpoints.

use super::Index;
use crate::{
    compile::{Note, Status, Verdict},
    object::{EndpointSlice, Name},
};
use linnet_mesh::{AppProtocol, ResourceRef};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

/// What is known, and of which Services it is to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Overruled(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    verdicts: BTreeMap<Name, Vec<Verdict>>,
    stale: BTreeSet<Name>,
}

impl Overruled {
    fn stale(&mut self) -> &mut BTreeSet<Name> {
        let known = self.0.get_mut();
        &mut known.unwrap_or_else(PoisonError::into_inner).stale
    }
}

impl Index {
    /// Notes that a Service has changed.
    pub(super) fn service_changed(&mut self, service: &Name) {
        let slices = self.cluster.slices_of_service(service);
        let sharing: Vec<Name> = slices.flat_map(|slice| self.sharing(slice)).collect();
        let stale = self.overruled.stale();
        stale.extend(sharing);
        stale.insert(service.clone());
    }

    /// Notes that a slice changes: before it does, and again after.
    pub(super) fn slice_changes(&mut self, slice: &Name) {
        let slice = self.cluster.slice(slice).into_iter();
        let sharing: Vec<Name> = slice.flat_map(|slice| self.sharing(slice)).collect();
        self.overruled.stale().extend(sharing);
    }

    /// The Services that lead to pods of a slice.
    fn sharing(&self, slice: &EndpointSlice) -> BTreeSet<Name> {
        let pods = slice.endpoints.iter();
        let pods = pods.filter_map(|endpoint| endpoint.pod.as_ref());
        let services = pods.flat_map(|pod| self.cluster.services_of(pod));
        services.cloned().collect()
    }

    /// Verdicts on Services whose ports are overruled.
    pub(super) fn overruled_ports(&self) -> Vec<Verdict> {
        self.look_at_stale();
        let known = self.overruled.0.lock();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        known.verdicts.values().flatten().cloned().collect()
    }

    /// Looks at Services that may be overruled otherwise than before; returns how many.
    fn look_at_stale(&self) -> usize {
        let known = self.overruled.0.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        let stale = std::mem::take(&mut known.stale);
        let count = stale.len();
        for service in stale {
            let verdicts = self.overruled_ports_of(&service);
            match verdicts.is_empty() {
                true => drop(known.verdicts.remove(&service)),
                false => drop(known.verdicts.insert(service, verdicts)),
            }
        }
        count
    }

    fn overruled_ports_of(&self, name: &Name) -> Vec<Verdict> {
        let service = self.cluster.service(name);
        let ports = service.into_iter().flat_map(|service| &service.ports);
        let opaque = ports.filter(|port| port.protocol == AppProtocol::Opaque);
        let verdicts = opaque.filter_map(|port| {
            let slices = self.cluster.slices_of_service(name);
            let pods = slices.flat_map(|slice| {
                let target = target(slice, &port.name);
                let pods = slice.endpoints.iter();
                let pods = pods.filter_map(|endpoint| endpoint.pod.as_ref());
                pods.filter_map(move |pod| Some((pod, target?)))
            });
            let overruled = pods.filter_map(|(pod, target)| {
                let by = self.declares_http(pod, target)?;
                Some((pod, target, by))
            });
            let (pod, target, by) = overruled.min()?;
            Some(overruled_port(name, port.port, by, pod, target))
        });
        verdicts.collect()
    }

    /// The first Service that declares a pod's port to speak HTTP.
    fn declares_http(&self, pod: &Name, of: u16) -> Option<&Name> {
        let slices = self.cluster.slices_of_pod(pod);
        let services = slices.filter_map(|slice| {
            let service = self.cluster.service(&slice.service)?;
            let mut http = service.ports.iter().filter(|port| port.protocol.is_http());
            http.any(|port| target(slice, &port.name) == Some(of))
                .then_some(&service.name)
        });
        services.min()
    }
}

/// The port of its pods that a slice has for a Service's port of a name.
fn target(slice: &EndpointSlice, port: &str) -> Option<u16> {
    let mut ports = slice.ports.iter();
    let found = ports.find(|(name, _)| *name == *port);
    found.map(|(_, target)| *target)
}

fn overruled_port(service: &Name, port: u16, by: &Name, pod: &Name, target: u16) -> Verdict {
    let text = format!(
        "port {port} leads to port {target} of pod {pod}, which Service {by} declares to speak \
         HTTP: it is read as HTTP; declare the same in both Services"
    );
    Verdict {
        resource: ResourceRef {
            kind: "Service".to_owned(),
            namespace: service.namespace.to_string(),
            name: service.name.to_string(),
        },
        origin: None,
        generation: 0,
        status: Status::Conflicting,
        messages: vec![Note::new("spec.ports", text)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compile::Context,
        manifest::parse_yaml,
        object::{Kind, ObjectRef},
        source::Change,
    };
    use linnet_mesh::TrustDomain;
    use std::fmt::Write as _;

    fn service(name: &str, protocol: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: None, ports: [{{name: {protocol}, port: 80}}]}}\n---\n"
        )
    }

    fn slice(service: &str, protocol: &str, pods: &[String]) -> String {
        let mut endpoints = String::new();
        for (at, pod) in pods.iter().enumerate() {
            let (high, low) = (at / 250, at % 250);
            write!(
                endpoints,
                "{{addresses: [10.1.{high}.{low}], targetRef: {{kind: Pod, name: {pod}}}}}, "
            )
            .unwrap();
        }
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {service}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
             addressType: IPv4\nports: [{{name: {protocol}, port: 8080}}]\nendpoints: [{endpoints}]\n---\n"
        )
    }

    fn apply(index: &mut Index, yaml: &str) {
        for object in parse_yaml(yaml, "test").unwrap() {
            index.apply(Change::Apply(object));
        }
    }

    fn told(index: &Index) -> Vec<String> {
        let verdicts = index.overruled_ports().into_iter();
        verdicts.map(|verdict| verdict.resource.name).collect()
    }

    #[test]
    fn only_services_that_share_what_changed_are_looked_at_again() {
        const SERVICES: usize = 100;
        let context = Context {
            cluster_domain: "cluster.local".to_owned(),
        };
        let mut index = Index::new(context, TrustDomain::default());
        let pods =
            |of: usize| -> Vec<String> { (0..100).map(|at| format!("p{of}-{at}")).collect() };
        for number in 0..SERVICES {
            let name = format!("s{number}");
            apply(&mut index, &service(&name, "tcp"));
            apply(&mut index, &slice(&name, "tcp", &pods(number)));
        }
        assert_eq!(told(&index), Vec::<String>::new());
        assert_eq!(index.look_at_stale(), 0, "all is known");
        // Another Service declares the pods of one to speak HTTP.
        apply(&mut index, &service("web", "http"));
        apply(&mut index, &slice("web", "http", &pods(7)));
        assert_eq!(index.look_at_stale(), 2);
        assert_eq!(told(&index), ["s7"]);
        // It leads to another one's pods, then it is declared otherwise, then it goes.
        apply(&mut index, &slice("web", "http", &pods(8)[..3]));
        assert_eq!(index.look_at_stale(), 3);
        assert_eq!(told(&index), ["s8"]);
        apply(&mut index, &slice("web", "tcp", &pods(8)));
        apply(&mut index, &service("web", "tcp"));
        assert_eq!(told(&index), Vec::<String>::new());
        apply(&mut index, &service("web", "http"));
        apply(&mut index, &slice("web", "http", &pods(8)));
        assert_eq!(told(&index), ["s8"]);
        let name = Name::new("default", "web");
        index.apply(Change::Delete(ObjectRef {
            kind: Kind::EndpointSlice,
            name: name.clone(),
        }));
        assert_eq!(told(&index), Vec::<String>::new());
        apply(&mut index, &slice("web", "http", &pods(9)));
        assert_eq!(told(&index), ["s9"]);
        index.apply(Change::Delete(ObjectRef {
            kind: Kind::Service,
            name,
        }));
        assert_eq!(told(&index), Vec::<String>::new());
    }
}
