//! A mesh without Kubernetes, in this process: identity, controller, and a
//! sidecar for each Pod manifest that says where its sidecar listens.
//!
//! Everything comes from one directory of manifests. What must survive a restart
//! (the root, the key of tokens) is kept in a second one.

mod sidecar;

pub(crate) use sidecar::{Sidecar, SidecarError, sidecars};

use linnet_controller::running as controller;
use linnet_identity::{attest::SignedTokens, authority::RootStore};
use linnet_mesh::{
    TrustDomain,
    names::{CONTROL_PLANE_NAMESPACE, port},
};
use linnet_proxy::{
    access_log,
    config::{CertificateSource, Config, Discovery, MAX_CONNECTIONS, PodIdentity},
    probe::Probes,
    server::{Deps, Running},
};
use linnet_runtime::{drain, logging, readiness::Readiness};
use linnet_workload::{BundleSource, TokenSource};
use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::Path,
    time::Duration,
};

/// How long a drain of the sidecars may last.
const DRAIN: Duration = Duration::from_secs(5);
/// Tokens last for as long as the process that holds them is likely to run.
const TOKEN_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
const CONTROLLER_ACCOUNT: &str = "linnet-controller";

/// Where the control plane listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) identity: SocketAddr,
    pub(crate) discovery: SocketAddr,
    /// The controller's health, metrics and verdicts.
    pub(crate) status: SocketAddr,
}

impl Addresses {
    /// Free ports of loopback.
    pub(crate) fn any() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            identity: any,
            discovery: any,
            status: any,
        }
    }

    /// The ports that a cluster has, on loopback.
    pub(crate) fn usual() -> Self {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            identity: at(port::IDENTITY),
            discovery: at(port::DISCOVERY),
            status: at(port::METRICS),
        }
    }
}

/// Why the mesh does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the identity service: {0}")]
    Identity(#[from] linnet_identity::BuildError),
    #[error("the key of tokens: {0}")]
    Tokens(#[from] linnet_identity::attest::TokenKeyError),
    #[error("the controller: {0}")]
    Controller(#[from] controller::BuildError),
    #[error("the address of identity: {0}")]
    Url(#[from] linnet_workload::UrlError),
    #[error("the sidecar of pod {pod}: {source}")]
    Sidecar {
        pod: String,
        source: linnet_proxy::server::Error,
    },
    #[error(transparent)]
    Manifest(#[from] SidecarError),
}

/// A running control plane and its sidecars.
pub(crate) struct Mesh {
    pub(crate) controller: controller::Running,
    pub(crate) identity: linnet_identity::Running,
    pub(crate) sidecars: Vec<(Sidecar, Running)>,
    tokens: SignedTokens,
    signal: drain::Signal,
    log: logging::Handle,
}

impl Mesh {
    /// Starts the control plane.
    pub(crate) async fn start(
        manifests: &Path,
        state: &Path,
        addresses: Addresses,
        log: logging::Handle,
    ) -> Result<Self, Error> {
        let (signal, watch) = drain::channel();
        let tokens = SignedTokens::in_directory(state)?;
        let config = linnet_identity::config::Config {
            address: addresses.identity,
            health_address: (Ipv4Addr::LOCALHOST, 0).into(),
            ..linnet_identity::config::Config::loopback()
        };
        let identity = config
            .build(linnet_identity::Dependencies {
                attest: Box::new(SignedTokens::in_directory(state)?),
                root: RootStore::Directory(state.to_owned()),
                readiness: Readiness::new(),
                drain: watch.clone(),
            })
            .await?;
        let readiness = Readiness::new();
        let token = tokens.issue(CONTROL_PLANE_NAMESPACE, CONTROLLER_ACCOUNT, TOKEN_LIFETIME)?;
        let certificate = linnet_workload::start(
            certificate_source(&identity, token)?,
            readiness.gate("certificate"),
            watch.clone(),
        );
        let config = linnet_controller::config::Config {
            address: addresses.discovery,
            health_address: addresses.status,
            ..linnet_controller::config::Config::loopback()
        };
        let controller = config
            .build(controller::Deps {
                source: controller::Source::Directory(manifests.to_owned()),
                certificate,
                readiness,
                drain: watch,
            })
            .await?;
        Ok(Self {
            controller,
            identity,
            sidecars: Vec::new(),
            tokens,
            signal,
            log,
        })
    }

    /// Starts a sidecar and waits until it is ready.
    pub(crate) async fn add(&mut self, sidecar: Sidecar) -> Result<(), Error> {
        let token =
            self.tokens
                .issue(&sidecar.namespace, &sidecar.service_account, TOKEN_LIFETIME)?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = Config {
            outbound: sidecar.outbound.clone(),
            inbound: sidecar.inbound.clone(),
            metrics: any,
            admin: any,
            trust_domain: TrustDomain::default(),
            certificate: CertificateSource::Identity(certificate_source(&self.identity, token)?),
            discovery: Discovery::Controller(self.controller.discovery_address.to_string()),
            pod: PodIdentity {
                name: sidecar.pod.clone(),
                namespace: sidecar.namespace.clone(),
                service_account: sidecar.service_account.clone(),
                ips: Vec::new(),
            },
            opaque_ports: Default::default(),
            data_threads: NonZeroUsize::MIN,
            max_connections: MAX_CONNECTIONS,
            drain_timeout: DRAIN,
            probes: Probes::default(),
            // Standard output is the command's own.
            access_log: access_log::Target::Nowhere,
        };
        let deps = Deps {
            log: self.log.clone(),
        };
        let running = config.build(deps).await.map_err(|source| Error::Sidecar {
            pod: sidecar.pod.clone(),
            source,
        })?;
        self.sidecars.push((sidecar, running));
        Ok(())
    }

    /// Until every sidecar is ready; what they still wait for when that takes
    /// longer than `limit`.
    pub(crate) async fn ready(&self, limit: Duration) -> Result<(), String> {
        let all = async {
            for (_, running) in &self.sidecars {
                running.ready().await;
            }
        };
        if tokio::time::timeout(limit, all).await.is_ok() {
            return Ok(());
        }
        let waiting = self
            .sidecars
            .iter()
            .filter(|(_, r)| !r.readiness.is_ready());
        let waiting: Vec<_> = waiting
            .map(|(sidecar, running)| {
                format!(
                    "{} for {}",
                    sidecar.pod,
                    running.readiness.pending().join(" and ")
                )
            })
            .collect();
        Err(waiting.join(", "))
    }

    /// Drains the sidecars, then stops the control plane.
    pub(crate) async fn stop(self) {
        let sidecars = self
            .sidecars
            .into_iter()
            .map(|(_, running)| running.drain());
        futures_util::future::join_all(sidecars).await;
        self.signal.drain_within(DRAIN).await;
    }
}

fn certificate_source(
    identity: &linnet_identity::Running,
    token: String,
) -> Result<linnet_workload::Source, linnet_workload::UrlError> {
    Ok(linnet_workload::Source {
        identity_url: format!("https://{}", identity.https_address).parse()?,
        token: TokenSource::Text(token),
        trust_bundle: BundleSource::Text(identity.bundle_pem().to_string()),
        trust_domain: TrustDomain::default(),
    })
}
