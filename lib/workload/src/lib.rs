//! Workload certificates: getting them from the identity service, renewing
//! them, and mutual TLS with them.
//!
//! A [`Workload`] is one certificate with its key and the trust anchors that
//! came with it. It never changes; a renewal makes a new one, and with it new
//! session caches and ticket keys, so that no resumed session outlives the
//! certificates it was made with. The key exists in this process's memory only.

mod anchors;
mod ask;
mod client;
mod expiry;
mod handle;
mod renewal;
mod sessions;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tls;
#[cfg(feature = "testing")]
pub mod token;
mod verifier;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use linnet_mesh::SpiffeId;
use linnet_runtime::tls::{IdentityError, Leaf};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use time::OffsetDateTime;

pub use anchors::{Federation, FederationError, fingerprint, have_common_anchor, pem};
pub use ask::{BundleSource, Source, TokenSource};
pub use client::{IdentityUrl, RequestError, Skew, UrlError};
pub use expiry::watch_expiry;
pub use handle::Handle;
pub use renewal::{BUNDLE_INTERVAL, start};

/// A workload's certificate, its key, and whom it trusts.
pub struct Workload {
    id: SpiffeId,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    valid_for: Duration,
    bundle_pem: String,
    federation: Federation,
    trust: Arc<verifier::Trust>,
    certified: Arc<CertifiedKey>,
    tls: tls::Shared,
}

