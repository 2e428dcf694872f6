//! A directory that is told once, from a file, and never asks: a sidecar run by
//! hand without a controller.

use super::Directory;
use crate::config::StaticConfig;
use linnet_discovery::{EndpointsUpdate, Resolution, Target, Update};
use linnet_mesh::{AppProtocol, Endpoint, Inbound, Service, ServicePort, Workload};
use std::sync::Arc;

/// Fills the directory from a file's content.
pub(crate) fn fill(directory: &Directory, config: &StaticConfig) {
    let inbound = Inbound {
        mtls: config.inbound_mtls,
        access_log: config.access_log.clone().into(),
        ..Inbound::default()
    };
    directory.apply(vec![Update::Inbound(Arc::new(inbound))]);
    // Nobody is there who would know whose an address is.
    directory.set_away(true);
    for service in &config.services {
        let target = Target::Host(service.host.as_str().into());
        // Registers the target, so that the answer has somewhere to go.
        directory.subscribed(target.clone());
        let key = key(&service.host);
        let upserts = service.endpoints.iter().map(|endpoint| {
            let workload = endpoint
                .identity
                .as_ref()
                .map(Workload::from_identity)
                .unwrap_or_default();
            Arc::new(Endpoint {
                identity: endpoint.identity.clone(),
                workload: Arc::new(workload),
                ..Endpoint::at(endpoint.address)
            })
        });
        directory.apply(vec![
            Update::Service(Arc::new(Service {
                key: key.clone(),
                hostname: parts(&service.host).0.to_owned(),
                protocol: AppProtocol::Detect,
                http: None,
                subsets: vec![],
                tcp: None,
                destination: None,
            })),
            Update::Endpoints(EndpointsUpdate {
                service: key.clone(),
                replace: true,
                upserts: upserts.collect(),
                removed: vec![],
            }),
            Update::Resolution(target, Resolution::Service(key)),
        ]);
    }
}

/// Returns host and port of `name.namespace…:port`; the port is HTTP's where there is none.
fn parts(host: &str) -> (&str, &str) {
    host.rsplit_once(':').unwrap_or((host, "80"))
}

/// The service port that `name.namespace…:port` names.
fn key(host: &str) -> ServicePort {
    let (name, port) = parts(host);
    let mut labels = name.split('.');
    ServicePort {
        name: labels.next().unwrap_or(name).into(),
        namespace: labels.next().unwrap_or("default").into(),
        port: port.parse().unwrap_or(80),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_who_is_behind_a_callers_address() {
        let (directory, _commands) = Directory::new(vec![]);
        fill(&directory, &StaticConfig::default());
        let asked = tokio::time::Instant::now();
        assert_eq!(directory.peer([10, 0, 0, 9].into()).await, None);
        assert_eq!(asked.elapsed(), std::time::Duration::ZERO);
    }
}
