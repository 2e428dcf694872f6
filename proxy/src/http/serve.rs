//! Serves an accepted connection with a stack, and ends it politely when the
//! sidecar drains: HTTP/1.1 after the current response, HTTP/2 by GOAWAY.

use super::{
    CONNECTION_WINDOW, LARGEST_HEAD, LocalExecutor, MAX_AGE, MOST_LOCAL_RESETS, MOST_RESETS,
    MOST_STREAMS, STREAM_WINDOW, aged, body::Body, one::server,
};
use crate::{io::Gather, stream::Stream};
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2};
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

impl server::Drain for drain::Watch {
    fn is_draining(&self) -> bool {
        self.is_draining()
    }

    async fn signaled(&self) {
        // The watch itself delays the drain's end.
        let _guard = self.signaled().await;
    }
}

/// Serves until the connection ends. An HTTP/2 one whose caller is elsewhere
/// gets a GOAWAY when it is old, and the caller looks for a pod anew.
pub(crate) async fn serve<S>(
    stream: Stream,
    version: HttpVersion,
    mut stack: S,
    drain: drain::Watch,
    ages: bool,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + 'static,
{
    let ended = match version {
        HttpVersion::Http1 => {
            let handler = |request: Request<_>| stack.call(request.map(Body::received));
            let served = server::serve(stream, handler, drain).await;
            served.map_err(|error| error.to_string())
        }
        HttpVersion::Http2 => {
            let served = serve_http2(stream, stack, drain, ages).await;
            served.map_err(|error| error.to_string())
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a client's connection broke");
    }
}

async fn serve_http2<S>(
    stream: Stream,
    stack: S,
    drain: drain::Watch,
    ages: bool,
) -> hyper::Result<()>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        stack.clone().call(request.map(Body::incoming))
    });
    let connection = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_header_list_size(LARGEST_HEAD as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MOST_STREAMS)
        .max_pending_accept_reset_streams(MOST_RESETS)
        .max_local_error_reset_streams(MOST_LOCAL_RESETS)
        .serve_connection(TokioIo::new(Gather::new(stream)), service);
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