/// Why certificates, a key and a bundle do not make a [`Workload`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not the PEM that is needed.
    #[error("the {what} is not PEM: {source}")]
    Pem {
        /// Certificate chain, private key or trust bundle.
        what: &'static str,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// PEM without a certificate in it.
    #[error("the {0} has no certificate")]
    Empty(&'static str),
    /// A certificate that is not a mesh identity's.
    #[error("the certificate is not a workload's: {0}")]
    Identity(#[from] IdentityError),
    /// TLS cannot use it: key and certificate differ, or the chain is bad.
    #[error("the certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

impl Workload {
    /// From PEM texts: the leaf followed by its intermediates, the leaf's key,
    /// and the trust anchors.
    ///
    /// Validity is not checked: peers do that at each handshake.
    ///
    /// # Errors
    /// Texts that are not PEM, a leaf without exactly one SPIFFE ID, a key that
    /// is not the leaf's.
    pub fn from_pem(chain_pem: &str, key_pem: &str, bundle_pem: &str) -> Result<Self, Error> {
        let key =
            PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|source| Error::Pem {
                what: "private key",
                source,
            })?;
        Self::new(chain_pem, key, bundle_pem, Federation::default())
    }

    pub(crate) fn new(
        chain_pem: &str,
        key: PrivateKeyDer<'static>,
        bundle_pem: &str,
        federation: Federation,
    ) -> Result<Self, Error> {
        let chain = certificates("certificate chain", chain_pem)?;
        let leaf = Leaf::parse(&chain[0])?;
        let certified = Arc::new(CertifiedKey::from_der(
            chain,
            key,
            &linnet_runtime::tls::provider(),
        )?);
        let left = leaf.not_after - OffsetDateTime::now_utc();
        let valid_for = Duration::try_from(left).unwrap_or_default();
        Self::with_trust(leaf, valid_for, certified, bundle_pem, federation)
    }

    fn with_trust(
        leaf: Leaf,
        valid_for: Duration,
        certified: Arc<CertifiedKey>,
        bundle_pem: &str,
        federation: Federation,
    ) -> Result<Self, Error> {
        let own = leaf.id.trust_domain().to_owned();
        let aliases = federation.aliases.iter().cloned();
        let trust = Arc::new(verifier::Trust {
            domains: std::iter::once(own).chain(aliases).collect(),
            roots: Arc::new(roots(bundle_pem)?),
            federated: federation.roots()?,
        });
        Ok(Self {
            tls: tls::Shared::new(&trust, &certified)?,
            id: leaf.id,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            valid_for,
            bundle_pem: bundle_pem.to_owned(),
            federation,
            trust,
            certified,
        })
    }

    /// The same certificate and key with other trust.
    ///
    /// # Errors
    /// Texts that are no bundles.
    pub fn trusting(&self, bundle_pem: &str, federation: Federation) -> Result<Self, Error> {
        let leaf = Leaf {
            id: self.id.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
        };
        let certified = self.certified.clone();
        Self::with_trust(leaf, self.valid_for, certified, bundle_pem, federation)
    }

    /// Whether a verified peer is the workload that was expected: the same
    /// namespace and service account, in the same trust domain by one of its names.
    pub fn is_expected(&self, peer: &SpiffeId, expected: &SpiffeId) -> bool {
        peer == expected
            || self.is_of_own_domain(peer)
                && self.is_of_own_domain(expected)
                && peer.namespace() == expected.namespace()
                && peer.service_account() == expected.service_account()
    }

    /// Other trust domains that it trusts.
    pub fn federation(&self) -> &Federation {
        &self.federation
    }

    /// Reports whether an identity is of the own trust domain, by any of its names. Only
    /// then do its namespace and service account say anything here; others that are
    /// trusted are federated.
    pub fn is_of_own_domain(&self, id: &SpiffeId) -> bool {
        let mut domains = self.trust.domains.iter();
        domains.any(|domain| domain == id.trust_domain())
    }

    /// How long it was valid for when it was received.
    pub fn valid_for(&self) -> Duration {
        self.valid_for
    }

    /// The fingerprint of the anchor that its own certificate hangs on, and until
    /// when that is valid; none if it hangs on none that it trusts.
    pub fn root(&self) -> Option<(String, OffsetDateTime)> {
        let anchors = certificates("trust bundle", &self.bundle_pem).ok()?;
        let found = anchors.iter().find(|anchor| {
            let mut roots = RootCertStore::empty();
            let at = (self.not_after - time::Duration::SECOND).into();
            roots.add((*anchor).clone()).is_ok() && self.verify(&roots, at).is_ok()
        })?;
        let (_, parsed) = x509_parser::parse_x509_certificate(found).ok()?;
        Some((
            fingerprint(found),
            parsed.validity().not_after.to_datetime(),
        ))
    }

    /// Whose certificate it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// From when it is valid.
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// The leaf and its intermediates.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The trust anchors, PEM.
    pub fn bundle_pem(&self) -> &str {
        &self.bundle_pem
    }

    /// Whether a peer with the same trust anchors would take this certificate.
    ///
    /// # Errors
    /// Why not.
    pub fn verify_at(&self, now: SystemTime) -> Result<(), rustls::Error> {
        self.verify(&self.trust.roots, now)
    }

    fn verify(&self, roots: &RootCertStore, now: SystemTime) -> Result<(), rustls::Error> {
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let chain = self.chain();
        verifier::verify_chain(
            &chain[0],
            &chain[1..],
            roots,
            UnixTime::since_unix_epoch(since),
        )
    }
}

impl fmt::Debug for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workload")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// A [`Workload`] from `leaf.pem` (with its intermediates), `leaf.key` and
/// `ca.pem` in a directory.
///
/// # Errors
/// As [`Workload::from_pem`]; and files that cannot be read.
pub fn from_files(directory: impl AsRef<Path>) -> Result<Workload, Error> {
    let read = |name: &str| {
        let path = directory.as_ref().join(name);
        std::fs::read_to_string(&path).map_err(|source| Error::Read { path, source })
    };
    Workload::from_pem(&read("leaf.pem")?, &read("leaf.key")?, &read("ca.pem")?)
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| Error::Pem { what, source })?;
    if found.is_empty() {
        Err(Error::Empty(what))
    } else {
        Ok(found)
    }
}

fn roots(bundle_pem: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("trust bundle", bundle_pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
