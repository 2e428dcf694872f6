//! What all TLS of the mesh's processes shares: the cryptographic provider, and how a
//! certificate names a workload.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use linnet_mesh::{SpiffeId, spiffe};
use rustls::{
    CipherSuite, CommonState,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::CertificateDer,
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The one TLS provider: aws-lc-rs, X25519MLKEM768 first, and AES-128-GCM with
/// SHA-256 before AES-256-GCM with SHA-384: processors hash the former by
/// instructions of their own, which saves an eighth of a handshake's CPU, and
/// RFC 8446 (9.1) names it the one suite that everybody has.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        // Stable: the others stay in their order.
        let first = CipherSuite::TLS13_AES_128_GCM_SHA256;
        provider
            .cipher_suites
            .sort_by_key(|known| known.suite() != first);
        // For libraries that ask the process; an error says it is already there.
        let _ = provider.clone().install_default();
        Arc::new(provider)
    });
    PROVIDER.clone()
}

/// Why a certificate names no workload of this mesh.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a certificate.
    #[error("it cannot be parsed")]
    Malformed,
    /// Zero or several URI names.
    #[error("it has {0} URI names where a workload's has exactly one")]
    Names(usize),
    /// A URI that is no SPIFFE ID of a workload.
    #[error(transparent)]
    SpiffeId(#[from] spiffe::ParseError),
    /// An identity of somebody else's mesh.
    #[error("{id} is not of the trust domain {expected}")]
    TrustDomain {
        /// The peer's identity.
        id: SpiffeId,
        /// The trust domain of this workload.
        expected: String,
    },
}

impl fmt::Debug for IdentityError {
    /// Like `Display`: rustls shows a verifier's own errors this way.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a workload's certificate says.
pub struct Leaf {
    /// Whom it names.
    pub id: SpiffeId,
    /// From when it is valid.
    pub not_before: OffsetDateTime,
    /// Until when it is valid.
    pub not_after: OffsetDateTime,
}

impl Leaf {
    /// Reads a certificate. Nothing of it is verified.
    ///
    /// # Errors
    /// What is no certificate, or does not name exactly one workload.
    pub fn parse(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| IdentityError::Malformed)?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| IdentityError::Malformed)?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        let [uri] = uris[..] else {
            return Err(IdentityError::Names(uris.len()));
        };
        Ok(Self {
            id: uri.parse()?,
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
        })
    }
}

/// The verified identity of the peer after a handshake with a configuration that
/// verifies workloads, resumed or not.
///
/// None if the peer presented no certificate, or if that has expired: a session
/// may have been resumed since it was verified.
pub fn peer_identity(connection: &CommonState) -> Option<SpiffeId> {
    let leaf = Leaf::parse(connection.peer_certificates()?.first()?).ok()?;
    (OffsetDateTime::now_utc() < leaf.not_after).then_some(leaf.id)
}
