//! Sidecars with certificates from a directory and fixed endpoints, as somebody
//! would run them by hand.

use linnet_proxy::{
    access_log::Line,
    config::Config,
    server::{Deps, Running},
};
use linnet_runtime::{drain, logging, readiness::Readiness, settings::Settings};
use linnet_sample::server;
use linnet_workload::testing::{Authority, Leaf};
use std::{collections::HashMap, fs, net::SocketAddr, path::Path};

/// What a sidecar is started with.
pub(crate) struct Sidecar<'a> {
    pub(crate) account: &'a str,
    /// `listen=host` and `listen=app` lists, as in the environment.
    pub(crate) outbound: String,
    pub(crate) inbound: String,
    /// The static configuration, YAML.
    pub(crate) services: String,
}

/// A root and a place for the files of sidecars.
pub(crate) struct Mesh {
    pub(crate) authority: Authority,
    files: tempfile::TempDir,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self {
            authority: Authority::default(),
            files: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) async fn start(&self, sidecar: Sidecar<'_>) -> Running {
        let directory = self.files.path().join(sidecar.account);
        fs::create_dir_all(&directory).unwrap();
        let services = directory.join("services.yaml");
        fs::write(&services, sidecar.services).unwrap();
        let environment = HashMap::from([
            ("LINNET_STATIC_CONFIG", services.display().to_string()),
            ("LINNET_OUTBOUND_LISTENERS", sidecar.outbound),
            ("LINNET_INBOUND_LISTENERS", sidecar.inbound),
        ]);
        self.run(sidecar.account, environment).await
    }

    /// A sidecar that asks a controller.
    pub(crate) async fn start_told(
        &self,
        account: &str,
        inbound: String,
        controller: SocketAddr,
    ) -> Running {
        let environment = HashMap::from([
            ("LINNET_DISCOVERY_ADDRESS", controller.to_string()),
            ("LINNET_INBOUND_LISTENERS", inbound),
            ("LINNET_POD_NAME", account.to_owned()),
            ("LINNET_POD_NAMESPACE", "default".to_owned()),
            ("LINNET_SERVICE_ACCOUNT", account.to_owned()),
            ("LINNET_POD_IPS", "127.0.0.1".to_owned()),
        ]);
        self.run(account, environment).await
    }

    /// A sidecar whose workload calls hosts that a controller knows.
    pub(crate) async fn start_caller(
        &self,
        account: &str,
        outbound: &str,
        controller: SocketAddr,
    ) -> Running {
        let environment = HashMap::from([
            ("LINNET_DISCOVERY_ADDRESS", controller.to_string()),
            ("LINNET_OUTBOUND_LISTENERS", outbound.to_owned()),
            ("LINNET_POD_NAME", account.to_owned()),
            ("LINNET_POD_NAMESPACE", "default".to_owned()),
            ("LINNET_SERVICE_ACCOUNT", account.to_owned()),
            // Not the callee's address: it would be a call to itself.
            ("LINNET_POD_IPS", "127.0.0.2".to_owned()),
        ]);
        self.run(account, environment).await
    }

    /// A controller on a directory of manifests.
    pub(crate) async fn controller(
        &self,
        manifests: &Path,
    ) -> (linnet_controller::Running, drain::Signal) {
        let (signal, drain) = drain::channel();
        let certificate = self
            .authority
            .workload("linnet-system", "linnet-controller");
        let deps = linnet_controller::Deps {
            source: linnet_controller::Source::Directory(manifests.to_owned()),
            certificate: linnet_workload::Handle::fixed(certificate),
            readiness: Readiness::new(),
            drain,
        };
        let config = linnet_controller::Config::loopback();
        (config.build(deps).await.unwrap(), signal)
    }

    /// The file of a sidecar's access log.
    pub(crate) fn access_log_file(&self, account: &str) -> std::path::PathBuf {
        access_log(&self.files.path().join(account)).into()
    }

