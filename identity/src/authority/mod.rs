//! The certificate authority: a root that is kept, an issuer that is not.
//!
//! Each process makes its own issuer, in memory, signed by the root; it replaces
//! it long before it expires. A certificate never outlives its issuer, nor an
//! issuer its root. What a leaf says comes from the caller of [`Authority::sign`]
//! and never from the signing request.

mod root;
mod store;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use linnet_mesh::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

pub use root::{Root, RootError};
pub(crate) use store::private_file;
pub use store::{RootStore, StoreError};

/// How far a certificate's validity reaches back, for clocks that lag.
const BACKDATE: Duration = Duration::MINUTE;
/// An issuer's shortest lifetime.
const ISSUER_LIFETIME: Duration = Duration::days(7);

/// Signs certificates.
pub struct Authority {
    root: Root,
    /// The lifetime of a certificate for which nothing shorter is asked.
    lifetime: Duration,
    issuer: Mutex<Arc<Issuer>>,
}

struct Issuer {
    signer: CertifiedIssuer<'static, KeyPair>,
    not_after: OffsetDateTime,
    renew_at: OffsetDateTime,
}

/// A signed certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The certificate and its issuers up to, and without, the root, PEM.
    pub chain_pem: String,
    /// Until when it is valid.
    pub not_after: OffsetDateTime,
}

/// Why a certificate is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The root's time is over.
    #[error("the root certificate has expired on {0}; replace it")]
    RootExpired(OffsetDateTime),
    /// A name that is neither a DNS name nor an address.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    Name(String),
    /// The certificate could not be made.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
}

impl Authority {
    /// An authority under this root whose certificates live so long.
    ///
    /// # Errors
    /// An expired root.
    pub fn new(root: Root, lifetime: Duration, now: OffsetDateTime) -> Result<Self, SignError> {
        let issuer = Issuer::new(&root, lifetime, now)?;
        Ok(Self {
            root,
            lifetime,
            issuer: Mutex::new(Arc::new(issuer)),
        })
    }

    /// The trust anchors, PEM.
    pub fn bundle_pem(&self) -> &str {
        self.root.bundle_pem()
    }

    /// The longest lifetime of a certificate.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Certifies that a key is a workload's, for a while at the longest.
    ///
    /// # Errors
    /// An expired root.
    pub fn sign(
        &self,
        key: &impl PublicKeyData,
        id: &SpiffeId,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<Signed, SignError> {
        self.sign_with_names(key, id, &[], lifetime, now)
    }

    /// Like [`Authority::sign`], with DNS names and addresses too: for a server
    /// that clients outside the mesh verify.
    ///
    /// # Errors
    /// An expired root; a name that is none.
    pub fn sign_with_names(
        &self,
        key: &impl PublicKeyData,
        id: &SpiffeId,
        names: &[String],
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<Signed, SignError> {
        let issuer = self.issuer(now)?;
        let mut params = CertificateParams::default();
        // The identity is the whole name.
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(serial());
        params.not_before = whole_seconds(now - BACKDATE);
        params.not_after = whole_seconds((now + lifetime.min(self.lifetime)).min(issuer.not_after));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        for name in names {
            params.subject_alt_names.push(alternative_name(name)?);
        }
        let leaf = params.signed_by(key, &issuer.signer)?;
        Ok(Signed {
            chain_pem: leaf.pem() + &issuer.signer.pem() + self.root.intermediates_pem(),
            not_after: params.not_after,
        })
    }

    /// The issuer in force, made anew when its time has come.
    fn issuer(&self, now: OffsetDateTime) -> Result<Arc<Issuer>, SignError> {
        let mut issuer = self.issuer.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= issuer.renew_at {
            *issuer = Arc::new(Issuer::new(&self.root, self.lifetime, now)?);
            tracing::info!(not_after = %issuer.not_after, "new issuer");
        }
        Ok(issuer.clone())
    }
}

impl Issuer {
    /// It lives twice as long as a certificate, and is replaced at half of that,
    /// so no certificate is cut short, but by the end of the root.
    fn new(root: &Root, leaf: Duration, now: OffsetDateTime) -> Result<Self, SignError> {
        if now >= root.not_after() {
            return Err(SignError::RootExpired(root.not_after()));
        }
        let lifetime = ISSUER_LIFETIME.max(leaf * 2);
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name("Linnet issuer");
        params.serial_number = Some(serial());
        params.not_before = whole_seconds((now - BACKDATE).max(root.not_before()));
        params.not_after = whole_seconds((now + lifetime).min(root.not_after()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        let not_after = params.not_after;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let signer = CertifiedIssuer::signed_by(params, key, root.signer())?;
        Ok(Self {
            signer,
            not_after,
            renew_at: not_after.min(now + lifetime / 2),
        })
    }
}

fn alternative_name(name: &str) -> Result<SanType, SignError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let error = || SignError::Name(name.to_owned());
    rustls_pki_types::DnsName::try_from(name).map_err(|_| error())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| error())?))
}

/// A name that no other certificate has: verifiers find an issuer by its name.
fn distinguished_name(what: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Linnet");
    name.push(
        DnType::CommonName,
        format!("{what} {:016x}", rand::random::<u64>()),
    );
    name
}

/// 127 random bits: positive, and not to be guessed.
fn serial() -> SerialNumber {
    let mut bytes = rand::random::<[u8; 16]>();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Certificates know no fractions.
fn whole_seconds(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_nanosecond(0).unwrap_or(time)
}

#[cfg(test)]
mod tests;
