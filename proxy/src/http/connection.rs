//! Upstream HTTP connections of one endpoint: idle HTTP/1.1 ones, kept apart,
//! and HTTP/2 ones, shared.
//!
//! A connection goes back when the response's body has been read to its end,
//! and is closed when it was not. An HTTP/2 one that has become old gets no new
//! requests; those it has end in peace.

mod carrier;
mod ended;
mod first;
mod open;
mod shared;
mod translate;
mod unseen;

pub(crate) use open::Held;
pub(crate) use translate::FILES_SHARE;

use carrier::Carriers;

use crate::{
    availability::Availability,
    clock,
    error::Error,
    http::{
        body::Body,
        exchange::Exchange,
        forwarded,
        lease::{Home, Http1, Lease},
        one,
    },
    pool::{Limit, Member, Permit, Pool, StreamSlot, Streams},
    tls::Tls,
};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::client::conn::http2;
use linnet_mesh::{AppProtocol, Endpoint, names};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// The word of a callee's sidecar that its application has not seen the request.
pub(crate) static UNDELIVERED: HeaderName = HeaderName::from_static(names::header::UNDELIVERED);
/// That it accepts no connection, in that header; else the sidecar has answered for it.
pub(crate) const NO_CONNECTION: &str = "connect";

/// A connection that was idle for longer may just be being closed by its peer.
const AT_RISK: Duration = Duration::from_millis(100);
/// Most idle connections to one endpoint, by thread.
const MOST_IDLE: usize = 1024;

/// An endpoint's connections.
pub(crate) struct Connections {
    endpoint: Arc<Endpoint>,
    availability: Arc<Availability>,
    idle: RefCell<Vec<Idle>>,
    /// Requests that wait for one of this endpoint's connections.
    waiters: Cell<u32>,
    returned: Notify,
    shared: RefCell<Vec<Shared>>,
    carriers: Carriers,
    /// Held while a connection is opened that is to be shared: all who wait share
    /// it, or its failure.
    opening: tokio::sync::Mutex<()>,
    failure: RefCell<Option<(Instant, Error)>>,
    /// Which versions of HTTP the endpoint speaks.
    known: translate::Known,
}

struct Idle {
    connection: Box<Http1>,
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
    /// It takes one of the pool's places.
    is_counted: bool,
}

/// A response, and what its exchange holds until it ends.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    pub(crate) permit: Permit,
}

impl Answer {
    /// The response on its way back: its head is the previous hop's, and the
    /// exchange holds what must be given back when it ends.
    pub(crate) fn into_response(self, exchange: &Exchange) -> Response<Body> {
        exchange.hold(self.permit);
        let mut response = self.response;
        let upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let version = response.version();
        forwarded::response_head(response.headers_mut(), version, upgrade);
        response
    }
}

/// How a request is sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// There are endpoints that have not been tried.
    pub(crate) others: bool,
    /// The head is kept until the answer, for [`Failure::unsent`].
    pub(crate) keep_head: bool,
    /// Interim responses go on to the client, whose HTTP/1.1 connection waits for this.
    pub(crate) informs: bool,
}

/// A failure.
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// The request where none of it was sent; without its body where that was, but
    /// to a sidecar whose application has not seen it ([`Error::is_said_by_sidecar`]).
    pub(crate) unsent: Option<Request<Body>>,
    /// A connection that was kept took it before, and hung up.
    pub(crate) resent: bool,
}

impl Failure {
    /// Returns a failure of the first connection that took the request; `unsent`: what is
    /// left of it to be sent again.
    pub(crate) fn new(error: Error, unsent: Option<Request<Body>>) -> Self {
        Self {
            error,
            unsent,
            resent: false,
        }
    }

    /// Whether no application has seen anything of the request, and that tells
    /// against the endpoint: another one may serve it.
    pub(crate) fn is_unseen(&self) -> bool {
        let unsent = self.unsent.is_some() && self.error.is_endpoint_s();
        self.error.reached_nobody() || unsent
    }

    /// Whether the body of an unsent request has been sent, to a sidecar.
    pub(crate) fn is_body_gone(&self) -> bool {
        self.error.is_said_by_sidecar()
    }
}

impl Home for Connections {
    fn take_back(self: Rc<Self>, connection: Box<Http1>) {
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
        if worn || old || in_the_way || full || connection.is_over(clock::now()) {
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
        let mut idle = self.idle.borrow_mut();
        let of_pool = |idle: &Idle| Rc::ptr_eq(&idle.connection.pool, pool);
        let position = idle.iter().position(of_pool);
        match position.filter(|_| self.waiters.get() == 0) {
            Some(position) => {
                idle.remove(position);
                true
            }
            None => self.give_up_shared(pool),
        }
    }
}

impl Connections {
    pub(crate) fn new(endpoint: Arc<Endpoint>, availability: Arc<Availability>) -> Rc<Self> {
        Rc::new(Self {
            endpoint,
            availability,
            idle: RefCell::default(),
            waiters: Cell::new(0),
            returned: Notify::new(),
            shared: RefCell::default(),
            carriers: Carriers::default(),
            opening: tokio::sync::Mutex::default(),
            failure: RefCell::default(),
            known: translate::Known::default(),
        })
    }

