//! How a workload is to be called, for its own sidecar.

use super::Index;
use crate::object::Name;
use linnet_mesh::{
    AppProtocol, Inbound, InboundPort, ServicePort, SpiffeId, Workload, access_log::AccessLogs,
    destination::Locality,
};
use std::{collections::BTreeMap, sync::Arc};

impl Index {
    /// How a pod is to be called. One that the source doesn't know (it need
    /// not, where there is no cluster) is what its identity says.
    pub fn inbound(&self, pod: &Name, identity: &SpiffeId) -> Inbound {
        let known = self.cluster.pod(pod);
        let workload = known.map_or_else(
            || {
                Arc::new(Workload {
                    pod: pod.name.to_string(),
                    ..Workload::from_identity(identity)
                })
            },
            |pod| pod.workload.clone(),
        );
        let no_labels = BTreeMap::new();
        let labels = known.map_or(&no_labels, |pod| &pod.labels);
        let modes = self.modes(&pod.namespace, labels);
        let mut ports: BTreeMap<u16, InboundPort> = BTreeMap::new();
        for (number, service, protocol) in self.ways_in(pod) {
            let port = ports.entry(number).or_insert_with(|| empty(number));
            port.protocol = port.protocol.or(protocol);
            port.services.push(service);
        }
        for (number, mode) in modes.ports.into_iter().flatten() {
            let port = ports.entry(*number).or_insert_with(|| empty(*number));
            port.mtls = Some(*mode);
        }
        Inbound {
            workload,
            mtls: modes.mode,
            mtls_source: modes.source.cloned(),
            port_mtls_source: modes.ports_source.cloned(),
            ports: ports.into_values().collect(),
            authorization: self.authorization(pod, labels),
            authentication: self.authentication(pod, labels),
            locality: known.map_or_else(Locality::default, |pod| self.cluster.locality(pod)),
            labels: labels.clone(),
            access_log: known.map_or_else(AccessLogs::default, |pod| self.access_logs(pod)),
        }
    }

    /// The pod's ports that services lead to. A service with an address of its
    /// own comes before a headless one: it is the one that callers mean.
    fn ways_in(&self, pod: &Name) -> Vec<(u16, ServicePort, AppProtocol)> {
        let mut ways = Vec::new();
        for slice in self.cluster.slices_of_pod(pod) {
            let Some(service) = self.cluster.service(&slice.service) else {
                continue;
            };
            for port in &service.ports {
                let target = slice.ports.iter().find(|(name, _)| *name == port.name);
                if let Some(&(_, target)) = target {
                    let key = ServicePort {
                        namespace: service.name.namespace.clone(),
                        name: service.name.name.clone(),
                        port: port.port,
                    };
                    ways.push((service.cluster_ips.is_empty(), target, key, port.protocol));
                }
            }
        }
        ways.sort_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2)));
        ways.dedup_by(|a, b| a.1 == b.1 && a.2 == b.2);
        ways.into_iter()
            .map(|(_, target, key, protocol)| (target, key, protocol))
            .collect()
    }
}

fn empty(port: u16) -> InboundPort {
    InboundPort {
        port,
        mtls: None,
        protocol: AppProtocol::Detect,
        services: Vec::new(),
    }
}
