//! The kubelet's probes, redirected to the sidecar.
//!
//! The kubelet has no certificate, so under STRICT its HTTP, TCP and gRPC probes
//! would be refused at the inbound listener. They become HTTP requests to the
//! sidecar's own port, which makes the probe itself, from inside the pod. Exec
//! probes never touch the network and stay. So do probes that name a host: the
//! kubelet asks that host, not the pod. Lifecycle hooks stay as well; an `httpGet`
//! hook arrives as plaintext, which [`crate::inject`] warns about.

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use linnet_mesh::names::port;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::view::PodView;

/// A probe that the sidecar makes for the kubelet: an element of the list in
/// `LINNET_PROBES`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The path under which the kubelet asks the sidecar.
    pub path: String,
    /// How the app is asked.
    pub kind: Kind,
    /// The app's port.
    pub port: u16,
    /// `HTTP` or `HTTPS`, for an HTTP probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The app's path, for an HTTP probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_path: Option<String>,
    /// Headers of an HTTP probe.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Header>,
    /// The service of a gRPC probe; empty for the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// After this many seconds the app counts as failed.
    pub timeout_seconds: u32,
}

/// How a probe asks the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An HTTP GET; 200 to 399 is success.
    Http,
    /// The gRPC health service.
    Grpc,
    /// A connection that is accepted.
    Tcp,
}

/// A header of an HTTP probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Where in the pod's spec a probe stands, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// `containers` or `initContainers`.
    pub list: &'static str,
    /// The container's place in it.
    pub index: usize,
    /// `livenessProbe`, `readinessProbe` or `startupProbe`.
    pub field: &'static str,
    /// The handler to take out: `httpGet`, `tcpSocket` or `grpc`.
    pub handler: &'static str,
    /// What the sidecar does when asked.
    pub description: Description,
}

/// A probe that can't be redirected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// It names a port that its container doesn't declare.
    #[error(
        "container {container}: {field}: port {port:?} is neither a number nor the name of one of the container's ports ({declared})"
    )]
    UnknownPort {
        /// The container.
        container: String,
        /// The probe's field.
        field: &'static str,
        /// The port as written.
        port: String,
        /// The names that would do.
        declared: String,
    },
    /// It asks a port that is the sidecar's.
    #[error(
        "container {container}: {field}: port {port} is the sidecar's: no application answers there"
    )]
    SidecarPort {
        /// The container.
        container: String,
        /// The probe's field.
        field: &'static str,
        /// The port.
        port: u16,
    },
    /// Its port's number is not a port.
    #[error("container {container}: {field}: {port} is not a port (1 to 65535)")]
    BadPort {
        /// The container.
        container: String,
        /// The probe's field.
        field: &'static str,
        /// The number as written.
        port: i32,
    },
}

impl Rewrite {
    /// The `httpGet` that takes the handler's place.
    pub fn http_get(&self) -> Value {
        json!({"path": self.description.path, "port": port::METRICS, "scheme": "HTTP"})
    }
}

/// All probes of a pod that need to go through the sidecar.
pub fn rewrites(pod: &PodView) -> Result<Vec<Rewrite>, ProbeError> {
    let lists = [
        ("initContainers", pod.init_containers()),
        ("containers", pod.spec.containers.as_slice()),
    ];
    let mut found = Vec::new();
    for (list, containers) in lists {
        for (index, container) in containers.iter().enumerate() {
            for (field, kind, probe) in probes(container) {
                let Some((handler, description)) = describe(container, field, kind, probe)? else {
                    continue;
                };
                match description.port {
                    // The kubelet asks the sidecar itself: nothing is to be redirected.
                    port::METRICS => continue,
                    port if port::SIDECAR.contains(&port) => {
                        return Err(ProbeError::SidecarPort {
                            container: container.name.clone(),
                            field,
                            port,
                        });
                    }
                    _ => {}
                }
                found.push(Rewrite {
                    list,
                    index,
                    field,
                    handler,
                    description,
                });
            }
        }
    }
    Ok(found)
}

