//! The call to the next service of a chain, over a keep-alive pool.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::Upstream;
use crate::CHAIN_HEADER;

/// Headers an application hands on, so that one request is one trace.
const TRACE_HEADERS: [HeaderName; 9] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("b3"),
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-b3-spanid"),
    HeaderName::from_static("x-b3-parentspanid"),
    HeaderName::from_static("x-b3-sampled"),
];

/// A pool of connections to one upstream.
pub(super) struct Caller {
    upstream: Upstream,
    client: Client<HttpConnector, Empty<Bytes>>,
}

/// What the upstream answered.
pub(super) struct Nested {
    pub(super) body: Bytes,
    pub(super) chain: Option<HeaderValue>,
}

/// Why there is no nested answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    #[error("cannot build the request: {0}")]
    Request(#[from] http::Error),
    #[error("call failed: {0}")]
    Call(String),
    #[error("answered {0}")]
    Status(http::StatusCode),
    #[error("answer broke off: {0}")]
    Body(#[from] hyper::Error),
}

impl Caller {
    pub(super) fn new(upstream: Upstream) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { upstream, client }
    }

    pub(super) fn target(&self) -> String {
        self.upstream.uri.to_string()
    }

    pub(super) async fn call(&self, incoming: &HeaderMap) -> Result<Nested, UpstreamError> {
        let mut request = Request::get(self.upstream.uri.clone());
        if let Some(host) = &self.upstream.host {
            request = request.header(header::HOST, host);
        }
        for name in &TRACE_HEADERS {
            if let Some(value) = incoming.get(name) {
                request = request.header(name, value);
            }
        }
        let request = request.body(Empty::new())?;
        let response = self.client.request(request).await;
        let response = response.map_err(|error| UpstreamError::Call(reasons(&error)))?;
        let status = response.status();
        if !status.is_success() {
            return Err(UpstreamError::Status(status));
        }
        let chain = response.headers().get(CHAIN_HEADER).cloned();
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Nested { body, chain })
    }
}

/// An error with its causes: hyper's own text stops at "client error (Connect)".
fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
