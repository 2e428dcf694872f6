//! The certificate authority: a root that is kept, an issuer that is not.
//!
//! Each process makes its own issuer, in memory, signed by the root; it replaces
//! it long before it expires. A certificate never outlives its issuer, nor an
//! issuer its root. What a leaf says comes from the caller of [`Authority::sign`]
//! and never from the signing request.

mod chain;
mod keeper;
mod root;
pub mod rotation;
mod store;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use linnet_mesh::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};
use tokio::sync::watch;

pub use chain::Anchor;
pub use keeper::{InForce, Keeper};
pub use root::{Root, RootError};
pub(crate) use store::private_file;
pub use store::{RootStore, StoreError, kept_in_secret};

/// How far a certificate's validity reaches back, for clocks that lag: two
/// minutes are to do no harm.
const BACKDATE: Duration = Duration::minutes(3);
/// An issuer's shortest lifetime.
const ISSUER_LIFETIME: Duration = Duration::days(7);

/// Signs certificates.
pub struct Authority {
    /// The lifetime of a certificate for which nothing shorter is asked.
    lifetime: Duration,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

struct State {
    root: Arc<Root>,
    bundle_pem: Arc<str>,
    issuer: Arc<Issuer>,
    /// Until when what is known of the root may be acted on.
    fresh_until: Option<OffsetDateTime>,
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
    /// Another replica may have moved on to another root.
    #[error("the root could not be read since {0}; not signing until it is")]
    Stale(OffsetDateTime),
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
        let bundle_pem = root.bundle_pem().into();
        let state = State {
            issuer: Arc::new(Issuer::new(&root, lifetime, now)?),
            root: Arc::new(root),
            bundle_pem,
            fresh_until: None,
        };
        Ok(Self {
            lifetime,
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
        })
    }

    /// Signs under this root from now on.
    ///
    /// # Errors
    /// An expired root: then the one before stays.
    pub fn adopt(&self, root: Root, now: OffsetDateTime) -> Result<(), SignError> {
        let mut state = self.state();
        if state.root.certificate_pem() == root.certificate_pem() {
            return Ok(());
        }
        state.issuer = Arc::new(Issuer::new(&root, self.lifetime, now)?);
        tracing::info!(root = root.trusted_by(), "signing under another root");
        state.root = Arc::new(root);
        drop(state);
        self.changes.send_modify(|change| *change += 1);
        Ok(())
    }

    /// Tells this bundle from now on.
    pub fn tell(&self, bundle_pem: &str) {
        let mut state = self.state();
        if *state.bundle_pem == *bundle_pem {
            return;
        }
        state.bundle_pem = bundle_pem.into();
        drop(state);
        self.changes.send_modify(|change| *change += 1);
    }

    /// Signs until this time, unless it is told again.
    pub fn refresh(&self, until: OffsetDateTime) {
        self.state().fresh_until = Some(until);
    }

    /// Tells of each change of root or bundle.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The trust anchors, PEM.
    pub fn bundle_pem(&self) -> Arc<str> {
        self.state().bundle_pem.clone()
    }

    /// What signs issuers.
    pub fn root(&self) -> Arc<Root> {
        self.state().root.clone()
    }

    /// Until when the issuer in force is valid.
    pub fn issuer_not_after(&self) -> OffsetDateTime {
        self.state().issuer.not_after
    }

    fn into_root(self) -> Root {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::into_inner(state.root).expect("nobody else was given this authority's root")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (issuer, root) = self.issuer(now)?;
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
            chain_pem: leaf.pem() + &issuer.signer.pem() + root.intermediates_pem(),
            not_after: params.not_after,
        })
    }

    /// The issuer in force, made anew when its time has come, and its root.
    fn issuer(&self, now: OffsetDateTime) -> Result<(Arc<Issuer>, Arc<Root>), SignError> {
        let mut state = self.state();
        if let Some(until) = state.fresh_until
            && now > until
        {
            return Err(SignError::Stale(until));
        }
        if now >= state.issuer.renew_at {
            let issuer = Issuer::new(&state.root, self.lifetime, now)?;
            tracing::info!(not_after = %issuer.not_after, "new issuer");
            state.issuer = Arc::new(issuer);
        }
        Ok((state.issuer.clone(), state.root.clone()))
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
