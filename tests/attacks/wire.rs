//! Bytes on the wire: plaintext, and within mutual TLS as a caller whose own
//! sidecar has been taken over, so that nothing sane is in between.

use crate::{
    app::App,
    support::{Mesh, Pair, Sidecar, identity},
};
use linnet_proxy::server::Running;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Nothing on loopback takes this long; what is waited for so long never comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// All that is answered until the other side closes, or until `enough` of it is
/// there; an end by reset is an end.
pub(crate) async fn answer<S: AsyncRead + Unpin>(
    stream: &mut S,
    enough: impl Fn(&[u8]) -> bool,
) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut part = [0; 16 * 1024];
    let reading = async {
        while !enough(&answer) {
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => return,
                Ok(length) => answer.extend_from_slice(&part[..length]),
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .expect("an answer or the end of the connection");
    answer
}

/// Sends bytes and reads until the end of the connection. The bytes should ask for
/// it (`connection: close`), or be refused.
pub(crate) async fn send<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: &[u8]) -> String {
    // It may be refused before all is sent.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let said = answer(&mut stream, |_| false).await;
    String::from_utf8_lossy(&said).into_owned()
}

/// Sends bytes, says that there are no more, and reads until the end of the connection.
pub(crate) async fn send_and_end<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    bytes: &[u8],
) -> String {
    stream.write_all(bytes).await.unwrap();
    // It may have been refused already.
    let _ = stream.shutdown().await;
    let said = answer(&mut stream, |_| false).await;
    String::from_utf8_lossy(&said).into_owned()
}

/// A TLS connection to a mesh port.
pub(crate) async fn dial(
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let connector = TlsConnector::from(config);
    connector.connect(address.ip().into(), stream).await
}

/// The application behind a sidecar, behind a caller's sidecar.
pub(crate) struct Front {
    pub(crate) mesh: Mesh,
    pub(crate) app: App,
    pub(crate) pair: Pair,
}

impl Front {
    pub(crate) async fn start() -> Self {
        let mesh = Mesh::new();
        let app = App::start().await;
        let pair = Pair::before(&mesh, "payment", &[app.address]).await;
        Self { mesh, app, pair }
    }

    /// As the caller's application.
    pub(crate) async fn as_app(&self) -> TcpStream {
        TcpStream::connect(self.pair.port(0)).await.unwrap()
    }

    /// As a mesh peer that does as it likes.
    pub(crate) async fn as_peer(&self) -> TlsStream<TcpStream> {
        peer(&self.mesh, self.pair.server.inbound[0], b"linnet/http1").await
    }

    /// Sends bytes in both ways; the answers, the application's client first.
    pub(crate) async fn send(&self, bytes: &[u8]) -> [String; 2] {
        [
            send(self.as_app().await, bytes).await,
            send(self.as_peer().await, bytes).await,
        ]
    }

    /// Whether others are still served, through both sidecars.
    pub(crate) async fn serves_others(&self) {
        let request = b"GET /others HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
        let said = send(self.as_app().await, request).await;
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    }
}

/// A mesh peer (service account `checkout`) that does as it likes.
pub(crate) async fn peer(mesh: &Mesh, address: SocketAddr, alpn: &[u8]) -> TlsStream<TcpStream> {
    let workload = mesh.authority.workload("default", "checkout");
    dial(address, workload.client_config(&[alpn]))
        .await
        .unwrap()
}

/// An inbound sidecar before applications, in a mode of mutual TLS.
pub(crate) async fn inbound(mesh: &Mesh, mode: &str, apps: &[SocketAddr]) -> Running {
    let listeners: Vec<_> = apps
        .iter()
        .map(|app| format!("127.0.0.1:0={app}"))
        .collect();
    mesh.start(Sidecar {
        account: "payment",
        outbound: String::new(),
        inbound: listeners.join(","),
        services: format!("inboundMtls: {mode}\nservices: {{}}\n"),
    })
    .await
}

/// An outbound sidecar that was promised the account `payment` at an address.
pub(crate) async fn outbound(mesh: &Mesh, address: SocketAddr) -> Running {
    let host = "payment.default.svc.cluster.local:80";
    let expected = identity("payment");
    mesh.start(Sidecar {
        account: "checkout",
        outbound: format!("127.0.0.1:0={host}"),
        inbound: String::new(),
        services: format!(
            "services:\n  {host}:\n    - address: {address}\n      identity: {expected}\n"
        ),
    })
    .await
}
