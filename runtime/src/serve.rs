//! Serving an axum router, plain or over TLS, HTTP/1.1 and HTTP/2, until the
//! drain.
//!
//! Every request carries a [`Peer`] in its extensions. Handshakes and request
//! heads have a time limit, so that a silent peer does not hold a socket.

use std::{
    convert::Infallible,
    error::Error,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::Router;
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::{self, UpgradeableConnection},
};
use linnet_mesh::SpiffeId;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower::{ServiceExt, util::Oneshot};

use crate::{certificate, drain};

/// A peer has this long for its TLS handshake, for its first request, and for
/// the head of any.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an HTTP/2 peer is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// The pause after a failed accept: the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A TLS configuration that may be replaced while the server runs: each new
/// connection takes the current one.
pub type TlsConfig = Arc<ArcSwap<rustls::ServerConfig>>;

/// How connections arrive.
#[derive(Clone, Debug)]
pub enum Transport {
    /// As they are.
    Plain,
    /// TLS first.
    Tls(TlsConfig),
}

/// Who sent a request, in its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The address it connected from.
    pub address: SocketAddr,
    /// Its identity, when it presented a certificate of the mesh.
    pub identity: Option<SpiffeId>,
}

/// Listens on an address. Where there is no IPv6, the unspecified address of
/// IPv4 takes the place of IPv6's.
///
/// # Errors
/// An address that is taken or not of this machine; the text names it.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let mut bound = TcpListener::bind(address).await;
    if bound.is_err() && address.ip() == Ipv6Addr::UNSPECIFIED {
        bound = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await;
    }
    bound.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// Serves until the drain, then closes idle connections, lets running requests
