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
use linnet_runtime::settings::{Settings, SettingsError, host_and_port};
use linnet_workload::{BundleSource, TokenSource};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
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

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// All settings that cannot be used.
    pub fn read(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let mut reader = Reader(settings);
        let config = reader.config();
        reader.0.finish(config)
    }
}

struct Reader<'a>(Settings<'a>);

impl Reader<'_> {
    fn config(&mut self) -> Option<Config> {
        // Each is read before any `?`, so that no mistake hides another.
        let outbound = self.outbound();
        let inbound = self.inbound();
        let metrics = self.0.address(env::METRICS_LISTEN, port::METRICS);
        let admin = self.admin();
        let trust_domain: TrustDomain = self.0.parsed(env::TRUST_DOMAIN).unwrap_or_default();
        let certificate = self.certificate(&trust_domain);
        let discovery = self.discovery();
        let pod = self.pod(matches!(discovery, Some(Discovery::Static(_))));
        let opaque_ports = self.0.list(env::OPAQUE_PORTS).into_iter().collect();
        let data_threads = self.data_threads();
        let max_connections = self
            .0
            .parsed(env::MAX_CONNECTIONS)
            .unwrap_or(MAX_CONNECTIONS);
        let drain_timeout = self
            .0
            .parsed(env::DRAIN_SECONDS)
            .map_or(DRAIN, |seconds: u32| Duration::from_secs(seconds.into()));
        let probes = self.probes().at(pod.ips.first().copied());
        let access_log = self
            .0
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

    fn admin(&mut self) -> SocketAddr {
        let address: SocketAddr = self
            .0
            .parsed(env::ADMIN_LISTEN)
            .unwrap_or_else(|| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port::ADMIN));
        if !address.ip().is_loopback() {
            self.0.mistake(
                env::ADMIN_LISTEN,
                format_args!("{address} is not a loopback address; whoever reaches the admin endpoints may stop the sidecar"),
            );
        }
        address
    }

    fn outbound(&mut self) -> Vec<OutboundListener> {
        let mut listeners: Vec<OutboundListener> = self.0.list(env::OUTBOUND_LISTENERS);
        if self.takes_redirected(env::OUTBOUND_LISTEN) {
            let address = self.0.address(env::OUTBOUND_LISTEN, port::OUTBOUND);
            listeners.insert(0, OutboundListener::Redirected(address));
        }
        listeners
    }

    fn inbound(&mut self) -> Vec<InboundListener> {
        let mut listeners: Vec<InboundListener> = self.0.list(env::INBOUND_LISTENERS);
        if self.takes_redirected(env::INBOUND_LISTEN) {
            let address = self.0.address(env::INBOUND_LISTEN, port::INBOUND);
            listeners.insert(0, InboundListener::Redirected(address));
        }
        listeners
    }

    /// A sidecar with listeners of its own has no others unless it is told so.
    fn takes_redirected(&self, name: &str) -> bool {
        let explicit = [env::OUTBOUND_LISTENERS, env::INBOUND_LISTENERS];
        self.0.text(name).is_some() || explicit.iter().all(|name| self.0.text(name).is_none())
    }

    fn certificate(&mut self, trust_domain: &TrustDomain) -> Option<CertificateSource> {
        if let Some(directory) = self.0.text(env::CERTIFICATE_DIR) {
            if self.0.text(env::IDENTITY_URL).is_some() {
                self.0.mistake(
                    env::CERTIFICATE_DIR,
                    format_args!("and {} are both set: keep one", env::IDENTITY_URL),
                );
            }
            return Some(CertificateSource::Directory(directory.into()));
        }
        let what = "https://host:port of the identity service";
        let url = self.0.required(env::IDENTITY_URL, what)?;
        let identity_url = self.0.read_text(env::IDENTITY_URL, &url, str::parse)?;
        let path = |name: &str, default: &str| {
            PathBuf::from(self.0.text(name).unwrap_or_else(|| default.to_owned()))
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
        if let Some(path) = self.0.text(env::STATIC_CONFIG) {
            if self.0.text(env::DISCOVERY_ADDRESS).is_some() {
                self.0.mistake(
                    env::STATIC_CONFIG,
                    format_args!("and {} are both set: keep one", env::DISCOVERY_ADDRESS),
                );
            }
            return match StaticConfig::read(Path::new(&path)) {
                Ok(config) => Some(Discovery::Static(config)),
                Err(problems) => {
                    for problem in problems {
                        self.0
                            .mistake(env::STATIC_CONFIG, format_args!("{path}: {problem}"));
                    }
                    None
                }
            };
        }
        let what = "host:port of the controller";
        let address = self.0.required(env::DISCOVERY_ADDRESS, what)?;
        let address = self
            .0
            .read_text(env::DISCOVERY_ADDRESS, &address, host_and_port)?;
        Some(Discovery::Controller(address))
    }

    fn pod(&mut self, anonymous: bool) -> PodIdentity {
        let mut name = |variable: &str, what: &str| {
            if anonymous {
                self.0.text(variable).unwrap_or_default()
            } else {
                self.0.required(variable, what).unwrap_or_default()
            }
        };
        PodIdentity {
            name: name(env::POD_NAME, "the pod's name"),
            namespace: name(env::POD_NAMESPACE, "the pod's namespace"),
            service_account: name(env::SERVICE_ACCOUNT, "the pod's service account"),
            ips: self.0.list(env::POD_IPS),
        }
    }

    fn data_threads(&mut self) -> NonZeroUsize {
        let wanted: usize = self.0.parsed(env::DATA_THREADS).unwrap_or_default();
        if wanted > MAX_DATA_THREADS {
            self.0.mistake(
                env::DATA_THREADS,
                format_args!("{wanted} is more than {MAX_DATA_THREADS}"),
            );
        }
        NonZeroUsize::new(wanted).unwrap_or_else(|| cgroup::cpu_limit(Path::new("/")))
    }

    fn probes(&mut self) -> Probes {
        let Some(json) = self.0.text(env::PROBES) else {
            return Probes::default();
        };
        Probes::parse(&json).unwrap_or_else(|error| {
            for problem in error.problems {
                self.0.mistake(env::PROBES, problem);
            }
            Probes::default()
        })
    }
}
