//! The composition: source, hub, discovery over mutual TLS, health and status.

use crate::{
    admission::{self, Serving},
    compile::Context,
    config::Config,
    discovery::{self, Admission, Handle, Server},
    index::Index,
    keys,
    source::{self, directory, directory::Directory, kubernetes},
    status, trust_bundle,
};
use arc_swap::ArcSwap;
use linnet_runtime::{
    drain, health,
    readiness::Readiness,
    serve::{self, ListenerKind, TlsConfig, Transport},
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// A TLS record towards proxies at most, bytes.
const RECORD: usize = 4096;

/// Where objects come from.
pub enum Source {
    /// A cluster.
    Kubernetes {
        /// Reaches it.
        client: kube::Client,
        /// This replica's name among others.
        replica: String,
    },
    /// A directory of manifests.
    Directory(PathBuf),
}

/// What the controller needs of others.
pub struct Deps {
    /// Where objects come from.
    pub source: Source,
    /// The controller's own certificate.
    pub certificate: linnet_workload::Handle,
    /// What of this process is not ready yet.
    pub readiness: Readiness,
    /// Says when to stop.
    pub drain: drain::Watch,
}

/// A controller that runs until the drain.
pub struct Running {
    /// Where discovery is served.
    pub discovery_address: SocketAddr,
    /// Where health, metrics and status are.
    pub health_address: SocketAddr,
    /// Where the validating webhook listens, in a cluster.
    pub webhook_address: Option<SocketAddr>,
    /// Verdicts and proxies.
    pub handle: Handle,
    servers: Vec<JoinHandle<()>>,
}

/// Why a controller can't start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// An address can't be listened on.
    #[error("cannot listen on {address}: {source}; set {setting} to another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The variable it comes from.
        setting: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The directory can't be a source.
    #[error(transparent)]
    Directory(#[from] directory::Error),
}

impl Running {
    /// Waits until the servers have ended, after the drain.
    pub async fn stopped(self) {
        for server in self.servers {
            // A server that panicked has ended too.
            let _ = server.await;
        }
    }
}

impl Config {
    /// Starts the controller. It answers proxies as soon as there is a
    /// certificate and the source has told all.
    ///
    /// # Errors
    /// An address that can't be listened on, or a directory that can't be read.
    pub async fn build(self, deps: Deps) -> Result<Running, BuildError> {
        let Deps {
            source,
            certificate,
            readiness,
            drain,
        } = deps;
        let metrics = health::metrics_recorder();
        describe_metrics();
        let (listener, discovery_address) = listen(self.address, crate::config::LISTEN).await?;
        let (health_listener, health_address) =
            listen(self.health_address, crate::config::HEALTH_LISTEN).await?;
        let (sink, events) = source::channel();
        let context = Context {
            cluster_domain: self.cluster_domain,
        };
        let mut index = Index::new(context.clone(), self.trust_domain)
            .with_aliases(self.trust_domain_aliases)
            .with_path_normalization(self.path_normalization);
        if matches!(source, Source::Kubernetes { .. }) {
            index = index.with_all_pods();
        }
        let (handle, _) = discovery::spawn(index, events, readiness.gate("configuration"));
        let keeper = keys::keep(handle.clone(), sink.clone(), self.keys);
        until_drained(drain.clone(), keeper);
        let mut webhook = None;
        let admission = match source {
            Source::Directory(path) => {
                let directory = Directory::open(path)?;
                until_drained(drain.clone(), async move {
                    let _ = directory.run(sink).await;
                });
                Admission::AnyIdentity
            }
            Source::Kubernetes { client, replica } => {
                let keeper = trust_bundle::keep(client.clone(), certificate.clone());
                until_drained(drain.clone(), keeper);
                let (holds, held) = watch::channel(false);
                let lease = status::lease::hold(client.clone(), replica, holds);
                until_drained(drain.clone(), lease);
                let writer = status::write(client.clone(), handle.clone(), held);
                until_drained(drain.clone(), writer);
                let address = self.webhook_address;
                webhook = Some(validate(client.clone(), address, context, drain.clone()).await?);
                until_drained(drain.clone(), kubernetes::run(client, sink));
                Admission::KnownPods
            }
        };
        let server = Server::new(handle.clone(), admission, drain.clone());
        let discovery = serve_discovery(listener, server.router(), certificate, drain.clone());
        let checks = health::router(readiness, metrics).merge(status::router(handle.clone()));
        let health = serve::serve(
            health_listener,
            checks,
            Transport::Plain,
            ListenerKind::Health,
            drain,
        );
        let mut servers = vec![tokio::spawn(discovery), tokio::spawn(health)];
        let webhook_address = webhook.as_ref().map(|webhook| webhook.address);
        servers.extend(webhook.map(|webhook| webhook.server));
        Ok(Running {
            discovery_address,
            health_address,
            webhook_address,
            handle,
            servers,
        })
    }
}

async fn validate(
    client: kube::Client,
    address: SocketAddr,
    context: Context,
    drain: drain::Watch,
) -> Result<Serving, BuildError> {
    let setting = crate::config::WEBHOOK_LISTEN;
    admission::start(client, admission::names(), address, context, drain)
        .await
        .map_err(|source| BuildError::Listen {
            address,
            setting,
            source,
        })
}

/// Runs something that has nothing to finish at the end.
fn until_drained(drain: drain::Watch, task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        tokio::select! {
            () = task => {}
            _guard = drain.signaled() => {}
        }
    });
}

