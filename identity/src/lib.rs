//! The identity service: certificates for workloads that can say who they are.
//!
//! A sidecar sends a key's signing request and its ServiceAccount token; the
//! token decides the name in the certificate, the request proves the key. The
//! service keeps nothing but the root, so replicas need not know one another.

pub mod attest;
pub mod authority;
pub mod bundle;
pub mod config;
pub mod csr;
pub mod limit;

mod api;
mod serving;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use linnet_runtime::{
    drain, health,
    readiness::Readiness,
    serve::{self, Transport},
};
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::{
    api::Service,
    attest::Attest,
    authority::{Authority, RootStore, SignError, StoreError},
    config::Config,
    limit::Limiter,
    serving::{Serving, ServingError},
};

/// How often idle callers' budgets are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);
/// How often the root's place is tried again at the start.
const ROOT_ATTEMPTS: u32 = 10;
const ROOT_RETRY: Duration = Duration::from_secs(2);

/// What the service stands on.
pub struct Dependencies {
    /// Says who holds a token.
    pub attest: Box<dyn Attest>,
    /// Where the root is kept.
    pub root: RootStore,
    /// Ready with the listener.
    pub readiness: Readiness,
    /// Ends the service.
    pub drain: drain::Watch,
}

/// The running service.
pub struct Running {
    /// Where certificates are asked for.
    pub https_address: SocketAddr,
    /// Where health and metrics are.
    pub health_address: SocketAddr,
    authority: Arc<Authority>,
}

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No root.
    #[error(transparent)]
    Root(#[from] StoreError),
    /// A root that signs nothing.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// No certificate of its own.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// No listener.
    #[error(transparent)]
    Listen(#[from] io::Error),
}

impl Config {
    /// Starts the service; it ends with the drain.
    ///
    /// # Errors
    /// No root, or addresses that cannot be listened on.
    pub async fn build(self, dependencies: Dependencies) -> Result<Running, BuildError> {
        let Dependencies {
            attest,
            root,
            readiness,
            drain,
        } = dependencies;
        let gate = readiness.gate("authority");
        let https = serve::bind(self.address).await?;
        let health = serve::bind(self.health_address).await?;
        let running = (https.local_addr()?, health.local_addr()?);
        let metrics = health::metrics_recorder();
        let health_router = health::router(readiness, metrics);
        tokio::spawn(serve::serve(
            health,
            health_router,
            Transport::Plain,
            drain.clone(),
        ));

        let root = root_with_retries(&root, &self).await?;
        metrics::gauge!("linnet_identity_root_expiry_timestamp_seconds")
            .set(root.not_after().unix_timestamp() as f64);
        let lifetime = time::Duration::try_from(self.lifetime).unwrap_or(time::Duration::DAY);
        let authority = Arc::new(Authority::new(root, lifetime, OffsetDateTime::now_utc())?);
        let serving = Serving {
            authority: authority.clone(),
            identity: self.identity,
            names: self.server_names,
        };
        let (tls, renewal) = serving.start()?;
        let service = Arc::new(Service {
            authority: authority.clone(),
            attest,
            limiter: Limiter::new(self.limits),
            trust_domain: self.trust_domain,
        });
        let router = api::router(service.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = serve::serve(https, router, Transport::Tls(tls), drain) => {}
                () = renewal => {}
                () = forget_idle(&service.limiter) => {}
            }
        });
        drop(gate);
        let (https_address, health_address) = running;
        tracing::info!(%https_address, %health_address, "identity is ready");
        Ok(Running {
            https_address,
            health_address,
            authority,
        })
    }
}

impl Running {
    /// The trust anchors, PEM.
    pub fn bundle_pem(&self) -> &str {
        self.authority.bundle_pem()
    }

    /// The authority, for who runs in the same process.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }
}

/// An API server that starts with us may take a while.
async fn root_with_retries(
    store: &RootStore,
    config: &Config,
) -> Result<authority::Root, StoreError> {
    let mut attempt = 1;
    loop {
        match store.load_or_create(&config.trust_domain).await {
            Err(error) if error.is_transient() && attempt < ROOT_ATTEMPTS => {
                tracing::warn!(%error, attempt, "no root yet");
                sleep(ROOT_RETRY).await;
                attempt += 1;
            }
            result => return result,
        }
    }
}

async fn forget_idle(limiter: &Limiter) {
    loop {
        sleep(FORGET_INTERVAL).await;
        limiter.forget_idle();
    }
}
