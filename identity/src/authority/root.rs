//! The root certificate and its key.
//!
//! Usually made here and self-signed. An operator may bring another: `tls.crt`
//! may be an intermediate of a root in `ca.crt`, cert-manager's format.

use std::fmt;

use linnet_mesh::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{distinguished_name, serial, whole_seconds};

const LIFETIME: Duration = Duration::days(3652);
/// Further back than an issuer's, so that an issuer lies within.
const BACKDATE: Duration = Duration::HOUR;

/// What signs issuers.
pub struct Root {
    signer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    bundle_pem: String,
    self_signed: bool,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

/// Why texts do not make a root. The fields are the Secret's keys.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Not certificates.
    #[error("{field}: {reason}")]
    Certificate {
        /// `tls.crt` or `ca.crt`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a key.
    #[error("tls.key: not a private key in PKCS #8 PEM: {0}")]
    Key(rcgen::Error),
    /// Another certificate's key.
    #[error("tls.key: not the key of tls.crt")]
    KeyMismatch,
    /// The root could not be made.
    #[error("cannot make a root: {0}")]
    Make(#[from] rcgen::Error),
}

impl Root {
    /// A new self-signed root, valid for ten years.
    ///
    /// # Errors
    /// A system without randomness.
    pub fn generate(trust_domain: &TrustDomain, now: OffsetDateTime) -> Result<Self, RootError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name("Linnet root");
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, trust_domain.as_str());
        params.serial_number = Some(serial());
        params.not_before = whole_seconds(now - BACKDATE);
        params.not_after = whole_seconds(now + LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?.pem();
        Self::from_pem(&certificate, &key.serialize_pem(), &certificate)
    }

    /// From the texts of `tls.crt`, `tls.key` and `ca.crt`.
    ///
    /// # Errors
    /// Texts that do not fit together, or a certificate that may not sign issuers.
    pub fn from_pem(certificate: &str, key: &str, bundle: &str) -> Result<Self, RootError> {
        let wrong = |reason: String| RootError::Certificate {
            field: "tls.crt",
            reason,
        };
        let key = KeyPair::from_pem(key).map_err(RootError::Key)?;
        let chain = certificates("tls.crt", certificate)?;
        for anchor in certificates("ca.crt", bundle)? {
            parse("ca.crt", &anchor)?;
        }
        let parsed = parse("tls.crt", &chain[0])?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(RootError::KeyMismatch);
        }
        let constraints = parsed
            .basic_constraints()
            .map_err(|error| wrong(error.to_string()))?;
        match constraints.map(|constraints| constraints.value) {
            Some(ca) if !ca.ca => return Err(wrong("not a certificate authority".to_owned())),
            Some(ca) if ca.path_len_constraint == Some(0) => {
                return Err(wrong(
                    "its path length of 0 allows no issuer beneath it".to_owned(),
                ));
            }
            Some(_) => {}
            None => return Err(wrong("not a certificate authority".to_owned())),
        }
        let (not_before, not_after) = (
            parsed.validity().not_before.to_datetime(),
            parsed.validity().not_after.to_datetime(),
        );
        let self_signed = parsed.subject().as_raw() == parsed.issuer().as_raw();
        Ok(Self {
            signer: Issuer::from_ca_cert_der(&chain[0], key)?,
            certificate_pem: terminated(certificate),
            bundle_pem: terminated(bundle),
            self_signed,
            not_before,
            not_after,
        })
    }

    pub(super) fn signer(&self) -> &Issuer<'static, KeyPair> {
        &self.signer
    }

    /// The trust anchors, PEM.
    pub fn bundle_pem(&self) -> &str {
        &self.bundle_pem
    }

    /// The certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The key, PEM: for keeping it.
    pub(super) fn key_pem(&self) -> String {
        self.signer.key().serialize_pem()
    }

    /// What a peer needs between an issuer and the trust anchors.
    pub(super) fn intermediates_pem(&self) -> &str {
        if self.self_signed {
            ""
        } else {
            &self.certificate_pem
        }
    }

    /// From when it is valid.
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// Until when it is valid.
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

fn certificates(field: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, RootError> {
    let wrong = |reason: String| RootError::Certificate { field, reason };
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(format!("not PEM: {error}")))?;
    if found.is_empty() {
        return Err(wrong("no certificate in it".to_owned()));
    }
    Ok(found)
}

fn parse<'a>(
    field: &'static str,
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, RootError> {
    X509Certificate::from_der(certificate)
        .map(|(_, parsed)| parsed)
        .map_err(|error| RootError::Certificate {
            field,
            reason: error.to_string(),
        })
}

/// PEM texts are joined: each ends its last line.
fn terminated(pem: &str) -> String {
    format!("{}\n", pem.trim())
}
