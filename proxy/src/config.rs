//! A sidecar's settings, read once from the environment into types that can't be
//! wrong; every mistake is told at once.
//!
//! Injected, a sidecar takes redirected connections, a certificate from identity
//! and answers from the controller. Run by hand, it may have listeners for one
//! service or port each, certificates from files and fixed endpoints instead.

mod cgroup;
mod fixed;
mod listen;
#[cfg(test)]
mod tests;

pub use fixed::{StaticConfig, StaticEndpoint, StaticService};
pub use listen::{InboundListener, OutboundListener};

use crate::{access_log, probe::Probes};
use linnet_mesh::{
    TrustDomain,
    names::{self, env, port},
};
use linnet_workload::{BundleSource, TokenSource};
use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// How long a drain may last unless told otherwise.
const DRAIN: Duration = Duration::from_secs(30);
/// Connections in each direction unless told otherwise: what Envoy's documentation
/// gives as an example for `global_downstream_max_connections`.
pub const MAX_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(50_000).expect("it is not zero");
/// More data threads than any pod has use for.
const MAX_DATA_THREADS: usize = 256;

/// All settings of a sidecar.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the workload's connections come in.
    pub outbound: Vec<OutboundListener>,
    /// Where connections to the workload come in.
    pub inbound: Vec<InboundListener>,
    /// Where metrics, readiness, liveness and probes are served.
    pub metrics: SocketAddr,
    /// Where the admin endpoints are served.
    pub admin: SocketAddr,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Where the workload's certificate comes from.
    pub certificate: CertificateSource,
    /// Who knows services and endpoints.
    pub discovery: Discovery,
    /// The pod.
    pub pod: PodIdentity,
    /// Ports whose bytes are never looked at.
    pub opaque_ports: BTreeSet<u16>,
    /// Threads that move data.
    pub data_threads: NonZeroUsize,
    /// Connections that may be open at once, in each direction.
    pub max_connections: NonZeroUsize,
    /// How long a drain may last.
    pub drain_timeout: Duration,
    /// Probes that are made for the kubelet.
    pub probes: Probes,
    /// Where the access log goes.
    pub access_log: access_log::Target,
}

/// Where the workload's certificate comes from.
#[derive(Clone, Debug)]
pub enum CertificateSource {
    /// The identity service.
    Identity(linnet_workload::Source),
    /// A directory with `ca.pem`, `leaf.pem` and `leaf.key`.
    Directory(PathBuf),
}

/// Who knows services and endpoints.
#[derive(Clone, Debug, PartialEq)]
pub enum Discovery {
    /// The controller at `host:port`.
    Controller(String),
    /// A file that was read.
    Static(StaticConfig),
}

/// Who this sidecar's pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodIdentity {
    /// The pod's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its addresses, the first of which the kubelet probes.
    pub ips: Vec<IpAddr>,
}

/// What is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} of the sidecar's settings can't be used:\n  {}", problems.len(), problems.join("\n  "))]
pub struct Error {
    /// Each mistake, with the variable's name.
    pub problems: Vec<String>,
}

impl Config {
    /// Reads the settings from environment variables, and the files that they
    /// name.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn from_env(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let mut reader = Reader {
            variable,
            problems: Vec::new(),
        };
        let config = reader.config();
        match config {
            Some(config) if reader.problems.is_empty() => Ok(config),
            _ => Err(Error {
                problems: reader.problems,
            }),
        }
    }
}

/// Reads variables and remembers what was wrong with them.
struct Reader<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
}

