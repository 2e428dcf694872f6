//! Each protocol through two sidecars, and what both count of it.

use crate::support::{Mesh, Pair, Sidecar, count};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use linnet_sample::client::{Call, Client, Protocol};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const HTTP: usize = 0;
const TLS: usize = 1;
const TCP: usize = 2;
const SERVER_FIRST: usize = 3;

async fn call(protocol: Protocol, address: SocketAddr) {
    let mut client = Client::new(Call::new(protocol, address.to_string().parse().unwrap()));
    for _ in 0..3 {
        client
            .call()
            .await
            .unwrap_or_else(|error| panic!("{protocol:?}: {error}"));
    }
}

#[tokio::test]
async fn every_protocol_passes_and_is_counted_as_secured() {
    let mesh = Mesh::new();
    let pair = Pair::start(&mesh, "payment").await;
    for protocol in [
        Protocol::Http1,
        Protocol::Http2,
        Protocol::Grpc,
        Protocol::GrpcStream,
        Protocol::GrpcBidi,
        Protocol::Websocket,
    ] {
        call(protocol, pair.port(HTTP)).await;
    }
    call(Protocol::Tls, pair.port(TLS)).await;
    call(Protocol::Tcp, pair.port(TCP)).await;
    call(Protocol::ServerFirst, pair.port(SERVER_FIRST)).await;

    let source = pair.client.metrics_text();
    let destination = pair.server.metrics_text();
    let (client, server) = (
        "\"spiffe://cluster.local/ns/default/sa/checkout\"",
        "\"spiffe://cluster.local/ns/default/sa/payment\"",
    );
    let principals = [
        format!("source_principal={client}"),
        format!("destination_principal={server}"),
        "connection_security_policy=\"mutual_tls\"".to_owned(),
    ];
    for (reporter, metrics) in [("source", &source), ("destination", &destination)] {
        let reporter = format!("reporter=\"{reporter}\"");
        let mut labels: Vec<&str> = principals.iter().map(String::as_str).collect();
        labels.push(&reporter);
        let http = count(metrics, "istio_requests_total", &labels);
        assert!(http >= 12.0, "{reporter}: {http} requests in\n{metrics}");
        labels.push("request_protocol=\"grpc\"");
        let grpc = count(metrics, "istio_requests_total", &labels);
        assert!(grpc >= 9.0, "{reporter}: {grpc} gRPC calls in\n{metrics}");
        labels.pop();
        let tcp = count(metrics, "istio_tcp_connections_opened_total", &labels);
        assert!(tcp >= 3.0, "{reporter}: {tcp} connections in\n{metrics}");
    }
}

/// An application that answers HTTP/1.1 and takes anything else for nonsense.
async fn plain_application() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else {
                        return;
                    };
                    head.push(byte);
                }
                let answer: &[u8] = match head.starts_with(b"GET /") {
                    true => {
                        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nplain"
                    }
                    false => b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n",
                };
                let _ = stream.write_all(answer).await;
            });
        }
    });
    address
}

