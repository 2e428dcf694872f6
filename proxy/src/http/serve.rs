//! Serves an accepted connection with a stack, and ends it politely when the
//! sidecar drains: HTTP/1.1 after the current response, HTTP/2 by GOAWAY.

use super::{
    CONNECTION_WINDOW, LARGEST_HEAD, LocalExecutor, MAX_AGE, MOST_LOCAL_RESETS, MOST_RESETS,
    MOST_STREAMS, STREAM_WINDOW,
    activity::{Activity, Watched},
    aged,
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
use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tower::Service;

/// How long the head of an HTTP/1 request may take from its first byte; hyper's
/// figure. Envoy advises 10 s at a mesh's edge and has no limit within one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The HTTP version of a connection, known before its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    Http1,
    Http2,
}

/// Serves until the connection ends. An HTTP/2 one whose caller is elsewhere
/// gets a GOAWAY when it is old, and the caller looks for a pod anew. The stack
/// notes its exchanges in `activity`.
pub(crate) async fn serve<S>(
    stream: Stream,
    version: HttpVersion,
    activity: Arc<Activity>,
    stack: S,
    drain: drain::Watch,
    ages: bool,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + 'static,
{
    let service = hyper::service::service_fn(move |request| stack.clone().call(request));
    let result = match version {
        HttpVersion::Http1 => {
            let stream = TokioIo::new(Watched {
                stream,
                activity: activity.clone(),
            });
            let connection = http1::Builder::new()
                .max_buf_size(LARGEST_HEAD)
                .serve_connection(stream, service)
                .with_upgrades();
            let mut connection = pin!(connection);
            tokio::select! {
                result = in_time(&activity, connection.as_mut()) => result,
                _draining = drain.signaled() => {
                    connection.as_mut().graceful_shutdown();
                    in_time(&activity, connection).await
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
                .max_pending_accept_reset_streams(MOST_RESETS)
                .max_local_error_reset_streams(MOST_LOCAL_RESETS)
                .serve_connection(TokioIo::new(stream), service);
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

/// The connection, or its end once the head of a request takes too long.
async fn in_time<F>(activity: &Activity, mut connection: Pin<&mut F>) -> hyper::Result<()>
where
    F: Future<Output = hyper::Result<()>>,
{
    let mut limit: Option<Pin<Box<tokio::time::Sleep>>> = None;
    poll_fn(|context| {
        if let Poll::Ready(result) = connection.as_mut().poll(context) {
            return Poll::Ready(result);
        }
        if !activity.awaits_head() {
            limit = None;
            return Poll::Pending;
        }
        let limit = limit.get_or_insert_with(|| Box::pin(tokio::time::sleep(HEAD_TIMEOUT)));
        limit.as_mut().poll(context).map(|()| {
            tracing::debug!(limit = ?HEAD_TIMEOUT, "closed a connection whose request head did not end");
            metrics::counter!("linnet_connections_closed_total", "reason" => "slow_head")
                .increment(1);
            Ok(())
        })
    })
    .await
}
