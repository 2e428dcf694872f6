//! Getting a certificate and renewing it, for as long as somebody wants it.
//!
//! A certificate is renewed between 50 % and 65 % of its lifetime, so identity
//! may be away for a good third of it. A failed renewal keeps the old one.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use linnet_mesh::{SpiffeId, TrustDomain};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    RootCertStore,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{sync::watch, time::sleep};

use super::{
    Workload,
    client::{self, IdentityUrl, RequestError, SigningRequest},
    roots,
};
use crate::{drain, readiness};

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Where certificates come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The identity service.
    pub identity_url: IdentityUrl,
    /// What proves to it who we are.
    pub token: TokenSource,
    /// What proves to us that it is the identity service.
    pub trust_bundle: BundleSource,
    /// The trust domain that the certificate must be of.
    pub trust_domain: TrustDomain,
}

/// A token that proves who a workload is.
#[derive(Clone)]
pub enum TokenSource {
    /// A file, read anew each time: the kubelet renews it.
    File(PathBuf),
    /// The token itself.
    Text(String),
}

/// The first trust anchors; an answer's bundle joins them.
#[derive(Clone, Debug)]
pub enum BundleSource {
    /// A PEM file, read anew each time.
    File(PathBuf),
    /// PEM; an answer's bundle replaces it.
    Text(String),
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text(..)"),
        }
    }
}

/// The current certificate of a workload.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    current: ArcSwapOption<Workload>,
    generation: watch::Sender<u64>,
}

