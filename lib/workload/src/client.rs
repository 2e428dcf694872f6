//! The identity service's client: one request per connection, over HTTPS whose
//! server is verified by the trust bundle and its DNS name or address.

use std::{
    fmt, io,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName, version::TLS13};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use linnet_runtime::tls::provider;

use super::Federation;

/// The whole of a request, from name look-up to the last byte of the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer is a few certificates long.
const ANSWER_LIMIT: usize = 256 * 1024;

/// Where the identity service is: `https://host[:port]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityUrl {
    host: String,
    port: u16,
    server_name: ServerName<'static>,
}

/// Why a text is not the address of an identity service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form https://host:port")]
pub struct UrlError(String);

impl FromStr for IdentityUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let error = || UrlError(text.to_owned());
        let url: http::Uri = text.parse().map_err(|_| error())?;
        let authority = url.authority().ok_or_else(error)?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none();
        if url.scheme_str() != Some("https") || !bare || authority.as_str().contains('@') {
            return Err(error());
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let server_name = ServerName::try_from(host.clone()).map_err(|_| error())?;
        Ok(Self {
            host,
            port: authority.port_u16().unwrap_or(443),
            server_name,
        })
    }
}

impl fmt::Display for IdentityUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The token or the trust bundle cannot be read.
    #[error("cannot read the {what} {path}: {source}; is the volume mounted?")]
    Read {
        /// Token or trust bundle.
        what: &'static str,
        /// Its file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// No connection.
    #[error("cannot connect to {url}: {source}")]
    Connect {
        /// The identity service.
        url: IdentityUrl,
        /// Why.
        source: io::Error,
    },
    /// A server that is not the identity service of this trust bundle.
    #[error("no trusted connection to {url}: {source}; does the trust bundle have its root?")]
    Handshake {
        /// The identity service.
        url: IdentityUrl,
        /// Why.
        source: io::Error,
    },
    /// The exchange broke.
    #[error("the exchange with {url} broke: {reason}")]
    Exchange {
        /// The identity service.
        url: IdentityUrl,
        /// Why.
        reason: String,
    },
    /// It took too long.
    #[error("{url} did not answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout {
        /// The identity service.
        url: IdentityUrl,
    },
    /// The service said no.
    #[error("the identity service refused ({status}): {message}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// Its words.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// An answer that is no certificate of this workload.
    #[error("the identity service's answer cannot be used: {0}")]
    Answer(String),
    /// The key or the signing request could not be made.
    #[error("cannot make a key and signing request: {0}")]
    Key(#[from] rcgen::Error),
    /// The trust bundle or the answered certificate is bad.
    #[error(transparent)]
    Certificate(#[from] super::Error),
}

/// What the service signs.
#[derive(Serialize)]
pub(super) struct SigningRequest<'a> {
    pub(super) csr: &'a str,
}

/// What the service answers.
#[derive(Deserialize)]
pub(super) struct Issued {
    pub(super) certificates: String,
    pub(super) trust_bundle: String,
    #[serde(flatten)]
    pub(super) federation: Federation,
}

/// An answer, and when the service says that it gave it.
struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    skew: Option<Skew>,
    body: Bytes,
}

/// The identity service's clock against ours: how many seconds it is ahead.
/// HTTP's dates have whole seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Skew(pub f64);

#[derive(Deserialize)]
struct Refusal {
    error: String,
    reason: String,
}

/// Asks for a certificate.
pub(super) async fn request(
    url: &IdentityUrl,
    roots: RootCertStore,
    token: &str,
    body: &SigningRequest<'_>,
) -> Result<(Issued, Option<Skew>), RequestError> {
    let exchange = exchange(url, roots, token, body);
    let timed_out = || RequestError::Timeout { url: url.clone() };
    let answer = timeout(REQUEST_TIMEOUT, exchange)
        .await
        .map_err(|_| timed_out())??;
    if answer.status.is_success() {
        let issued = serde_json::from_slice(&answer.body)
            .map_err(|error| RequestError::Answer(error.to_string()))?;
        return Ok((issued, answer.skew));
    }
    let message = match serde_json::from_slice::<Refusal>(&answer.body) {
        Ok(refusal) => format!("{}: {}", refusal.reason, refusal.error),
        Err(_) => String::from_utf8_lossy(&answer.body)
            .chars()
            .take(256)
            .collect(),
    };
    Err(RequestError::Refused {
        status: answer.status,
        message,
        retry_after: answer.retry_after,
    })
}