async fn serve_discovery(
    listener: TcpListener,
    router: axum::Router,
    certificate: linnet_workload::Handle,
    drain: drain::Watch,
) {
    let mut renewals = certificate.subscribe();
    let first = tokio::select! {
        first = certificate.wait() => first,
        _guard = drain.signaled() => return,
    };
    let current: TlsConfig = Arc::new(ArcSwap::new(discovery_tls(&first)));
    let renewed = current.clone();
    let follow = async move {
        // New connections use the newest certificate; old ones need none.
        while renewals.changed().await.is_ok() {
            if let Some(workload) = certificate.current() {
                renewed.store(discovery_tls(&workload));
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = follow => {}
        () = serve::serve(listener, router, Transport::Tls(current), ListenerKind::Discovery, drain) => {}
    }
}

/// Small records: each takes a buffer of its size while it is sent, and what a
/// thousand proxies leave behind of large ones adds up.
fn discovery_tls(workload: &linnet_workload::Workload) -> Arc<rustls::ServerConfig> {
    let mut config = workload.server_config(&[b"h2"], true);
    Arc::make_mut(&mut config).max_fragment_size = Some(RECORD);
    config
}

/// Listens; where a host has no IPv6, "any address" is IPv4's.
async fn listen(
    address: SocketAddr,
    setting: &'static str,
) -> Result<(TcpListener, SocketAddr), BuildError> {
    let failed = |source| BuildError::Listen {
        address,
        setting,
        source,
    };
    let listener = match TcpListener::bind(address).await {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
                .await
                .map_err(|_| failed(error))?
        }
        bound => bound.map_err(failed)?,
    };
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn describe_metrics() {
    metrics::describe_histogram!(
        "linnet_convergence_seconds",
        metrics::Unit::Seconds,
        "From a change seen to the last acknowledgement among the proxies it concerned"
    );
    metrics::describe_gauge!(
        "linnet_proxies_connected",
        "Proxies with a discovery stream"
    );
    metrics::describe_counter!(
        "linnet_rejected_configurations_total",
        "Messages that a proxy did not put in force"
    );
    metrics::describe_counter!(
        "linnet_jwks_fetches_total",
        "Fetches of issuers' keys for RequestAuthentications, by result"
    );
    metrics::describe_gauge!(
        "linnet_jwks_failing",
        "Places of issuers' keys whose last fetch has failed"
    );
    metrics::describe_counter!(
        "linnet_rejected_resources_total",
        "Resources that were not put in force, by kind"
    );
}
