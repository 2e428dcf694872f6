//! The demo's services and the manifests that describe them: frontend →
//! checkout → payment in two versions, each behind a sidecar, and the same chain
//! without sidecars.

use super::Error;
use linnet_sample::server::{Config, Server, Upstream};
use std::{
    fmt::Write as _,
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

/// The guides' own YAML: the 90/10 canary, and STRICT for the whole mesh.
const CANARY: &str = include_str!("../../../../manifests/examples/payment-service.yaml");
const STRICT: &str = include_str!("../../../../manifests/examples/mesh-strict.yaml");
const CANARY_FILE: &str = "payment-service.yaml";
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Shop {
    /// The meshed chain's first application.
    pub(super) frontend: SocketAddr,
    /// The other chain's.
    pub(super) direct: SocketAddr,
    /// Where a sidecar takes calls for payment.
    pub(super) payment_inbound: SocketAddr,
    manifests: PathBuf,
    servers: Vec<Server>,
}

/// An application with its sidecar's addresses.
struct Workload {
    service: &'static str,
    app: &'static str,
    version: &'static str,
    listens: SocketAddr,
    inbound: SocketAddr,
    /// The local port for the service it calls.
    outbound: Option<(SocketAddr, &'static str)>,
}

impl Shop {
    /// Starts the applications and writes their manifests.
    pub(super) async fn open(manifests: &Path) -> Result<Self, Error> {
        let mut servers = Vec::new();
        let [
            payment_v1_in,
            payment_v2_in,
            checkout_in,
            to_payment,
            frontend_in,
            to_checkout,
        ] = free_ports()?;
        let mut workloads = Vec::new();
        for (version, inbound) in [("v1", payment_v1_in), ("v2", payment_v2_in)] {
            workloads.push(Workload {
                service: "payment-service",
                app: "payment",
                version,
                listens: serve(&mut servers, "payment", version, None).await?,
                inbound,
                outbound: None,
            });
        }
        let payment = "payment-service";
        workloads.push(Workload {
            service: "checkout",
            app: "checkout",
            version: "v1",
            listens: serve(&mut servers, "checkout", "v1", Some((to_payment, payment))).await?,
            inbound: checkout_in,
            outbound: Some((to_payment, payment)),
        });
        let checkout = "checkout";
        let frontend = serve(
            &mut servers,
            "frontend",
            "v1",
            Some((to_checkout, checkout)),
        )
        .await?;
        workloads.push(Workload {
            service: "frontend",
            app: "frontend",
            version: "v1",
            listens: frontend,
            inbound: frontend_in,
            outbound: Some((to_checkout, checkout)),
        });

        let last = serve(&mut servers, "payment", "v1", None).await?;
        let middle = serve(&mut servers, "checkout", "v1", Some((last, payment))).await?;
        let direct = serve(&mut servers, "frontend", "v1", Some((middle, checkout))).await?;

        fs::write(manifests.join("services.yaml"), services(&workloads))?;
        fs::write(manifests.join("mesh-strict.yaml"), STRICT)?;
        fs::write(manifests.join(CANARY_FILE), CANARY)?;
        Ok(Self {
            frontend,
            direct,
            payment_inbound: payment_v1_in,
            manifests: manifests.to_owned(),
            servers,
        })
    }

    /// Edits the canary's file as an editor would, by putting a new one in its
    /// place: 90/10 becomes 100/0.
    pub(super) fn send_all_to_v1(&self) -> io::Result<()> {
        let saved = self.manifests.join(".payment-service.yaml.new");
        fs::write(&saved, all_to_v1())?;
        fs::rename(saved, self.manifests.join(CANARY_FILE))
    }

    pub(super) fn manifests(&self) -> &Path {
        &self.manifests
    }

    pub(super) async fn close(self) {
        for server in self.servers {
            server.shutdown(CLOSE_LIMIT).await;
        }
    }
}

fn all_to_v1() -> String {
    CANARY
        .replace("weight: 90", "weight: 100")
        .replace("weight: 10\n", "weight: 0\n")
}

async fn serve(
    servers: &mut Vec<Server>,
    name: &str,
    version: &str,
    calls: Option<(SocketAddr, &str)>,
) -> Result<SocketAddr, Error> {
    let calls = calls.map(|(address, host)| Upstream {
        uri: format!("http://{address}/")
            .parse()
            .expect("an address is an authority"),
        host: Some(host.to_owned()),
    });
    let server = Config {
        name: name.to_owned(),
        version: version.to_owned(),
        pod: format!("{name}-{version}"),
        calls,
        http: Some((Ipv4Addr::LOCALHOST, 0).into()),
        ..Config::default()
    }
    .serve()
    .await?;
    let address = server.addresses().http;
    servers.push(server);
    address.ok_or_else(|| io::Error::other("the sample service has no HTTP port").into())
}

/// Ports that nobody listens on: the manifests name them before the sidecars
/// listen. All are held until all are found, so that they differ.
fn free_ports<const N: usize>() -> io::Result<[SocketAddr; N]> {
    let mut held = Vec::with_capacity(N);
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for address in &mut addresses {
        let listener = TcpListener::bind(*address)?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(addresses)
}

/// Manifests as a cluster would have them; a slice a pod, because on loopback
/// each pod has a port of its own.
fn services(workloads: &[Workload]) -> String {
    let mut text = String::new();
    let mut described = Vec::new();
    for workload in workloads {
        if !described.contains(&workload.service) {
            described.push(workload.service);
            let _ = write!(text, "{}", service(workload));
        }
        let _ = write!(text, "{}{}", pod(workload), slice(workload));
    }
    text
}

fn service(workload: &Workload) -> String {
    let Workload { service, app, .. } = workload;
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {service}, namespace: default}}
spec:
  selector: {{app: {app}}}
  ports: [{{name: http, port: 80, targetPort: http}}]
"
    )
}

fn pod(workload: &Workload) -> String {
    let Workload {
        app,
        version,
        listens,
        inbound,
        outbound,
        ..
    } = workload;
    let outbound = outbound.map_or_else(String::new, |(address, service)| {
        format!(
            "\n    linnet.io/outbound-listeners: {address}={service}.default.svc.cluster.local:80"
        )
    });
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {app}-{version}
  namespace: default
  labels: {{app: {app}, version: {version}, linnet.io/sidecar: injected}}
  annotations:
    linnet.io/inbound-listeners: {inbound}={listens}{outbound}
spec:
  serviceAccountName: {app}
  containers: [{{name: app, ports: [{{name: http, containerPort: {port}}}]}}]
status: {{podIP: 127.0.0.1}}
",
        port = listens.port()
    )
}

fn slice(workload: &Workload) -> String {
    let Workload {
        service,
        app,
        version,
        inbound,
        ..
    } = workload;
    format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {service}-{version}
  namespace: default
  labels: {{kubernetes.io/service-name: {service}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints:
- addresses: [127.0.0.1]
  conditions: {{ready: true}}
  targetRef: {{kind: Pod, name: {app}-{version}, namespace: default}}
",
        port = inbound.port()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edit_changes_the_weights_and_nothing_else() {
        let edited = all_to_v1();
        assert!(edited.contains("weight: 100\n") && edited.contains("weight: 0\n"));
        let differing = CANARY.lines().zip(edited.lines()).filter(|(a, b)| a != b);
        assert_eq!(differing.count(), 2);
    }
}
