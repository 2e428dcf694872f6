//! HTTP and HTTPS probes: a GET on a connection of its own.
//!
//! As the kubelet does, a redirect to the host that was asked, the pod, is
//! followed, and one to elsewhere is a success: 200 to 399 counts as one. So
//! nothing but the pod is ever asked, and of the pod not the sidecar's own ports.

use super::{AGENT, BODY_LIMIT, Failure, connect, danger};
use ::http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header,
    uri::{InvalidUri, PathAndQuery},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use linnet_mesh::names::port;
use rustls::pki_types::ServerName;
use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

/// Requests that a probe makes at most, redirects followed; the kubelet's number.
pub(super) const REQUESTS: usize = 10;

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

/// What a probe asks next.
#[derive(Clone, Debug, PartialEq)]
struct Hop {
    address: SocketAddr,
    tls: bool,
    target: PathAndQuery,
    /// Whether the manifest's `Host` counts; an absolute `Location` has its own.
    own_host: bool,
}

/// Asks, and returns the status.
pub(super) async fn get(
    address: SocketAddr,
    tls: bool,
    target: &PathAndQuery,
    headers: &HeaderMap,
) -> Result<StatusCode, Failure> {
    let mut hop = Hop {
        address,
        tls,
        target: target.clone(),
        own_host: true,
    };
    for _ in 0..REQUESTS {
        let response = ask(&hop, headers).await?;
        match follow(&hop, &response) {
            Some(next) => hop = next,
            None => return Ok(response.status()),
        }
    }
    Err(Failure::Redirects { address })
}

async fn ask(hop: &Hop, headers: &HeaderMap) -> Result<Response<()>, Failure> {
    let address = hop.address;
    let stream = connect(address).await?;
    let request = request(hop, headers)?;
    let failed = |source| Failure::Http { address, source };
    // Dropped at the end, which ends the connection's task.
    let mut connection = JoinSet::new();
    let response = if hop.tls {
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
    let (head, body) = response.into_parts();
    read_beginning(body).await.map_err(failed)?;
    Ok(Response::from_parts(head, ()))
}

/// Where a response leads, if it is to the host that was asked.
fn follow(hop: &Hop, response: &Response<()>) -> Option<Hop> {
    let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(header::LOCATION)?;
    let location = location.to_str().ok().filter(|_| redirects)?;
    let (tls, rest) = match location.split_once("//") {
        Some(("http:", rest)) => (false, Some(rest)),
        Some(("https:", rest)) => (true, Some(rest)),
        Some(("", rest)) => (hop.tls, Some(rest)),
        _ => (hop.tls, None),
    };
    let next = match rest {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            Hop {
                address: same_host(hop, authority, tls)?,
                tls,
                target: target(path).ok()?,
                own_host: false,
            }
        }
        None => Hop {
            target: relative(hop, location)?,
            ..hop.clone()
        },
    };
    (!port::SIDECAR.contains(&next.address.port())).then_some(next)
}

fn same_host(hop: &Hop, authority: &str, tls: bool) -> Option<SocketAddr> {
    let authority: ::http::uri::Authority = authority.parse().ok()?;
    let host = authority.host().trim_matches(['[', ']']);
    let ip = host.parse::<IpAddr>().ok()?;
    let port = match authority.port() {
        Some(port) => port.as_u16(),
        None if tls => 443,
        None => 80,
    };
    (ip == hop.address.ip() && port != 0).then(|| SocketAddr::new(ip, port))
}

/// A `Location` without a host: a path, a query, or what takes the place of the
/// path's last part. Another scheme is none of these.
fn relative(hop: &Hop, location: &str) -> Option<PathAndQuery> {
    let first = location.split(['/', '?', '#']).next().unwrap_or_default();
    if first.contains(':') {
        return None;
    }
    let path = hop.target.path();
    let joined = match location.chars().next() {
        Some('/') => location.to_owned(),
        Some('?') => format!("{path}{location}"),
        None | Some('#') => hop.target.to_string(),
        Some(_) => {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{location}")
        }
    };
    target(&joined).ok()
}

fn request(hop: &Hop, headers: &HeaderMap) -> Result<Request<Empty<Bytes>>, ::http::Error> {
    let mut request = Request::get(Uri::from(hop.target.clone())).body(Empty::new())?;
    let own = request.headers_mut();
    own.clone_from(headers);
    if !hop.own_host || !own.contains_key(header::HOST) {
        let host = HeaderValue::try_from(hop.address.to_string())?;
        own.insert(header::HOST, host);
    }
    let defaults = [
        (header::USER_AGENT, AGENT),
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

/// Reads as much of a body as the kubelet does, whose probe fails if it does not
/// come.
async fn read_beginning(mut body: Incoming) -> hyper::Result<()> {
    let mut read = 0;
    while read < BODY_LIMIT
        && let Some(frame) = body.frame().await
    {
        read += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(())
}
