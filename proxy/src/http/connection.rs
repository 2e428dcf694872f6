//! Upstream HTTP connections of one endpoint: idle HTTP/1.1 ones, kept apart,
//! and HTTP/2 ones, shared.
//!
//! A connection goes back when the response's body has been read to its end,
//! and is closed when it was not. An HTTP/2 one that has become old gets no new
//! requests; those it has end in peace.

mod open;

use crate::{
    clock,
    error::Error,
    http::{
        exchange::{Body, Exchange, Home, Http1, Lease},
        forwarded,
    },
    pool::{Limit, Member, Permit, Pool, StreamSlot, Streams},
    tls::Tls,
};
use http::{Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http2},
};
use linnet_mesh::Endpoint;
use std::{
    cell::{Cell, RefCell},
    error::Error as _,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// A connection that was idle for longer may just be being closed by its peer.
const AT_RISK: Duration = Duration::from_millis(100);
/// Most idle connections to one endpoint, by thread.
const MOST_IDLE: usize = 1024;

/// An endpoint's connections.
pub(crate) struct Connections {
    endpoint: Arc<Endpoint>,
    idle: RefCell<Vec<Idle>>,
    /// Requests that wait for one of this endpoint's connections.
    waiters: Cell<u32>,
    returned: Notify,
    shared: RefCell<Vec<Shared>>,
    /// Held while an HTTP/2 connection is opened: all who wait share it.
    opening: tokio::sync::Mutex<()>,
}

struct Idle {
    connection: Http1,
    since: Instant,
}

/// An HTTP/2 connection.
struct Shared {
    sender: http2::SendRequest<Body>,
    pool: Rc<Pool>,
    /// From then on it takes no new requests.
    until: Instant,
    served: u32,
    streams: Rc<Streams>,
}

/// A response, and what its exchange holds until it ends.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    /// The connection to give back if it was HTTP/1.1.
    pub(crate) lease: Option<Lease>,
    pub(crate) permit: Permit,
}

impl Answer {
    /// The response on its way back: its head is the previous hop's, and the
    /// exchange holds what must be given back when it ends.
    pub(crate) fn into_response(self, exchange: &Exchange) -> Response<Body> {
        exchange.hold(self.permit);
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

impl Home for Connections {
    fn take_back(self: Rc<Self>, connection: Http1) {
        let pool = &connection.pool;
        let policy = &pool.policy.pool;
        let worn = policy
            .max_requests_per_connection
            .is_some_and(|most| connection.served >= most);
        let old = policy
            .max_connection_duration
            .is_some_and(|longest| connection.opened.elapsed() >= longest);
        let waited_for = self.waiters.get() > 0;
        // Somebody waits for room, for another endpoint or on another thread.
        let in_the_way = pool.is_crowded() && !waited_for;
        let full = self.idle.borrow().len() >= MOST_IDLE;
        if worn || old || in_the_way || full || connection.sender.is_closed() {
            return;
        }
        let member: Rc<dyn Member> = self.clone();
        pool.join(Rc::downgrade(&member));
        self.idle.borrow_mut().push(Idle {
            connection,
            since: clock::now(),
        });
        if waited_for {
            self.returned.notify_one();
        }
    }
}

impl Member for Connections {
    fn give_up_idle(&self, pool: &Rc<Pool>) -> bool {
        if self.waiters.get() > 0 {
            return false;
        }
        let mut idle = self.idle.borrow_mut();
        let of_pool = |idle: &Idle| Rc::ptr_eq(&idle.connection.pool, pool);
        let position = idle.iter().position(of_pool);
        position.map(|position| idle.remove(position)).is_some()
    }
}

impl Connections {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Rc<Self> {
        Rc::new(Self {
            endpoint,
            idle: RefCell::default(),
            waiters: Cell::new(0),
            returned: Notify::new(),
            shared: RefCell::default(),
            opening: tokio::sync::Mutex::default(),
        })
    }

    /// The pool's connection that was used last and can serve a request now. One
    /// whose response came before its request had been sent is still busy: it
    /// stays.
    fn take_idle(&self, pool: &Rc<Pool>, now: Instant) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        let mut position = idle.len();
        while position > 0 {
            position -= 1;
            let candidate = &idle[position];
            let sender = &candidate.connection.sender;
            if sender.is_closed() || candidate.is_stale(now) {
                idle.remove(position);
            } else if sender.is_ready() && Rc::ptr_eq(&candidate.connection.pool, pool) {
                return Some(idle.remove(position));
            }
        }
        None
    }

    /// A connection of the pool that can take one more stream.
    fn take_shared(&self, pool: &Rc<Pool>) -> Option<(http2::SendRequest<Body>, StreamSlot)> {
        let now = Instant::now();
        let mut all = self.shared.borrow_mut();
        let policy = &pool.policy.pool;
        let mut position = 0;
        while let Some(shared) = all.get_mut(position) {
            if shared.is_over(now) {
                // Its streams go on; the last of them closes it.
                all.remove(position);
                continue;
            }
            let room = policy
                .max_concurrent_streams
                .is_none_or(|most| shared.streams.count() < most);
            if room && Rc::ptr_eq(&shared.pool, pool) {
                shared.served += 1;
                return Some((shared.sender.clone(), shared.streams.open()));
            }
            position += 1;
        }
        None
    }

    /// Whether there is no connection at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.shared.borrow().is_empty() && self.idle.borrow().is_empty()
    }

