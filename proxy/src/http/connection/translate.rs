//! Requests to an application that does not speak its caller's version of HTTP.
//!
//! Between sidecars a request keeps the version that its client spoke. Where it leaves
//! the mesh, in plaintext or TLS of the application's own kind, the version becomes one
//! that the application speaks: the one that its port declares, that it chose as TLS began,
//! or that was learnt. HTTP/2 is known by the SETTINGS frame that every server of it sends
//! first, before a request is sent. What was learnt
//! is forgotten soon, since an application may be replaced by another.

use super::{Answer, Connections, Failure, Manner, send_http1, send_http2, unsent};
use crate::{
    clock,
    error::Error,
    http::{body::Body, forwarded, one},
    pool::{Pool, StreamSlot, Streams},
    tls::Tls,
};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Uri, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    uri::{Authority, Scheme},
};
use http_body::Body as _;
use linnet_mesh::{AppProtocol, destination::ClientTls};
use std::{cell::Cell, pin::Pin, rc::Rc, sync::OnceLock, time::Duration};
use tokio::time::Instant;

/// How long it is believed which versions an application speaks.
const REMEMBERED: Duration = Duration::from_secs(10);
/// On each data thread one in so many files may be an HTTP/1.1 connection that serves a
/// stream of HTTP/2: the streams of a connection are many, and each needs one.
pub(crate) const FILES_SHARE: usize = 32;

/// What an application was seen to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1Alone,
    Http2Alone,
}

/// What is known of an application.
#[derive(Default)]
pub(super) struct Known {
    declares_http2: Cell<bool>,
    learnt: Cell<Option<(Speaks, Instant)>>,
}

impl Known {
    pub(super) fn declare(&self, protocol: AppProtocol) {
        self.declares_http2.set(protocol == AppProtocol::Http2);
    }

    /// Reports whether anything is known that a request of HTTP/1.1 must go by.
    pub(super) fn is_special(&self) -> bool {
        let learnt = self.learnt.get().map(|(speaks, _)| speaks);
        self.declares_http2.get() || learnt == Some(Speaks::Http2Alone)
    }

    fn learnt(&self) -> Option<Speaks> {
        let (speaks, when) = self.learnt.get()?;
        (clock::now() - when < REMEMBERED).then_some(speaks)
    }

    /// Takes note that what was learnt last is still so.
    fn renew(&self) {
        if let Some((speaks, _)) = self.learnt.get() {
            self.learnt.set(Some((speaks, clock::now())));
        }
    }

    /// Whether that was the last that was learnt, however long ago.
    pub(super) fn spoke_http1_alone(&self) -> bool {
        matches!(self.learnt.get(), Some((Speaks::Http1Alone, _)))
    }

    pub(super) fn learn(&self, speaks: Speaks) {
        self.learnt.set(Some((speaks, Instant::now())));
    }

    pub(super) fn speaks_http1_alone(&self) -> bool {
        self.learnt() == Some(Speaks::Http1Alone)
    }

    fn wants_http2(&self) -> bool {
        let learnt = self.learnt();
        learnt == Some(Speaks::Http2Alone)
            || self.declares_http2.get() && learnt != Some(Speaks::Http1Alone)
    }
}

/// Whether the other side is an application: it is called in plaintext or TLS of its own
/// kind, without a sidecar in between.
pub(super) fn is_application(connections: &Connections, pool: &Pool) -> bool {
    match &pool.policy.tls {
        ClientTls::Auto => connections.endpoint.identity.is_none(),
        ClientTls::Disable | ClientTls::Simple(_) | ClientTls::Mutual { .. } => true,
        ClientTls::IstioMutual => false,
    }
}

/// Sends a request to an application, in a version that it speaks. Boxed, for what
/// translates is large, and rare.
pub(super) fn send<'a>(
    tls: &'a Tls,
    connections: &'a Rc<Connections>,
    pool: &'a Rc<Pool>,
    request: Request<Body>,
    manner: Manner,
) -> Pin<Box<dyn Future<Output = Result<Answer, Failure>> + 'a>> {
    match request.version() {
        Version::HTTP_2 => Box::pin(from_http2(tls, connections, pool, request, manner)),
        _ => Box::pin(from_http1(tls, connections, pool, request, manner)),
    }
}

/// Sends a request of HTTP/2, translated where the application speaks HTTP/1 alone.
async fn from_http2(
    tls: &Tls,
    connections: &Rc<Connections>,
    pool: &Rc<Pool>,
    request: Request<Body>,
    manner: Manner,
) -> Result<Answer, Failure> {
    if connections.known.speaks_http1_alone() {
        let error = not_http2(connections, "it speaks HTTP/1 alone");
        return Box::pin(to_http1(
            tls,
            connections,
            pool,
            unsent(error, request),
            manner,
        ))
        .await;
    }
    match send_http2(tls, connections, pool, request, manner).await {
        Err(failure) if matches!(failure.error, Error::Protocol { .. }) => {
            Box::pin(to_http1(tls, connections, pool, failure, manner)).await
        }
        sent => sent,
    }
}

