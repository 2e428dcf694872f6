//! The receipt of a request, and WebSocket and other protocol changes: its head is made this
//! hop's before any other middleware decides by it. One that asks for another protocol goes
//! through the stack like any other, and once both sides have agreed the bytes are relayed.

use super::{
    Call, body::Body, connection::Held, exchange::Exchange, forwarded, found::Found, grant::Side,
    lease::Lease,
};
use crate::{
    error::Error,
    io::{Rewind, relay},
    stream::Stream,
};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, Version, header::HOST};
use std::{
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};
use tower::{Layer, Service};

/// A service of the stack that knows by which host it is called.
pub(crate) trait Callee {
    /// Returns the host, for requests that name none.
    fn host(&self) -> String;
}

/// Layer of [`Upgrade`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct UpgradeLayer;

impl<S> Layer<S> for UpgradeLayer {
    type Service = Upgrade<S>;

    fn layer(&self, inner: S) -> Upgrade<S> {
        Upgrade { inner }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Upgrade<S> {
    inner: S,
}

impl<S> Service<Call> for Upgrade<S>
where
    S: Service<Call, Response = Response<Body>, Error = Error> + Callee,
    S::Future: 'static,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = futures_util::future::Either<
        S::Future,
        Pin<Box<dyn Future<Output = Result<Response<Body>, Error>>>>,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        if call.request.version() == Version::HTTP_10 && names_no_host(&call) {
            name_host(&mut call, &self.inner);
        }
        let wanted = match forwarded::receive(&mut call.request, call.found) {
            Ok(wanted) => wanted,
            Err(reason) => {
                let error = std::future::ready(Err(Error::BadRequest(reason.to_owned())));
                return futures_util::future::Either::Right(Box::pin(error));
            }
        };
        if !wanted {
            return futures_util::future::Either::Left(self.inner.call(call));
        }
        let exchange = call.exchange.clone();
        let response = self.inner.call(call);
        futures_util::future::Either::Right(Box::pin(async move {
            let mut response = response.await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                let body = std::mem::replace(response.body_mut(), Body::empty());
                if let Some(upstream) = body.into_lease().and_then(Lease::into_stream) {
                    *response.body_mut() = Body::tunnel(Tunnel { upstream, exchange });
                }
            }
            Ok(response)
        }))
    }
}

/// Reports whether a request has no `Host`, or an empty one.
fn names_no_host(call: &Call) -> bool {
    let mut hosts = call.request.headers().get_all(HOST).iter();
    hosts.next().is_none_or(HeaderValue::is_empty) && hosts.next().is_none()
}

/// Gives a request of HTTP/1.0, which need not name a host, the callee's: it goes on as
/// HTTP/1.1, where an empty one is none to many servers.
fn name_host(call: &mut Call, callee: &impl Callee) {
    if call.request.uri().authority().is_none()
        && let Ok(host) = HeaderValue::try_from(callee.host())
    {
        call.request.headers_mut().insert(HOST, host);
        call.found = call.found | Found::HOST;
    }
}

/// A protocol change that both sides have agreed on, before the client has been
/// told.
pub(crate) struct Tunnel {
    /// The upstream's stream, and what it has said already.
    upstream: (Held, Bytes),
    exchange: Rc<Exchange>,
}

impl Tunnel {
    /// Relays from now on; `unread`: what the client has said already.
    pub(crate) fn begin(self, client: Stream, unread: Bytes) {
        tokio::task::spawn_local(self.relay(Rewind::new(unread, client)));
    }

    /// Until both sides are done; the exchange lasts as long.
    async fn relay(self, mut client: Rewind<Stream>) {
        let (upstream, unread) = self.upstream;
        let mut upstream = Rewind::new(unread, upstream);
        let sent = |bytes| self.exchange.count_request(bytes);
        let received = |bytes| self.exchange.count_response(bytes);
        let exchange = &self.exchange;
        tokio::select! {
            relayed = relay(&mut client, &mut upstream, sent, received) => {
                if let Err(error) = relayed {
                    tracing::debug!(%error, "an upgraded connection broke");
                }
            }
            () = poll_fn(|context| exchange.poll_withdrawn(Side::Response, context)) => {
                tracing::debug!("a policy ended an upgraded connection");
            }
        }
    }
}
