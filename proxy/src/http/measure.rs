//! The outermost middleware: makes the exchange, counts both bodies and notes
//! the answer.

use super::{
    Call,
    body::Body,
    exchange::{Exchange, speaks_grpc},
    found::Found,
};
use http::{Method, Request, Response};
use http_body::Body as _;
use linnet_runtime::places::Activity;
use pin_project_lite::pin_project;
use std::{
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};
use tower::{Layer, Service};

/// Layer of [`Measure`].
#[derive(Clone, Debug)]
pub(crate) struct MeasureLayer {
    /// The connection that requests come by; it is not idle while one is under way.
    pub(crate) connection: Option<Rc<Activity>>,
}

impl<S> Layer<S> for MeasureLayer {
    type Service = Measure<S>;

    fn layer(&self, inner: S) -> Measure<S> {
        let connection = self.connection.clone();
        Measure { inner, connection }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Measure<S> {
    inner: S,
    connection: Option<Rc<Activity>>,
}

impl<S> Service<Request<Body>> for Measure<S>
where
    S: Service<Call, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = MeasureFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let found = Found::of(request.headers());
        // A tunnel that is refused must not look like one that was granted.
        let grpc = found.has(Found::CONTENT_TYPE)
            && speaks_grpc(request.headers())
            && request.method() != Method::CONNECT;
        let exchange = Rc::new(Exchange::new(grpc).of(self.connection.clone()));
        let request = request.map(|body| body.count_request(exchange.clone()));
        let call = Call {
            request,
            exchange: exchange.clone(),
            found,
        };
        MeasureFuture {
            inner: self.inner.call(call),
            exchange: Some(exchange),
        }
    }
}

pin_project! {
    /// Future of [`Measure`].
    pub(crate) struct MeasureFuture<F> {
        #[pin]
        inner: F,
        exchange: Option<Rc<Exchange>>,
    }
}

impl<F> Future for MeasureFuture<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(response) = ready!(this.inner.poll(context));
        Poll::Ready(Ok(match this.exchange.take() {
            Some(exchange) => {
                let ended = exchange.is_grpc() && response.body().is_end_stream();
                exchange.answered(response.status(), response.headers(), ended);
                response.map(|body| body.count_response(exchange))
            }
            None => response,
        }))
    }
}
