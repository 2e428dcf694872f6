//! Serves an accepted connection with a stack, and ends it politely when the
//! sidecar drains: HTTP/1.1 after the current response, HTTP/2 by GOAWAY.

use super::{
    CONNECTION_WINDOW, LARGEST_HEAD, LocalExecutor, MAX_AGE, MOST_STREAMS, STREAM_WINDOW, aged,
    exchange::Body,
};
use crate::stream::Stream;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use linnet_runtime::drain;
use std::{convert::Infallible, pin::pin};
use tower::Service;

/// The HTTP version of a connection, known before its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    Http1,
    Http2,
}

/// Serves until the connection ends. An HTTP/2 one whose caller is elsewhere
/// gets a GOAWAY when it is old, and the caller looks for a pod anew.
pub(crate) async fn serve<S>(
    stream: Stream,
    version: HttpVersion,
    stack: S,
    drain: drain::Watch,
    ages: bool,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + 'static,
{
    let service = hyper::service::service_fn(move |request| stack.clone().call(request));
    let stream = TokioIo::new(stream);
    let result = match version {
        HttpVersion::Http1 => {
            let connection = http1::Builder::new()
                .max_buf_size(LARGEST_HEAD)
                .serve_connection(stream, service)
                .with_upgrades();
            let mut connection = pin!(connection);
            tokio::select! {
                result = connection.as_mut() => result,
                _draining = drain.signaled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
        HttpVersion::Http2 => {
            let connection = http2::Builder::new(LocalExecutor)
                .timer(TokioTimer::new())
                .max_header_list_size(LARGEST_HEAD as u32)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_concurrent_streams(MOST_STREAMS)
                .serve_connection(stream, service);
            let mut connection = pin!(connection);
            let old = async {
                match ages {
                    true => tokio::time::sleep(aged(MAX_AGE)).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                result = connection.as_mut() => result,
                () = old => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
                _draining = drain.signaled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection broke");
    }
}