/// Translated by the callee's sidecar, and by the caller's where the callee has none.
#[tokio::test]
async fn http_2_reaches_an_application_that_speaks_http_1_alone() {
    let mesh = Mesh::new();
    let app = plain_application().await;
    let pair = Pair::before(&mesh, "payment", &[app]).await;
    let host = "bare.default.svc.cluster.local:80";
    let bare = mesh
        .start(Sidecar {
            account: "client",
            outbound: format!("127.0.0.1:0={host}"),
            inbound: String::new(),
            services: format!("services:\n  {host}:\n    - address: {app}\n"),
        })
        .await;
    for address in [pair.port(0), bare.outbound[0]] {
        let stream = TcpStream::connect(address).await.unwrap();
        let executor = hyper_util::rt::TokioExecutor::new();
        let io = TokioIo::new(stream);
        let (mut http2, connection) = hyper::client::conn::http2::handshake(executor, io)
            .await
            .unwrap();
        tokio::spawn(connection);
        for (kind, grpc) in [("text/plain", false), ("application/grpc", true)] {
            let request = http::Request::get("http://payment/")
                .header("content-type", kind)
                .body(Full::<Bytes>::default())
                .unwrap();
            let response = http2.send_request(request).await.unwrap();
            let (head, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            assert_eq!(head.status, 200, "{body:?}");
            match grpc {
                true => assert_eq!(head.headers["grpc-status"], "14"),
                false => assert_eq!(body, "plain"),
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_at_once() {
    let mesh = Mesh::new();
    let pair = Pair::start(&mesh, "payment").await;
    for _ in 0..3 {
        let mut stream = TcpStream::connect(pair.port(SERVER_FIRST)).await.unwrap();
        let mut banner = [0; 5];
        stream.read_exact(&mut banner).await.unwrap();
        assert_eq!(&banner, b"220 s");
    }
}

async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn http_1_0_is_served_and_its_connection_ends() {
    let mesh = Mesh::new();
    let pair = Pair::start(&mesh, "payment").await;
    let answer = exchange(pair.port(HTTP), "GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\"payment\""), "{answer}");
}

#[tokio::test]
async fn expect_continue_is_answered() {
    let mesh = Mesh::new();
    let pair = Pair::start(&mesh, "payment").await;
    let mut stream = TcpStream::connect(pair.port(HTTP)).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: payment\r\ncontent-length: 5\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn large_headers_pass_in_both_versions() {
    let mesh = Mesh::new();
    let pair = Pair::start(&mesh, "payment").await;
    let large = "x".repeat(48 * 1024);
    let stream = TcpStream::connect(pair.port(HTTP)).await.unwrap();
    let (mut http1, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = |uri: &str| {
        http::Request::get(uri)
            .header("host", "payment")
            .header("x-large", &large)
            .body(Full::<Bytes>::default())
            .unwrap()
    };
    let response = http1.send_request(request("/")).await.unwrap();
    assert_eq!(response.status(), 200);

    let stream = TcpStream::connect(pair.port(HTTP)).await.unwrap();
    let (mut http2, connection) =
        hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let response = http2
        .send_request(request("http://payment/"))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
}

/// Bodies stream: the first part of an answer arrives while the request's body
/// is still open.
#[tokio::test]
async fn bodies_stream_both_ways() {
    let mesh = Mesh::new();
    let pair = Pair::start(&mesh, "payment").await;
    let mut stream = TcpStream::connect(pair.port(HTTP)).await.unwrap();
    let head = "GET /bytes/10000000 HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.len() > 10_000_000, "{} bytes", answer.len());

    let stream = TcpStream::connect(pair.port(HTTP)).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let body = Full::new(Bytes::from(vec![1; 3_000_000]));
    let request = http::Request::post("/")
        .header("host", "payment")
        .body(body)
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("3000000"), "{text}");
}

/// An application that answers before it has read the body leaves its connection
/// busy: the next request must not wait for that upload.
#[tokio::test]
async fn an_early_answer_keeps_nobody_waiting() {
    let app = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = app.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = app.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await?;
                // Stays open for the body that never comes.
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
            });
        }
    });
    let mesh = Mesh::new();
    let pair = Pair::before(&mesh, "payment", &[address]).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(pair.port(HTTP)).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: payment\r\ncontent-length: 100\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 15];
        let read = stream.read_exact(&mut answer);
        let in_time = tokio::time::timeout(std::time::Duration::from_secs(20), read).await;
        in_time
            .expect("an answer although others still upload")
            .unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        open.push(stream);
    }
}

/// Clients come and go on connections of their own; they share those to the
/// application. (Without a pool there would be 20; on a busy machine a connection
/// may come back just after the next request wanted it.)
#[tokio::test]
async fn upstream_connections_are_reused() {
    let app = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = app.local_addr().unwrap();
    let accepted = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = accepted.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = app.accept().await.unwrap();
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        stream.write_all(answer).await.unwrap();
                    }
                }
            });
        }
    });
    let mesh = Mesh::new();
    let pair = Pair::before(&mesh, "payment", &[address]).await;
    for _ in 0..20 {
        let request = "GET / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
        let answer = exchange(pair.port(HTTP), request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    let accepted = accepted.load(std::sync::atomic::Ordering::Relaxed);
    assert!(accepted <= 5, "{accepted} connections for 20 requests");
}

#[tokio::test]
async fn connections_are_reused_and_drained() {
    let mesh = Mesh::new();
    let pair = Pair::start(&mesh, "payment").await;
    for _ in 0..20 {
        // A new client connection each time; upstream they share.
        call(Protocol::Http1, pair.port(HTTP)).await;
    }
    pair.client.drain().await;
    pair.server.drain().await;
}
