//! Upstream HTTP connections of one endpoint: idle HTTP/1.1 ones, kept apart,
//! and one HTTP/2 connection, shared.
//!
//! A connection goes back when the response's body has been read to its end,
//! and is closed when it was not.

use crate::{
    balance::{Candidate, InFlight},
    connect,
    error::Error,
    http::{
        CONNECTION_WINDOW, LARGEST_HEAD, LocalExecutor, STREAM_WINDOW,
        exchange::{Body, Exchange},
        forwarded,
    },
    stream::Stream,
    tls::Tls,
};
use http::{Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::TokioIo;
use linnet_mesh::protocol::MeshProtocol;
use std::{
    cell::RefCell,
    error::Error as _,
    rc::Rc,
    time::{Duration, Instant},
};

/// How long an idle HTTP/1.1 connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// A connection that was idle for longer may just be being closed by its peer.
const AT_RISK: Duration = Duration::from_millis(100);
/// Most idle connections to one endpoint, by thread.
const MOST_IDLE: usize = 1024;

/// An endpoint's connections.
#[derive(Default)]
pub(crate) struct Connections {
    idle: RefCell<Vec<Idle>>,
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Body>>>,
}

struct Idle {
    sender: http1::SendRequest<Body>,
    since: Instant,
}

/// A connection that serves one exchange.
pub(crate) struct Lease {
    candidate: Rc<Candidate>,
    sender: http1::SendRequest<Body>,
}

impl Lease {
    pub(crate) fn give_back(self) {
        let Self { candidate, sender } = self;
        if sender.is_closed() {
            return;
        }
        let mut idle = candidate.connections.idle.borrow_mut();
        if idle.len() < MOST_IDLE {
            let since = Instant::now();
            idle.push(Idle { sender, since });
        }
    }
}

/// A response, and the connection to give back if it was HTTP/1.1.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Option<Lease>,
}

impl Answer {
    /// The response on its way back: its head is the previous hop's, and the
    /// exchange holds what must be given back when it ends.
    pub(crate) fn into_response(self, exchange: &Exchange, in_flight: InFlight) -> Response<Body> {
        exchange.hold(in_flight);
        if let Some(lease) = self.lease {
            exchange.lend(lease);
        }
        let mut response = self.response.map(Body::incoming);
        let upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let version = response.version();
        forwarded::response_head(response.headers_mut(), version, upgrade);
        response
    }
}

/// A failure, with the request where none of it was sent.
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) unsent: Option<Request<Body>>,
}

impl Connections {
    /// The connection that was used last and can serve a request now. One whose
    /// response came before its request had been sent is still busy: it stays.
    fn take_idle(&self) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        let mut position = idle.len();
        while position > 0 {
            position -= 1;
            let sender = &idle[position].sender;
            if sender.is_closed() {
                idle.remove(position);
            } else if sender.is_ready() {
                return Some(idle.remove(position));
            }
        }
        None
    }

    /// Whether there is no connection at all.
    pub(crate) fn is_empty(&self) -> bool {
        let no_shared = self
            .shared
            .try_lock()
            .is_ok_and(|shared| shared.as_ref().is_none_or(http2::SendRequest::is_closed));
        no_shared && self.idle.borrow().is_empty()
    }

    /// Lets go of what nobody uses just now: no request is to come here for a
    /// while. A shared connection ends with its last stream.
    pub(crate) fn close_idle(&self) {
        self.idle.borrow_mut().clear();
        if let Ok(mut shared) = self.shared.try_lock() {
            *shared = None;
        }
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn expire(&self, now: Instant) {
        self.idle.borrow_mut().retain(|idle| {
            !idle.sender.is_closed() && now.saturating_duration_since(idle.since) < IDLE
        });
    }
}

/// Sends a request to an endpoint in the version it has.
pub(crate) async fn send(
    tls: &Tls,
    candidate: &Rc<Candidate>,
    request: Request<Body>,
) -> Result<Answer, Failure> {
    if request.version() == Version::HTTP_2 {
        send_http2(tls, candidate, request).await
    } else {
        send_http1(tls, candidate, request).await
    }
}

