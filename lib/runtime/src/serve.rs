//! Serving an axum router, plain or over TLS, HTTP/1.1 and where it is of use HTTP/2,
//! until the drain.
//!
//! Every request carries a [`Peer`] in its extensions. Handshakes, request heads and
//! idleness have time limits, and each listener has a number of connections by its
//! [`ListenerKind`], which the addresses of its callers share: silent peers, however many, keep
//! neither a socket for ever nor an honest caller out.

mod limits;
mod running;

use std::{
    convert::Infallible,
    error::Error,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    body::{Body, Bytes},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http2,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::{self, UpgradeableConnection},
};
use linnet_mesh::SpiffeId;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::{
    drain, files,
    places::{Activity, Busy, Place, Places},
    tls,
};
pub use limits::{Limits, ListenerKind};
use running::{Request, Running};

/// A peer has this long for its TLS handshake, for its first request, and for
/// the head of any.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an HTTP/2 peer is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// What waits to be written of one HTTP/2 stream at most, bytes.
const SEND_BUFFER: usize = 64 * 1024;
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

/// Ends the connection that a request came by: in the extensions of requests whose
/// response is a stream. A peer that takes nothing of such a response can't be told so by it.
#[derive(Clone, Debug)]
pub struct Hangup(Activity);

impl Hangup {
    /// Makes the handle of a connection.
    pub fn new(activity: Activity) -> Self {
        Self(activity)
    }

    /// Ends the connection, with all its requests.
    pub fn hang_up(&self) {
        self.0.end_connection();
    }
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
    kind: ListenerKind,
    drain: drain::Watch,
) {
    let server = Server {
        router,
        transport,
        kind,
        limits: kind.limits(files::limit()),
        drain,
    };
    server.run(listener).await;
}

struct Server {
    router: Router,
    transport: Transport,
    kind: ListenerKind,
    limits: Limits,
    drain: drain::Watch,
}

