//! Keeps the serving certificate and the webhook's `caBundle` as they must be.
//!
//! One step ([`Keeper::reconcile`]) compares what is with what should be and
//! closes the gap; a change of either object, or an hour passing, causes one.
//! Replicas may take the same step at once: the Secret's writes are conditional
//! and the loser reads again, the bundle they write is the Secret's.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use linnet_mesh::names::label;
use linnet_runtime::{drain, readiness};
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use time::OffsetDateTime;

use crate::{
    ca_bundle::{self, Configuration},
    serving_certificate::{CertificateError, Material, Step, plan},
};

/// How often all is checked although nothing changed: certificates age.
const CHECK_EVERY: Duration = Duration::from_secs(3600);
/// Pauses after failures: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// More conflicts than replicas could cause.
const ATTEMPTS: usize = 8;

/// What is kept, and where.
#[derive(Clone, Debug)]
pub struct Names {
    /// The namespace of the service.
    pub namespace: String,
    /// The Secret with the certificates.
    pub secret: String,
    /// The webhooks' configuration.
    pub webhook_configuration: String,
    /// The name that the API server calls the service by.
    pub dns_name: String,
}

/// Why a step failed; it is taken again.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The Secret can't be read or written.
    #[error(
        "Secret {name}: {source}; this service's account needs get, list, watch, create and update on it"
    )]
    Secret {
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The webhook configuration can't be read or patched.
    #[error(
        "{kind} {name}: {source}; this service's account needs get, list, watch and patch on it"
    )]
    Configuration {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Making a certificate failed.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Others wrote the Secret each time.
    #[error("Secret {0}: changed by others {ATTEMPTS} times in a row")]
    Contended(String),
}

