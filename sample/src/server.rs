//! The sample server: listeners, one task per connection, graceful shutdown.
//!
//! Each protocol has its own port only where the protocols cannot be told
//! apart by a mesh's detection: HTTP/1.1, HTTP/2, gRPC and WebSocket share one,
//! as applications do it. Port 0 takes a free one; [`Server::addresses`] says
//! which.

mod grpc;
mod http;
mod raw;
mod tls;
mod upstream;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::Uri;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Largest request head taken, so that tests of large headers meet the mesh's
/// limit and not this server's.
const HEADER_LIMIT: u32 = 256 * 1024;

/// What a server is called, where it listens and whom it calls.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The service's name in its answers.
    pub name: String,
    /// The version in its answers.
    pub version: String,
    /// The pod in its answers; any text outside Kubernetes.
    pub pod: String,
    /// Called for every echo request, its answer embedded in this one's.
    pub calls: Option<Upstream>,
    /// HTTP/1.1, HTTP/2 without TLS, gRPC and WebSocket.
    pub http: Option<SocketAddr>,
    /// The same over TLS with a self-signed certificate.
    pub tls: Option<SocketAddr>,
    /// Opaque bytes, echoed.
    pub tcp: Option<SocketAddr>,
    /// A banner first, then lines echoed.
    pub server_first: Option<SocketAddr>,
}

/// The next service of a chain.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Where to connect, and the path.
    pub uri: Uri,
    /// The `Host` to send when it differs from the address connected to.
    pub host: Option<String>,
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses {
    /// See [`Config::http`].
    pub http: Option<SocketAddr>,
    /// See [`Config::tls`].
    pub tls: Option<SocketAddr>,
    /// See [`Config::tcp`].
    pub tcp: Option<SocketAddr>,
    /// See [`Config::server_first`].
    pub server_first: Option<SocketAddr>,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No listener was asked for.
    #[error("no port to listen on: give at least one of --http, --tls, --tcp and --server-first")]
    NoListener,
    /// An address could not be bound.
    #[error("cannot listen on {address} ({option}): {source}; choose another port, or 0 for any")]
    Bind {
        /// The option that named the address.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's word.
        source: std::io::Error,
    },
    /// The self-signed certificate could not be made.
    #[error("cannot make the self-signed certificate for --tls: {0}")]
    Certificate(#[from] tls::CertificateError),
}

/// A running server. Dropping it leaves it running; [`Server::shutdown`] ends it.
#[derive(Debug)]
pub struct Server {
    addresses: Addresses,
    stop: CancellationToken,
    connections: TaskTracker,
}

/// What connection tasks share.
struct Shared {
    app: Arc<http::App>,
    stop: CancellationToken,
    connections: TaskTracker,
}

#[derive(Clone)]
enum Kind {
    Http,
    Tls(TlsAcceptor),
    Tcp,
    ServerFirst,
}

impl Config {
    /// Binds every listener and serves until [`Server::shutdown`].
    pub async fn serve(self) -> Result<Server, ServeError> {
        let stop = CancellationToken::new();
        let connections = TaskTracker::new();
        let (http, tls, tcp, first) = (self.http, self.tls, self.tcp, self.server_first);
        let acceptor = tls.map(|_| tls::acceptor(&self.name)).transpose()?;
        let shared = Arc::new(Shared {
            app: Arc::new(http::App::new(self)),
            stop: stop.clone(),
            connections: connections.clone(),
        });
        let tls_kind = acceptor.map_or(Kind::Tcp, Kind::Tls);
        let addresses = Addresses {
            http: listen(&shared, "--http", http, Kind::Http).await?,
            tls: listen(&shared, "--tls", tls, tls_kind).await?,
            tcp: listen(&shared, "--tcp", tcp, Kind::Tcp).await?,
            server_first: listen(&shared, "--server-first", first, Kind::ServerFirst).await?,
        };
        if http.or(tls).or(tcp).or(first).is_none() {
            return Err(ServeError::NoListener);
        }
        Ok(Server {
            addresses,
            stop,
            connections,
        })
    }
}

impl Server {
    /// The bound addresses.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Stops accepting, lets requests in flight finish, gives up after `limit`.
    pub async fn shutdown(self, limit: Duration) {
        self.stop.cancel();
        self.connections.close();
        if tokio::time::timeout(limit, self.connections.wait())
            .await
            .is_err()
        {
            tracing::warn!(open = self.connections.len(), "connections still open");
        }
    }
}

async fn listen(
    shared: &Arc<Shared>,
    option: &'static str,
    address: Option<SocketAddr>,
    kind: Kind,
) -> Result<Option<SocketAddr>, ServeError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    let (listener, bound) = bound.await.map_err(|source| ServeError::Bind {
        option,
        address,
        source,
    })?;
    let shared = shared.clone();
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shared.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => spawn_connection(&shared, stream, kind.clone()),
                Err(error) => {
                    // Out of descriptors: a short pause beats a busy loop.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    });
    Ok(Some(bound))
}

fn spawn_connection(shared: &Arc<Shared>, stream: TcpStream, kind: Kind) {
    let shared = shared.clone();
    let tracker = shared.connections.clone();
    tracker.spawn(async move {
        // Latency is what this program is measured by.
        let _ = stream.set_nodelay(true);
        match kind {
            Kind::Http => serve_http(&shared, stream).await,
            Kind::Tls(acceptor) => match acceptor.accept(stream).await {
                Ok(stream) => serve_http(&shared, stream).await,
                Err(error) => tracing::debug!(%error, "TLS handshake failed"),
            },
            Kind::Tcp => finish(raw::echo(stream, &shared.stop).await),
            Kind::ServerFirst => finish(raw::banner_then_lines(stream, &shared.stop).await),
        }
    });
}

fn finish(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

async fn serve_http<S>(shared: &Shared, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(HEADER_LIMIT as usize);
    builder.http2().max_header_list_size(HEADER_LIMIT);
    let app = shared.app.clone();
    let service = hyper::service::service_fn(move |request| {
        let app = app.clone();
        async move { Ok::<_, std::convert::Infallible>(app.answer(request).await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shared.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "HTTP connection ended");
    }
}