/// Sends a request of HTTP/1, translated where the application is said or was seen to
/// speak HTTP/2.
async fn from_http1(
    tls: &Tls,
    connections: &Rc<Connections>,
    pool: &Rc<Pool>,
    mut request: Request<Body>,
    manner: Manner,
) -> Result<Answer, Failure> {
    // HTTP/2 has no such upgrades.
    let wanted = connections.known.wants_http2() && !request.headers().contains_key(UPGRADE);
    if let Some(target) = wanted.then(|| http2_target(&request)).flatten() {
        let translated = as_http2(request, target);
        match send_http2(tls, connections, pool, translated, manner).await {
            Ok(mut answer) => {
                connections.known.renew();
                *answer.response.version_mut() = Version::HTTP_11;
                return Ok(answer);
            }
            Err(mut failure) => {
                // Another endpoint may take it as it came.
                failure.unsent = failure.unsent.map(as_http1);
                let is_protocol = matches!(failure.error, Error::Protocol { .. });
                match failure.unsent {
                    Some(unsent) if is_protocol => request = unsent,
                    unsent => return Err(Failure { unsent, ..failure }),
                }
            }
        }
    }
    send_http1(tls, connections, pool, request, manner).await
}

/// Learns that an application answered HTTP/1.1 by HTTP/2, which is no fault of it. The request
/// is not sent again: by then its body may be gone.
pub(super) fn answered_by_http2(connections: &Connections) -> Error {
    let known = &connections.known;
    known.learn(Speaks::Http2Alone);
    let reason = match known.declares_http2.get() {
        // What could be translated has been.
        true => {
            "it speaks HTTP/2 alone, and the request can't be made one of HTTP/2: an upgrade \
             such as WebSocket's has no such form, nor has a target without a host"
        }
        false => {
            "it answers HTTP/1.1 by HTTP/2; declare `appProtocol: kubernetes.io/h2c` at the \
             Service's port"
        }
    };
    Error::Protocol {
        address: connections.endpoint.address,
        reason: reason.to_owned(),
        blames: false,
    }
}

/// Makes the failure of one version of HTTP with an application.
pub(super) fn not_http2(connections: &Connections, reason: &str) -> Error {
    Error::Protocol {
        address: connections.endpoint.address,
        reason: reason.to_owned(),
        blames: true,
    }
}

