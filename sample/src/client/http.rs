//! HTTP/1.1 and HTTP/2 calls over one connection.

use bytes::Bytes;
use http::header::{HOST, HeaderMap};
use http::{HeaderValue, Request, Response, StatusCode, Uri, uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Answer, Call, CallError, Protocol, tcp, tls};
use crate::{CHAIN_HEADER, VERSION_HEADER};

type Body = Full<Bytes>;

/// Largest answer head taken; see the server's own limit.
const HEADER_LIMIT: u32 = 256 * 1024;

pub(super) enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

pub(super) async fn connect(call: &Call) -> Result<Sender, CallError> {
    let stream = tcp(call).await?;
    match call.protocol {
        Protocol::Http2 => http2(stream).await,
        Protocol::Tls => http1(tls::handshake(stream, call).await?).await,
        _ => http1(stream).await,
    }
    .map_err(|error| failed(&error))
}

async fn http1<S>(stream: S) -> Result<Sender, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEADER_LIMIT as usize);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(Sender::Http1(sender))
}

async fn http2<S>(stream: S) -> Result<Sender, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.max_header_list_size(HEADER_LIMIT);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(Sender::Http2(sender))
}

impl Sender {
    pub(super) async fn is_usable(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    pub(super) async fn request(&mut self, call: &Call) -> Result<Answer, CallError> {
        let response = self.send(call).await?;
        let (head, mut body) = response.into_parts();
        // Read to the end, or the connection cannot be used again.
        while let Some(frame) = body.frame().await {
            frame.map_err(|error| failed(&error))?;
        }
        if head.status.is_client_error() || head.status.is_server_error() {
            return Err(CallError::Status(head.status));
        }
        Ok(answer(&head.headers))
    }

    pub(super) async fn get(&mut self, call: &Call) -> Result<(StatusCode, String), CallError> {
        let (head, body) = self.send(call).await?.into_parts();
        let body = body.collect().await.map_err(|error| failed(&error))?;
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok((head.status, text))
    }

    async fn send(&mut self, call: &Call) -> Result<Response<Incoming>, CallError> {
        let request = match self {
            Self::Http1(_) => request(call, origin_form(call)),
            Self::Http2(_) => request(call, absolute_form(call)?),
        };
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
        .map_err(|error| failed(&error))
    }
}

fn origin_form(call: &Call) -> Uri {
    Uri::from(call.target.path.clone())
}

/// HTTP/2 names the destination in `:authority`, taken from the URI.
fn absolute_form(call: &Call) -> Result<Uri, CallError> {
    let host = call.headers.iter().find(|(name, _)| name == HOST);
    let mut parts = uri::Parts::default();
    parts.scheme = Some(uri::Scheme::HTTP);
    parts.authority = Some(match host {
        Some((_, value)) => uri::Authority::try_from(value.as_bytes())
            .map_err(|_| CallError::Answer("the host header is no authority"))?,
        None => call.target.authority.clone(),
    });
    parts.path_and_query = Some(call.target.path.clone());
    Uri::from_parts(parts).map_err(|error| CallError::Http(error.to_string()))
}

fn request(call: &Call, uri: Uri) -> Request<Body> {
    let http2 = uri.authority().is_some();
    let mut request = Request::new(Full::new(Bytes::from(vec![b'x'; call.body_bytes])));
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    if !http2 && let Ok(host) = HeaderValue::from_str(call.target.authority.as_str()) {
        headers.insert(HOST, host);
    }
    for (name, value) in &call.headers {
        if name != HOST || !http2 {
            headers.insert(name.clone(), value.clone());
        }
    }
    request
}

/// Who answered, from the answer's headers.
pub(super) fn answer(headers: &HeaderMap) -> Answer {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    Answer {
        version: text(&VERSION_HEADER).map(str::to_owned),
        chain: text(&CHAIN_HEADER).map_or_else(Vec::new, |chain| {
            chain.split(',').map(|hop| hop.trim().to_owned()).collect()
        }),
    }
}

fn failed(error: &hyper::Error) -> CallError {
    use std::error::Error as _;
    CallError::Http(match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}
