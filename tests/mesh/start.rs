//! What a sidecar's start waits for: counted in connections and round trips, which are
//! the same on any machine.

use linnet_identity::{attest::SignedTokens, authority::RootStore};
use linnet_mesh::TrustDomain;
use linnet_proxy::{
    config::Config,
    server::{Deps, Running},
};
use linnet_runtime::{drain, logging, readiness::Readiness, settings::Settings};
use linnet_workload::{BundleSource, TokenSource};
use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// Bounds a hang, nothing else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A way to a service that counts what goes over it, and that may be closed at first.
struct Relay {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// How often the caller spoke after it had waited for an answer.
    flights: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl Relay {
    async fn to(service: SocketAddr, open: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            flights: Arc::default(),
            gate: Arc::new(Semaphore::new(usize::from(open))),
        };
        let (connections, flights) = (relay.connections.clone(), relay.flights.clone());
        let gate = relay.gate.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                connections.fetch_add(1, Relaxed);
                let (flights, gate) = (flights.clone(), gate.clone());
                tokio::spawn(async move {
                    drop(gate.acquire().await);
                    let far = TcpStream::connect(service).await.unwrap();
                    carry(near, far, &flights).await;
                });
            }
        });
        relay
    }

    fn counted(&self) -> (usize, usize) {
        (self.connections.load(Relaxed), self.flights.load(Relaxed))
    }
}

async fn carry(mut near: TcpStream, mut far: TcpStream, flights: &AtomicUsize) {
    let (mut asked, mut answered) = ([0; 16 * 1024], [0; 16 * 1024]);
    let mut waited = true;
    loop {
        let carried = tokio::select! {
            read = near.read(&mut asked) => match read {
                Ok(length) if length > 0 => {
                    if std::mem::replace(&mut waited, false) {
                        flights.fetch_add(1, Relaxed);
                    }
                    far.write_all(&asked[..length]).await
                }
                _ => return,
            },
            read = far.read(&mut answered) => match read {
                Ok(length) if length > 0 => {
                    waited = true;
                    near.write_all(&answered[..length]).await
                }
                _ => return,
            },
        };
        if carried.is_err() {
            return;
        }
    }
}

/// The control plane, and files of whoever is of its mesh.
struct Plane {
    tokens: SignedTokens,
    identity: linnet_identity::Running,
    controller: linnet_controller::Running,
    files: tempfile::TempDir,
    _signals: [drain::Signal; 3],
}

impl Plane {
    async fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let tokens = SignedTokens::generate().unwrap();
        let (signal, drain) = drain::channel();
        let dependencies = linnet_identity::Dependencies {
            attest: Box::new(tokens.clone()),
            root: RootStore::memory(),
            readiness: Readiness::new(),
            drain,
        };
        let config = linnet_identity::config::Config::loopback();
        let identity = config.build(dependencies).await.unwrap();
        let token = tokens.issue("linnet-system", "linnet-controller", PATIENCE * 60);
        let source = linnet_workload::Source {
            identity_url: format!("https://{}", identity.https_address)
                .parse()
                .unwrap(),
            token: TokenSource::Text(token.unwrap()),
            trust_bundle: BundleSource::Text(identity.bundle_pem().to_string()),
            trust_domain: TrustDomain::default(),
        };
        let (renewing, watch) = drain::channel();
        let certificate =
            linnet_workload::start(source, Readiness::new().gate("certificate"), watch);
        certificate.wait().await;
        let (serving, drain) = drain::channel();
        let manifests = files.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        let deps = linnet_controller::Deps {
            source: linnet_controller::Source::Directory(manifests),
            certificate,
            readiness: Readiness::new(),
            drain,
        };
        let config = linnet_controller::Config::loopback();
        Self {
            tokens,
            identity,
            controller: config.build(deps).await.unwrap(),
            files,
            _signals: [signal, renewing, serving],
        }
    }

    async fn sidecar(&self, identity: SocketAddr, controller: SocketAddr) -> Running {
        let path = |name: &str| self.files.path().join(name);
        let token = self.tokens.issue("default", "payment", PATIENCE * 60);
        fs::write(path("token"), token.unwrap()).unwrap();
        fs::write(path("ca.pem"), &*self.identity.bundle_pem()).unwrap();
        let environment = HashMap::from([
            ("LINNET_IDENTITY_URL", format!("https://{identity}")),
            ("LINNET_TOKEN_FILE", path("token").display().to_string()),
            (
                "LINNET_TRUST_BUNDLE_FILE",
                path("ca.pem").display().to_string(),
            ),
            ("LINNET_DISCOVERY_ADDRESS", controller.to_string()),
            (
                "LINNET_INBOUND_LISTENERS",
                "127.0.0.1:0=127.0.0.1:9".to_owned(),
            ),
            ("LINNET_POD_NAME", "payment".to_owned()),
            ("LINNET_POD_NAMESPACE", "default".to_owned()),
            ("LINNET_SERVICE_ACCOUNT", "payment".to_owned()),
            ("LINNET_POD_IPS", "127.0.0.1".to_owned()),
            ("LINNET_METRICS_LISTEN", "127.0.0.1:0".to_owned()),
            ("LINNET_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ]);
        let config = Config::read(Settings::new(&|name| environment.get(name).cloned())).unwrap();
        let log = logging::init("warn");
        config.build(Deps { log }).await.unwrap()
    }
}

#[tokio::test]
async fn a_start_takes_one_connection_and_few_round_trips_to_each_service() {
    let plane = Plane::start().await;
    let identity = Relay::to(plane.identity.https_address, true).await;
    let controller = Relay::to(plane.controller.discovery_address, true).await;
    let begun = Instant::now();
    let sidecar = plane.sidecar(identity.address, controller.address).await;
    let ready = tokio::time::timeout(PATIENCE, sidecar.ready()).await;
    ready.expect("the sidecar is ready");
    let (took, asked, told) = (begun.elapsed(), identity.counted(), controller.counted());
    println!("ready after {took:?}; identity {asked:?}, controller {told:?}");
    // The TLS hello, the request, and the connection's end.
    assert!(asked.0 == 1 && asked.1 <= 3, "identity: {asked:?}");
    // The TLS hello, the subscription, and acknowledgements.
    assert!(told.0 == 1 && told.1 <= 4, "controller: {told:?}");
}

/// Identity does not answer before the controller has been connected to.
#[tokio::test]
async fn the_controller_is_connected_to_while_the_certificate_is_on_its_way() {
    let plane = Plane::start().await;
    let identity = Relay::to(plane.identity.https_address, false).await;
    let controller = Relay::to(plane.controller.discovery_address, true).await;
    let sidecar = plane.sidecar(identity.address, controller.address).await;
    let connected = async {
        while controller.counted().0 == 0 {
            tokio::task::yield_now().await;
        }
    };
    let connected = tokio::time::timeout(Duration::from_secs(5), connected).await;
    connected.expect("the controller is connected to");
    assert!(sidecar.certificates().current().is_none());
    identity.gate.add_permits(1);
    let ready = tokio::time::timeout(PATIENCE, sidecar.ready()).await;
    ready.expect("the sidecar is ready");
    assert_eq!(controller.counted().0, 1);
}
