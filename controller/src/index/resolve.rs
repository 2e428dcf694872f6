//! What a destination is.

use super::Index;
use crate::{compile::Host, object::Name};
use linnet_discovery::{Resolution, Target};
use linnet_mesh::{ServicePort, Workload};
use std::{net::IpAddr, sync::Arc};

/// What a target's answer hangs on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    /// Who has an address.
    Ip(IpAddr),
    /// A service.
    Service(Name),
}

impl Index {
    /// What a target's answer hangs on; `None`: nothing that can change.
    pub fn interest(&self, target: &Target, client: &str) -> Option<Interest> {
        match target {
            Target::Address(address) => Some(Interest::Ip(address.ip().to_canonical())),
            Target::Peer(ip) => Some(Interest::Ip(ip.to_canonical())),
            Target::Host(host) => {
                let (name, _) = self.host(host, client)?;
                Some(Interest::Service(name))
            }
        }
    }

    /// What a destination is for callers of a namespace.
    pub fn resolve(&self, target: &Target, client: &str) -> Resolution {
        let service = |service: &crate::object::Service, port: u16| {
            let has_port = service.ports.iter().any(|known| known.port == port);
            has_port.then(|| {
                Resolution::Service(ServicePort {
                    namespace: service.name.namespace.clone(),
                    name: service.name.name.clone(),
                    port,
                })
            })
        };
        let found = match target {
            Target::Address(address) => {
                let ip = address.ip().to_canonical();
                let port = address.port();
                match (self.cluster.service_at(ip), self.cluster.pod_at(ip)) {
                    (Some(known), _) => service(known, port),
                    (None, Some(pod)) => {
                        let endpoint = self.pod_endpoint(Some(pod), *address);
                        Some(Resolution::Endpoint(Arc::new(endpoint)))
                    }
                    (None, None) => None,
                }
            }
            Target::Host(host) => self.host(host, client).and_then(|(name, port)| {
                let known = self.cluster.service(&name)?;
                service(known, port)
            }),
            Target::Peer(_) => None,
        };
        found.unwrap_or(Resolution::External)
    }

    /// Who has an address.
    pub fn peer(&self, ip: IpAddr) -> Option<Arc<Workload>> {
        let pod = self.cluster.pod_at(ip.to_canonical())?;
        Some(pod.workload.clone())
    }

    fn host(&self, host: &str, client: &str) -> Option<(Name, u16)> {
        let (host, port) = host.rsplit_once(':')?;
        match Host::parse(host, client, &self.context) {
            Host::Service(name) => Some((name, port.parse().ok()?)),
            Host::Wildcard | Host::External => None,
        }
    }
}
