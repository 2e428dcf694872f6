//! VirtualServices from files, through a controller, to the sidecar of a caller
//! and the two versions of the service behind another.

use crate::{
    support::{Mesh, count},
    why::why,
};
use linnet_proxy::server::Running;
use linnet_sample::{
    client::{Call, Client, Protocol},
    server,
};
use std::{fmt::Write, fs, net::SocketAddr, path::Path, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// No edit on loopback takes this long; a test that waits for one fails.
const PATIENCE: Duration = Duration::from_secs(20);

const HTTP: usize = 0;
const TCP: usize = 1;
const TLS: usize = 2;

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: payment}
spec: {ports: [{name: http, port: 80}, {name: tcp, port: 9000}, {name: tls, port: 443}]}
---
apiVersion: v1
kind: Service
metadata: {name: ledger}
spec: {ports: [{name: tcp, port: 9000}, {name: tls, port: 443}]}
---
apiVersion: v1
kind: Pod
metadata: {name: checkout, labels: {app: checkout}}
spec: {serviceAccountName: checkout}
status: {podIP: 127.0.0.2}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: payment}
spec:
  host: payment
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: team}
spec:
  http:
  - match: [{uri: {prefix: /team/closed}}]
    directResponse: {status: 410}
  - route: [{destination: {host: payment, subset: v2}}]
";

/// The rules, with the shares of the two versions in the last of them.
fn rules(v1: u32, v2: u32) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: payment}}
spec:
  hosts: [payment]
  http:
  - match: [{{sourceLabels: {{app: frontend}}}}]
    directResponse: {{status: 418}}
  - match: [{{uri: {{exact: /own}}, sourceLabels: {{app: checkout}}}}]
    directResponse: {{status: 202}}
  - match: [{{headers: {{x-user: {{exact: vip}}}}}}]
    route: [{{destination: {{host: payment, subset: v2}}}}]
  - match: [{{uri: {{prefix: /team}}}}]
    delegate: {{name: team}}
  - match: [{{uri: {{prefix: /page}}}}]
    corsPolicy: {{allowOrigins: [{{exact: 'https://shop.example'}}], allowMethods: [GET], maxAge: 1m}}
    route: [{{destination: {{host: payment, subset: v1}}}}]
  - match: [{{uri: {{exact: /broken}}}}]
    route: [{{destination: {{host: payment, subset: v9}}}}]
  - route:
    - {{destination: {{host: payment, subset: v1}}, weight: {v1}}}
    - {{destination: {{host: payment, subset: v2}}, weight: {v2}}}
  tcp:
  - match: [{{port: 9000}}]
    route: [{{destination: {{host: ledger}}}}]
  tls:
  - match: [{{port: 443, sniHosts: [ledger.example]}}]
    route: [{{destination: {{host: ledger}}}}]
"
    )
}

/// A pod with an address of its own port for each of a service's ports.
fn endpoint(pod: &str, service: &str, version: &str, ports: &[(&str, SocketAddr)]) -> String {
    let mut listed = String::new();
    for (name, address) in ports {
        write!(listed, "{{name: {name}, port: {}}}, ", address.port()).unwrap();
    }
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {pod}, labels: {{version: {version}, linnet.io/sidecar: injected}}}}
spec: {{serviceAccountName: payment}}
status: {{podIP: 127.0.0.1}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {pod}, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports: [{listed}]
endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {pod}}}}}]
"
    )
}

async fn application(version: &str) -> server::Addresses {
    let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let config = server::Config {
        name: "payment".into(),
        version: version.into(),
        pod: format!("payment-{version}"),
        http: any,
        tls: any,
        tcp: any,
        ..server::Config::default()
    };
    config.serve().await.unwrap().addresses()
}

struct Shop {
    _mesh: Mesh,
    files: tempfile::TempDir,
    _keep: (linnet_controller::Running, linnet_runtime::drain::Signal),
    _payment: Running,
    checkout: Running,
}

impl Shop {
    async fn open() -> Self {
        let mesh = Mesh::new();
        let files = tempfile::tempdir().unwrap();
        write(files.path(), "rules.yaml", &rules(100, 0));
        let keep = mesh.controller(files.path()).await;
        let controller = keep.0.discovery_address;
        let mut inbound = Vec::new();
        for version in ["v1", "v2"] {
            let addresses = application(version).await;
            let ports = [addresses.http, addresses.tcp, addresses.tls];
            inbound.extend(ports.map(|app| format!("127.0.0.1:0={}", app.unwrap())));
        }
        let payment = mesh
            .start_told("payment", inbound.join(","), controller)
            .await;
        let at = &payment.inbound;
        let v1 = [("http", at[0]), ("tcp", at[1]), ("tls", at[2])];
        let cluster = SERVICES.to_owned()
            + &endpoint("payment-v1", "payment", "v1", &v1)
            + &endpoint("payment-v2", "payment", "v2", &[("http", at[3])])
            + &endpoint("ledger", "ledger", "v1", &[("tcp", at[4]), ("tls", at[5])]);
        write(files.path(), "cluster.yaml", &cluster);
        let outbound = [80, 9000, 443]
            .map(|port| format!("127.0.0.1:0=payment.default.svc.cluster.local:{port}"));
        let checkout = mesh
            .start_caller("checkout", &outbound.join(","), controller)
            .await;
        let shop = Self {
            _mesh: mesh,
            files,
            _keep: keep,
            _payment: payment,
            checkout,
        };
        // The manifests are read by and by, the caller's labels among them.
        shop.until("GET /own", "", "202").await;
        shop.until("GET /team/closed", "", "410").await;
        shop.until("GET /", "", "\"v1\"").await;
        shop
    }

