//! Turns an error into the response that a caller understands: a status and a
//! sentence, or for gRPC a trailers-only answer.

use super::{
    Call,
    body::Body,
    connection::{NO_CONNECTION, UNDELIVERED},
    exchange::Exchange,
};
use crate::error::Error;
use http::{HeaderMap, HeaderValue, Response, header};
use pin_project_lite::pin_project;
use std::{
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};
use tower::{Layer, Service};

/// Layer of [`Rescue`]; `unplaced` gives an exchange that failed before it had
/// an endpoint somewhere to be recorded.
#[derive(Clone)]
pub(crate) struct RescueLayer<U> {
    pub(crate) unplaced: U,
    /// Whether the caller is a sidecar that is to hear when the application has not
    /// seen its request, and whether that is because it accepts no connection.
    pub(crate) tells_undelivered: bool,
}

impl<S, U: Clone> Layer<S> for RescueLayer<U> {
    type Service = Rescue<S, U>;

    fn layer(&self, inner: S) -> Rescue<S, U> {
        Rescue {
            inner,
            unplaced: self.unplaced.clone(),
            tells_undelivered: self.tells_undelivered,
        }
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Rescue<S, U> {
    inner: S,
    unplaced: U,
    tells_undelivered: bool,
}

impl<S, U> Service<Call> for Rescue<S, U>
where
    S: Service<Call, Response = Response<Body>, Error = Error>,
    U: Fn(&Exchange) + Clone,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = RescueFuture<S::Future, U>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The stack below is always ready: it waits in `call`, where it knows
        // for which endpoint.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        RescueFuture {
            exchange: call.exchange.clone(),
            unplaced: self.unplaced.clone(),
            tells_undelivered: self.tells_undelivered,
            inner: self.inner.call(call),
        }
    }
}

pin_project! {
    /// Future of [`Rescue`].
    pub(crate) struct RescueFuture<F, U> {
        #[pin]
        inner: F,
        exchange: Rc<Exchange>,
        unplaced: U,
        tells_undelivered: bool,
    }
}

impl<F, U> Future for RescueFuture<F, U>
where
    F: Future<Output = Result<Response<Body>, Error>>,
    U: Fn(&Exchange),
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(context));
        Poll::Ready(Ok(result.unwrap_or_else(|error| {
            if !this.exchange.has_sink() {
                (this.unplaced)(this.exchange);
            }
            let mut answer = rescued(&error, this.exchange);
            if *this.tells_undelivered
                && let Some(why) = undelivered(&error)
            {
                let headers = answer.headers_mut();
                headers.insert(&UNDELIVERED, HeaderValue::from_static(why));
            }
            answer
        })))
    }
}

/// Why the application has not seen a request, if that is so.
fn undelivered(error: &Error) -> Option<&'static str> {
    match error {
        Error::Connect { .. } => Some(NO_CONNECTION),
        // Whoever calls is not to take it for a sign of the application.
        Error::Denied { .. }
        | Error::Unauthenticated { .. }
        | Error::BadRequest(_)
        | Error::Deadline { .. } => Some("answered"),
        _ => None,
    }
}

/// Notes an error and makes the answer to it.
pub(crate) fn rescued(error: &Error, exchange: &Exchange) -> Response<Body> {
    exchange.flag(error.flags());
    if matches!(error, Error::CallerGone) {
        exchange.unheard();
    }
    tracing::debug!(%error, "answered for the upstream");
    respond(error, exchange.is_grpc())
}

/// The response to an error.
fn respond(error: &Error, grpc: bool) -> Response<Body> {
    let text = error.text();
    if !grpc {
        let mut response = Response::new(Body::text(text));
        *response.status_mut() = error.status();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        if matches!(error, Error::Unauthenticated { .. }) {
            // RFC 6750, 3.1.
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        return response;
    }
    let mut response = Response::new(Body::empty());
    *response.headers_mut() = grpc_trailers(error);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    response
}

/// What tells a gRPC caller of an error, wherever its answer ends.
pub(crate) fn grpc_trailers(error: &Error) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(error.grpc_status()));
    if let Ok(message) = HeaderValue::from_str(&percent_encode(&error.text())) {
        trailers.insert("grpc-message", message);
    }
    trailers
}

/// gRPC's encoding of `grpc-message`: printable ASCII but `%` as it is.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn grpc_callers_get_a_trailers_only_answer() {
        let error = Error::NoCertificate;
        let response = respond(&error, true);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "14");
        let response = respond(&error, false);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn messages_are_encoded() {
        assert_eq!(percent_encode("a 100% ü"), "a 100%25 %C3%BC");
    }
}