impl Handle {
    fn new() -> Self {
        let shared = Shared {
            current: ArcSwapOption::empty(),
            generation: watch::Sender::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// A certificate that is never renewed: tests and standalone.
    pub fn fixed(workload: impl Into<Arc<Workload>>) -> Self {
        let handle = Self::new();
        handle.shared.replace(workload.into());
        handle
    }

    /// The certificate, once there is one. It may have expired if identity has
    /// been away for long.
    pub fn current(&self) -> Option<Arc<Workload>> {
        self.shared.current.load_full()
    }

    /// The certificate, as soon as there is one.
    pub async fn wait(&self) -> Arc<Workload> {
        let mut generation = self.subscribe();
        loop {
            if let Some(workload) = self.current() {
                return workload;
            }
            // The sender lives in `self`, so this cannot fail.
            let _ = generation.changed().await;
        }
    }

    /// 0 without a certificate; one more with each.
    pub fn generation(&self) -> u64 {
        *self.shared.generation.borrow()
    }

    /// Tells of each new generation.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }
}

impl Shared {
    fn replace(&self, workload: Arc<Workload>) {
        self.current.store(Some(workload));
        self.generation.send_modify(|generation| *generation += 1);
    }
}

/// Starts getting a certificate, and renewing it until every [`Handle`] is
/// dropped. The gate opens with the first certificate. A drain does not wait for
/// renewals, and they go on during it: connections in drain need a valid
/// certificate too; only a process that drains before its first certificate
/// stops asking.
pub fn start(source: Source, gate: readiness::Gate, drain: drain::Watch) -> Handle {
    let handle = Handle::new();
    let renewal = Renewal {
        source,
        shared: Arc::downgrade(&handle.shared),
        bundle: None,
    };
    let abandoned = abandoned(handle.subscribe());
    tokio::spawn(async move {
        tokio::select! {
            () = renewal.run(gate, drain) => {}
            () = abandoned => {}
        }
    });
    handle
}

/// Completes when the sender, and with it every handle, is gone.
async fn abandoned(mut generation: watch::Receiver<u64>) {
    while generation.changed().await.is_ok() {}
}

struct Renewal {
    source: Source,
    shared: Weak<Shared>,
    /// The bundle that came with the last certificate.
    bundle: Option<String>,
}

impl Renewal {
    async fn run(mut self, gate: readiness::Gate, drain: drain::Watch) {
        let first = tokio::select! {
            first = self.obtain(None) => first,
            _guard = drain.signaled() => return,
        };
        drop(drain);
        let mut expiry = self.adopt(first);
        drop(gate);
        loop {
            let delay = renewal_delay(remaining(expiry), rand::random());
            tracing::debug!(seconds = delay.as_secs(), "next certificate renewal");
            sleep(delay).await;
            let next = self.obtain(Some(expiry)).await;
            expiry = self.adopt(next);
        }
    }

    /// Asks until there is a certificate.
    async fn obtain(&self, expiry: Option<SystemTime>) -> Workload {
        let mut attempt = 0_u32;
        loop {
            match self.ask().await {
                Ok(workload) => {
                    metrics::counter!("linnet_certificate_renewals_total", "result" => "success")
                        .increment(1);
                    return workload;
                }
                Err(error) => {
                    metrics::counter!("linnet_certificate_renewals_total", "result" => "failure")
                        .increment(1);
                    let left = expiry.map(remaining);
                    let delay = retry_delay(attempt, left, rand::random());
                    let retry_in_ms = delay.as_millis();
                    match left {
                        None => tracing::warn!(%error, retry_in_ms, "no certificate yet"),
                        Some(Duration::ZERO) => {
                            tracing::error!(%error, retry_in_ms, "the certificate has expired and is not renewed; peers refuse it");
                        }
                        Some(left) => {
                            let valid_for_seconds = left.as_secs();
                            tracing::warn!(%error, retry_in_ms, valid_for_seconds, "certificate not renewed, keeping the old one");
                        }
                    }
                    sleep(delay).await;
                    attempt = attempt.saturating_add(1);
                }
            }
        }
    }

    fn adopt(&mut self, workload: Workload) -> SystemTime {
        let expiry = workload.not_after();
        tracing::info!(identity = %workload.id(), not_after = %expiry, "certificate");
        let identity = workload.id().to_string();
        metrics::gauge!("linnet_certificate_expiry_timestamp_seconds", "identity" => identity)
            .set(expiry.unix_timestamp() as f64);
        self.bundle = Some(workload.bundle_pem().to_owned());
        if let Some(shared) = self.shared.upgrade() {
            shared.replace(Arc::new(workload));
        }
        expiry.into()
    }

    async fn ask(&self) -> Result<Workload, RequestError> {
        let token = match &self.source.token {
            TokenSource::Text(token) => token.clone(),
            TokenSource::File(path) => read("token", path).await?,
        };
        let roots = self.anchors().await?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let csr = signing_request(&key)?;
        let request = SigningRequest { csr: &csr };
        let issued =
            client::request(&self.source.identity_url, roots, token.trim(), &request).await?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let workload = Workload::new(&issued.certificates, key, &issued.trust_bundle)?;
        self.check(&workload)?;
        Ok(workload)
    }

    /// Whom to trust as the identity service. The file of a bundle is the
    /// operator's word and always counts, so that a replaced root is found.
    async fn anchors(&self) -> Result<RootCertStore, RequestError> {
        let mut anchors = match (&self.source.trust_bundle, &self.bundle) {
            (BundleSource::Text(_), Some(received)) => return Ok(roots(received)?),
            (BundleSource::Text(first), None) => return Ok(roots(first)?),
            (BundleSource::File(path), _) => roots(&read("trust bundle", path).await?)?,
        };
        if let Some(received) = &self.bundle {
            anchors.extend(roots(received)?.roots);
        }
        Ok(anchors)
    }

    fn check(&self, workload: &Workload) -> Result<(), RequestError> {
        let domain = self.source.trust_domain.as_str();
        if workload.id().trust_domain() != domain {
            let id = workload.id();
            return Err(RequestError::Answer(format!(
                "{id} is not of the trust domain {domain}"
            )));
        }
        workload.check(SystemTime::now()).map_err(|error| {
            let id: &SpiffeId = workload.id();
            RequestError::Answer(format!(
                "peers would not take the certificate of {id}: {error}"
            ))
        })
    }
}

/// The service decides about names; the request is only about the key.
fn signing_request(key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(key)?.pem()
}

async fn read(what: &'static str, path: &PathBuf) -> Result<String, RequestError> {
    tokio::fs::read_to_string(path)
        .await
        .map_err(|source| RequestError::Read {
            what,
            path: path.display().to_string(),
            source,
        })
}

fn remaining(expiry: SystemTime) -> Duration {
    expiry.duration_since(SystemTime::now()).unwrap_or_default()
}

/// When to renew a certificate that is valid for so long; `unit` is random in 0..1.
fn renewal_delay(valid_for: Duration, unit: f64) -> Duration {
    valid_for.mul_f64(0.5 + 0.15 * unit)
}

/// When to ask again: doubling, half of it random, and while the certificate is
/// valid never later than half of what is left.
fn retry_delay(attempt: u32, left: Option<Duration>, unit: f64) -> Duration {
    let whole = FIRST_RETRY
        .saturating_mul(2_u32.saturating_pow(attempt))
        .min(LAST_RETRY);
    let delay = whole.mul_f64(0.5 + 0.5 * unit);
    match left {
        Some(left) if !left.is_zero() => delay.min(left / 2).max(FIRST_RETRY / 2),
        _ => delay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn renewal_lies_between_half_and_two_thirds_of_a_lifetime() {
        assert_eq!(renewal_delay(DAY, 0.0), DAY / 2);
        assert_eq!(renewal_delay(DAY, 1.0), DAY.mul_f64(0.65));
        assert_eq!(
            renewal_delay(Duration::from_secs(60), 0.0),
            Duration::from_secs(30)
        );
    }

    #[test]
    fn retries_double_up_to_a_cap() {
        let delays: Vec<u128> = (0..8)
            .map(|attempt| retry_delay(attempt, None, 1.0).as_millis())
            .collect();
        assert_eq!(delays, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(retry_delay(u32::MAX, None, 0.0), LAST_RETRY / 2);
    }

    #[test]
    fn retries_hurry_when_little_is_left() {
        let left = Some(Duration::from_secs(4));
        assert_eq!(retry_delay(9, left, 1.0), Duration::from_secs(2));
        assert_eq!(
            retry_delay(9, Some(Duration::from_millis(1)), 1.0),
            FIRST_RETRY / 2
        );
        assert_eq!(retry_delay(9, Some(Duration::ZERO), 1.0), LAST_RETRY);
    }

    #[test]
    fn tokens_do_not_show() {
        assert_eq!(
            format!("{:?}", TokenSource::Text("secret".to_owned())),
            "Text(..)"
        );
    }
}
