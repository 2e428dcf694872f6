//! Point 2: every protocol a mesh has to carry, over mutual TLS, counted by
//! both ends; and what is not in the mesh still answers.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use kube::ResourceExt;

use crate::support::Cluster;
use crate::support::load::Caller;
use crate::support::metrics::Metrics;
use crate::support::workload::{MESHED, UNMESHED};

const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/default/sa/payment-service";

/// Protocol and the service's port for it: what counts requests, what counts
/// connections.
const HTTP: [(&str, u16); 6] = [
    ("http1", 80),
    ("http2", 80),
    ("grpc", 80),
    ("grpc-stream", 80),
    ("grpc-bidi", 80),
    ("websocket", 80),
];
const TCP: [(&str, u16); 3] = [("tls", 443), ("tcp", 9000), ("server-first", 2525)];

/// Calls of each protocol.
const COUNT: u64 = 40;

pub(crate) async fn every_protocol_is_carried_and_measured(cluster: Cluster) {
    cluster.meshed().await;
    cluster.outsiders().await;
    cluster.without_configuration().await;
    let client = Caller::client_in(&cluster, MESHED).await;

    let before = Ends::scrape(&cluster).await;
    for (protocol, port) in HTTP {
        every_call_succeeds(&client, protocol, &format!("payment-service:{port}")).await;
    }
    let after = Ends::scrape(&cluster).await;
    let requests = COUNT * HTTP.len() as u64;
    assert_secured(&before, &after, "istio_requests_total", requests - COUNT);

    let before = after;
    for (protocol, port) in TCP {
        every_call_succeeds(&client, protocol, &format!("payment-service:{port}")).await;
    }
    let after = Ends::scrape(&cluster).await;
    let opened = "istio_tcp_connections_opened_total";
    // Four connections a protocol, kept.
    assert_secured(&before, &after, opened, 4 * TCP.len() as u64);

    bodies_and_headers_of_size(&client).await;
    unmeshed_destinations_answer(&cluster, &client).await;
}

/// The cluster and the sample alone: what fails later is then the mesh.
pub(crate) async fn every_protocol_works_without_a_mesh(cluster: Cluster) {
    cluster.outsiders().await;
    let outsider = Caller::client_in(&cluster, UNMESHED).await;
    for (protocol, port) in HTTP.into_iter().chain(TCP) {
        every_call_succeeds(&outsider, protocol, &format!("plain:{port}")).await;
    }
}

async fn every_call_succeeds(client: &Caller, protocol: &str, target: &str) {
    let call = format!("--protocol {protocol} --count {COUNT} --concurrency 4 {target}");
    let report = client.succeeds(&call).await;
    let slowest = report.latency_ms.max;
    println!(
        "{target} {protocol}: p50 {} ms, slowest {slowest} ms",
        report.latency_ms.p50
    );
    // A mesh that waits for a silent client's first byte waits for seconds.
    assert!(slowest < 3000.0, "{protocol} {target}: {report:#?}");
}

async fn bodies_and_headers_of_size(client: &Caller) {
    for protocol in ["http1", "http2"] {
        for call in [
            "--method POST --body-bytes 5000000 --count 4 http://payment-service/echo",
            "--count 4 http://payment-service/bytes/5000000",
            "--count 2 http://payment-service/stream/20",
            "--count 4 http://payment-service/headers/40000",
        ] {
            client
                .succeeds(&format!("--protocol {protocol} {call}"))
                .await;
        }
    }
}

/// The metrics of both ends.
struct Ends {
    source: Metrics,
    destination: Metrics,
}

impl Ends {
    async fn scrape(cluster: &Cluster) -> Self {
        Self {
            source: Metrics::of_app(cluster, MESHED, "client").await,
            destination: Metrics::of_app(cluster, MESHED, "payment-service").await,
        }
    }
}

/// At least `count` more between the two scrapes, at both ends, by mutual TLS and
/// with both principals; and none without.
fn assert_secured(before: &Ends, after: &Ends, name: &str, count: u64) {
    let ends = [
        ("source", &before.source, &after.source),
        ("destination", &before.destination, &after.destination),
    ];
    for (reporter, before, after) in ends {
        let more = |labels: &[(&str, &str)]| after.sum(name, labels) - before.sum(name, labels);
        let secured = more(&[
            ("reporter", reporter),
            ("connection_security_policy", "mutual_tls"),
            ("source_principal", CLIENT),
            ("destination_principal", SERVER),
        ]);
        let all = more(&[
            ("reporter", reporter),
            ("destination_workload_namespace", MESHED),
        ]);
        let series = after.describe(name);
        assert!(
            secured >= count as f64,
            "{reporter}: {secured} of {count}:{series}"
        );
        assert_eq!(all, secured, "{reporter}: some were not secured:{series}");
    }
}

/// A service without sidecars, its pod by address, and an address that is no
/// part of the cluster: the machine these tests run on.
async fn unmeshed_destinations_answer(cluster: &Cluster, client: &Caller) {
    let plain = format!("plain.{UNMESHED}");
    let pods = cluster.pod_objects(UNMESHED, "app=plain").await;
    let status = pods[0].status.as_ref().unwrap();
    let address = status.pod_ip.clone().unwrap();
    println!("unmeshed pod {} at {address}", pods[0].name_any());
    for (protocol, port) in HTTP.into_iter().chain(TCP) {
        every_call_succeeds(client, protocol, &format!("{plain}:{port}")).await;
    }
    for (protocol, port) in [
        ("http1", 8080),
        ("http2", 8080),
        ("grpc", 8080),
        ("tls", 8443),
        ("server-first", 2525),
    ] {
        every_call_succeeds(client, protocol, &format!("{address}:{port}")).await;
    }
    let source = Metrics::of_app(cluster, MESHED, "client").await;
    let labels = [
        ("reporter", "source"),
        ("connection_security_policy", "none"),
        ("destination_service_name", "plain"),
    ];
    let name = "istio_requests_total";
    assert!(source.sum(name, &labels) > 0.0, "{}", source.describe(name));

    let any = || Some(SocketAddr::new(own_address(cluster), 0));
    let outside = linnet_sample::Config {
        name: "outside".into(),
        version: "v1".into(),
        http: any(),
        tls: any(),
        server_first: any(),
        ..linnet_sample::Config::default()
    };
    let outside = outside.serve().await.unwrap();
    let addresses = outside.addresses();
    for (protocol, address) in [
        ("http1", addresses.http),
        ("http2", addresses.http),
        ("tls", addresses.tls),
        ("server-first", addresses.server_first),
    ] {
        every_call_succeeds(client, protocol, &address.unwrap().to_string()).await;
    }
    outside.shutdown(Duration::from_secs(5)).await;
}

/// The address that this machine's packets to the API server come from: pods
/// reach it too. No packet is sent to find out.
fn own_address(cluster: &Cluster) -> IpAddr {
    let host = cluster.server.host().unwrap();
    let port = cluster.server.port_u16().unwrap_or(443);
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect((host, port)).unwrap();
    socket.local_addr().unwrap().ip()
}
