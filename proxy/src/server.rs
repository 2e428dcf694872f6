//! The composition root: from settings to a running sidecar, and to its end.

use crate::{
    access_log::{Log, Writer},
    admin,
    cap::Cap,
    config::{CertificateSource, Config, Discovery, InboundListener, OutboundListener},
    data::{self, Role},
    directory::{Directory, client, fixed},
    http::connection::FILES_SHARE,
    listen,
    telemetry::Telemetry,
    thread::Shared,
    why::Explainer,
};
use linnet_mesh::{SpiffeId, TrustDomain, names::CONTROL_PLANE_NAMESPACE};
use linnet_runtime::{
    drain, files, health, logging,
    readiness::Readiness,
    serve::{self, ListenerKind, Transport},
};
use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};

/// The service account that the controller runs as.
const CONTROLLER_ACCOUNT: &str = "linnet-controller";
/// How often idle answers and series are looked over.
const EXPIRE: Duration = Duration::from_secs(60);
/// How often the gauge of ejected endpoints is looked over.
const EJECTIONS: Duration = Duration::from_secs(5);
const READY_CHECK: Duration = Duration::from_millis(5);

/// Why a sidecar can't be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener or thread.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The certificate directory.
    #[error("the certificate directory: {0}")]
    Certificate(#[from] linnet_workload::Error),
    /// The controller's identity can't be named.
    #[error("the controller's identity: {0}")]
    Identity(#[from] linnet_mesh::spiffe::ParseError),
}

/// What a sidecar is given by its process.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The log, whose filter the admin endpoint sets.
    pub log: logging::Handle,
}

/// A running sidecar. Must be used within the control thread's runtime.
pub struct Running {
    /// Addresses of the outbound listeners, in the settings' order.
    pub outbound: Vec<SocketAddr>,
    /// Addresses of the inbound listeners, in the settings' order.
    pub inbound: Vec<SocketAddr>,
    /// The address of metrics, readiness, liveness and probes.
    pub metrics: SocketAddr,
    /// The address of the admin endpoints.
    pub admin: SocketAddr,
    /// What the sidecar still waits for before it is ready.
    pub readiness: Readiness,
    certificates: linnet_workload::Handle,
    telemetry: Telemetry,
    signal: drain::Signal,
    drain_requested: Arc<Notify>,
    drain_timeout: Duration,
    threads: Vec<JoinHandle<()>>,
    writer: Option<Writer>,
    tasks: JoinSet<()>,
}

impl Config {
    /// Binds all listeners and starts the sidecar; must be called within a
    /// runtime, which becomes its control thread's.
    ///
    /// # Errors
    /// A listener that can't be bound, a certificate directory that can't be
    /// read: nothing is left running.
    pub async fn build(self, deps: Deps) -> Result<Running, Error> {
        let (signal, watch) = drain::channel();
        let readiness = Readiness::new();
        let telemetry = Telemetry::new(env!("CARGO_PKG_VERSION"));
        let mut tasks = JoinSet::new();
        let certificates = match &self.certificate {
            CertificateSource::Directory(path) => {
                let handle = linnet_workload::Handle::fixed(linnet_workload::from_files(path)?);
                tasks.spawn(linnet_workload::watch_expiry(
                    handle.clone(),
                    readiness.clone(),
                ));
                handle
            }
            CertificateSource::Identity(source) => {
                let gate = readiness.gate("certificate");
                // Renewal goes on through a drain: it only ends with the process.
                let (_never, watch) = drain::channel();
                linnet_workload::start(source.clone(), gate, watch)
            }
        };
        let directory = self.start_discovery(&readiness, &certificates, &mut tasks)?;
        let (access_log, writer) = Log::start(self.access_log.open()?)?;
        let shared = Shared {
            access_log,
            directory: directory.clone(),
            certificates: certificates.clone(),
            telemetry: telemetry.clone(),
            opaque_ports: Arc::new(self.opaque_ports.iter().copied().collect()),
            drain: watch,
            cap: Cap::new(self.most_connections()),
        };
        let data = self.bind()?;
        let metrics = TcpListener::bind(self.metrics).await?;
        let admin = TcpListener::bind(self.admin).await?;
        let (metrics_address, admin_address) = (metrics.local_addr()?, admin.local_addr()?);
        let threads = data
            .threads
            .into_iter()
            .enumerate()
            .map(|(index, listeners)| data::start(index, listeners, shared.clone()))
            .collect::<io::Result<_>>()?;
        // Held by the data threads alone: the drain ends with them.
        drop(shared);

        let public = health::checks(readiness.clone())
            .merge(telemetry.router(health::metrics_recorder()))
            .merge(self.probes.clone().router());
        let drain_requested = Arc::new(Notify::new());
        let private = admin::router(admin::State {
            dump: {
                let directory = directory.clone();
                Arc::new(move || directory.dump())
            },
            log: deps.log,
            drain: {
                let requested = drain_requested.clone();
                Arc::new(move || requested.notify_one())
            },
            certificate: certificates.clone(),
            explainer: Explainer {
                directory: directory.clone(),
            },
            own_ip: self.pod.ips.first().copied(),
        });
        for (listener, router, kind) in [
            (metrics, public, ListenerKind::Health),
            (admin, private, ListenerKind::Admin),
        ] {
            // Metrics and probes are answered until the process ends.
            let (signal, watch) = drain::channel();
            tasks.spawn(async move {
                let _never = signal;
                serve::serve(listener, router, Transport::Plain, kind, watch).await;
            });
        }
        tasks.spawn(expire(directory, telemetry.clone()));
        Ok(Running {
            outbound: data.outbound,
            inbound: data.inbound,
            metrics: metrics_address,
            admin: admin_address,
            readiness,
            certificates,
            telemetry,
            signal,
            drain_requested,
            drain_timeout: self.drain_timeout,
            threads,
            writer: Some(writer),
            tasks,
        })
    }

