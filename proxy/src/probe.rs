//! The kubelet's probes, made on its behalf.
//!
//! The kubelet has no certificate, so that STRICT would refuse its probes of the
//! application. The injector points them at the sidecar's own port instead and
//! describes the original in `LINNET_PROBES`; here it is made, to the pod's own
//! address as the kubelet would, and the application's answer is passed on. The
//! connections are the sidecar's own, which redirection leaves alone.

mod danger;
mod grpc;
mod http;
#[cfg(test)]
mod tests;

use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header, uri::PathAndQuery};
use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use serde::Deserialize;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpStream;

/// As much of an answer's body is passed on as the kubelet reads.
const BODY_LIMIT: usize = 10 * 1024;
/// Where the kubelet finds the probes.
const PREFIX: &str = "/probe/";

/// The probes of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probes {
    by_path: HashMap<String, Probe>,
    pod_ip: Option<IpAddr>,
}

/// What is wrong with a list of probes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("; "))]
pub struct Error {
    /// Each mistake, with the element and the field.
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Probe {
    port: u16,
    timeout: Duration,
    action: Action,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Http {
        tls: bool,
        target: PathAndQuery,
        headers: HeaderMap,
    },
    Grpc {
        service: String,
    },
    Tcp,
}

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("connecting to {address}: {source}")]
    Connect {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("TLS with {address}: {source}")]
    Tls {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("no HTTP answer from {address}: {source}")]
    Http {
        address: SocketAddr,
        source: hyper::Error,
    },
    #[error("the request can't be made: {0}")]
    Request(#[from] ::http::Error),
    #[error("gRPC health check of {address}: {reason}")]
    Grpc { address: SocketAddr, reason: String },
    #[error("no answer from {address} within {} s", limit.as_secs())]
    Timeout {
        address: SocketAddr,
        limit: Duration,
    },
}

/// One probe as the injector writes it.
#[derive(Deserialize)]
struct Description {
    path: String,
    kind: Kind,
    port: u16,
    #[serde(default)]
    scheme: Option<String>,
    #[serde(default)]
    http_path: Option<String>,
    #[serde(default)]
    headers: Vec<Header>,
    #[serde(default)]
    service: Option<String>,
    #[serde(default)]
    timeout_seconds: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Http,
    Grpc,
    Tcp,
}

#[derive(Deserialize)]
struct Header {
    name: String,
    value: String,
}

impl Probes {
    /// Reads the injector's list.
    ///
    /// # Errors
    /// All mistakes of all elements.
    pub fn parse(json: &str) -> Result<Self, Error> {
        let elements: Vec<serde_json::Value> =
            serde_json::from_str(json).map_err(|error| Error {
                problems: vec![format!("not a JSON list: {error}")],
            })?;
        let mut problems = Vec::new();
        let mut by_path = HashMap::new();
        for (index, element) in elements.into_iter().enumerate() {
            match parse_element(element) {
                Ok((path, probe)) => {
                    if by_path.contains_key(&path) {
                        problems.push(format!("[{index}].path: {path} is there twice"));
                    }
                    by_path.insert(path, probe);
                }
                Err(problem) => problems.push(format!("[{index}]{problem}")),
            }
        }
        if !problems.is_empty() {
            return Err(Error { problems });
        }
        Ok(Self {
            by_path,
            pod_ip: None,
        })
    }

    /// Probes the pod at this address, as the kubelet does; without one,
    /// localhost.
    #[must_use]
    pub fn at(mut self, pod_ip: Option<IpAddr>) -> Self {
        self.pod_ip = pod_ip;
        self
    }

    /// `GET /probe/<container>/<kind>`: makes the probe and passes the answer on,
    /// or says 503 and why.
    pub fn router(self) -> Router {
        Router::new()
            .route("/probe/{container}/{kind}", get(answer))
            .with_state(Arc::new(self))
    }
}

fn parse_element(element: serde_json::Value) -> Result<(String, Probe), String> {
    let description: Description =
        serde_json::from_value(element).map_err(|error| format!(": {error}"))?;
    if !description.path.starts_with(PREFIX) {
        let path = description.path;
        return Err(format!(".path: {path:?} does not start with {PREFIX}"));
    }
    if description.port == 0 {
        return Err(".port: 0 is not a port".to_owned());
    }
    let action = match description.kind {
        Kind::Http => http_action(
            description.scheme.as_deref(),
            description.http_path.as_deref(),
            description.headers,
        )?,
        Kind::Grpc => Action::Grpc {
            service: description.service.unwrap_or_default(),
        },
        Kind::Tcp => Action::Tcp,
    };
    let seconds = description.timeout_seconds.unwrap_or(1).max(1);
    let probe = Probe {
        port: description.port,
        timeout: Duration::from_secs(seconds.into()),
        action,
    };
    Ok((description.path, probe))
}

fn http_action(
    scheme: Option<&str>,
    path: Option<&str>,
    headers: Vec<Header>,
) -> Result<Action, String> {
    let tls = match scheme {
        None | Some("" | "HTTP") => false,
        Some("HTTPS") => true,
        Some(other) => return Err(format!(".scheme: {other:?} is neither HTTP nor HTTPS")),
    };
    let path = path.unwrap_or_default();
    let target = http::target(path).map_err(|error| format!(".http_path: {path:?}: {error}"))?;
    let mut map = HeaderMap::new();
    for (index, Header { name, value }) in headers.into_iter().enumerate() {
        let at = |error: &dyn std::fmt::Display| format!(".headers[{index}]: {name:?}: {error}");
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|error| at(&error))?;
        let value = HeaderValue::from_str(&value).map_err(|error| at(&error))?;
        map.append(key, value);
    }
    Ok(Action::Http {
        tls,
        target,
        headers: map,
    })
}

async fn answer(State(probes): State<Arc<Probes>>, uri: Uri, headers: HeaderMap) -> Response {
    let Some(probe) = probes.by_path.get(uri.path()) else {
        let text = format!("no probe {} is described in LINNET_PROBES\n", uri.path());
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let ip = probes.pod_ip.unwrap_or(Ipv4Addr::LOCALHOST.into());
    let address = SocketAddr::new(ip, probe.port);
    match probe.make(address, headers.get(header::USER_AGENT)).await {
        Ok(response) => response.into_response(),
        Err(failure) => {
            tracing::debug!(probe = uri.path(), %failure, "probe failed");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")).into_response()
        }
    }
}

impl Probe {
    async fn make(
        &self,
        address: SocketAddr,
        agent: Option<&HeaderValue>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let made = async {
            let stream = TcpStream::connect(address)
                .await
                .map_err(|source| Failure::Connect { address, source })?;
            match &self.action {
                Action::Http {
                    tls,
                    target,
                    headers,
                } => http::get(stream, address, *tls, target, headers, agent).await,
                Action::Grpc { service } => grpc::check(stream, address, service, agent).await,
                Action::Tcp => Ok((StatusCode::OK, Bytes::from_static(b"connected\n"))),
            }
        };
        tokio::time::timeout(self.timeout, made)
            .await
            .unwrap_or(Err(Failure::Timeout {
                address,
                limit: self.timeout,
            }))
    }
}
