//! The cluster's own objects, cut down.

use super::{Name, node::labelled};
use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use linnet_mesh::{
    AppProtocol, Workload,
    access_log::{self, AccessLog},
    destination::Locality,
    names::{annotation, label, port},
};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// Its virtual addresses; none for a headless one.
    pub cluster_ips: Vec<IpAddr>,
    /// Its TCP ports.
    pub ports: Vec<ServicePortSpec>,
    /// Whether callers in the same zone are to be preferred:
    /// `spec.trafficDistribution`, or Istio's annotation of that name.
    pub prefers_close: bool,
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePortSpec {
    /// Its name; empty for the only port.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// What it is declared to speak.
    pub protocol: AppProtocol,
}

/// A part of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name.
    pub name: Name,
    /// The service it belongs to.
    pub service: Name,
    /// Port name and the pods' port, TCP only.
    pub ports: Vec<(String, u16)>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its addresses; all lead to the same pod.
    pub addresses: Vec<IpAddr>,
    /// The pod behind it.
    pub pod: Option<Name>,
    /// Takes new requests.
    pub ready: bool,
    /// The zone that it is in, where its pod's node is not known.
    pub zone: Option<String>,
    /// On its way out, but still answers.
    pub draining: bool,
}

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: Name,
    /// Its addresses, while it has them for itself: empty for one on the
    /// host's network and for one that has finished.
    pub ips: Vec<IpAddr>,
    /// Its service account.
    pub service_account: String,
    /// The node it runs on.
    pub node: Option<Name>,
    /// Where it runs, if it says so itself.
    pub locality: Option<Locality>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Who it is, for telemetry.
    pub workload: Arc<Workload>,
    /// The ports on which its sidecar answers; `None`: it has no sidecar.
    pub sidecar: Option<InboundPorts>,
    /// What its sidecar is to write of requests and connections, if it says so.
    pub access_log: Option<AccessLogSetting>,
}

/// What an annotation asks for, or why it can't be read. Few have one.
pub type AccessLogSetting = Box<Result<AccessLog, access_log::Invalid>>;

/// The ports whose incoming connections reach the sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboundPorts {
    /// Only these; `None`: all.
    pub included: Option<Vec<u16>>,
    /// But not these.
    pub excluded: Vec<u16>,
}

impl InboundPorts {
    /// Whether a connection to `number` reaches the sidecar.
    pub fn contains(&self, number: u16) -> bool {
        !port::NOT_REDIRECTED.contains(&number)
            && !self.excluded.contains(&number)
            && self
                .included
                .as_ref()
                .is_none_or(|only| only.contains(&number))
    }

    fn of(annotations: &BTreeMap<String, String>) -> Self {
        let list = |name: &str| annotations.get(name).map(String::as_str);
        let numbers = |text: &str| {
            text.split(',')
                .filter_map(|p| p.trim().parse().ok())
                .collect()
        };
        let included = list("traffic.sidecar.istio.io/includeInboundPorts")
            .filter(|text| text.trim() != "*")
            .map(numbers);
        let excluded = [
            annotation::SKIP_INBOUND_PORTS,
            "traffic.sidecar.istio.io/excludeInboundPorts",
        ]
        .into_iter()
        .filter_map(list)
        .flat_map(|text| -> Vec<u16> { numbers(text) })
        .collect();
        Self { included, excluded }
    }
}

fn name(meta: &ObjectMeta) -> Name {
    Name::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

fn number(value: i32) -> Option<u16> {
    u16::try_from(value).ok().filter(|&number| number != 0)
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    let mut parsed = Vec::new();
    for address in texts.into_iter().filter_map(|text| text.parse().ok()) {
        if !parsed.contains(&address) {
            parsed.push(address);
        }
    }
    parsed
}

impl From<core::Service> for Service {
    fn from(service: core::Service) -> Self {
        let spec = service.spec.unwrap_or_default();
        let single = spec.cluster_ip.iter();
        let annotation = service
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get("networking.istio.io/traffic-distribution"));
        let distribution = annotation.or(spec.traffic_distribution.as_ref());
        Self {
            // To the same node is to the same zone, too.
            prefers_close: matches!(
                distribution.map(String::as_str),
                Some("PreferClose" | "PreferSameZone" | "PreferSameNode")
            ),
            name: name(&service.metadata),
            // "None" is not an address and drops out.
            cluster_ips: addresses(spec.cluster_ips.iter().flatten().chain(single)),
            ports: spec
                .ports
                .iter()
                .flatten()
                .filter(|port| is_tcp(port.protocol.as_deref()))
                .filter_map(|port| {
                    Some(ServicePortSpec {
                        name: port.name.clone().unwrap_or_default(),
                        port: number(port.port)?,
                        protocol: AppProtocol::declared(
                            port.app_protocol.as_deref(),
                            port.name.as_deref(),
                        ),
                    })
                })
                .collect(),
        }
    }
}

impl EndpointSlice {
    const SERVICE_LABEL: &str = "kubernetes.io/service-name";