/// Sends what could not be sent by HTTP/2 as HTTP/1.1, unless it is gone, or gRPC, which
/// has no such form.
async fn to_http1(
    tls: &Tls,
    connections: &Rc<Connections>,
    pool: &Rc<Pool>,
    failure: Failure,
    manner: Manner,
) -> Result<Answer, Failure> {
    let Some(request) = failure.unsent else {
        return Err(failure);
    };
    if is_grpc(request.headers()) || request.method() == Method::CONNECT {
        return Err(unsent(failure.error, request));
    }
    let Some(slot) = translating() else {
        let error = not_http2(
            connections,
            "it speaks HTTP/1 alone, and as many requests of HTTP/2 are translated as may be",
        );
        return Err(unsent(error, request));
    };
    let sent = send_http1(tls, connections, pool, as_http1(request), manner).await;
    let mut answer = sent.map_err(|failure| Failure {
        // Another endpoint may take it as it came.
        unsent: failure.unsent.map(|request| match http2_target(&request) {
            Some(target) => as_http2(request, target),
            None => request,
        }),
        ..failure
    })?;
    answer.permit.stream = Some(slot);
    as_http2_response(&mut answer.response)
        .map_err(|reason| Failure::new(not_http2(connections, reason), None))
        .map(|()| answer)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Makes a request of HTTP/2 one of HTTP/1.1 (RFC 9113, 8.2.3 and 8.3.1).
fn as_http1(request: Request<Body>) -> Request<Body> {
    let (mut head, body) = request.into_parts();
    head.version = Version::HTTP_11;
    let host = head.uri.authority().map(Authority::as_str);
    let host = host.and_then(|host| HeaderValue::from_str(host).ok());
    if let Some(host) = host {
        head.headers.insert(HOST, host);
    } else if !head.headers.contains_key(HOST) {
        head.headers.insert(HOST, HeaderValue::from_static(""));
    }
    head.uri = match head.uri.path_and_query() {
        Some(path) => Uri::from(path.clone()),
        None => Uri::from_static("/"),
    };
    // It speaks of this hop, as do the fields that HTTP/2 does not have.
    head.headers.remove(TE);
    head.headers.remove(TRANSFER_ENCODING);
    frame(&head.method, &mut head.headers, &body);
    forwarded::join_cookies(&mut head.headers);
    Request::from_parts(head, body)
}

/// Says how long a request's body is, which HTTP/2 shows by its frames.
fn frame(method: &Method, headers: &mut HeaderMap, body: &Body) {
    if headers.contains_key(CONTENT_LENGTH) {
        return;
    }
    if !body.is_end_stream() {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    } else if matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
        // Such a request without a body says so (RFC 9110, 8.6).
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

/// Makes a response of HTTP/1.1 one of HTTP/2.
fn as_http2_response(response: &mut Response<Body>) -> Result<(), &'static str> {
    let headers = response.headers_mut();
    let codings = headers.get_all(TRANSFER_ENCODING).iter();
    let mut codings = codings.filter(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if codings.next().is_some() {
        return Err("it answered with a transfer coding, which HTTP/2 does not have");
    }
    headers.remove(TRANSFER_ENCODING);
    // One that is said twice is one; where there is no body, what is no length says nothing.
    match one::content_length(headers) {
        Ok(Some(length)) => drop(headers.insert(CONTENT_LENGTH, length.into())),
        Ok(None) => {}
        Err(_) => drop(headers.remove(CONTENT_LENGTH)),
    }
    forwarded::response_head(headers, Version::HTTP_11, false);
    *response.version_mut() = Version::HTTP_2;
    Ok(())
}

/// Returns the target of an HTTP/1 request as HTTP/2 has it; `None`: it has no such form.
fn http2_target(request: &Request<Body>) -> Option<Uri> {
    let host = request.headers().get(HOST)?.as_bytes();
    let target = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(Authority::try_from(host).ok()?)
        .path_and_query(request.uri().path_and_query()?.clone());
    target.build().ok()
}

/// Makes a request of HTTP/1 one of HTTP/2.
fn as_http2(request: Request<Body>, target: Uri) -> Request<Body> {
    let (mut head, body) = request.into_parts();
    head.version = Version::HTTP_2;
    head.uri = target;
    let headers = &mut head.headers;
    headers.remove(HOST);
    headers.remove(TRANSFER_ENCODING);
    // Whoever reads the body says at this hop that it is wanted.
    headers.remove(EXPECT);
    if headers.get(TE).is_some_and(|te| te != "trailers") {
        headers.remove(TE);
    }
    Request::from_parts(head, body)
}

thread_local! {
    /// Requests of HTTP/2 that have an HTTP/1.1 connection each.
    static TRANSLATED: Rc<Streams> = Streams::new();
}

/// Takes the place of one more request that is translated to HTTP/1.1.
fn translating() -> Option<StreamSlot> {
    static MOST: OnceLock<u32> = OnceLock::new();
    let most = MOST.get_or_init(|| {
        let share = linnet_runtime::files::limit() / FILES_SHARE;
        u32::try_from(share).unwrap_or(u32::MAX)
    });
    TRANSLATED.with(|streams| (streams.count() < *most).then(|| streams.open()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An application may be replaced by another.
    #[tokio::test(start_paused = true)]
    async fn what_was_learnt_is_forgotten() {
        let known = Known::default();
        known.declare(AppProtocol::Http2);
        assert!(known.wants_http2() && known.is_special());
        known.learn(Speaks::Http1Alone);
        assert!(!known.wants_http2() && known.speaks_http1_alone());
        tokio::time::advance(REMEMBERED).await;
        assert!(known.wants_http2() && !known.speaks_http1_alone());
        // But whoever then says nothing may be the same one.
        assert!(known.spoke_http1_alone());
        known.learn(Speaks::Http2Alone);
        tokio::time::advance(REMEMBERED / 2).await;
        known.renew();
        tokio::time::advance(REMEMBERED / 2).await;
        assert_eq!(known.learnt(), Some(Speaks::Http2Alone));
    }

    #[test]
    fn a_request_of_http1_says_how_long_it_is() {
        let coming = || {
            let source = Body::text("body");
            crate::http::replay::Replay::begun(source, None).body()
        };
        for (method, length, body, expected) in [
            (Method::GET, None, Body::empty(), (None, None)),
            (Method::DELETE, None, Body::empty(), (None, None)),
            (Method::POST, None, Body::empty(), (Some("0"), None)),
            (Method::PUT, None, Body::empty(), (Some("0"), None)),
            (Method::PATCH, None, Body::empty(), (Some("0"), None)),
            (Method::POST, Some("4"), coming(), (Some("4"), None)),
            (Method::POST, None, coming(), (None, Some("chunked"))),
            (Method::GET, None, coming(), (None, Some("chunked"))),
        ] {
            let mut request = Request::builder()
                .method(&method)
                .uri("http://payment/charge")
                .version(Version::HTTP_2);
            if let Some(length) = length {
                request = request.header(CONTENT_LENGTH, length);
            }
            let request = as_http1(request.body(body).unwrap());
            let header = |name| {
                let value: Option<&HeaderValue> = request.headers().get(name);
                value.map(|value| value.to_str().unwrap())
            };
            let found = (header(CONTENT_LENGTH), header(TRANSFER_ENCODING));
            assert_eq!(found, expected, "{method} {length:?}");
        }
    }
}
