//! The HTTP answers. `/` is the hot path of latency measurements: it formats
//! one JSON object and does nothing else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body as _, Incoming};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::grpc::{EchoService, HealthService};
use super::upstream::Caller;
use super::{Config, websocket};
use crate::echo::echo_server::EchoServer;
use crate::health::health_server::HealthServer;
use crate::{CHAIN_HEADER, VERSION_HEADER};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(super) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Bytes that `/bytes/N` and `/headers/N` give at most.
const MOST_BYTES: usize = 1 << 30;
const MOST_HEADER_BYTES: usize = 128 * 1024;
const CHUNK: usize = 16 * 1024;
static ZEROES: [u8; CHUNK] = [b'0'; CHUNK];

/// Who answers.
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) pod: String,
    version_header: Option<HeaderValue>,
}

/// Everything an answer needs.
pub(super) struct App {
    identity: Arc<Identity>,
    calls: Option<Caller>,
    grpc: EchoServer<EchoService>,
}

#[derive(Serialize)]
struct Echo<'a> {
    service: &'a str,
    version: &'a str,
    pod: &'a str,
    protocol: &'a str,
    method: &'a str,
    path: &'a str,
    host: &'a str,
    headers: Headers<'a>,
    body_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Headers as a JSON object; of a repeated name the last value shows.
struct Headers<'a>(&'a HeaderMap);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        serializer.collect_map(self.0.keys().filter_map(|name| {
            let value = self.0.get_all(name).iter().next_back()?;
            Some((name.as_str(), text(value)))
        }))
    }
}

impl App {
    pub(super) fn new(config: Config) -> Self {
        let identity = Arc::new(Identity {
            version_header: HeaderValue::from_str(&config.version).ok(),
            name: config.name,
            version: config.version,
            pod: config.pod,
        });
        let grpc = EchoServer::new(EchoService {
            identity: identity.clone(),
        });
        Self {
            identity,
            calls: config.calls.map(Caller::new),
            grpc,
        }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if is_grpc(request.headers()) {
            return self.answer_grpc(request).await;
        }
        let path = request.uri().path().to_owned();
        let mut segments = path.trim_start_matches('/').splitn(2, '/');
        let first = segments.next().unwrap_or_default();
        let rest = segments.next();
        let mut response = match (first, rest) {
            ("healthz", None) => text(StatusCode::OK, Bytes::from_static(b"ok\n")),
            ("ws", None) => websocket::upgrade(request),
            ("echo", None) => echo_body(request),
            ("headers", Some("size")) => header_size(request.headers()),
            ("stream", None) => stream_chunks(10),
            (route, Some(argument)) => match parameter(route, argument) {
                Some(answer) => answer.await,
                None => self.echo(request).await,
            },
            _ => self.echo(request).await,
        };
        if let Some(version) = &self.identity.version_header {
            response
                .headers_mut()
                .insert(VERSION_HEADER, version.clone());
        }
        response
    }

    async fn answer_grpc(&self, request: Request<Incoming>) -> Response<Body> {
        use hyper::service::Service as _;
        use hyper_util::service::TowerToHyperService;
        let result = if request.uri().path().starts_with("/grpc.health.v1.Health/") {
            let service = TowerToHyperService::new(HealthServer::new(HealthService));
            service.call(request).await
        } else {
            let service = TowerToHyperService::new(self.grpc.clone());
            service.call(request).await
        };
        match result {
            Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
            Err(never) => match never {},
        }
    }

