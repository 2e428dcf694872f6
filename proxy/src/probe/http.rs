//! HTTP and HTTPS probes: one GET on a connection of its own.
//!
//! The kubelet counts 200 to 399 as success, and so a redirect is one. Its
//! `Location` is not passed on: the kubelet would follow it around the sidecar.

use super::{BODY_LIMIT, Failure, danger};
use ::http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header,
    uri::{InvalidUri, PathAndQuery},
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use std::{fmt::Write, net::SocketAddr};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

/// What to ask for, from the path in a pod's manifest: as free in form as the
/// kubelet takes it.
pub(super) fn target(path: &str) -> Result<PathAndQuery, InvalidUri> {
    let path = path.split('#').next().unwrap_or_default();
    let mut target = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        target.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                // Writing to a String can't fail.
                let _ = write!(target, "%{byte:02X}");
            }
            0x21..=0x7e => target.push(char::from(byte)),
            _ => {
                let _ = write!(target, "%{byte:02X}");
            }
        }
    }
    target.parse()
}

/// Asks, and returns the status with the beginning of the body.
pub(super) async fn get(
    stream: TcpStream,
    address: SocketAddr,
    tls: bool,
    target: &PathAndQuery,
    headers: &HeaderMap,
    agent: Option<&HeaderValue>,
) -> Result<(StatusCode, Bytes), Failure> {
    let request = request(address, target, headers, agent)?;
    let failed = |source| Failure::Http { address, source };
    // Dropped at the end, which ends the connection's task.
    let mut connection = JoinSet::new();
    let response = if tls {
        let name = ServerName::IpAddress(address.ip().into());
        let stream = TlsConnector::from(danger::client_config())
            .connect(name, stream)
            .await
            .map_err(|source| Failure::Tls { address, source })?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            http2(stream, address, request, &mut connection).await
        } else {
            http1(stream, request, &mut connection)
                .await
                .map_err(failed)
        }
    } else {
        http1(stream, request, &mut connection)
            .await
            .map_err(failed)
    }?;
    let status = response.status();
    let body = beginning(response.into_body()).await.map_err(failed)?;
    Ok((status, body))
}

fn request(
    address: SocketAddr,
    target: &PathAndQuery,
    headers: &HeaderMap,
    agent: Option<&HeaderValue>,
) -> Result<Request<Empty<Bytes>>, ::http::Error> {
    let mut request = Request::get(Uri::from(target.clone())).body(Empty::new())?;
    let own = request.headers_mut();
    own.clone_from(headers);
    if !own.contains_key(header::HOST) {
        own.insert(header::HOST, HeaderValue::try_from(address.to_string())?);
    }
    let agent = agent
        .cloned()
        .unwrap_or(HeaderValue::from_static("kube-probe/linnet"));
    let defaults = [
        (header::USER_AGENT, agent),
        (header::ACCEPT, HeaderValue::from_static("*/*")),
    ];
    for (name, value) in defaults {
        // An empty value in the manifest means: send none.
        match own.get(&name) {
            None => drop(own.insert(name, value)),
            Some(set) if set.is_empty() => drop(own.remove(&name)),
            Some(_) => {}
        }
    }
    Ok(request)
}

async fn http1<S>(
    stream: S,
    mut request: Request<Empty<Bytes>>,
    connection: &mut JoinSet<hyper::Result<()>>,
) -> hyper::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    connection.spawn(driver);
    let close = HeaderValue::from_static("close");
    request.headers_mut().insert(header::CONNECTION, close);
    sender.send_request(request).await
}

async fn http2<S>(
    stream: S,
    address: SocketAddr,
    mut request: Request<Empty<Bytes>>,
    connection: &mut JoinSet<hyper::Result<()>>,
) -> Result<Response<Incoming>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |source| Failure::Http { address, source };
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(failed)?;
    connection.spawn(driver);
    // HTTP/2 carries the host in the URI.
    let host = request.headers_mut().remove(header::HOST);
    let host = host.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    uri.scheme = Some(::http::uri::Scheme::HTTPS);
    uri.authority = Some(host.try_into().map_err(::http::Error::from)?);
    *request.uri_mut() = Uri::from_parts(uri).map_err(::http::Error::from)?;
    sender.send_request(request).await.map_err(failed)
}

/// As much of a body as is worth passing on.
async fn beginning(mut body: Incoming) -> hyper::Result<Bytes> {
    let mut read = BytesMut::new();
    while read.len() < BODY_LIMIT
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame?.into_data() {
            read.extend_from_slice(&data);
        }
    }
    read.truncate(BODY_LIMIT);
    Ok(read.freeze())
}
