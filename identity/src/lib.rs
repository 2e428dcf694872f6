//! The identity service: certificates for workloads that can say who they are.
//!
//! A sidecar sends a key's signing request and its ServiceAccount token; the
//! token decides the name in the certificate, the request proves the key. The
//! service keeps nothing but the root and where its rotation stands, so replicas
//! need not know one another.

pub mod attest;
pub mod authority;
pub mod bundle;
pub mod config;
pub mod csr;
pub mod limit;

mod api;
mod federation;
mod serving;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use linnet_runtime::{
    drain, health,
    readiness::{self, Readiness},
    serve::{self, ListenerKind, Transport},
};
use linnet_workload::Federation;
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::{
    api::Service,
    attest::Attest,
    authority::{Authority, InForce, Keeper, RootStore, SignError, StoreError},
    config::Config,
    federation::Federated,
    limit::Limiter,
    serving::{Serving, ServingError},
};

/// How often idle callers' budgets are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);
/// How often the root's place is tried again at the start.
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
    root: RootStore,
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
            ListenerKind::Health,
            drain.clone(),
        ));

        let rules = self.rules();
        let lifetime = rules.leaf_lifetime;
        let mut keeper = Keeper::new(root.clone(), rules);
        let in_force = first_root(&mut keeper, &root, &gate).await?;
        let now = OffsetDateTime::now_utc();
        let authority = Arc::new(Authority::new(in_force.root, lifetime, now)?);
        // The same root again, for the bundle and the time of the reading.
        keeper.refresh(&authority, &in_force.bundle_pem, now);
        let serving = Serving {
            authority: authority.clone(),
            identity: self.identity,
            names: self.server_names,
        };
        let (tls, renewal) = serving.start()?;
        let mut federated =
            Federated::new(self.trust_domain.clone(), self.aliases, self.federation);
        let federation = federated.read(&Federation::default(), &authority.bundle_pem());
        let federation = Arc::new(ArcSwap::from_pointee(federation));
        let service = Arc::new(Service {
            authority: authority.clone(),
            attest,
            limiter: Limiter::new(self.limits),
            trust_domain: self.trust_domain,
            federation: federation.clone(),
        });
        let kept = authority.clone();
        let router = api::router(service.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = serve::serve(https, router, Transport::Tls(tls), ListenerKind::Identity, drain) => {}
                () = renewal => {}
                () = keeper.keep(kept.clone()) => {}
                () = federated.keep(federation, kept.clone()) => {}
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
            root,
        })
    }
}

impl Running {
    /// The trust anchors, PEM.
    pub fn bundle_pem(&self) -> Arc<str> {
        self.authority.bundle_pem()
    }

    /// Asks for a new root, where no Secret can be annotated.
    ///
    /// # Errors
    /// A root that is in a Secret, or a directory that cannot be written.
    pub fn rotate_root(&self, request: &str) -> Result<(), StoreError> {
        self.root.request_rotation(request)
    }

    /// The authority, for who runs in the same process.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }
}

/// In a cluster a root that is missing or damaged may be put right while we wait,
/// not ready and saying why; elsewhere it is an error.
async fn first_root(
    keeper: &mut Keeper,
    store: &RootStore,
    gate: &readiness::Gate,
) -> Result<InForce, StoreError> {
    let mut told = String::new();
    loop {
        match keeper.step(OffsetDateTime::now_utc()).await {
            Err(error) if matches!(store, RootStore::Secret { .. }) => {
                let text = error.to_string();
                if text != told {
                    tracing::error!(%error, "no root yet");
                }
                gate.because(&text);
                told = text;
                sleep(ROOT_RETRY).await;
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