    /// Notes what the endpoint's port declares to speak.
    pub(crate) fn declare(&self, protocol: AppProtocol) {
        self.known.declare(protocol);
    }

    /// The pool's connection that was used last and can serve a request now. One
    /// that its server has closed, or speaks on unasked, is closed.
    fn take_idle(&self, pool: &Rc<Pool>, now: Instant) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        let mut position = idle.len();
        while position > 0 {
            position -= 1;
            let candidate = &mut idle[position];
            if !candidate.connection.codec.is_quiet() || candidate.is_stale(now) {
                idle.remove(position);
            } else if Rc::ptr_eq(&candidate.connection.pool, pool) {
                return Some(idle.remove(position));
            }
        }
        None
    }

    /// A connection of the pool that can take one more stream.
    fn take_shared(&self, pool: &Rc<Pool>) -> Option<(http2::SendRequest<Body>, StreamSlot)> {
        let now = clock::now();
        let mut all = self.shared.borrow_mut();
        let mut position = 0;
        while let Some(shared) = all.get_mut(position) {
            if shared.is_over(now) {
                // Its streams go on; the last of them closes it.
                all.remove(position);
                continue;
            }
            if shared.may_take(pool) && shared.streams.has_room() {
                return Some(shared.take());
            }
            position += 1;
        }
        None
    }

    /// Whether an answer is the word of the endpoint's sidecar that its application
    /// has not seen the request. Only who has proved to be the endpoint is believed;
    /// `ended`: the answer has no body, as a gRPC failure has none.
    fn is_undelivered(
        &self,
        pool: &Pool,
        (status, headers): (StatusCode, &HeaderMap),
        ended: bool,
    ) -> bool {
        let may_be = status == StatusCode::SERVICE_UNAVAILABLE || ended;
        may_be
            && headers
                .get(&UNDELIVERED)
                .is_some_and(|why| why == NO_CONNECTION)
            && self.is_meshed(pool)
    }

    /// Whether the endpoint's sidecar is called, which proves to be the endpoint's.
    fn is_meshed(&self, pool: &Pool) -> bool {
        self.endpoint.identity.is_some() && pool.policy.tls.is_mesh()
    }

    /// The failure of such an answer; all threads know from now on.
    fn undelivered(&self, unsent: Option<Request<Body>>) -> Failure {
        self.availability.mark_undelivered(clock::instant());
        let address = self.endpoint.address;
        Failure::new(Error::Undelivered { address }, unsent)
    }

    /// Whether there is no connection at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.shared.borrow().is_empty() && self.idle.borrow().is_empty() && self.carriers.is_empty()
    }

    /// Lets go of what nobody uses just now: no request is to come here for a
    /// while. A shared connection ends with its last stream.
    pub(crate) fn close_idle(&self) {
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
        self.carriers.clear();
    }

    /// Closes connections that have been idle for too long, or that their server
    /// has closed.
    pub(crate) fn expire(&self) {
        let now = Instant::now();
        let usable = |idle: &mut Idle| !idle.is_stale(now) && idle.connection.codec.is_quiet();
        self.idle.borrow_mut().retain_mut(usable);
        let mut shared = self.shared.borrow_mut();
        shared.retain(|shared| !shared.is_over(now) && !shared.is_in_the_way());
        self.carriers.expire(now);
    }
}

impl Idle {
    fn is_stale(&self, now: Instant) -> bool {
        let longest = self.connection.pool.policy.pool.http_idle_timeout;
        longest.is_some_and(|longest| now - self.since >= longest) || self.connection.is_over(now)
    }
}

/// Sends a request to an endpoint, in the version it has and by a pool's
/// policy.
pub(crate) async fn send(
    tls: &Tls,
    connections: &Rc<Connections>,
    pool: &Rc<Pool>,
    request: Request<Body>,
    manner: Manner,
) -> Result<Answer, Failure> {
    let granted = match pool.take(Limit::Requests) {
        Ok(granted) => granted,
        Err(error) => return Err(unsent(error, request)),
    };
    let is_http2 = request.version() == Version::HTTP_2;
    let is_application = translate::is_application(connections, pool);
    let mut answer = if is_application && (is_http2 || connections.known.is_special()) {
        translate::send(tls, connections, pool, request, manner).await?
    } else if is_http2 {
        send_http2(tls, connections, pool, request, manner).await?
    } else {
        send_http1(tls, connections, pool, request, manner).await?
    };
    answer.permit.request = granted;
    Ok(answer)
}

