//! WebSocket and other protocol changes: the request goes through the stack like
//! any other, and once both sides have agreed the bytes are relayed.

use super::{
    Call,
    exchange::{Body, Exchange},
    forwarded,
    found::Found,
    grant::Side,
};
use crate::{error::Error, io::relay};
use http::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::{
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};
use tower::{Layer, Service};

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
    S: Service<Call, Response = Response<Body>, Error = Error>,
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
        let found = call.found;
        if let Err(reason) = forwarded::settle_target(&mut call.request, found) {
            let error = Error::BadRequest(reason.to_owned());
            return futures_util::future::Either::Right(Box::pin(std::future::ready(Err(error))));
        }
        let wanted = found.has(Found::UPGRADE) && forwarded::wants_upgrade(&call.request);
        forwarded::request_head(&mut call.request, found, wanted);
        if !wanted {
            return futures_util::future::Either::Left(self.inner.call(call));
        }
        let client = hyper::upgrade::on(&mut call.request);
        let exchange = call.exchange.clone();
        let response = self.inner.call(call);
        futures_util::future::Either::Right(Box::pin(async move {
            let mut response = response.await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                let upstream = hyper::upgrade::on(&mut response);
                exchange.forget_lease();
                tokio::task::spawn_local(tunnel(client, upstream, exchange));
            }
            Ok(response)
        }))
    }
}

/// Relays until both sides are done; the exchange lasts as long.
async fn tunnel(
    client: hyper::upgrade::OnUpgrade,
    upstream: hyper::upgrade::OnUpgrade,
    exchange: Rc<Exchange>,
) {
    let (client, upstream) = match futures_util::future::try_join(client, upstream).await {
        Ok(pair) => pair,
        Err(error) => {
            tracing::debug!(%error, "an upgrade did not come about");
            return;
        }
    };
    let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
    let sent = |bytes| exchange.count_request(bytes);
    let received = |bytes| exchange.count_response(bytes);
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