    async fn echo(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body_bytes = match length(body).await {
            Ok(length) => length,
            Err(error) => {
                let reason = format!("the request's body broke off: {error}\n");
                return text(StatusCode::BAD_REQUEST, reason.into());
            }
        };
        let identity = &*self.identity;
        let mut chain = format!("{}/{}", identity.name, identity.version);
        let (mut upstream, mut error) = (None, None);
        if let Some(caller) = &self.calls {
            match caller.call(&head.headers).await {
                Ok(nested) => {
                    if let Some(rest) = nested.chain.as_ref().and_then(|v| v.to_str().ok()) {
                        chain = format!("{chain}, {rest}");
                    }
                    upstream = serde_json::from_slice(&nested.body).ok();
                }
                Err(reason) => error = Some(format!("{}: {reason}", caller.target())),
            }
        }
        let host = head.headers.get(header::HOST).and_then(|h| h.to_str().ok());
        let authority = head.uri.authority().map(http::uri::Authority::as_str);
        let status = match error {
            Some(_) => StatusCode::BAD_GATEWAY,
            None => StatusCode::OK,
        };
        let answer = serde_json::to_vec(&Echo {
            service: &identity.name,
            version: &identity.version,
            pod: &identity.pod,
            protocol: protocol(head.version),
            method: head.method.as_str(),
            path: head.uri.path_and_query().map_or("/", |path| path.as_str()),
            host: host.or(authority).unwrap_or_default(),
            headers: Headers(&head.headers),
            body_bytes,
            upstream,
            error,
        });
        let mut response = full(
            status,
            "application/json",
            answer.unwrap_or_default().into(),
        );
        if let Ok(chain) = HeaderValue::from_str(&chain) {
            response.headers_mut().insert(CHAIN_HEADER, chain);
        }
        response
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "unknown",
    }
}

/// Reads a body to its end without keeping it.
async fn length(mut body: Incoming) -> Result<u64, hyper::Error> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(length)
}

type Answer = futures_util::future::BoxFuture<'static, Response<Body>>;

/// The routes with an argument; `None` where the argument does not parse, so
/// that the path is echoed like any other.
fn parameter(route: &str, argument: &str) -> Option<Answer> {
    let answer = match route {
        "status" => {
            // 1xx announces another answer and cannot be one.
            let code = argument.parse().ok().filter(|code| *code >= 200)?;
            let status = StatusCode::from_u16(code).ok()?;
            text(status, format!("{status}\n").into())
        }
        "bytes" => bytes(argument.parse::<usize>().ok()?.min(MOST_BYTES)),
        "stream" => stream_chunks(argument.parse::<usize>().ok()?.min(100_000)),
        "headers" => {
            let size = argument.parse::<usize>().ok()?.min(MOST_HEADER_BYTES);
            let mut response = text(StatusCode::OK, Bytes::from_static(b"ok\n"));
            let value = HeaderValue::from_str(&"h".repeat(size)).ok()?;
            response.headers_mut().insert("x-sample-large", value);
            response
        }
        "delay" => {
            let delay = crate::duration::parse(argument).ok()?;
            return Some(Box::pin(async move {
                tokio::time::sleep(delay.min(Duration::from_secs(600))).await;
                text(StatusCode::OK, Bytes::from_static(b"ok\n"))
            }));
        }
        _ => return None,
    };
    Some(Box::pin(async move { answer }))
}

fn header_size(headers: &HeaderMap) -> Response<Body> {
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    let answer = format!("{{\"count\":{},\"bytes\":{bytes}}}\n", headers.len());
    full(StatusCode::OK, "application/json", answer.into())
}

/// Sends the body back as it arrives, trailers included.
fn echo_body(request: Request<Incoming>) -> Response<Body> {
    if request.method() == Method::GET && request.body().is_end_stream() {
        return text(StatusCode::OK, Bytes::new());
    }
    Response::new(request.into_body().map_err(Into::into).boxed_unsync())
}

fn bytes(count: usize) -> Response<Body> {
    let sizes = std::iter::repeat_n(CHUNK, count / CHUNK).chain(Some(count % CHUNK));
    let frames = sizes.map(|size| Ok(Frame::data(Bytes::from_static(&ZEROES[..size]))));
    let mut response = Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, count.into());
    response
}

/// A body without a length, a chunk every ten milliseconds.
fn stream_chunks(count: usize) -> Response<Body> {
    let frames = stream::iter(0..count).then(|index| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(Frame::data(Bytes::from(format!("chunk {index}\n"))))
    });
    Response::new(StreamBody::new(frames).boxed_unsync())
}

pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn text(status: StatusCode, body: Bytes) -> Response<Body> {
    full(status, "text/plain", body)
}

fn full(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    let body = Full::new(body).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
