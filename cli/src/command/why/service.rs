//! What could have been meant by a host that the mesh does not know.

use crate::cluster::{Cluster, Error, workload::near_names};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, ResourceExt};
use linnet_proxy::why::{DestinationKind, OutboundAnswer};

/// A sentence about services with such a name; `None`: there is nothing to say.
pub(super) async fn hint(
    cluster: &Cluster,
    outbound: &OutboundAnswer,
) -> Result<Option<String>, Error> {
    let destination = &outbound.destination;
    if matches!(
        destination.kind,
        DestinationKind::Service | DestinationKind::Endpoint
    ) {
        return Ok(None);
    }
    let mut labels = destination.host.split('.');
    let name = labels.next().unwrap_or_default();
    let namespace = labels.next().unwrap_or(&outbound.caller.namespace);
    let services: Vec<Service> = cluster.list(Api::all(cluster.client()), "").await?;
    let is_in = |service: &&Service, namespace: &str| {
        service.metadata.namespace.as_deref() == Some(namespace)
    };
    let named = |service: &&Service| service.metadata.name.as_deref() == Some(name);
    if let Some(service) = services.iter().filter(named).find(|s| is_in(s, namespace)) {
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
        let ports: Vec<i32> = ports.into_iter().flatten().map(|port| port.port).collect();
        return Ok((!ports.contains(&i32::from(destination.port))).then(|| {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            format!(
                "service {namespace}/{name} has no port {}; it has {}",
                destination.port,
                ports.join(", ")
            )
        }));
    }
    let elsewhere: Vec<String> = services
        .iter()
        .filter(named)
        .filter_map(|service| Some(format!("http://{name}.{}/", service.namespace()?)))
        .collect();
    if !elsewhere.is_empty() {
        return Ok(Some(format!(
            "there is no service {name} in namespace {namespace}; did you mean {}?",
            elsewhere.join(" or ")
        )));
    }
    let mut near: Vec<String> = services
        .iter()
        .filter(|service| is_in(service, namespace))
        .map(ResourceExt::name_any)
        .collect();
    near_names(name, &mut near);
    Ok((!near.is_empty()).then(|| {
        format!(
            "there is no service {name} in namespace {namespace}; did you mean {}?",
            near.join(" or ")
        )
    }))
}
