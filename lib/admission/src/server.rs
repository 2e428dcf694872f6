//! The HTTP side of a webhook: TLS with the keeper's certificate, and limits on
//! what a caller may ask of it.

pub use crate::gate::{Limits, Turn};
use crate::{
    gate::{Gate, admit},
    keeper::Resolver,
};
use axum::{
    Router, extract::DefaultBodyLimit, http::StatusCode, middleware::from_fn_with_state,
    routing::get,
};
use rustls::crypto::aws_lc_rs;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_http::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};

/// A router that takes on no more than its limits say and gives up after
/// `timeout`, which should be shorter than the configuration's, so that the caller
/// learns why.
pub fn guarded<S>(router: Router<S>, timeout: Duration, limits: Limits) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let layers =
        ServiceBuilder::new()
            .layer(CatchPanicLayer::new())
            .layer(TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                timeout,
            ));
    router
        .layer(DefaultBodyLimit::max(limits.body))
        .layer(from_fn_with_state(Gate::new(limits), admit))
        .route("/healthz/live", get(async || "ok\n"))
        .layer(layers)
}

/// TLS with the certificate that the keeper has at the time.
///
/// # Errors
/// The TLS library refuses its own defaults.
pub fn tls(resolver: Arc<Resolver>) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Listens; on a machine without IPv6 `[::]` means `0.0.0.0`.
///
/// # Errors
/// The address can't be listened on.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() => {
            let fallback = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await;
            fallback.map_err(|_| error)
        }
        other => other,
    }
}
