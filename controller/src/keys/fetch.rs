//! One fetch of keys over HTTP or HTTPS.
//!
//! Whoever may write a RequestAuthentication chooses what the controller asks. So
//! it asks for little: `GET` without credentials, a bounded answer in a bounded
//! time, a few redirects that never leave TLS, and no address that only the
//! controller's own pod or node has. The address that was looked at is the one that
//! is connected to, whatever the name says a moment later; and what the answer
//! holds is told to nobody, unless it is a JWKS.

use super::{Settings, turns::Turn};
use crate::compile::{KeySource, scheme};
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use linnet_mesh::authentication::{Jwk, jwk};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde::Deserialize;
use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// Longest answer, bytes; a JWKS of many keys is a tenth of it.
const LONGEST_ANSWER: usize = 1024 * 1024;
/// Redirects that are followed.
const MOST_REDIRECTS: usize = 5;
/// EC2's metadata service by IPv6; by IPv4 it is link-local.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Why no keys were fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Url(String),
    #[error("cannot resolve {host}: {source}")]
    Resolve { host: String, source: io::Error },
    #[error(
        "{host} is {address}, which is not asked for keys: it is loopback, link-local or the like; LINNET_JWKS_ALLOW_LOCAL=true lifts that"
    )]
    Local { host: String, address: IpAddr },
    #[error("cannot connect to {host}: {source}")]
    Connect { host: String, source: io::Error },
    #[error("the exchange with {host} broke: {reason}")]
    Exchange { host: String, reason: String },
    #[error("{host} answered {status}")]
    Status { host: String, status: StatusCode },
    #[error("{url} redirects {reason}")]
    Redirect { url: String, reason: &'static str },
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the answer of {url} {reason}")]
    Answer { url: String, reason: String },
    #[error("cannot use the roots in {path}: {reason}")]
    Roots { path: String, reason: String },
}

/// Keys, and of which no use is made and why; or why there are none.
pub(super) type Outcome = Result<(Vec<Jwk>, Vec<String>), String>;

/// Who fetches keys; a test has its own.
pub(super) trait Fetch: Send + Sync {
    /// Fetches a source's keys in a turn. The turn is over once all work is, also work that
    /// goes on when the fetch has been given up.
    fn keys<'a>(&'a self, source: &'a KeySource, turn: Arc<Turn>) -> BoxFuture<'a, Outcome>;
}

impl Fetch for Fetcher {
    fn keys<'a>(&'a self, source: &'a KeySource, turn: Arc<Turn>) -> BoxFuture<'a, Outcome> {
        let fetched = self.keys(source, turn);
        async { fetched.await.map_err(|error| error.to_string()) }.boxed()
    }
}

/// Finds the addresses of a host and port.
pub(super) type Resolve = fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;

/// The system's resolver. It runs on a thread, which nothing ends before it has an answer.
fn resolve(host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
    async move { Ok(lookup_host((host, port)).await?.collect()) }.boxed()
}

/// Fetches keys.
pub(super) struct Fetcher {
    resolve: Resolve,
    tls: Result<TlsConnector, (String, String)>,
    local: bool,
}

#[derive(Deserialize)]
struct OpenId {
    jwks_uri: String,
}

impl Fetcher {
    pub(super) fn new(settings: &Settings) -> Self {
        Self::resolving(settings, resolve)
    }

    /// A fetcher with another resolver than the system's.
    pub(super) fn resolving(settings: &Settings, resolve: Resolve) -> Self {
        let path = settings.roots.as_deref();
        let tls = client(path).map_err(|reason| {
            let path = path.map_or_else(String::new, |path| path.display().to_string());
            (path, reason)
        });
        Self {
            resolve,
            tls: tls.map(|config| TlsConnector::from(Arc::new(config))),
            local: settings.local,
        }
    }

    /// Fetches keys; and says of which no use is made, and why.
    ///
    /// # Errors
    /// There is no answer, or none with keys.
    pub(super) async fn keys(
        &self,
        source: &KeySource,
        turn: Arc<Turn>,
    ) -> Result<(Vec<Jwk>, Vec<String>), Error> {
        let turn = &turn;
        let fetching = async {
            let mut url = source.url.to_string();
            if source.openid {
                let answer = self.get(&url, turn).await?;
                let openid: Result<OpenId, _> = serde_json::from_slice(&answer);
                let openid = openid.map_err(|_| Error::Answer {
                    url: url.clone(),
                    reason: "is no OpenID configuration with a jwks_uri".to_owned(),
                })?;
                if is_secure(&url)? && !is_secure(&openid.jwks_uri)? {
                    let reason = "from https to http";
                    return Err(Error::Redirect { url, reason });
                }
                url = openid.jwks_uri;
            }
            let answer = self.get(&url, turn).await?;
            jwk::read(&answer).map_err(|error| Error::Answer {
                url,
                reason: match error {
                    // Not the parser's words: they may hold some of the answer.
                    jwk::Invalid::NotJwks(_) => "is not a JWKS".to_owned(),
                    jwk::Invalid::NoKey(_) => "has no usable key".to_owned(),
                },
            })
        };
        let fetched = timeout(source.timeout, fetching).await;
        fetched.unwrap_or(Err(Error::Timeout(source.timeout)))
    }