/// Hands out the current certificate at each handshake; none until the first is there.
#[derive(Debug, Default)]
pub struct Resolver(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// Keeps certificate and bundle of the webhooks that a `C` configures.
pub struct Keeper<C> {
    client: Client,
    names: Names,
    resolver: Arc<Resolver>,
    configuration: PhantomData<fn() -> C>,
}

impl<C: Configuration> Keeper<C> {
    /// A keeper; [`Keeper::run`] starts its work.
    pub fn new(client: Client, names: Names) -> Self {
        Self {
            client,
            names,
            resolver: Arc::default(),
            configuration: PhantomData,
        }
    }

    /// Where the TLS listener takes its certificate from.
    pub fn resolver(&self) -> Arc<Resolver> {
        self.resolver.clone()
    }

    /// Works until the drain; `gate` is passed after the first complete step.
    pub async fn run(self, gate: Option<readiness::Gate>, drain: drain::Watch) {
        let mut gate = gate;
        let mut changes = std::pin::pin!(self.changes());
        let mut retry = RETRY.0;
        loop {
            let pause = match self.reconcile(OffsetDateTime::now_utc()).await {
                Ok(()) => {
                    gate.take();
                    retry = RETRY.0;
                    CHECK_EVERY
                }
                Err(error) => {
                    tracing::warn!(%error, retry_seconds = retry.as_secs(), "webhook upkeep failed");
                    let pause = retry;
                    retry = (retry * 2).min(RETRY.1);
                    pause
                }
            };
            tokio::select! {
                _change = changes.next() => {}
                () = tokio::time::sleep(pause) => {}
                _guard = drain.signaled() => return,
            }
        }
    }

    /// One step: certificate first, then the bundle that trusts it.
    pub async fn reconcile(&self, now: OffsetDateTime) -> Result<(), KeeperError> {
        let material = self.settle(now).await?;
        self.repair(&material).await
    }

    /// The Secret's material, after whatever it needed was done.
    async fn settle(&self, now: OffsetDateTime) -> Result<Material, KeeperError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.names.namespace);
        let failed = |source: kube::Error| KeeperError::Secret {
            name: format!("{}/{}", self.names.namespace, self.names.secret),
            source: Box::new(source),
        };
        for _ in 0..ATTEMPTS {
            let found = api.get_opt(&self.names.secret).await.map_err(failed)?;
            let material = found.as_ref().and_then(|secret| self.read(secret));
            if let Some(material) = &material {
                // Serve what is there, whatever becomes of the renewal.
                self.use_certificate(material);
            }
            let step = plan(material.as_ref(), &self.names.dns_name, now);
            let renewed = match (step, material) {
                (Step::Keep, Some(material)) => return Ok(material),
                (Step::RenewAuthority, Some(material)) => material.with_new_authority(now)?,
                (Step::RenewServing, Some(material)) => {
                    material.with_new_serving(&self.names.dns_name, now)?
                }
                _ => Material::create(&self.names.dns_name, now)?,
            };
            match self.write(&api, found, &renewed).await {
                Ok(()) => {
                    tracing::info!(secret = self.names.secret, ?step, not_after = %renewed.not_after(), "webhook certificate renewed");
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(KeeperError::Contended(self.names.secret.clone()))
    }

    fn read(&self, secret: &Secret) -> Option<Material> {
        match Material::from_data(secret.data.as_ref()?) {
            Ok(material) => Some(material),
            Err(error) => {
                tracing::warn!(secret = self.names.secret, %error, "webhook certificate is unusable; making a new one");
                None
            }
        }
    }

    /// Creates the Secret, or replaces the very version that was read.
    async fn write(
        &self,
        api: &Api<Secret>,
        found: Option<Secret>,
        material: &Material,
    ) -> Result<(), kube::Error> {
        let params = PostParams::default();
        if let Some(mut secret) = found {
            secret.data = Some(material.to_data());
            api.replace(&self.names.secret, &params, &secret).await?;
        } else {
            let labels = [(label::PART_OF.to_owned(), label::PART_OF_LINNET.to_owned())];
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(self.names.secret.clone()),
                    labels: Some(labels.into()),
                    ..ObjectMeta::default()
                },
                type_: Some("kubernetes.io/tls".to_owned()),
                data: Some(material.to_data()),
                ..Secret::default()
            };
            api.create(&params, &secret).await?;
        }
        Ok(())
    }

    fn use_certificate(&self, material: &Material) {
        self.resolver.0.store(Some(material.certified_key()));
        let expiry = material.not_after().unix_timestamp();
        // Seconds since 1970 fit a float's 53 bits.
        metrics::gauge!("linnet_webhook_certificate_expiry_timestamp_seconds").set(expiry as f64);
    }

    async fn repair(&self, material: &Material) -> Result<(), KeeperError> {
        let name = &self.names.webhook_configuration;
        let api: Api<C> = Api::all(self.client.clone());
        let failed = |source: kube::Error| KeeperError::Configuration {
            kind: C::KIND,
            name: name.clone(),
            source: Box::new(source),
        };
        let Some(configuration) = api.get_opt(name).await.map_err(failed)? else {
            tracing::warn!(
                name,
                "no such {}: the API server asks nothing until it is installed",
                C::KIND
            );
            return Ok(());
        };
        let Some(patch) = ca_bundle::repair(&configuration, material.bundle()) else {
            return Ok(());
        };
        let patch: Patch<()> = Patch::Json(patch);
        api.patch(name, &PatchParams::default(), &patch)
            .await
            .map_err(failed)?;
        metrics::counter!("linnet_webhook_ca_bundle_repairs_total").increment(1);
        tracing::info!(name, "caBundle written");
        Ok(())
    }

    /// An item for each change of either object; never ends.
    fn changes(&self) -> impl Stream<Item = ()> + use<C> {
        let only = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.names.namespace);
        let configurations: Api<C> = Api::all(self.client.clone());
        let secrets = watcher(secrets, only(&self.names.secret))
            .default_backoff()
            .filter_map(|event| async { noticed(event.map(drop)) });
        let configurations = watcher(configurations, only(&self.names.webhook_configuration))
            .default_backoff()
            .filter_map(|event| async { noticed(event.map(drop)) });
        stream::select(secrets, configurations).chain(stream::pending())
    }
}

fn noticed(event: Result<(), watcher::Error>) -> Option<()> {
    match event {
        Ok(()) => Some(()),
        Err(error) => {
            tracing::warn!(%error, "watching the webhook's certificate or configuration failed; trying again");
            None
        }
    }
}