    /// Lets go of what nobody uses just now: no request is to come here for a
    /// while. A shared connection ends with its last stream.
    pub(crate) fn close_idle(&self) {
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn expire(&self) {
        let now = Instant::now();
        let usable = |idle: &Idle| !idle.connection.sender.is_closed() && !idle.is_stale(now);
        self.idle.borrow_mut().retain(usable);
        let mut shared = self.shared.borrow_mut();
        shared.retain(|shared| !shared.is_over(now));
    }
}

impl Idle {
    fn is_stale(&self, now: Instant) -> bool {
        let longest = self.connection.pool.policy.pool.http_idle_timeout;
        longest.is_some_and(|longest| now - self.since >= longest)
    }
}

impl Shared {
    /// Whether it takes no new requests.
    fn is_over(&self, now: Instant) -> bool {
        let policy = &self.pool.policy.pool;
        let idle = self.streams.idle_since().zip(policy.http_idle_timeout);
        self.sender.is_closed()
            || now >= self.until
            || idle.is_some_and(|(since, longest)| now - since >= longest)
            || policy
                .max_requests_per_connection
                .is_some_and(|most| self.served >= most)
    }
}

/// Sends a request to an endpoint, in the version it has and by a pool's
/// policy.
pub(crate) async fn send(
    tls: &Tls,
    connections: &Rc<Connections>,
    pool: &Rc<Pool>,
    request: Request<Body>,
) -> Result<Answer, Failure> {
    let granted = match pool.take(Limit::Requests) {
        Ok(granted) => granted,
        Err(error) => return Err(unsent(error, request)),
    };
    let mut answer = if request.version() == Version::HTTP_2 {
        send_http2(tls, connections, pool, request).await?
    } else {
        send_http1(tls, connections, pool, request).await?
    };
    answer.permit.request = granted;
    Ok(answer)
}

fn unsent(error: Error, request: Request<Body>) -> Failure {
    let unsent = Some(request);
    Failure { error, unsent }
}

async fn send_http1(
    tls: &Tls,
    connections: &Rc<Connections>,
    pool: &Rc<Pool>,
    mut request: Request<Body>,
) -> Result<Answer, Failure> {
    let mut lost_a_race = false;
    loop {
        let now = clock::now();
        let idle = match lost_a_race {
            false => connections.take_idle(pool, now),
            true => None,
        };
        let reused = idle.is_some();
        let at_risk = idle.as_ref().is_some_and(|idle| now - idle.since > AT_RISK);
        let spare = at_risk.then(|| repeatable(&request)).flatten();
        let mut connection = match idle {
            Some(idle) => idle.connection,
            // Boxed, for it is rare and large; so is what it would make of each request.
            None => match Box::pin(open::http1(tls, connections, pool)).await {
                Ok(connection) => connection,
                Err(error) => return Err(unsent(error, request)),
            },
        };
        if connection.sender.ready().await.is_err() && reused {
            continue;
        }
        match connection.sender.try_send_request(request).await {
            Ok(response) => {
                connection.served += 1;
                let home = connections.clone();
                return Ok(Answer {
                    response,
                    lease: Some(Lease { connection, home }),
                    permit: Permit::default(),
                });
            }
            Err(mut failed) => match (failed.take_message(), spare) {
                // The peer closed the idle connection first: nothing was sent.
                (Some(unsent), _) if reused => request = unsent,
                // The request and the connection's end crossed.
                (None, Some(copy)) if hung_up(failed.error()) => {
                    lost_a_race = true;
                    request = copy;
                }
                (unsent, _) => return Err(failure(connections, failed, unsent)),
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
    connections: &Rc<Connections>,
    pool: &Rc<Pool>,
    mut request: Request<Body>,
) -> Result<Answer, Failure> {
    // Once more on a new connection when the shared one was on its way out.
    for last_try in [false, true] {
        let opened = match connections.take_shared(pool) {
            Some(known) => Ok(known),
            None => Box::pin(open::http2(tls, connections, pool)).await,
        };
        let (mut sender, stream) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(unsent(error, request)),
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
                let permit = Permit {
                    stream: Some(stream),
                    ..Permit::default()
                };
                return Ok(Answer {
                    response,
                    lease: None,
                    permit,
                });
            }
            Err(mut failed) => match failed.take_message() {
                Some(unsent) if !last_try => {
                    // It took nothing: nobody else needs to find out.
                    let mut shared = connections.shared.borrow_mut();
                    shared.retain(|other| !stream.is_of(&other.streams));
                    request = unsent;
                }
                unsent => return Err(failure(connections, failed, unsent)),
            },
        }
    }
    unreachable!("the last try returns")
}

fn failure(
    connections: &Connections,
    failed: TrySendError<Request<Body>>,
    unsent: Option<Request<Body>>,
) -> Failure {
    let error = failed.into_error();
    let cause = error.source().map(|cause| format!(": {cause}"));
    let http2 = error.source().and_then(|cause| cause.downcast_ref());
    let reason = http2.and_then(h2::Error::reason);
    Failure {
        error: Error::Upstream {
            address: connections.endpoint.address,
            reason: format!("{error}{}", cause.unwrap_or_default()),
            refused: reason == Some(h2::Reason::REFUSED_STREAM),
        },
        unsent,
    }
}
