//! The service's own certificate: signed by its own authority, with the DNS
//! names that sidecars call it by, and renewed without a restart: by time, and
//! whenever another root signs.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use linnet_mesh::SpiffeId;
use linnet_runtime::serve::TlsConfig;
use linnet_workload::Workload;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::authority::{Authority, SignError};

const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];
const RETRY: Duration = Duration::from_secs(10);

/// Why the service has no certificate of its own.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The authority did not sign it.
    #[error("the identity service's own certificate: {0}")]
    Sign(#[from] SignError),
    /// Its key could not be made.
    #[error("the identity service's own key: {0}")]
    Key(#[from] rcgen::Error),
    /// TLS cannot use it.
    #[error("the identity service's own certificate: {0}")]
    Certificate(#[from] linnet_workload::Error),
}

/// Who the service is to its clients.
pub(crate) struct Serving {
    pub(crate) authority: Arc<Authority>,
    pub(crate) identity: SpiffeId,
    pub(crate) names: Vec<String>,
}

impl Serving {
    /// The current configuration, and what keeps it current.
    pub(crate) fn start(self) -> Result<(TlsConfig, impl Future<Output = ()>), ServingError> {
        let (first, expiry) = self.certify()?;
        let config: TlsConfig = Arc::new(ArcSwap::new(first));
        let renewed = config.clone();
        Ok((config, self.renew(renewed, expiry)))
    }

    fn certify(&self) -> Result<(Arc<rustls::ServerConfig>, OffsetDateTime), ServingError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let signed = self.authority.sign_with_names(
            &key,
            &self.identity,
            &self.names,
            self.authority.lifetime(),
            OffsetDateTime::now_utc(),
        )?;
        let bundle = self.authority.bundle_pem();
        let workload = Workload::from_pem(&signed.chain_pem, &key.serialize_pem(), &bundle)?;
        Ok((workload.server_config(ALPN, false), signed.not_after))
    }

    async fn renew(self, config: TlsConfig, mut expiry: OffsetDateTime) {
        let mut roots = self.authority.subscribe();
        loop {
            let left = expiry - OffsetDateTime::now_utc();
            let half = Duration::try_from(left / 2).unwrap_or_default();
            tokio::select! {
                () = sleep(half.max(Duration::from_secs(1))) => {}
                Ok(()) = roots.changed() => {}
            }
            match self.certify() {
                Ok((renewed, not_after)) => {
                    config.store(renewed);
                    expiry = not_after;
                }
                Err(error) => {
                    tracing::error!(%error, "keeping the old certificate");
                    sleep(RETRY).await;
                }
            }
        }
    }
}