fn probes(container: &Container) -> impl Iterator<Item = (&'static str, &'static str, &Probe)> {
    [
        ("livenessProbe", "liveness", &container.liveness_probe),
        ("readinessProbe", "readiness", &container.readiness_probe),
        ("startupProbe", "startup", &container.startup_probe),
    ]
    .into_iter()
    .filter_map(|(field, kind, probe)| Some((field, kind, probe.as_ref()?)))
}

fn describe(
    container: &Container,
    field: &'static str,
    kind: &str,
    probe: &Probe,
) -> Result<Option<(&'static str, Description)>, ProbeError> {
    let resolve = |port: &IntOrString| resolve_port(container, field, port);
    let describe = |kind_of: Kind, port: u16| Description {
        path: format!("/probe/{}/{kind}", container.name),
        kind: kind_of,
        port,
        scheme: None,
        http_path: None,
        headers: Vec::new(),
        service: None,
        // Kubernetes' default is one second.
        timeout_seconds: probe.timeout_seconds.map_or(1, |s| s.max(1).unsigned_abs()),
    };
    let asks_the_pod = |host: &Option<String>| host.as_deref().unwrap_or_default().is_empty();
    if let Some(http) = probe
        .http_get
        .as_ref()
        .filter(|http| asks_the_pod(&http.host))
    {
        let description = Description {
            scheme: Some(http.scheme.clone().unwrap_or_else(|| "HTTP".to_owned())),
            http_path: Some(absolute_path(http)),
            headers: headers(http),
            ..describe(Kind::Http, resolve(&http.port)?)
        };
        return Ok(Some(("httpGet", description)));
    }
    if let Some(tcp) = probe
        .tcp_socket
        .as_ref()
        .filter(|tcp| asks_the_pod(&tcp.host))
    {
        return Ok(Some((
            "tcpSocket",
            describe(Kind::Tcp, resolve(&tcp.port)?),
        )));
    }
    if let Some(grpc) = &probe.grpc {
        let description = Description {
            service: Some(grpc.service.clone().unwrap_or_default()),
            ..describe(Kind::Grpc, resolve(&IntOrString::Int(grpc.port))?)
        };
        return Ok(Some(("grpc", description)));
    }
    Ok(None)
}

/// The kubelet asks for `/` without a path, and takes a path without a slash.
fn absolute_path(http: &HTTPGetAction) -> String {
    match http.path.as_deref().unwrap_or_default() {
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    }
}

fn headers(http: &HTTPGetAction) -> Vec<Header> {
    let headers = http.http_headers.iter().flatten();
    headers
        .map(|header| Header {
            name: header.name.clone(),
            value: header.value.clone(),
        })
        .collect()
}

/// The port's number, by the kubelet's rule: a name of one of the container's
/// own ports, or else a number written as text.
fn resolve_port(
    container: &Container,
    field: &'static str,
    port: &IntOrString,
) -> Result<u16, ProbeError> {
    let declared = container.ports.as_deref().unwrap_or_default();
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = declared
                .iter()
                .find(|port| port.name.as_ref() == Some(name))
                .map(|port| port.container_port);
            match named.or_else(|| name.parse().ok()) {
                Some(number) => number,
                None => {
                    return Err(ProbeError::UnknownPort {
                        container: container.name.clone(),
                        field,
                        port: name.clone(),
                        declared: port_names(container),
                    });
                }
            }
        }
    };
    match u16::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(ProbeError::BadPort {
            container: container.name.clone(),
            field,
            port: number,
        }),
    }
}

fn port_names(container: &Container) -> String {
    let ports = container.ports.iter().flatten();
    let names: Vec<&str> = ports.filter_map(|port| port.name.as_deref()).collect();
    if names.is_empty() {
        "none has a name".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests;
