//! The kubelet's probes, made on its behalf.
//!
//! The kubelet has no certificate, so that STRICT would refuse its probes of the
//! application. The injector points them at the sidecar's own port instead and
//! describes the original in `LINNET_PROBES`; here it is made, to the pod's own
//! address as the kubelet would. The connections are the sidecar's own, which
//! redirection leaves alone.
//!
//! Any pod can ask that port, so it learns as little as can be: the status alone,
//! of the probes that the pod declares, as the manifest words them. However many
//! ask, the application sees one probe of a kind at a time and two a second.

mod danger;
mod grpc;
mod http;
#[cfg(test)]
mod tests;

use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, uri::PathAndQuery};
use axum::{Router, extract::State, routing::get};
use linnet_mesh::names::port;
use serde::Deserialize;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpStream, sync::Mutex, time::Instant};

/// As much of an answer's body is read as the kubelet reads; nobody sees it.
const BODY_LIMIT: usize = 10 * 1024;
/// For so long an answer of the application counts for whoever asks. The kubelet
/// asks once a second at most, so it never gets an old one of its own.
const FRESH: Duration = Duration::from_millis(500);
/// What the application is told who asks; it begins as the kubelet's own does.
const AGENT: HeaderValue = HeaderValue::from_static("kube-probe/linnet");
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
    #[error("{address} redirected {} times", http::REQUESTS)]
    Redirects { address: SocketAddr },
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

    /// `GET /probe/<container>/<kind>`: makes the probe and answers the status of
    /// the application, 503 if there was none, and no body.
    pub fn router(self) -> Router {
        let ip = self.pod_ip.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let probes = self.by_path.into_iter();
        let shared: HashMap<String, Shared> = probes
            .map(|(path, probe)| (path, Shared::new(probe, ip)))
            .collect();
        Router::new()
            .route("/probe/{container}/{kind}", get(answer))
            .with_state(Arc::new(shared))
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
    if port::SIDECAR.contains(&description.port) {
        let number = description.port;
        return Err(format!(".port: {number} is the sidecar's own"));
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

async fn answer(State(probes): State<Arc<HashMap<String, Shared>>>, uri: Uri) -> StatusCode {
    match probes.get(uri.path()) {
        Some(probe) => probe.ask(uri.path()).await,
        None => StatusCode::NOT_FOUND,
    }
}

/// A probe and its last result, for all who ask.
struct Shared {
    probe: Probe,
    address: SocketAddr,
    last: Arc<Mutex<Option<(Instant, StatusCode)>>>,
}

impl Shared {
    fn new(probe: Probe, ip: IpAddr) -> Self {
        Self {
            address: SocketAddr::new(ip, probe.port),
            probe,
            last: Arc::default(),
        }
    }

    /// Returns a fresh result, or makes the probe; whoever asks meanwhile waits for
    /// the same one.
    async fn ask(&self, path: &str) -> StatusCode {
        let mut last = self.last.clone().lock_owned().await;
        let before = *last;
        if let Some((at, status)) = before
            && at.elapsed() < FRESH
        {
            return status;
        }
        let (probe, address, path) = (self.probe.clone(), self.address, path.to_owned());
        // A task of its own: who hangs up does not end the probe and begin another.
        let made = tokio::spawn(async move {
            let result = probe.make(address).await;
            let failure = result.as_ref().err().map(ToString::to_string);
            let status = result.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            if before.is_none_or(|(_, before)| before != status) {
                tracing::info!(probe = path, %status, failure, "probe");
            }
            *last = Some((Instant::now(), status));
            status
        });
        made.await.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl Probe {
    async fn make(&self, address: SocketAddr) -> Result<StatusCode, Failure> {
        let made = async {
            match &self.action {
                Action::Http {
                    tls,
                    target,
                    headers,
                } => http::get(address, *tls, target, headers).await,
                Action::Grpc { service } => {
                    grpc::check(connect(address).await?, address, service).await
                }
                Action::Tcp => connect(address).await.map(|_| StatusCode::OK),
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

async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    TcpStream::connect(address)
        .await
        .map_err(|source| Failure::Connect { address, source })
}
