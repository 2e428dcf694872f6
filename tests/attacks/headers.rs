//! Headers that speak for somebody: what comes from outside is worth nothing.

use crate::{
    app::App,
    support::{Mesh, identity},
    wire::{Front, inbound, send},
};
use tokio::net::TcpStream;

const SPOOFED: &str = "By=spiffe://cluster.local/ns/default/sa/payment;URI=spiffe://cluster.local/ns/default/sa/admin";

fn get(headers: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n{headers}\r\n").into_bytes()
}

fn real() -> String {
    format!("By={};URI={}", identity("payment"), identity("checkout"))
}

#[tokio::test]
async fn a_peer_can_not_name_its_own_identity() {
    let front = Front::start().await;
    for spoofed in [
        format!("x-forwarded-client-cert: {SPOOFED}\r\n"),
        format!("X-Forwarded-Client-Cert: {SPOOFED}\r\nx-forwarded-client-cert: {SPOOFED}\r\n"),
        "x-forwarded-client-cert: \r\n".to_owned(),
    ] {
        front.send(&get(&spoofed)).await;
    }
    let seen = front.app.seen();
    assert_eq!(seen.len(), 6);
    for seen in seen {
        assert_eq!(seen.values("x-forwarded-client-cert"), [real()]);
    }
}

/// `Connection` names what the next hop is not told.
#[tokio::test]
async fn a_peer_can_not_have_its_identity_taken_off() {
    let front = Front::start().await;
    front
        .send(&get("connection: x-forwarded-client-cert\r\n"))
        .await;
    let seen = front.app.seen();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert_eq!(seen.values("x-forwarded-client-cert"), [real()]);
    }
}

#[tokio::test]
async fn who_is_not_of_the_mesh_brings_no_identity() {
    let mesh = Mesh::new();
    let app = App::start().await;
    let server = inbound(&mesh, "PERMISSIVE", &[app.address]).await;
    let headers = [
        format!("x-forwarded-client-cert: {SPOOFED}\r\n"),
        "x-envoy-internal: true\r\n".to_owned(),
        "x-envoy-peer-metadata: e30=\r\n".to_owned(),
        "x-envoy-peer-metadata-id: sidecar~10.0.0.1~admin.default\r\n".to_owned(),
    ];
    let stream = TcpStream::connect(server.inbound[0]).await.unwrap();
    let answer = send(stream, &get(&headers.concat())).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = app.seen();
    for name in [
        "x-forwarded-client-cert",
        "x-envoy-internal",
        "x-envoy-peer-metadata",
        "x-envoy-peer-metadata-id",
    ] {
        assert!(seen[0].values(name).is_empty(), "{name}: {seen:?}");
    }
}

/// An application behind CGI or WSGI reads these as the one name, in the head and behind the
/// body.
#[tokio::test]
async fn another_spelling_brings_no_identity_either() {
    let front = Front::start().await;
    for name in [
        "x_forwarded_client_cert",
        "X_Forwarded-Client.Cert",
        "x-forwarded-client-cert",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n{name}: {SPOOFED}\r\n\
             te: trailers\r\ntrailer: {name}, x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\n{name}: {SPOOFED}\r\nx-sum: 1\r\n\r\n"
        );
        for answer in front.send(request.as_bytes()).await {
            assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
        }
    }
    let seen = front.app.seen();
    assert_eq!(seen.len(), 6);
    for seen in seen {
        assert_eq!(seen.values("x-forwarded-client-cert"), [real()]);
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        assert!(body.contains("x-sum: 1"), "{body}");
        assert!(!(seen.head + &body).contains("sa/admin"), "{body}");
    }
}

/// Envoy's own settings by header: a caller does not set a callee's retries.
#[tokio::test]
async fn retry_headers_make_no_retries() {
    let front = Front::start().await;
    let headers = "x-envoy-max-retries: 10\r\nx-envoy-retry-on: 5xx,2xx\r\nx-envoy-hedge-on-per-try-timeout: true\r\n";
    front.send(&get(headers)).await;
    assert_eq!(front.app.seen().len(), 2, "one each way");
}