async fn exchange(
    url: &IdentityUrl,
    roots: RootCertStore,
    token: &str,
    body: &SigningRequest<'_>,
) -> Result<Answer, RequestError> {
    let broke = |reason: String| RequestError::Exchange {
        url: url.clone(),
        reason,
    };
    let body = serde_json::to_vec(body).map_err(|error| broke(error.to_string()))?;
    let request = Request::post("/v1/certificates")
        .header(header::HOST, format!("{}:{}", url.host, url.port))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| {
            RequestError::Answer("the token has characters that HTTP forbids".to_owned())
        })?;

    let stream = TcpStream::connect((url.host.as_str(), url.port))
        .await
        .map_err(|source| RequestError::Connect {
            url: url.clone(),
            source,
        })?;
    let stream = TlsConnector::from(Arc::new(tls(roots)))
        .connect(url.server_name.clone(), stream)
        .await
        .map_err(|source| RequestError::Handshake {
            url: url.clone(),
            source,
        })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broke(error.to_string()))?;
    let answered = async {
        let sent = SystemTime::now();
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| broke(error.to_string()))?;
        let status = response.status();
        let skew = skew(response.headers(), sent, SystemTime::now());
        let retry_after = retry_after(response.headers());
        let body = Limited::new(response.into_body(), ANSWER_LIMIT);
        let body = body
            .collect()
            .await
            .map_err(|error| broke(error.to_string()))?;
        Ok(Answer {
            status,
            retry_after,
            skew,
            body: body.to_bytes(),
        })
    };
    // The connection moves only while it is polled, and ends by itself or with
    // this future.
    let connection = async {
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = answered => answer,
        never = connection => never,
    }
}

/// How far the answer's `Date` lies outside of the time in which it was given,
/// by our clock; within it, and the second that dates are cut to, is no skew.
fn skew(headers: &HeaderMap, sent: SystemTime, received: SystemTime) -> Option<Skew> {
    let date = headers.get(header::DATE)?.to_str().ok()?;
    let date = httpdate::parse_http_date(date).ok()?;
    let seconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap_or_default().as_secs_f64()
    };
    let (date, sent, received) = (seconds(date), seconds(sent), seconds(received));
    Some(Skew(if date + 1.0 < sent {
        date + 1.0 - sent
    } else if date > received {
        date - received
    } else {
        0.0
    }))
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}

fn tls(roots: RootCertStore) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("aws-lc-rs has cipher suites for TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_clock_is_compared_with_ours() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let measured = |ours: u64| {
            let date = httpdate::fmt_http_date(at(1_000_000));
            let mut headers = HeaderMap::new();
            headers.insert(header::DATE, date.parse().unwrap());
            skew(&headers, at(ours), at(ours) + Duration::from_millis(100))
        };
        assert_eq!(measured(1_000_000), Some(Skew(0.0)));
        let seconds = |ours| measured(ours).unwrap().0.round();
        assert_eq!(seconds(1_000_120), -119.0, "ours is two minutes ahead");
        assert_eq!(seconds(999_880), 120.0, "ours is two minutes behind");
        assert_eq!(skew(&HeaderMap::new(), at(1), at(2)), None);
    }

    #[test]
    fn an_identity_url_is_https_with_a_host() {
        let url: IdentityUrl = "https://linnet-identity.linnet-system.svc:15443"
            .parse()
            .unwrap();
        assert_eq!(
            url.to_string(),
            "https://linnet-identity.linnet-system.svc:15443"
        );
        let url: IdentityUrl = "https://[::1]:8443/".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port), ("::1", 8443));
        assert_eq!(url.to_string(), "https://[::1]:8443");
        for bad in [
            "",
            "identity:15443",
            "http://identity:15443",
            "https://",
            "https://identity/v1",
            "https://identity?x",
            "https://user@identity",
            "https://-identity",
        ] {
            assert!(bad.parse::<IdentityUrl>().is_err(), "{bad}");
        }
    }
}