/// finish, and returns once the listener is closed. Connections that are still
/// at work hold the drain.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    transport: Transport,
    drain: drain::Watch,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _guard = drain.signaled() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let connection = Connection {
                    address,
                    router: router.clone(),
                    drain: drain.clone(),
                };
                tokio::spawn(connection.run(stream, transport.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Connection {
    address: SocketAddr,
    router: Router,
    drain: drain::Watch,
}

impl Connection {
    async fn run(self, stream: TcpStream, transport: Transport) {
        let address = self.address;
        let _ = stream.set_nodelay(true);
        let result = match transport {
            Transport::Plain => self.plain(stream).await,
            Transport::Tls(config) => self.tls(stream, config.load_full()).await,
        };
        if let Err(error) = result {
            tracing::debug!(peer = %address, %error, "connection ended");
        }
    }

    async fn plain(self, stream: TcpStream) -> io::Result<()> {
        let (service, asked) = self.service(None);
        let versions = http_versions();
        let connection = versions.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let connection = pin!(connection);
        self.until_done(connection, UpgradeableConnection::graceful_shutdown, &asked)
            .await
    }

    /// What serves for a while only, as the handshake does, or one version of
    /// HTTP only, is boxed: connections that live for long, discovery's, keep no
    /// room for it.
    async fn tls(self, stream: TcpStream, config: Arc<rustls::ServerConfig>) -> io::Result<()> {
        let handshake = Box::pin(TlsAcceptor::from(config).accept(stream));
        let stream = timeout(HEAD_TIMEOUT, handshake).await??;
        let session = stream.get_ref().1;
        let (service, asked) = self.service(certificate::peer_identity(session));
        let http2 = session.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        if http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(HEAD_TIMEOUT);
            let mut connection = Box::pin(builder.serve_connection(io, service));
            let connection = connection.as_mut();
            self.until_done(connection, http2::Connection::graceful_shutdown, &asked)
                .await
        } else {
            let versions = http_versions().http1_only();
            let mut connection = Box::pin(versions.serve_connection_with_upgrades(io, service));
            let connection = connection.as_mut();
            self.until_done(connection, UpgradeableConnection::graceful_shutdown, &asked)
                .await
        }
    }

    /// Answers requests, and says whether there was one.
    fn service(&self, identity: Option<SpiffeId>) -> (Answers, Arc<AtomicBool>) {
        let asked = Arc::new(AtomicBool::new(false));
        let answers = Answers {
            router: self.router.clone(),
            peer: Peer {
                address: self.address,
                identity,
            },
            asked: asked.clone(),
        };
        (answers, asked)
    }

    async fn until_done<C, E>(
        &self,
        mut connection: Pin<&mut C>,
        shut_down: impl Fn(Pin<&mut C>),
        asked: &AtomicBool,
    ) -> io::Result<()>
    where
        C: Future<Output = Result<(), E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut silence = pin!(sleep(HEAD_TIMEOUT));
        let mut watched = true;
        let result = loop {
            tokio::select! {
                result = connection.as_mut() => break result,
                () = silence.as_mut(), if watched => {
                    if !asked.load(Ordering::Relaxed) {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    watched = false;
                }
                _guard = self.drain.signaled() => {
                    shut_down(connection.as_mut());
                    break connection.await;
                }
            }
        };
        result.map_err(io::Error::other)
    }
}

/// A connection's requests, each with its peer.
#[derive(Clone)]
struct Answers {
    router: Router,
    peer: Peer,
    asked: Arc<AtomicBool>,
}

impl hyper::service::Service<http::Request<Incoming>> for Answers {
    type Response = axum::response::Response;
    type Error = Infallible;
    type Future = Oneshot<Router, http::Request<Incoming>>;

    fn call(&self, mut request: http::Request<Incoming>) -> Self::Future {
        self.asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(self.peer.clone());
        self.router.clone().oneshot(request)
    }
}

fn http_versions() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(HEAD_TIMEOUT);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Extension, routing::get};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn exchange(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = vec![0; 1024];
        let length = stream.read(&mut answer).await.unwrap();
        String::from_utf8(answer[..length].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_request_in_flight_outlives_the_drain_signal() {
        let (entered, mut started) = tokio::sync::mpsc::channel::<()>(1);
        let (release, gate) = tokio::sync::watch::channel(false);
        let handler = async move |Extension(peer): Extension<Peer>| {
            entered.send(()).await.unwrap();
            gate.clone().wait_for(|open| *open).await.unwrap();
            format!("{}", peer.address.ip())
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (signal, watch) = drain::channel();
        let router = Router::new().route("/", get(handler));
        let server = tokio::spawn(serve(listener, router, Transport::Plain, watch));
        let client = tokio::spawn(exchange(address));
        started.recv().await.unwrap();

        let drain = tokio::spawn(signal.drain());
        server.await.unwrap();
        assert!(
            TcpStream::connect(address).await.is_err(),
            "the listener is closed"
        );
        assert!(!drain.is_finished());
        release.send_replace(true);
        assert!(client.await.unwrap().ends_with("127.0.0.1"));
        drain.await.unwrap();
    }

    #[tokio::test]
    async fn idle_connections_do_not_hold_the_drain() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (signal, watch) = drain::channel();
        let router = Router::new().route("/", get(async || "ok"));
        tokio::spawn(serve(listener, router, Transport::Plain, watch));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = [0; 64];
        assert!(stream.read(&mut answer).await.unwrap() > 0);
        signal.drain().await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn silent_peers_are_closed() {
        let workload = certificate::testing::Authority::default().workload("a", "b");
        let config = workload.server_config(&[b"h2"], false);
        let tls = Transport::Tls(Arc::new(ArcSwap::new(config)));
        let (_signal, drain) = drain::channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for (transport, sent) in [
            (Transport::Plain, ""),
            (Transport::Plain, "GET / HTTP/1.1\r\n"),
            (tls, ""),
        ] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(sent.as_bytes()).await.unwrap();
            let (stream, address) = listener.accept().await.unwrap();
            let router = Router::new();
            let connection = Connection {
                address,
                router,
                drain: drain.clone(),
            };
            let ended = timeout(HEAD_TIMEOUT * 2, connection.run(stream, transport.clone())).await;
            assert!(ended.is_ok(), "still open after {sent:?}, {transport:?}");
        }
    }

    #[tokio::test]
    async fn a_mesh_client_over_http2_is_known_to_the_handler() {
        let authority = certificate::testing::Authority::default();
        let (server, client) = (
            authority.workload("a", "server"),
            authority.workload("a", "client"),
        );
        let tls = Arc::new(ArcSwap::new(server.server_config(&[b"h2"], true)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_signal, watch) = drain::channel();
        let handler = async |Extension(peer): Extension<Peer>| peer.identity.unwrap().to_string();
        let router = Router::new().route("/", get(handler));
        tokio::spawn(serve(listener, router, Transport::Tls(tls), watch));

        let stream = TcpStream::connect(address).await.unwrap();
        let stream = tokio_rustls::TlsConnector::from(client.client_config(&[b"h2"]))
            .connect("server".try_into().unwrap(), stream)
            .await
            .unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .unwrap();
        tokio::spawn(connection);
        let request = http::Request::get("https://server/").body(axum::body::Body::empty());
        let response = sender.send_request(request.unwrap()).await.unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body())
            .await
            .unwrap();
        assert_eq!(body.to_bytes(), client.id().as_str());
    }
}
