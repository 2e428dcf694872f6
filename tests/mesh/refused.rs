//! Ports where nobody listens, through two sidecars: as without a mesh the client is reset at
//! once, whatever it has sent.

use crate::support::{Mesh, Pair, Sidecar};
use std::{io::ErrorKind, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// How a connection ends on which this is sent.
async fn end(address: SocketAddr, sent: &[u8]) -> ErrorKind {
    let mut client = TcpStream::connect(address).await.unwrap();
    // It may have been reset already.
    let _ = client.write_all(sent).await;
    let reading = tokio::time::timeout(Duration::from_secs(20), client.read_u8());
    reading.await.expect("an end").unwrap_err().kind()
}

const SENT: [&[u8]; 2] = [b"", b"\0\x01\x02"];

#[tokio::test]
async fn a_client_of_nobody_is_reset_through_both_sidecars() {
    let mesh = Mesh::new();
    let pair = Pair::before(&mesh, "payment", &[nobody().await]).await;
    for sent in SENT {
        let kind = end(pair.port(0), sent).await;
        assert_eq!(kind, ErrorKind::ConnectionReset, "{sent:?}");
    }
}

#[tokio::test]
async fn a_client_of_an_endpoint_that_is_gone_is_reset() {
    let mesh = Mesh::new();
    let host = "payment.default.svc.cluster.local:80";
    let gone = nobody().await;
    let client = mesh
        .start(Sidecar {
            account: "checkout",
            outbound: format!("127.0.0.1:0={host}"),
            inbound: String::new(),
            services: format!("services:\n  {host}:\n    - address: {gone}\n"),
        })
        .await;
    for sent in SENT {
        let kind = end(client.outbound[0], sent).await;
        assert_eq!(kind, ErrorKind::ConnectionReset, "{sent:?}");
    }
}

/// An application that resets is heard to reset, through both sidecars.
#[tokio::test]
async fn a_reset_comes_through_both_sidecars() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read_u8().await;
            // What is unread when a socket is closed makes its end a reset.
            drop(stream);
        }
    });
    let mesh = Mesh::new();
    let pair = Pair::before(&mesh, "payment", &[app]).await;
    let kind = end(pair.port(0), b"\0\x01\x02").await;
    assert_eq!(kind, ErrorKind::ConnectionReset);
}
