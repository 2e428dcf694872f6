//! The root certificate and its key.
//!
//! Usually made here and self-signed. An operator may bring another, in
//! cert-manager's format: `tls.crt` is the certificate that signs and whatever
//! stands between it and a root of `ca.crt`; the root's own key may stay
//! offline. What is brought is tried before it is used: a chain that peers would
//! refuse is refused here, with the field and the reason.

use std::fmt;

use linnet_mesh::{SpiffeId, TrustDomain};
use linnet_workload::Workload;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use time::{Duration, OffsetDateTime};

use super::{
    Authority,
    chain::{self, Anchor},
    distinguished_name, serial, whole_seconds,
};

/// A root's lifetime unless the operator sets another.
pub(super) const LIFETIME: Duration = Duration::days(3652);
/// Further back than an issuer's, so that an issuer lies within.
const BACKDATE: Duration = Duration::HOUR;

/// What signs issuers.
pub struct Root {
    signer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    key_pem: String,
    intermediates_pem: String,
    anchors: Vec<Anchor>,
    trusted_by: String,
    self_signed: bool,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

/// Why texts do not make a root. The fields are the Secret's keys.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Not certificates, or not the right ones.
    #[error("{field}: {reason}")]
    Certificate {
        /// `tls.crt` or `ca.crt`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a key.
    #[error("tls.key: not a private key in PEM (PKCS #8, SEC 1 or PKCS #1): {0}")]
    Key(String),
    /// Another certificate's key.
    #[error("tls.key: not the key of the first certificate in tls.crt")]
    KeyMismatch,
    /// Whatever else makes peers refuse what it signs.
    #[error("tls.crt: peers would refuse every certificate that it signs: {0}")]
    Refused(String),
    /// The root could not be made.
    #[error("cannot make a root: {0}")]
    Make(#[from] rcgen::Error),
}

impl RootError {
    pub(super) fn at(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Certificate {
            field,
            reason: reason.into(),
        }
    }
}

impl Root {
    /// A new self-signed root, valid for so long.
    ///
    /// # Errors
    /// A system without randomness.
    pub fn generate(
        trust_domain: &TrustDomain,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<Self, RootError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name("Linnet root");
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, trust_domain.as_str());
        params.serial_number = Some(serial());
        params.not_before = whole_seconds(now - BACKDATE);
        params.not_after = whole_seconds(now + lifetime);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?.pem();
        Self::from_pem(&certificate, &key.serialize_pem(), &certificate)
    }

    /// From the texts of `tls.crt`, `tls.key` and `ca.crt`. Whether they are in
    /// their time is for [`Root::usable`] to say.
    ///
    /// # Errors
    /// Texts that do not fit together, or a certificate that may not sign issuers.
    pub fn from_pem(certificate: &str, key: &str, bundle: &str) -> Result<Self, RootError> {
        let key_pem = terminated(key);
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| RootError::Key(error.to_string()))?;
        let key = KeyPair::try_from(&key).map_err(|error| RootError::Key(error.to_string()))?;
        let chain = chain::certificates("tls.crt", certificate)?;
        let anchors = chain::anchors(bundle)?;
        let parsed = chain::parse("tls.crt", &chain[0])?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(RootError::KeyMismatch);
        }
        let self_signed = parsed.subject().as_raw() == parsed.issuer().as_raw();
        let path = chain::path(&chain, &anchors)?;
        Ok(Self {
            certificate_pem: terminated(certificate),
            key_pem,
            intermediates_pem: path.intermediates_pem,
            trusted_by: path.anchor.fingerprint().to_owned(),
            not_before: path.not_before,
            not_after: path.not_after,
            anchors,
            self_signed,
            signer: Issuer::from_ca_cert_der(&chain[0], key)?,
        })
    }

    /// Whether peers take what it signs now.
    ///
    /// # Errors
    /// A certificate of the chain that is not in its time, or whatever else
    /// makes a verifier refuse, such as constraints on names.
    pub fn usable(
        self,
        trust_domain: &TrustDomain,
        now: OffsetDateTime,
    ) -> Result<Self, RootError> {
        if now >= self.not_after {
            let reason = format!("expired on {}", self.not_after);
            return Err(RootError::at("tls.crt", reason));
        }
        if now < self.not_before {
            let reason = format!("not valid before {}", self.not_before);
            return Err(RootError::at("tls.crt", reason));
        }
        let refused = |error: &dyn fmt::Display| RootError::Refused(error.to_string());
        let id = SpiffeId::new(trust_domain, "linnet-system", "probe")
            .map_err(|error| refused(&error))?;
        let bundle = self.bundle_pem();
        let authority =
            Authority::new(self, Duration::MINUTE, now).map_err(|error| refused(&error))?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let signed = authority
            .sign(&key, &id, Duration::MINUTE, now)
            .map_err(|error| refused(&error))?;
        Workload::from_pem(&signed.chain_pem, &key.serialize_pem(), &bundle)
            .map_err(|error| refused(&error))?
            .verify_at(now.into())
            .map_err(|error| refused(&error))?;
        Ok(authority.into_root())
    }

    pub(super) fn signer(&self) -> &Issuer<'static, KeyPair> {
        &self.signer
    }

    /// The trust anchors, PEM.
    pub fn bundle_pem(&self) -> String {
        self.anchors.iter().map(Anchor::pem).collect()
    }

    /// The trust anchors.
    pub fn anchors(&self) -> &[Anchor] {
        &self.anchors
    }

    /// The fingerprint of the anchor that its certificates hang on.
    pub fn trusted_by(&self) -> &str {
        &self.trusted_by
    }

    /// Whether it is its own issuer: a root, and not an intermediate.
    pub fn is_self_signed(&self) -> bool {
        self.self_signed
    }

    /// The certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The key, PEM: for keeping it.
    pub(super) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// What a peer needs between an issuer and the trust anchors.
    pub(super) fn intermediates_pem(&self) -> &str {
        &self.intermediates_pem
    }

    /// From when it and its chain are valid.
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// Until when it and its chain are valid.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// PEM texts are joined: each ends its last line.
fn terminated(pem: &str) -> String {
    format!("{}\n", pem.trim())
}