    /// The lines of a sidecar's access log, so far.
    pub(crate) fn access_log(&self, account: &str) -> Vec<Line<'static>> {
        let directory = self.files.path().join(account);
        let text = fs::read_to_string(access_log(&directory)).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub(crate) async fn run(
        &self,
        account: &str,
        mut environment: HashMap<&'static str, String>,
    ) -> Running {
        let directory = self.files.path().join(account);
        fs::create_dir_all(&directory).unwrap();
        let identity = identity(account);
        let (chain, key) = self.authority.issue_pem(&Leaf::new(&[&identity]));
        fs::write(directory.join("ca.pem"), self.authority.bundle_pem()).unwrap();
        fs::write(directory.join("leaf.pem"), chain).unwrap();
        fs::write(directory.join("leaf.key"), key).unwrap();
        environment.extend([
            ("LINNET_CERTIFICATE_DIR", directory.display().to_string()),
            ("LINNET_METRICS_LISTEN", "127.0.0.1:0".to_owned()),
            ("LINNET_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
            ("LINNET_ACCESS_LOG", access_log(&directory)),
        ]);
        let config = Config::read(Settings::new(&|name| environment.get(name).cloned())).unwrap();
        let log = logging::init("warn");
        config.build(Deps { log }).await.unwrap()
    }
}

fn access_log(directory: &Path) -> String {
    directory.join("access.log").display().to_string()
}

pub(crate) fn identity(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}

/// The sample application with all its ports.
pub(crate) async fn sample() -> server::Server {
    let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let config = server::Config {
        name: "payment".into(),
        version: "v1".into(),
        pod: "payment-0".into(),
        calls: None,
        http: any,
        tls: any,
        tcp: any,
        server_first: any,
    };
    config.serve().await.unwrap()
}

/// client → outbound → mutual TLS → inbound → sample, for each of its ports.
pub(crate) struct Pair {
    pub(crate) client: Running,
    pub(crate) server: Running,
}

impl Pair {
    /// Outbound ports in the order http, tls, tcp, server-first of the sample.
    pub(crate) async fn start(mesh: &Mesh, expected: &str) -> Self {
        let addresses = sample().await.addresses();
        let ports: Vec<_> = [
            addresses.http,
            addresses.tls,
            addresses.tcp,
            addresses.server_first,
        ]
        .into_iter()
        .flatten()
        .collect();
        Self::before(mesh, expected, &ports).await
    }

    /// The same before applications of a test's own.
    pub(crate) async fn before(mesh: &Mesh, expected: &str, ports: &[SocketAddr]) -> Self {
        let inbound: Vec<_> = ports
            .iter()
            .map(|app| format!("127.0.0.1:0={app}"))
            .collect();
        let server = mesh
            .start(Sidecar {
                account: "payment",
                outbound: String::new(),
                inbound: inbound.join(","),
                services: "inboundMtls: STRICT\nservices: {}\n".into(),
            })
            .await;
        let mut services = String::from("services:\n");
        let mut outbound = Vec::new();
        for (position, address) in server.inbound.iter().enumerate() {
            let host = format!("payment.default.svc.cluster.local:{}", 8001 + position);
            services += &format!(
                "  {host}:\n    - address: {address}\n      identity: {}\n",
                identity(expected)
            );
            outbound.push(format!("127.0.0.1:0={host}"));
        }
        let client = mesh
            .start(Sidecar {
                account: "checkout",
                outbound: outbound.join(","),
                inbound: String::new(),
                services,
            })
            .await;
        Self { client, server }
    }

    pub(crate) fn port(&self, position: usize) -> SocketAddr {
        self.client.outbound[position]
    }
}

/// The sum of a counter's series whose labels contain all of `labels`.
pub(crate) fn count(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    metrics
        .lines()
        .filter(|line| line.starts_with(&format!("{name}{{")))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}