    async fn get(&self, url: &str, turn: &Arc<Turn>) -> Result<Bytes, Error> {
        let mut url = url.to_owned();
        for _ in 0..=MOST_REDIRECTS {
            let response = self.ask(&url, turn).await?;
            let host = || host_of(&url).to_owned();
            if response.status().is_redirection() {
                let next = redirected(&url, &response)?;
                url = next;
                continue;
            }
            if response.status() != StatusCode::OK {
                let status = response.status();
                return Err(Error::Status {
                    host: host(),
                    status,
                });
            }
            let body = Limited::new(response.into_body(), LONGEST_ANSWER);
            let body = body.collect().await.map_err(|error| Error::Exchange {
                host: host(),
                reason: error.to_string(),
            })?;
            return Ok(body.to_bytes());
        }
        let reason = "too often";
        Err(Error::Redirect { url, reason })
    }

    async fn ask(&self, url: &str, turn: &Arc<Turn>) -> Result<Response<Incoming>, Error> {
        let secure = is_secure(url)?;
        let uri: Uri = url.parse().map_err(|_| Error::Url(url.to_owned()))?;
        let host = host_of(url).to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = self.connect(&host, port, turn).await?;
        if !secure {
            return exchange(stream, &uri, &host).await;
        }
        let tls = self.tls.as_ref().map_err(|(path, reason)| Error::Roots {
            path: path.clone(),
            reason: reason.clone(),
        })?;
        let name = ServerName::try_from(host.clone()).map_err(|_| Error::Url(url.to_owned()))?;
        let stream = tls.connect(name, stream).await;
        let stream = stream.map_err(|source| Error::Connect {
            host: host.clone(),
            source,
        })?;
        exchange(stream, &uri, &host).await
    }

    async fn connect(&self, host: &str, port: u16, turn: &Arc<Turn>) -> Result<TcpStream, Error> {
        let (resolved, turn) = ((self.resolve)(host.to_owned(), port), turn.clone());
        // Whoever gives the fetch up does not end the look-up, so that holds the turn.
        let resolved = tokio::spawn(async move {
            let resolved = resolved.await;
            drop(turn);
            resolved
        });
        let resolved = resolved.await.unwrap_or_else(|error| Err(error.into()));
        let addresses = resolved.map_err(|source| Error::Resolve {
            host: host.to_owned(),
            source,
        })?;
        let allowed = |address: &&SocketAddr| self.local || !is_local(address.ip());
        let mut last = None;
        for address in addresses.iter().filter(allowed) {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        let host = host.to_owned();
        Err(match (last, addresses.first()) {
            (Some(source), _) => Error::Connect { host, source },
            (None, Some(address)) => Error::Local {
                host,
                address: address.ip(),
            },
            (None, None) => Error::Resolve {
                host,
                source: io::Error::other("it has no address"),
            },
        })
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
    host: &str,
) -> Result<Response<Incoming>, Error> {
    let broken = |error: hyper::Error| Error::Exchange {
        host: host.to_owned(),
        reason: error.to_string(),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // It ends with the answer's body, or with the time for it.
    tokio::spawn(connection);
    let target = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let request = Request::get(target)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .header(
            header::USER_AGENT,
            concat!("linnet/", env!("CARGO_PKG_VERSION")),
        )
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|error| Error::Url(error.to_string()))?;
    sender.send_request(request).await.map_err(broken)
}

/// Where an answer leads.
fn redirected(url: &str, response: &Response<Incoming>) -> Result<String, Error> {
    let refused = |reason| {
        Err(Error::Redirect {
            url: url.to_owned(),
            reason,
        })
    };
    let location = response.headers().get(header::LOCATION);
    let Some(location) = location.map(HeaderValue::to_str).and_then(Result::ok) else {
        return refused("nowhere");
    };
    let next = if location.starts_with('/') && !location.starts_with("//") {
        let authority = url
            .match_indices('/')
            .nth(2)
            .map_or(url.len(), |(at, _)| at);
        format!("{}{location}", &url[..authority])
    } else {
        location.to_owned()
    };
    match (is_secure(url)?, scheme(&next)) {
        (true, Ok(false)) => refused("from https to http"),
        (_, Ok(_)) => Ok(next),
        (_, Err(_)) => refused("to what is no https or http URL"),
    }
}

fn is_secure(url: &str) -> Result<bool, Error> {
    scheme(url).map_err(Error::Url)
}

fn host_of(url: &str) -> &str {
    let behind = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = behind.split(['/', '?', '#']).next().unwrap_or_default();
    if let Some((address, _)) = authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
        return address;
    }
    authority.split(':').next().unwrap_or_default()
}

/// Whether an address is only this pod's or node's own, or no host's at all.
fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_broadcast()
                || ip.is_multicast()
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip == METADATA
        }
    }
}

fn client(roots: Option<&Path>) -> Result<ClientConfig, String> {
    let mut store = RootCertStore::empty();
    store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = roots {
        let certificates = CertificateDer::pem_file_iter(path).map_err(|e| e.to_string())?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| error.to_string())?;
            store.add(certificate).map_err(|error| error.to_string())?;
        }
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(store).with_no_client_auth())
}

#[cfg(test)]
mod tests;