    fn start_discovery(
        &self,
        readiness: &Readiness,
        certificates: &linnet_workload::Handle,
        tasks: &mut JoinSet<()>,
    ) -> Result<Arc<Directory>, Error> {
        let (directory, commands) = Directory::new(self.pod.ips.clone());
        match &self.discovery {
            Discovery::Static(config) => fixed::fill(&directory, config),
            Discovery::Controller(address) => {
                let gate = readiness.gate("discovery");
                let known = directory.clone();
                tasks.spawn(async move {
                    known.inbound_known().await;
                    drop(gate);
                });
                let settings = client::Settings {
                    address: address.clone(),
                    controller: controller(&self.trust_domain)?,
                    pod: self.pod.name.clone(),
                };
                let following =
                    client::run(settings, certificates.clone(), directory.clone(), commands);
                tasks.spawn(following);
            }
        }
        Ok(directory)
    }

    /// Returns how many connections may be open in each direction: as many as the
    /// settings allow, but not more than there are files for.
    fn most_connections(&self) -> usize {
        let limit = files::limit();
        let listeners = [ListenerKind::Health, ListenerKind::Admin];
        let listeners = listeners.map(|kind| kind.limits(limit).connections);
        let threads = self.data_threads.get();
        let others = listeners.iter().sum::<usize>() + threads * (limit / FILES_SHARE);
        let room = files::data_connections(limit, threads, others);
        let wanted = self.max_connections.get();
        if room < wanted {
            tracing::info!(
                connections = room,
                files = limit,
                "the limit of open files (RLIMIT_NOFILE) allows fewer connections in each \
                 direction than LINNET_MAX_CONNECTIONS ({wanted})"
            );
        }
        wanted.min(room)
    }

    fn bind(&self) -> io::Result<Bound> {
        let count = self.data_threads.get();
        let mut bound = Bound {
            outbound: Vec::new(),
            inbound: Vec::new(),
            threads: (0..count).map(|_| Vec::new()).collect(),
        };
        for listener in &self.outbound {
            let (address, role) = match listener {
                OutboundListener::Redirected(address) => (*address, Role::OutboundRedirected),
                OutboundListener::Explicit { listen, host } => {
                    (*listen, Role::OutboundExplicit(host.clone()))
                }
            };
            let address = bound.add(address, &role)?;
            bound.outbound.push(address);
        }
        for listener in &self.inbound {
            let (address, role) = match listener {
                InboundListener::Redirected(address) => (*address, Role::InboundRedirected),
                InboundListener::Explicit { listen, app } => (*listen, Role::InboundExplicit(*app)),
            };
            let address = bound.add(address, &role)?;
            bound.inbound.push(address);
        }
        Ok(bound)
    }
}

struct Bound {
    outbound: Vec<SocketAddr>,
    inbound: Vec<SocketAddr>,
    /// For each data thread its sockets.
    threads: Vec<Vec<(Role, StdListener)>>,
}

impl Bound {
    fn add(&mut self, address: SocketAddr, role: &Role) -> io::Result<SocketAddr> {
        let sockets = listen::bind(address, self.threads.len())?;
        let address = sockets
            .first()
            .map_or(Ok(address), StdListener::local_addr)?;
        for (thread, socket) in self.threads.iter_mut().zip(sockets) {
            thread.push((role.clone(), socket));
        }
        Ok(address)
    }
}

impl Running {
    /// Until an operator asks for the drain at the admin endpoint.
    pub async fn drain_requested(&self) {
        self.drain_requested.notified().await;
    }

    /// Until the sidecar is ready.
    pub async fn ready(&self) {
        while !self.readiness.is_ready() {
            tokio::time::sleep(READY_CHECK).await;
        }
    }

    /// The workload's certificate.
    pub fn certificates(&self) -> &linnet_workload::Handle {
        &self.certificates
    }

    /// The sidecar's Istio metrics, as text: what `/metrics` shows besides the
    /// process's own.
    pub fn metrics_text(&self) -> String {
        self.telemetry.render()
    }

    /// Lets connections finish, within the drain's time limit, then ends.
    pub async fn drain(mut self) {
        tracing::info!(limit = ?self.drain_timeout, "draining");
        if self.signal.drain_within(self.drain_timeout).await {
            tracing::info!("drained");
            let threads = std::mem::take(&mut self.threads);
            let joined = tokio::task::spawn_blocking(move || {
                threads
                    .into_iter()
                    .map(JoinHandle::join)
                    .all(|end| end.is_ok())
            });
            if !joined.await.unwrap_or(false) {
                tracing::error!("a data thread panicked; this is a bug worth a report");
            }
            if let Some(writer) = self.writer.take() {
                writer.finish().await;
            }
        } else {
            tracing::warn!("connections were still open at the drain's time limit");
        }
        self.tasks.shutdown().await;
    }
}

async fn expire(directory: Arc<Directory>, telemetry: Telemetry) {
    let mut interval = tokio::time::interval(EXPIRE);
    let mut ejections = tokio::time::interval(EJECTIONS);
    loop {
        tokio::select! {
            _ = interval.tick() => {
                directory.expire();
                telemetry.expire(Instant::now());
            }
            _ = ejections.tick() => directory.show_ejected(Instant::now()),
        }
    }
}

fn controller(trust_domain: &TrustDomain) -> Result<SpiffeId, linnet_mesh::spiffe::ParseError> {
    SpiffeId::new(trust_domain, CONTROL_PLANE_NAMESPACE, CONTROLLER_ACCOUNT)
}