impl Server {
    async fn run(self, listener: TcpListener) {
        let places = Places::yielding(self.limits.connections, HEAD_TIMEOUT);
        let refused = metrics::counter!(
            "linnet_listener_refused_total", "listener" => self.kind.as_str()
        );
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _guard = self.drain.signaled() => return,
            };
            match accepted {
                Ok((stream, address)) => match places.take(address.ip()) {
                    Some(place) => self.start(stream, address, place),
                    None => refused.increment(1),
                },
                Err(error) => {
                    let listener = self.kind.as_str();
                    tracing::warn!(%error, listener, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn start(&self, stream: TcpStream, address: SocketAddr, place: Place) {
        let connection = Connection {
            address,
            router: self.router.clone(),
            activity: place.activity(),
            limits: self.limits,
            running: Running::default(),
            drain: self.drain.clone(),
        };
        let task = connection.run(stream, self.transport.clone());
        tokio::spawn(place.hold_by_requests(task));
    }
}

struct Connection {
    address: SocketAddr,
    router: Router,
    activity: Activity,
    limits: Limits,
    running: Running,
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
        let service = self.service(None);
        let versions = http_versions(self.limits.streams);
        let connection = versions.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let connection = pin!(connection);
        self.until_done(connection, UpgradeableConnection::graceful_shutdown)
            .await
    }

    /// What serves for a while only, as the handshake does, or one version of
    /// HTTP only, is boxed: connections that live for long, discovery's, keep no
    /// room for it.
    async fn tls(self, stream: TcpStream, config: Arc<rustls::ServerConfig>) -> io::Result<()> {
        let handshake = Box::pin(TlsAcceptor::from(config).accept(stream));
        let stream = timeout(HEAD_TIMEOUT, handshake).await??;
        let session = stream.get_ref().1;
        let service = self.service(tls::peer_identity(session));
        let http2 = session.alpn_protocol() == Some(b"h2");
        let streams = self.limits.streams.filter(|_| http2);
        let io = TokioIo::new(stream);
        if streams.is_some() {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(streams)
                .max_send_buf_size(SEND_BUFFER)
                .keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(HEAD_TIMEOUT);
            let mut connection = Box::pin(builder.serve_connection(io, service));
            let connection = connection.as_mut();
            self.until_done(connection, http2::Connection::graceful_shutdown)
                .await
        } else {
            let versions = http_versions(None);
            let mut connection = Box::pin(versions.serve_connection_with_upgrades(io, service));
            let connection = connection.as_mut();
            self.until_done(connection, UpgradeableConnection::graceful_shutdown)
                .await
        }
    }

    fn service(&self, identity: Option<SpiffeId>) -> Answers {
        Answers {
            router: self.router.clone(),
            peer: Peer {
                address: self.address,
                identity,
            },
            activity: self.activity.clone(),
            running: self.running.clone(),
            limit: self.limits.request,
        }
    }

    async fn until_done<C, E>(
        &self,
        mut connection: Pin<&mut C>,
        shut_down: impl Fn(Pin<&mut C>),
    ) -> io::Result<()>
    where
        C: Future<Output = Result<(), E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut look = pin!(sleep(HEAD_TIMEOUT));
        let mut leaving = false;
        let result = loop {
            tokio::select! {
                result = connection.as_mut() => break result,
                () = look.as_mut() => {
                    let left = self.patience();
                    if left.is_zero() && (leaving || !self.activity.was_used()) {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    let next = match left.is_zero() {
                        // It may still hear that it is over.
                        true => {
                            leaving = true;
                            shut_down(connection.as_mut());
                            HEAD_TIMEOUT
                        }
                        false => left,
                    };
                    look.as_mut().reset(Instant::now() + next);
                }
                _guard = self.drain.signaled() => {
                    shut_down(connection.as_mut());
                    break connection.await;
                }
            }
        };
        result.map_err(io::Error::other)
    }

    /// Returns how long the connection may stay as it is.
    fn patience(&self) -> Duration {
        let limit = match (self.activity.is_busy(), self.activity.was_used()) {
            (true, _) => {
                // A response that is a stream is looked at again when it may be idle.
                let limit = self.limits.request.zip(self.running.oldest());
                return limit.map_or(self.limits.idle, |(limit, began)| {
                    limit.saturating_sub(began.elapsed())
                });
            }
            (false, true) => self.limits.idle,
            (false, false) => HEAD_TIMEOUT,
        };
        limit.saturating_sub(self.activity.unused_for())
    }
}

/// A connection's requests, each with its peer.
#[derive(Clone)]
struct Answers {
    router: Router,
    peer: Peer,
    activity: Activity,
    running: Running,
    limit: Option<Duration>,
}

impl hyper::service::Service<http::Request<Incoming>> for Answers {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, mut request: http::Request<Incoming>) -> Self::Future {
        let busy = (self.activity.begin(), self.running.begin());
        request.extensions_mut().insert(self.peer.clone());
        let limit = self.limit;
        if limit.is_none() {
            let hangup = Hangup::new(self.activity.clone());
            request.extensions_mut().insert(hangup);
        }
        let answer = self.router.clone().oneshot(request);
        Box::pin(async move {
            let response = match limit {
                Some(limit) => match timeout(limit, answer).await {
                    Ok(Ok(response)) => response,
                    Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
                },
                None => {
                    let Ok(response) = answer.await;
                    response
                }
            };
            Ok(response.map(|body| {
                Body::new(Answer {
                    body,
                    busy: Some(busy),
                })
            }))
        })
    }
}

/// A response's body: its connection is busy until the body has been sent.
struct Answer {
    body: Body,
    busy: Option<(Busy, Request)>,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() {
            self.busy = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// HTTP/1.1, and HTTP/2 if it may have streams.
fn http_versions(streams: Option<u32>) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    if streams.is_none() {
        return builder.http1_only();
    }
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(HEAD_TIMEOUT);
    builder
}

#[cfg(test)]
mod tests;