impl Reader<'_> {
    /// The settings; `None` only if there is a problem.
    fn config(&mut self) -> Option<Config> {
        // Each is read before any `?`, so that no mistake hides another.
        let outbound = self.outbound();
        let inbound = self.inbound();
        let metrics = self.address(env::METRICS_LISTEN, port::METRICS);
        let admin = self.admin();
        let trust_domain: TrustDomain = self.parsed(env::TRUST_DOMAIN).unwrap_or_default();
        let certificate = self.certificate(&trust_domain);
        let discovery = self.discovery();
        let pod = self.pod(matches!(discovery, Some(Discovery::Static(_))));
        let opaque_ports = self.list(env::OPAQUE_PORTS).into_iter().collect();
        let data_threads = self.data_threads();
        let max_connections = self.parsed(env::MAX_CONNECTIONS).unwrap_or(MAX_CONNECTIONS);
        let drain_timeout = self
            .parsed(env::DRAIN_SECONDS)
            .map_or(DRAIN, |seconds: u32| Duration::from_secs(seconds.into()));
        let probes = self.probes().at(pod.ips.first().copied());
        let access_log = self
            .text(env::ACCESS_LOG)
            .map_or(access_log::Target::Stdout, |path| {
                access_log::Target::File(path.into())
            });
        Some(Config {
            outbound,
            inbound,
            metrics,
            admin,
            trust_domain,
            certificate: certificate?,
            discovery: discovery?,
            pod,
            opaque_ports,
            data_threads,
            max_connections,
            drain_timeout,
            probes,
            access_log,
        })
    }

    fn problem(&mut self, name: &str, reason: impl fmt::Display) {
        self.problems.push(format!("{name}: {reason}"));
    }

    /// A variable's text; an empty one counts as absent.
    fn text(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|text| !text.trim().is_empty())
    }

    fn required(&mut self, name: &str, what: &str) -> Option<String> {
        let text = self.text(name);
        if text.is_none() {
            self.problem(name, format_args!("is not set: {what}"));
        }
        text
    }

    fn parse<T: FromStr<Err: fmt::Display>>(&mut self, name: &str, text: &str) -> Option<T> {
        match text.trim().parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(name, format_args!("{text:?}: {error}"));
                None
            }
        }
    }

    fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Option<T> {
        let text = self.text(name)?;
        self.parse(name, &text)
    }

    /// A comma-separated list.
    fn list<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Vec<T> {
        let text = self.text(name).unwrap_or_default();
        text.split(',')
            .filter(|element| !element.trim().is_empty())
            .filter_map(|element| self.parse(name, element))
            .collect()
    }

    fn address(&mut self, name: &str, port: u16) -> SocketAddr {
        self.parsed(name)
            .unwrap_or_else(|| SocketAddr::new(listen::unspecified(), port))
    }

    fn admin(&mut self) -> SocketAddr {
        let address: SocketAddr = self
            .parsed(env::ADMIN_LISTEN)
            .unwrap_or_else(|| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port::ADMIN));
        if !address.ip().is_loopback() {
            self.problem(
                env::ADMIN_LISTEN,
                format_args!("{address} is not a loopback address; whoever reaches the admin endpoints may stop the sidecar"),
            );
        }
        address
    }

    fn outbound(&mut self) -> Vec<OutboundListener> {
        let mut listeners: Vec<OutboundListener> = self.list(env::OUTBOUND_LISTENERS);
        if self.takes_redirected(env::OUTBOUND_LISTEN) {
            let address = self.address(env::OUTBOUND_LISTEN, port::OUTBOUND);
            listeners.insert(0, OutboundListener::Redirected(address));
        }
        listeners
    }

    fn inbound(&mut self) -> Vec<InboundListener> {
        let mut listeners: Vec<InboundListener> = self.list(env::INBOUND_LISTENERS);
        if self.takes_redirected(env::INBOUND_LISTEN) {
            let address = self.address(env::INBOUND_LISTEN, port::INBOUND);
            listeners.insert(0, InboundListener::Redirected(address));
        }
        listeners
    }

    /// A sidecar with listeners of its own has no others unless it is told so.
    fn takes_redirected(&self, name: &str) -> bool {
        let explicit = [env::OUTBOUND_LISTENERS, env::INBOUND_LISTENERS];
        self.text(name).is_some() || explicit.iter().all(|name| self.text(name).is_none())
    }

    fn certificate(&mut self, trust_domain: &TrustDomain) -> Option<CertificateSource> {
        if let Some(directory) = self.text(env::CERTIFICATE_DIR) {
            if self.text(env::IDENTITY_URL).is_some() {
                self.problem(
                    env::CERTIFICATE_DIR,
                    format_args!("and {} are both set: keep one", env::IDENTITY_URL),
                );
            }
            return Some(CertificateSource::Directory(directory.into()));
        }
        let what = "https://host:port of the identity service";
        let url = self.required(env::IDENTITY_URL, what)?;
        let identity_url = self.parse(env::IDENTITY_URL, &url)?;
        let path = |name: &str, default: &str| {
            PathBuf::from(self.text(name).unwrap_or_else(|| default.to_owned()))
        };
        Some(CertificateSource::Identity(linnet_workload::Source {
            identity_url,
            token: TokenSource::File(path(env::TOKEN_FILE, names::TOKEN_PATH)),
            trust_bundle: BundleSource::File(path(
                env::TRUST_BUNDLE_FILE,
                names::TRUST_BUNDLE_PATH,
            )),
            trust_domain: trust_domain.clone(),
        }))
    }

    fn discovery(&mut self) -> Option<Discovery> {
        if let Some(path) = self.text(env::STATIC_CONFIG) {
            if self.text(env::DISCOVERY_ADDRESS).is_some() {
                self.problem(
                    env::STATIC_CONFIG,
                    format_args!("and {} are both set: keep one", env::DISCOVERY_ADDRESS),
                );
            }
            return match StaticConfig::read(Path::new(&path)) {
                Ok(config) => Some(Discovery::Static(config)),
                Err(problems) => {
                    for problem in problems {
                        self.problem(env::STATIC_CONFIG, format_args!("{path}: {problem}"));
                    }
                    None
                }
            };
        }
        let what = "host:port of the controller";
        let address = self.required(env::DISCOVERY_ADDRESS, what)?;
        match listen::host_and_port(&address) {
            Ok(address) => Some(Discovery::Controller(address)),
            Err(error) => {
                self.problem(env::DISCOVERY_ADDRESS, error);
                None
            }
        }
    }

    /// A sidecar that asks no controller need not say who it is.
    fn pod(&mut self, anonymous: bool) -> PodIdentity {
        let mut name = |variable: &str, what: &str| {
            if anonymous {
                self.text(variable).unwrap_or_default()
            } else {
                self.required(variable, what).unwrap_or_default()
            }
        };
        PodIdentity {
            name: name(env::POD_NAME, "the pod's name"),
            namespace: name(env::POD_NAMESPACE, "the pod's namespace"),
            service_account: name(env::SERVICE_ACCOUNT, "the pod's service account"),
            ips: self.list(env::POD_IPS),
        }
    }

    fn data_threads(&mut self) -> NonZeroUsize {
        let wanted: usize = self.parsed(env::DATA_THREADS).unwrap_or_default();
        if wanted > MAX_DATA_THREADS {
            self.problem(
                env::DATA_THREADS,
                format_args!("{wanted} is more than {MAX_DATA_THREADS}"),
            );
        }
        NonZeroUsize::new(wanted).unwrap_or_else(|| cgroup::cpu_limit(Path::new("/")))
    }

    fn probes(&mut self) -> Probes {
        let Some(json) = self.text(env::PROBES) else {
            return Probes::default();
        };
        Probes::parse(&json).unwrap_or_else(|error| {
            for problem in error.problems {
                self.problem(env::PROBES, problem);
            }
            Probes::default()
        })
    }
}
