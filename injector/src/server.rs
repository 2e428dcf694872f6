//! Puts the parts together: listeners, cache, keeper.

use std::{io, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Client;
use linnet_admission::{Keeper, server};
use linnet_runtime::{
    drain, health,
    readiness::Readiness,
    serve::{ListenerKind, Transport, serve},
};
use tokio::net::TcpListener;

use crate::{
    config::Config, injection::InjectionConfig, namespaces::ClusterNamespaces, webhook::Webhook,
};

/// Kubernetes 1.29 made native sidecars available to everyone.
const NATIVE_SINCE: (u32, u32) = (1, 29);

/// Why the injector can't start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A port can't be listened on.
    #[error("can't listen on {address}: {source}; is another process there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The TLS library refuses its own defaults.
    #[error("TLS can't be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// An injector that listens.
pub struct Injector {
    webhook: TcpListener,
    health: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    config: Config,
    client: Client,
    keeper: Keeper<MutatingWebhookConfiguration>,
}

/// Where an injector listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The webhook, over TLS.
    pub webhook: SocketAddr,
    /// Health and metrics, plain.
    pub health: SocketAddr,
}

impl Config {
    /// Binds the listeners.
    pub async fn build(self, client: Client) -> Result<Injector, BuildError> {
        let keeper = Keeper::new(client.clone(), self.names.clone());
        Ok(Injector {
            webhook: bind(self.webhook_address).await?,
            health: bind(self.health_address).await?,
            tls: server::tls(keeper.resolver())?,
            config: self,
            client,
            keeper,
        })
    }
}

impl Injector {
    /// Where it listens.
    pub fn addresses(&self) -> io::Result<Addresses> {
        Ok(Addresses {
            webhook: self.webhook.local_addr()?,
            health: self.health.local_addr()?,
        })
    }

    /// Serves until the drain. Ready once the namespaces are known and the
    /// webhook's certificate and `caBundle` are in place.
    pub async fn serve(self, drain: drain::Watch) {
        let readiness = Readiness::new();
        let known = readiness.gate("namespaces");
        let kept = readiness.gate("webhook certificate");
        let checks = health::router(readiness, health::metrics_recorder());
        tokio::spawn(serve(
            self.health,
            checks,
            Transport::Plain,
            ListenerKind::Health,
            drain.clone(),
        ));
        tokio::spawn(self.keeper.run(Some(kept), drain.clone()));
        let namespaces = ClusterNamespaces::start(self.client.clone(), known, drain.clone());
        let injection = injection(self.config, &self.client).await;
        let router = Webhook::new(injection, Arc::new(namespaces)).router();
        let transport = Transport::Tls(Arc::new(ArcSwap::new(self.tls)));
        serve(
            self.webhook,
            router,
            transport,
            ListenerKind::Webhook,
            drain,
        )
        .await;
    }
}

async fn injection(config: Config, client: &Client) -> InjectionConfig {
    let native_sidecar = match config.native_sidecar {
        Some(told) => told,
        None => cluster_supports_native(client).await,
    };
    tracing::info!(native_sidecar, "kind of sidecar");
    InjectionConfig {
        native_sidecar,
        ..config.injection
    }
}

async fn cluster_supports_native(client: &Client) -> bool {
    match client.apiserver_version().await {
        Ok(version) => supports_native(&version.major, &version.minor),
        Err(error) => {
            tracing::warn!(%error, "the cluster's version can't be read; assuming 1.29 or later");
            true
        }
    }
}

/// Some providers write a minor version as `29+`.
fn supports_native(major: &str, minor: &str) -> bool {
    let number = |text: &str| {
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        text[..digits].parse::<u32>()
    };
    match (number(major), number(minor)) {
        (Ok(major), Ok(minor)) => (major, minor) >= NATIVE_SINCE,
        _ => true,
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, BuildError> {
    let bound = server::bind(address).await;
    bound.map_err(|source| BuildError::Listen { address, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_sidecars_since_1_29() {
        for (major, minor, native) in [
            ("1", "28", false),
            ("1", "29", true),
            ("1", "34+", true),
            ("2", "0", true),
            ("1", "9+", false),
            ("", "", true),
        ] {
            assert_eq!(supports_native(major, minor), native, "{major}.{minor}");
        }
    }
}
