//! What a callee's sidecar says of a request that it has passed to nobody.
//!
//! It is believed over the mesh's own TLS alone, from who has proved to be the endpoint,
//! and before the first byte of an answer. It says so in four ways: it ends the stream or
//! the connection in order, which it does between requests alone; it ends a shared
//! connection in order that it wanted no more streams of; it resets a stream of HTTP/2 as
//! refused, or names the last one that it will look at (RFC 9113, 6.8 and 8.7); or it
//! refuses this workload's certificate, before which TLS gives it nothing to pass on.

use super::{Connections, Failure};
use crate::{
    clock,
    error::Error,
    http::{body::Body, lease::Http1, one},
    pool::Pool,
    stream::Stream,
};
use http::{Request, request};
use std::{error::Error as _, io};

/// Returns the failure of a request that a connection of HTTP/1.1 broke at, if the
/// endpoint's sidecar says that it was not seen. `kept`: its head.
pub(super) fn by_http1(
    connections: &Connections,
    connection: &Http1,
    error: &one::Error,
    kept: Option<request::Parts>,
) -> Option<Failure> {
    let stream = connection.codec.unanswered()?.stream();
    if !connections.is_meshed(&connection.pool) {
        return None;
    }
    let kept = kept.map(|head| Request::from_parts(head, Body::empty()));
    if let one::Error::Io(error) = error
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        let error = certificate(connections, &error.to_string());
        return Some(Failure::new(error, kept));
    }
    // Not what failed here, such as the request's own body.
    let hung_up = matches!(error, one::Error::Io(_) | one::Error::Incomplete);
    let in_order = match stream {
        Stream::Shared(stream) => stream.is_over_in_order(),
        Stream::Client(stream) => stream.has_ended(),
        Stream::Plain(_) | Stream::Server(_) | Stream::Rewound(_) => false,
    };
    (hung_up && in_order).then(|| {
        let error = refused(connections, "it takes no more on this connection");
        Failure::new(error, kept)
    })
}

/// Returns the same of a stream of HTTP/2; `kept`: the request without its body.
pub(super) fn by_http2(
    connections: &Connections,
    pool: &Pool,
    error: &hyper::Error,
    kept: Option<Box<Request<Body>>>,
) -> Option<Failure> {
    let kept = kept.map(|request| *request);
    if !connections.is_meshed(pool) {
        return None;
    }
    if let Some(refusal) = refusal(error) {
        let error = certificate(connections, &refusal.to_string());
        return Some(Failure::new(error, kept));
    }
    let error: &h2::Error = error.source()?.downcast_ref()?;
    let refused_stream = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let beyond_last = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    let told = error.is_remote() && (refused_stream || beyond_last);
    told.then(|| Failure::new(refused(connections, "it takes no more streams"), kept))
}

fn refused(connections: &Connections, reason: &'static str) -> Error {
    let address = connections.endpoint.address;
    Error::Refused { address, reason }
}

/// The failure of a certificate; all threads know from now on. A connection to the
/// endpoint says nothing to the contrary: it comes about before the refusal.
fn certificate(connections: &Connections, reason: &str) -> Error {
    connections.availability.mark_undelivered(clock::instant());
    Error::Certificate {
        address: connections.endpoint.address,
        reason: reason.to_owned(),
    }
}

/// Returns the peer's refusal of this workload's certificate, if a connection of HTTP/2
/// ended with that.
pub(super) fn refusal(error: &hyper::Error) -> Option<&io::Error> {
    let cause: &io::Error = error.source()?.downcast_ref()?;
    (cause.kind() == io::ErrorKind::PermissionDenied).then_some(cause)
}
