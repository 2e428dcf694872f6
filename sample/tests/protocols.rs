//! Server and load generator against each other on loopback, over every
//! protocol; and that failures are counted, not hidden.

#![allow(clippy::unwrap_used)] // Outside of #[test] functions clippy cannot tell that this is a test.

use std::net::SocketAddr;
use std::time::Duration;

use linnet_sample::client::{self, Call, Protocol};
use linnet_sample::load::{Plan, Recorder, Report, run};
use linnet_sample::{Config, Server, Upstream};
use tokio_util::sync::CancellationToken;

fn any() -> Option<SocketAddr> {
    Some(([127, 0, 0, 1], 0).into())
}

async fn server() -> Server {
    let config = Config {
        name: "payment".into(),
        version: "v1".into(),
        http: any(),
        tls: any(),
        tcp: any(),
        server_first: any(),
        ..Config::default()
    };
    config.serve().await.unwrap()
}

async fn load(call: &Call, count: u64) -> Report {
    let plan = Plan {
        rate: None,
        concurrency: 2,
        count: Some(count),
        duration: None,
    };
    run(&plan, call, &Recorder::default(), &CancellationToken::new()).await
}

fn call(protocol: Protocol, address: SocketAddr, path: &str) -> Call {
    Call::new(protocol, format!("http://{address}{path}").parse().unwrap())
}

#[tokio::test]
async fn every_protocol_answers() {
    let server = server().await;
    let addresses = server.addresses();
    let http = addresses.http.unwrap();
    for (protocol, address, versioned) in [
        (Protocol::Http1, http, true),
        (Protocol::Http2, http, true),
        (Protocol::Grpc, http, true),
        (Protocol::GrpcStream, http, true),
        (Protocol::GrpcBidi, http, true),
        (Protocol::Websocket, http, true),
        (Protocol::Tls, addresses.tls.unwrap(), true),
        (Protocol::Tcp, addresses.tcp.unwrap(), false),
        (
            Protocol::ServerFirst,
            addresses.server_first.unwrap(),
            false,
        ),
    ] {
        for fresh_connection in [false, true] {
            let mut call = call(protocol, address, "/");
            call.fresh_connection = fresh_connection;
            call.body_bytes = 40_000;
            let report = load(&call, 10).await;
            assert_eq!(report.errors, Default::default(), "{protocol:?}");
            assert_eq!((report.requests, report.succeeded), (10, 10));
            if versioned {
                assert_eq!(report.by_version.get("v1"), Some(&10), "{protocol:?}");
                let hops = (protocol != Protocol::Websocket).then_some(&10);
                assert_eq!(report.by_hop.get("payment/v1"), hops);
            }
        }
    }
    server.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_failure_is_counted_with_its_reason() {
    let server = server().await;
    let http = server.addresses().http.unwrap();
    let report = load(&call(Protocol::Http1, http, "/status/503"), 5).await;
    assert_eq!((report.failed, report.succeeded), (5, 0));
    assert_eq!(report.errors["status 503 Service Unavailable"], 5);

    let report = load(&call(Protocol::Grpc, http, "/status/7"), 3).await;
    let text = "gRPC status PermissionDenied: failed as the request asked";
    assert_eq!(report.errors.get(text), Some(&3), "{report:?}");
    let report = load(&call(Protocol::GrpcStream, http, "/status/7"), 3).await;
    assert_eq!(report.errors.get(text), Some(&3), "{report:?}");

    let mut slow = call(Protocol::Http2, http, "/delay/30s");
    slow.timeout = Duration::from_millis(50);
    let report = load(&slow, 2).await;
    assert_eq!(report.errors.get("timed out"), Some(&2), "{report:?}");

    // The wrong protocol for the port: an error, not an answer.
    let tcp = server.addresses().tcp.unwrap();
    let mut wrong = call(Protocol::ServerFirst, tcp, "/");
    wrong.timeout = Duration::from_millis(50);
    assert_eq!(load(&wrong, 1).await.failed, 1);

    server.shutdown(Duration::from_secs(5)).await;
    let report = load(&call(Protocol::Http1, http, "/"), 2).await;
    assert_eq!(report.failed, 2);
    let reason = report.errors.keys().next().unwrap();
    assert!(reason.starts_with("connect: "), "{reason}");
}

#[tokio::test]
async fn a_chain_embeds_each_answer() {
    let last = server().await;
    let calls = |server: &Server| {
        let address = server.addresses().http.unwrap();
        Some(Upstream {
            uri: format!("http://{address}/pay").parse().unwrap(),
            host: Some("payment".into()),
        })
    };
    let first = Config {
        name: "checkout".into(),
        version: "v3".into(),
        calls: calls(&last),
        http: any(),
        ..Config::default()
    };
    let first = first.serve().await.unwrap();
    let address = first.addresses().http.unwrap();
    let target = call(Protocol::Http1, address, "/buy?x=1");
    let (status, body) = client::get(&target).await.unwrap();
    assert_eq!(status, 200);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["service"], "checkout");
    assert_eq!(body["path"], "/buy?x=1");
    assert_eq!(body["upstream"]["path"], "/pay");
    assert_eq!(body["upstream"]["host"], "payment");
    let report = load(&target, 4).await;
    assert_eq!(report.by_hop["checkout/v3"], 4);
    assert_eq!(report.by_hop["payment/v1"], 4);

    last.shutdown(Duration::from_secs(5)).await;
    let (status, body) = client::get(&target).await.unwrap();
    assert_eq!(status, 502);
    assert!(body.contains("refused"), "{body}");
}

