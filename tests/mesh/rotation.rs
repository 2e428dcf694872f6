//! Certificates of seconds, and requests all the time: another root, and an
//! identity service that goes away. Not one request fails.

use crate::support::{identity, sample};
use linnet_identity::{attest::SignedTokens, authority::RootStore};
use linnet_proxy::{
    config::Config,
    server::{Deps, Running},
};
use linnet_runtime::{drain, logging, readiness::Readiness, settings::Settings};
use linnet_sample::client::{Call, Client, Protocol, Target};
use std::{collections::HashMap, fs, net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// Long enough for a machine that is busy with other tests.
const LIFETIME: Duration = Duration::from_secs(10);
const WAIT: time::Duration = time::Duration::seconds(12);
const HOST: &str = "payment.default.svc.cluster.local:80";

/// An identity service that can stop and come back.
struct Identity {
    tokens: SignedTokens,
    root: RootStore,
    address: SocketAddr,
    running: linnet_identity::Running,
    signal: drain::Signal,
}

impl Identity {
    async fn start() -> Self {
        let tokens = SignedTokens::generate().unwrap();
        let root = RootStore::memory();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (running, signal) = Self::serve(&tokens, &root, any).await;
        Self {
            tokens,
            root,
            address: running.https_address,
            running,
            signal,
        }
    }

    async fn serve(
        tokens: &SignedTokens,
        root: &RootStore,
        address: SocketAddr,
    ) -> (linnet_identity::Running, drain::Signal) {
        let (signal, drain) = drain::channel();
        let mut config = linnet_identity::config::Config::loopback();
        config.address = address;
        config.lifetime = LIFETIME;
        config.rotation.distribution = Some(WAIT);
        config.rotation.retirement = Some(WAIT);
        let dependencies = linnet_identity::Dependencies {
            attest: Box::new(tokens.clone()),
            root: root.clone(),
            readiness: Readiness::new(),
            drain,
        };
        (config.build(dependencies).await.unwrap(), signal)
    }

    /// Stops, and after a while another replica takes its place.
    async fn away(&mut self, pause: Duration) {
        let (spare, _) = drain::channel();
        let signal = std::mem::replace(&mut self.signal, spare);
        signal.drain().await;
        sleep(pause).await;
        (self.running, self.signal) = Self::serve(&self.tokens, &self.root, self.address).await;
    }
}

struct Mesh {
    identity: Identity,
    files: tempfile::TempDir,
    client: Running,
    server: Running,
}

impl Mesh {
    async fn start() -> Self {
        let identity_service = Identity::start().await;
        let files = tempfile::tempdir().unwrap();
        let app = sample().await.addresses().http.unwrap();
        let inbound = format!("127.0.0.1:0={app}");
        let services = "inboundMtls: STRICT\nservices: {}\n".to_owned();
        let server = sidecar(
            &identity_service,
            &files,
            "payment",
            ("LINNET_INBOUND_LISTENERS", inbound),
            services,
        )
        .await;
        let services = format!(
            "services:\n  {HOST}:\n    - address: {}\n      identity: {}\n",
            server.inbound[0],
            identity("payment")
        );
        let outbound = format!("127.0.0.1:0={HOST}");
        let client = sidecar(
            &identity_service,
            &files,
            "checkout",
            ("LINNET_OUTBOUND_LISTENERS", outbound),
            services,
        )
        .await;
        client.certificates().wait().await;
        server.certificates().wait().await;
        Self {
            identity: identity_service,
            files,
            client,
            server,
        }
    }

    /// Requests until the end, on kept connections and on new ones; how many.
    fn load(&self, end: Instant) -> impl Future<Output = u32> + use<> {
        let target: Target = self.client.outbound[0].to_string().parse().unwrap();
        async move {
            let mut kept = Client::new(Call::new(Protocol::Http1, target.clone()));
            let mut requests = 0;
            while Instant::now() < end {
                let mut fresh = Client::new(Call::new(Protocol::Http1, target.clone()));
                for client in [&mut kept, &mut fresh] {
                    if let Err(error) = client.call().await {
                        panic!("request {requests} failed: {error}");
                    }
                    requests += 1;
                }
                sleep(Duration::from_millis(20)).await;
            }
            requests
        }
    }

    fn sidecars(&self) -> [&Running; 2] {
        [&self.client, &self.server]
    }
}

async fn sidecar(
    service: &Identity,
    files: &tempfile::TempDir,
    account: &str,
    listeners: (&'static str, String),
    services: String,
) -> Running {
    let path = |name: &str| files.path().join(format!("{account}-{name}"));
    let token = service
        .tokens
        .issue("default", account, Duration::from_secs(3600))
        .unwrap();
    fs::write(path("token"), token).unwrap();
    fs::write(path("ca.pem"), &*service.running.bundle_pem()).unwrap();
    fs::write(path("services.yaml"), services).unwrap();
    let environment = HashMap::from([
        listeners,
        (
            "LINNET_STATIC_CONFIG",
            path("services.yaml").display().to_string(),
        ),
        (
            "LINNET_IDENTITY_URL",
            format!("https://{}", service.address),
        ),
        ("LINNET_TOKEN_FILE", path("token").display().to_string()),
        (
            "LINNET_TRUST_BUNDLE_FILE",
            path("ca.pem").display().to_string(),
        ),
        ("LINNET_METRICS_LISTEN", "127.0.0.1:0".to_owned()),
        ("LINNET_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
    ]);
    let config = Config::read(Settings::new(&|name| environment.get(name).cloned())).unwrap();
    let log = logging::init("warn");
    config.build(Deps { log }).await.unwrap()
}

fn root(sidecar: &Running) -> String {
    let workload = sidecar.certificates().current().unwrap();
    workload.root().unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_takes_over_and_no_request_fails() {
    let mesh = Mesh::start().await;
    let first = root(&mesh.client);
    mesh.identity.running.rotate_root("now").unwrap();
    let begun = Instant::now();
    let end = begun + Duration::from_secs(34);
    let load = tokio::spawn(mesh.load(end));
    let mut both_seen = false;
    while Instant::now() < end {
        let anchors = mesh.identity.running.bundle_pem().matches("BEGIN").count();
        both_seen |= anchors == 2;
        if both_seen && anchors == 1 {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let retired = begun.elapsed();
    assert!(retired >= Duration::from_secs(24), "two waits: {retired:?}");
    let requests = load.await.unwrap();
    assert!(requests > 100, "{requests} requests");
    for sidecar in mesh.sidecars() {
        assert_ne!(root(sidecar), first);
        assert!(sidecar.readiness.is_ready());
        assert!(
            sidecar.certificates().generation() >= 5,
            "renewed all the time"
        );
    }
    let ours = mesh
        .identity
        .running
        .authority()
        .root()
        .trusted_by()
        .to_owned();
    assert_eq!(root(&mesh.server), ours);
    println!("{requests} requests, none failed; the first root was retired after {retired:?}");
    drop(mesh.files);
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_is_away_for_two_fifths_of_a_lifetime_and_no_request_fails() {
    let mut mesh = Mesh::start().await;
    let load = tokio::spawn(mesh.load(Instant::now() + Duration::from_secs(20)));
    // Renewals fall due from two fifths of a lifetime on.
    sleep(LIFETIME.mul_f64(0.4)).await;
    let before: Vec<u64> = mesh
        .sidecars()
        .map(|s| s.certificates().generation())
        .into();
    mesh.identity.away(LIFETIME.mul_f64(0.4)).await;
    let back = Instant::now();
    for (sidecar, before) in mesh.sidecars().into_iter().zip(before) {
        let certificates = Arc::new(sidecar.certificates().clone());
        while certificates.generation() <= before {
            assert!(back.elapsed() < Duration::from_secs(5), "not renewed");
            sleep(Duration::from_millis(20)).await;
        }
        assert!(sidecar.readiness.is_ready());
    }
    let renewed = back.elapsed();
    let requests = load.await.unwrap();
    println!("{requests} requests, none failed; all renewed within {renewed:?}");
}
