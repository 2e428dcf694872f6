//! What STRICT and the check of identities refuse.

use crate::support::{Mesh, Pair, count};
use linnet_sample::client::{Call, Client, Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test]
async fn plaintext_to_a_strict_port_is_reset_before_it_reaches_the_app() {
    let mesh = Mesh::new();
    let pair = Pair::start(&mesh, "payment").await;
    let mut stream = TcpStream::connect(pair.server.inbound[0]).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: payment\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let error = stream.read_to_end(&mut answer).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(answer.is_empty());
    let metrics = pair.server.metrics_text();
    assert_eq!(count(&metrics, "istio_requests_total", &[]), 0.0);
}

#[tokio::test]
async fn a_peer_that_is_somebody_else_is_not_spoken_to() {
    let mesh = Mesh::new();
    // The client is told to expect another account than the server has.
    let pair = Pair::start(&mesh, "impostor").await;
    let target = pair.port(0).to_string().parse().unwrap();
    let error = Client::new(Call::new(Protocol::Http1, target))
        .call()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("503"), "{error}");
    let metrics = pair.client.metrics_text();
    let flagged = count(&metrics, "istio_requests_total", &["response_flags=\"UF\""]);
    assert_eq!(flagged, 1.0, "{metrics}");
    let metrics = pair.server.metrics_text();
    assert_eq!(count(&metrics, "istio_requests_total", &[]), 0.0);
}

#[tokio::test]
async fn another_root_is_refused() {
    let mesh = Mesh::new();
    let pair = Pair::start(&mesh, "payment").await;
    let other = Mesh::new();
    let address = pair.server.inbound[0];
    let host = "payment.default.svc.cluster.local:80";
    let outsider = other
        .start(crate::support::Sidecar {
            account: "checkout",
            outbound: format!("127.0.0.1:0={host}"),
            inbound: String::new(),
            services: format!(
                "services:\n  {host}:\n    - address: {address}\n      identity: {}\n",
                crate::support::identity("payment")
            ),
        })
        .await;
    let target = outsider.outbound[0].to_string().parse().unwrap();
    let error = Client::new(Call::new(Protocol::Http1, target))
        .call()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("503"), "{error}");
}