#[tokio::test]
async fn bodies_and_headers() {
    let server = server().await;
    let http = server.addresses().http.unwrap();
    let get = |path: &str| {
        let call = call(Protocol::Http1, http, path);
        async move { client::get(&call).await.unwrap() }
    };
    assert_eq!(get("/bytes/100000").await.1.len(), 100_000);
    assert_eq!(get("/stream/3").await.1, "chunk 0\nchunk 1\nchunk 2\n");
    assert_eq!(get("/healthz").await, (http::StatusCode::OK, "ok\n".into()));

    let mut large = call(Protocol::Http1, http, "/headers/size");
    let value = "v".repeat(60_000).parse().unwrap();
    large.headers.push(("x-large".parse().unwrap(), value));
    let (_, size) = client::get(&large).await.unwrap();
    let size: serde_json::Value = serde_json::from_str(&size).unwrap();
    assert!(size["bytes"].as_u64().unwrap() > 60_000);

    let mut post = call(Protocol::Http1, http, "/");
    post.method = http::Method::POST;
    post.body_bytes = 1234;
    let (_, echo) = client::get(&post).await.unwrap();
    let echo: serde_json::Value = serde_json::from_str(&echo).unwrap();
    assert_eq!(echo["body_bytes"], 1234);
    assert_eq!(echo["method"], "POST");

    // A client that waits for 100 Continue gets it.
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(http).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut buffer = [0; 25];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"HTTP/1.1 100 Continue\r\n\r\n");
}

#[tokio::test]
async fn the_kubelets_grpc_probe_is_answered() {
    use linnet_sample::health::{HealthCheckRequest, health_client::HealthClient};
    let server = server().await;
    let uri = format!("http://{}", server.addresses().http.unwrap());
    let endpoint = tonic::transport::Endpoint::from_shared(uri).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    let request = HealthCheckRequest::default();
    let status = client.check(request).await.unwrap().into_inner().status();
    assert_eq!(status.as_str_name(), "SERVING");
}

#[tokio::test]
async fn calls_are_paced() {
    let server = server().await;
    let call = call(Protocol::Http1, server.addresses().http.unwrap(), "/");
    let plan = Plan {
        rate: Some(100.0),
        concurrency: 4,
        count: Some(21),
        duration: None,
    };
    let report = run(
        &plan,
        &call,
        &Recorder::default(),
        &CancellationToken::new(),
    )
    .await;
    assert_eq!(report.succeeded, 21);
    // The last call is due 200 ms after the first.
    assert!(report.duration_seconds >= 0.2, "{report:?}");
    let last = report.last_sent_ms["payment/v1"];
    assert!(last > 1_700_000_000_000, "{last}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let server = server().await;
    let taken = Config {
        http: any(),
        tcp: server.addresses().http,
        ..Config::default()
    };
    let error = taken.serve().await.unwrap_err().to_string();
    assert!(error.contains("--tcp"), "{error}");
    let error = Config::default().serve().await.unwrap_err().to_string();
    assert!(error.contains("at least one"), "{error}");
}