async fn send_http1(
    tls: &Tls,
    candidate: &Rc<Candidate>,
    mut request: Request<Body>,
) -> Result<Answer, Failure> {
    let mut lost_a_race = false;
    loop {
        let idle = match lost_a_race {
            false => candidate.connections.take_idle(),
            true => None,
        };
        let reused = idle.is_some();
        let at_risk = |idle: &Idle| {
            let used = candidate.used.get();
            used.saturating_duration_since(idle.since) > AT_RISK
        };
        let spare = idle.as_ref().filter(|idle| at_risk(idle));
        let spare = spare.and_then(|_| repeatable(&request));
        let mut sender = match idle {
            Some(idle) => idle.sender,
            None => match connect_http1(tls, candidate).await {
                Ok(sender) => sender,
                Err(error) => {
                    let unsent = Some(request);
                    return Err(Failure { error, unsent });
                }
            },
        };
        if sender.ready().await.is_err() && reused {
            continue;
        }
        match sender.try_send_request(request).await {
            Ok(response) => {
                let candidate = candidate.clone();
                let lease = Some(Lease { candidate, sender });
                return Ok(Answer { response, lease });
            }
            Err(mut failed) => match (failed.take_message(), spare) {
                // The peer closed the idle connection first: nothing was sent.
                (Some(unsent), _) if reused => request = unsent,
                // The request and the connection's end crossed.
                (None, Some(copy)) if hung_up(failed.error()) => {
                    lost_a_race = true;
                    request = copy;
                }
                (unsent, _) => return Err(failure(candidate, failed, unsent)),
            },
        }
    }
}

/// A copy of a request that may be sent twice and has no body.
fn repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    if !request.method().is_idempotent() || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Whether the peer ended the connection without an answer.
fn hung_up(error: &hyper::Error) -> bool {
    let io = error.source().and_then(|cause| cause.downcast_ref());
    let kind = io.map(std::io::Error::kind);
    error.is_incomplete_message()
        || matches!(
            kind,
            Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
        )
}

async fn send_http2(
    tls: &Tls,
    candidate: &Rc<Candidate>,
    mut request: Request<Body>,
) -> Result<Answer, Failure> {
    // Once more on a new connection when the shared one was on its way out.
    for last_try in [false, true] {
        let mut sender = match shared_http2(tls, candidate).await {
            Ok(sender) => sender,
            Err(error) => {
                let unsent = Some(request);
                return Err(Failure { error, unsent });
            }
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
                let lease = None;
                return Ok(Answer { response, lease });
            }
            Err(mut failed) => match failed.take_message() {
                Some(unsent) if !last_try => {
                    *candidate.connections.shared.lock().await = None;
                    request = unsent;
                }
                unsent => return Err(failure(candidate, failed, unsent)),
            },
        }
    }
    unreachable!("the last try returns")
}

fn failure(
    candidate: &Candidate,
    failed: TrySendError<Request<Body>>,
    unsent: Option<Request<Body>>,
) -> Failure {
    let error = failed.into_error();
    let cause = error.source().map(|cause| format!(": {cause}"));
    let http2 = error.source().and_then(|cause| cause.downcast_ref());
    let reason = http2.and_then(h2::Error::reason);
    Failure {
        error: Error::Upstream {
            address: candidate.endpoint.address,
            reason: format!("{error}{}", cause.unwrap_or_default()),
            refused: reason == Some(h2::Reason::REFUSED_STREAM),
        },
        unsent,
    }
}

async fn open(
    tls: &Tls,
    candidate: &Candidate,
    protocol: MeshProtocol,
) -> Result<TokioIo<Stream>, Error> {
    let endpoint = &candidate.endpoint;
    let stream =
        connect::endpoint(tls, endpoint.address, endpoint.identity.as_ref(), protocol).await?;
    Ok(TokioIo::new(stream))
}

async fn connect_http1(
    tls: &Tls,
    candidate: &Candidate,
) -> Result<http1::SendRequest<Body>, Error> {
    let stream = open(tls, candidate, MeshProtocol::Http1).await?;
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(LARGEST_HEAD)
        .handshake(stream)
        .await
        .map_err(|error| upstream_error(candidate, &error))?;
    // Its end shows at the sender; there is nobody else to tell.
    tokio::task::spawn_local(connection.with_upgrades());
    Ok(sender)
}

async fn shared_http2(tls: &Tls, candidate: &Candidate) -> Result<http2::SendRequest<Body>, Error> {
    let mut shared = candidate.connections.shared.lock().await;
    if let Some(sender) = &*shared
        && !sender.is_closed()
    {
        return Ok(sender.clone());
    }
    let stream = open(tls, candidate, MeshProtocol::Http2).await?;
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .timer(hyper_util::rt::TokioTimer::new())
        .max_header_list_size(LARGEST_HEAD as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(stream)
        .await
        .map_err(|error| upstream_error(candidate, &error))?;
    tokio::task::spawn_local(connection);
    *shared = Some(sender.clone());
    Ok(sender)
}

fn upstream_error(candidate: &Candidate, error: &hyper::Error) -> Error {
    Error::Upstream {
        address: candidate.endpoint.address,
        reason: error.to_string(),
        refused: false,
    }
}