    /// The whole answer to a request.
    async fn ask(&self, start: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(self.checkout.outbound[HTTP])
            .await
            .unwrap();
        let head =
            format!("{start} HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn until(&self, start: &str, headers: &str, wanted: &str) {
        let change = async {
            while !self.ask(start, headers).await.contains(wanted) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, change).await;
        if in_time.is_err() {
            let answer = self.ask(start, headers).await;
            panic!("{start}: {wanted} was not answered but {answer}");
        }
    }

    /// How many of some requests each version answered.
    async fn split(&self, requests: usize) -> (usize, usize) {
        let (mut v1, mut v2) = (0, 0);
        for _ in 0..requests {
            let answer = self.ask("GET /", "").await;
            v1 += usize::from(answer.contains("\"v1\""));
            v2 += usize::from(answer.contains("\"v2\""));
        }
        (v1, v2)
    }

    /// Connections opened to a service.
    fn opened(&self, service: &str) -> f64 {
        let name = format!("destination_service_name=\"{service}\"");
        count(
            &self.checkout.metrics_text(),
            "istio_tcp_connections_opened_total",
            &[&name, "reporter=\"source\""],
        )
    }
}

fn write(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join(name), text).unwrap();
}

#[tokio::test]
async fn requests_follow_the_rules_of_a_virtual_service() {
    let shop = Shop::open().await;
    for (start, headers, wanted) in [
        ("GET /", "x-user: vip\r\n", "\"v2\""),
        ("GET /", "x-user: other\r\n", "\"v1\""),
        ("GET /team/open", "", "\"v2\""),
        ("GET /team/closed", "", "HTTP/1.1 410"),
        ("GET /own", "", "HTTP/1.1 202"),
        ("GET /page", "", "\"v1\""),
        ("GET /broken", "", "HTTP/1.1 503"),
        (
            "GET /broken",
            "",
            "VirtualService default/payment, rule 5: subset v9",
        ),
    ] {
        let answer = shop.ask(start, headers).await;
        assert!(answer.contains(wanted), "{start} {headers}: {answer}");
    }
}

#[tokio::test]
async fn rules_are_told_by_their_numbers_in_their_resources() {
    let shop = Shop::open().await;
    let answer = why(
        &shop.checkout,
        "http://payment.default.svc.cluster.local/",
        &[],
    )
    .await;
    let rules = answer.route.unwrap().rules;
    let numbers: Vec<_> = rules
        .iter()
        .map(|rule| (rule.resource.as_str(), rule.number))
        .collect();
    let (payment, team) = (
        "VirtualService default/payment",
        "VirtualService default/team",
    );
    // Rule 0 is for others, and rule 3 stands for the delegate's.
    let expected = [
        (payment, 1),
        (payment, 2),
        (team, 0),
        (team, 1),
        (payment, 4),
        (payment, 5),
        (payment, 6),
    ];
    assert_eq!(numbers, expected);
}

#[tokio::test]
async fn an_edit_of_weights_acts_on_the_next_requests() {
    let shop = Shop::open().await;
    assert_eq!(shop.split(20).await, (20, 0), "weight 0 gets nothing");
    write(shop.files.path(), "rules.yaml", &rules(0, 100));
    shop.until("GET /", "", "\"v2\"").await;
    assert_eq!(shop.split(20).await, (0, 20), "the edit holds");
    write(shop.files.path(), "rules.yaml", &rules(50, 50));
    shop.until("GET /", "", "\"v1\"").await;
    let (v1, v2) = shop.split(60).await;
    // That one side gets none of 60 has a chance of 2 in 2^60.
    assert!(v1 > 0 && v2 > 0 && v1 + v2 == 60, "{v1} and {v2}");
}

#[tokio::test]
async fn a_preflight_is_answered_by_the_callers_sidecar() {
    let shop = Shop::open().await;
    let asking = |origin: &str| {
        format!("origin: {origin}\r\naccess-control-request-method: GET\r\ncontent-length: 0\r\n")
    };
    let allowed = shop
        .ask("OPTIONS /page", &asking("https://shop.example"))
        .await;
    for wanted in [
        "HTTP/1.1 200",
        "access-control-allow-origin: https://shop.example",
        "access-control-allow-methods: GET",
        "access-control-max-age: 60",
    ] {
        assert!(allowed.contains(wanted), "{wanted}: {allowed}");
    }
    assert!(
        !allowed.contains("\"v1\""),
        "no application saw it: {allowed}"
    );
    let other = shop
        .ask("OPTIONS /page", &asking("https://evil.example"))
        .await;
    assert!(!other.contains("access-control-allow"), "{other}");
    let answer = shop
        .ask("GET /page", "origin: https://shop.example\r\n")
        .await;
    assert!(answer.contains("\"v1\""), "{answer}");
    assert!(
        answer.contains("access-control-allow-origin: https://shop.example"),
        "{answer}"
    );
}

#[tokio::test]
async fn connections_follow_tcp_and_tls_rules() {
    let shop = Shop::open().await;
    let call = async |protocol, port: usize, sni: Option<&str>| {
        let target = shop.checkout.outbound[port].to_string().parse().unwrap();
        let mut call = Call::new(protocol, target);
        call.sni = sni.map(str::to_owned);
        Client::new(call).call().await.unwrap();
    };
    call(Protocol::Tcp, TCP, None).await;
    assert_eq!((shop.opened("ledger"), shop.opened("payment")), (1.0, 0.0));
    call(Protocol::Tls, TLS, Some("ledger.example")).await;
    assert_eq!((shop.opened("ledger"), shop.opened("payment")), (2.0, 0.0));
    // Another name is none of the rule's, and goes to the service itself.
    call(Protocol::Tls, TLS, Some("payment.example")).await;
    assert_eq!((shop.opened("ledger"), shop.opened("payment")), (2.0, 1.0));
}