    /// The slice, if it belongs to a service and holds IP addresses.
    pub fn of(slice: discovery::EndpointSlice) -> Option<Self> {
        if slice.address_type == "FQDN" {
            return None;
        }
        let name = name(&slice.metadata);
        let labels = slice.metadata.labels.unwrap_or_default();
        let service = Name::new(
            name.namespace.clone(),
            labels.get(Self::SERVICE_LABEL)?.as_str(),
        );
        let ports = slice
            .ports
            .iter()
            .flatten()
            .filter(|port| is_tcp(port.protocol.as_deref()))
            .filter_map(|port| Some((port.name.clone().unwrap_or_default(), number(port.port?)?)))
            .collect();
        let endpoints = slice
            .endpoints
            .into_iter()
            .map(|endpoint| SliceEndpoint::of(endpoint, &name.namespace))
            .collect();
        Some(Self {
            name,
            service,
            ports,
            endpoints,
        })
    }
}

impl SliceEndpoint {
    fn of(endpoint: discovery::Endpoint, namespace: &Arc<str>) -> Self {
        let conditions = endpoint.conditions.unwrap_or_default();
        let pod = endpoint
            .target_ref
            .filter(|target| target.kind.as_deref().is_none_or(|kind| kind == "Pod"))
            .and_then(|target| target.name)
            .map(|name| Name::new(namespace.clone(), name));
        Self {
            addresses: addresses(&endpoint.addresses),
            pod,
            zone: endpoint.zone,
            // An unknown condition counts as ready (the API's own words).
            ready: conditions.ready.unwrap_or(true),
            draining: conditions.terminating == Some(true) && conditions.serving == Some(true),
        }
    }
}

impl From<core::Pod> for Pod {
    fn from(pod: core::Pod) -> Self {
        let name = name(&pod.metadata);
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let ips = if finished || spec.host_network == Some(true) {
            Vec::new()
        } else {
            let all = status.pod_ips.unwrap_or_default();
            addresses(all.iter().map(|ip| &ip.ip).chain(&status.pod_ip))
        };
        let service_account = spec
            .service_account_name
            .filter(|account| !account.is_empty())
            .unwrap_or_else(|| "default".to_owned());
        let workload = workload(&pod.metadata, &name, &service_account);
        let labels = pod.metadata.labels.unwrap_or_default();
        let annotations = pod.metadata.annotations.unwrap_or_default();
        let access_log = access_log("Pod", &name, &annotations);
        let sidecar = (labels.get(label::SIDECAR).map(String::as_str)
            == Some(label::SIDECAR_INJECTED))
        .then(|| InboundPorts::of(&annotations));
        Self {
            name,
            ips,
            service_account,
            node: spec.node_name.map(|node| Name::new("", node)),
            locality: labelled(&labels),
            labels,
            workload: Arc::new(workload),
            sidecar,
            access_log,
        }
    }
}

/// What an annotation asks for. One that can't be read switches nothing off: it
/// counts as if it were not there, and a verdict says so.
pub(super) fn access_log(
    kind: &str,
    name: &Name,
    annotations: &BTreeMap<String, String>,
) -> Option<AccessLogSetting> {
    let text = annotations.get(annotation::ACCESS_LOG)?;
    let parsed = text.parse();
    if let Err(error) = &parsed {
        let annotation = annotation::ACCESS_LOG;
        tracing::warn!("{kind} {name}: metadata.annotations[{annotation}]: {error}");
    }
    Some(Box::new(parsed))
}

fn workload(meta: &ObjectMeta, pod: &Name, service_account: &str) -> Workload {
    let labels = meta.labels.as_ref();
    let label = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| labels?.get(*name))
            .cloned()
            .unwrap_or_default()
    };
    let or = |text: String, other: &str| {
        if text.is_empty() {
            other.to_owned()
        } else {
            text
        }
    };
    let name = owner(meta).unwrap_or_else(|| pod.name.to_string());
    let app = label(&["app", "app.kubernetes.io/name"]);
    let version = label(&["version", "app.kubernetes.io/version"]);
    Workload {
        canonical_service: or(
            label(&["service.istio.io/canonical-name"]),
            &or(label(&["app.kubernetes.io/name", "app"]), &name),
        ),
        canonical_revision: or(
            label(&["service.istio.io/canonical-revision"]),
            &or(label(&["app.kubernetes.io/version", "version"]), "latest"),
        ),
        name,
        namespace: pod.namespace.to_string(),
        app,
        version,
        service_account: service_account.to_owned(),
        pod: pod.name.to_string(),
    }
}

/// The owner that a person would name: not the ReplicaSet but its Deployment,
/// not the Job but its CronJob. Both are told by how Kubernetes names what
/// they make, so neither has to be watched.
fn owner(meta: &ObjectMeta) -> Option<String> {
    let owners = meta.owner_references.as_ref()?;
    let owner = owners
        .iter()
        .find(|owner| owner.controller == Some(true))
        .or_else(|| owners.first())?;
    let hash = || meta.labels.as_ref()?.get("pod-template-hash");
    let name = match owner.kind.as_str() {
        "ReplicaSet" => hash()
            .and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'))
            .unwrap_or(&owner.name),
        "Job" => owner
            .name
            .rsplit_once('-')
            .filter(|(_, minute)| {
                (8..=11).contains(&minute.len()) && minute.bytes().all(|b| b.is_ascii_digit())
            })
            .map_or(owner.name.as_str(), |(cron_job, _)| cron_job),
        _ => &owner.name,
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests;