fn unsent(error: Error, request: Request<Body>) -> Failure {
    Failure::new(error, Some(request))
}

async fn send_http1(
    tls: &Tls,
    connections: &Rc<Connections>,
    pool: &Rc<Pool>,
    request: Request<Body>,
    manner: Manner,
) -> Result<Answer, Failure> {
    let (mut head, mut body) = request.into_parts();
    let mut lost_a_race = false;
    loop {
        let now = clock::now();
        let idle = match lost_a_race {
            false => connections.take_idle(pool, now),
            true => None,
        };
        let at_risk = idle.as_ref().is_some_and(|idle| now - idle.since > AT_RISK);
        let mut connection = match idle {
            Some(idle) => idle.connection,
            // Boxed, for it is rare and large; so is what it would make of each request.
            None => match Box::pin(open::http1(tls, connections, pool, manner.others)).await {
                Ok(connection) => connection,
                Err(error) => {
                    let failure = unsent(error, Request::from_parts(head, body));
                    return Err(Failure {
                        resent: lost_a_race,
                        ..failure
                    });
                }
            },
        };
        // Only what has no body may be sent twice, and from a copy of its head.
        let repeatable = at_risk && head.method.is_idempotent() && body.is_end_stream();
        if let Err(error) = connection.codec.begin(&head, body) {
            return Err(broken(connections, &mut connection, &error));
        }
        if manner.informs {
            connection.codec.inform();
        }
        let spare = match repeatable || manner.keep_head {
            true => Some(head),
            false => {
                one::recycle(head.headers);
                None
            }
        };
        match (connection.codec.answer().await, spare) {
            (Ok(response), spare) => {
                let ended = connection.codec.is_ended();
                let said = (response.status(), response.headers());
                if connections.is_undelivered(pool, said, ended) {
                    let unsent = spare.filter(|_| manner.keep_head);
                    let unsent = unsent.map(|head| Request::from_parts(head, Body::empty()));
                    return Err(connections.undelivered(unsent));
                }
                if let Some(head) = spare {
                    one::recycle(head.headers);
                }
                connection.served += 1;
                let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                let lease = Lease::new(connection, connections.clone(), switches);
                return Ok(Answer {
                    response: response.map(|()| Body::leased(lease)),
                    permit: Permit::default(),
                });
            }
            // The request and the connection's end crossed.
            (Err(error), Some(spare)) if repeatable && error.is_hang_up() => {
                lost_a_race = true;
                (head, body) = (spare, Body::empty());
            }
            (Err(error), spare) => {
                let unseen = unseen::by_http1(connections, &connection, &error, spare);
                return Err(unseen.unwrap_or_else(|| broken(connections, &mut connection, &error)));
            }
        }
    }
}

/// The failure of an HTTP/1.1 connection that may have sent some of the request.
fn broken(connections: &Connections, connection: &mut Http1, error: &one::Error) -> Failure {
    let answered_by_http2 = connection.codec.is_answered_by_http2();
    let error = match answered_by_http2 && translate::is_application(connections, &connection.pool)
    {
        true => translate::answered_by_http2(connections),
        false => ended::over_http1(connections.endpoint.address, error),
    };
    Failure::new(error, None)
}

async fn send_http2(
    tls: &Tls,
    connections: &Rc<Connections>,
    pool: &Rc<Pool>,
    mut request: Request<Body>,
    manner: Manner,
) -> Result<Answer, Failure> {
    // hyper gives no head back that it has sent.
    let kept = manner.keep_head.then(|| Box::new(copy_of_head(&request)));
    // Once more on a new connection when the shared one was on its way out.
    for last_try in [false, true] {
        let opened = match connections.take_shared(pool) {
            Some(known) => Ok(known),
            None => Box::pin(open::http2(tls, connections, pool, manner.others)).await,
        };
        let (mut sender, stream) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(unsent(error, request)),
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
                let said = (response.status(), response.headers());
                if connections.is_undelivered(pool, said, response.body().is_end_stream()) {
                    return Err(connections.undelivered(kept.map(|request| *request)));
                }
                let permit = Permit {
                    stream: Some(stream),
                    ..Permit::default()
                };
                return Ok(Answer {
                    response: response.map(Body::incoming),
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
                unsent => {
                    let error = failed.into_error();
                    let unseen = match unsent {
                        None => unseen::by_http2(connections, pool, &error, kept),
                        Some(_) => None,
                    };
                    let ended = || ended::over_http2(connections.endpoint.address, &error);
                    return Err(unseen.unwrap_or_else(|| Failure::new(ended(), unsent)));
                }
            },
        }
    }
    unreachable!("the last try returns")
}

/// The request without its body.
fn copy_of_head(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}
