//! The sidecar's TLS, under two certificates of one mesh.

use linnet_workload::testing::Authority;
use rustls::{ClientConfig, ServerConfig};
use std::sync::{Arc, LazyLock};

static CONFIGS: LazyLock<(Arc<ClientConfig>, Arc<ServerConfig>)> = LazyLock::new(|| {
    let authority = Authority::default();
    let alpn: &[&[u8]] = &[b"linnet/opaque"];
    let client = authority.workload("default", "a").client_config(alpn);
    let server = authority.workload("default", "b").server_config(alpn, true);
    (client, server)
});

/// Strangers are refused, peers are understood.
pub fn tls(data: &[u8]) {
    let (client, server) = &*CONFIGS;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(linnet_proxy::fuzz::tls(data, client, server));
}
