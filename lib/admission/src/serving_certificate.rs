//! The webhook's certificate: made here, kept in a Secret that all replicas share.
//!
//! A new authority is published before anything is signed by it: it first joins
//! the bundle (newest first), and only when every API server has had time to see
//! that does it sign a serving certificate. What is planned is a function of the
//! Secret's content and the clock, so replicas need no leader.

use std::{collections::BTreeMap, fmt, sync::Arc};

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls::{crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use time::{Duration, OffsetDateTime};
use x509_parser::{extensions::GeneralName, prelude::FromDer};

/// How long an authority is valid.
const AUTHORITY_LIFETIME: Duration = Duration::days(365);
/// How long a serving certificate is valid.
const SERVING_LIFETIME: Duration = Duration::days(30);
/// Certificates start this much earlier, for clocks that are behind.
const BACKDATED: Duration = Duration::hours(1);
/// A new authority signs nothing until it has been published this long.
const PUBLISHED: Duration = Duration::minutes(10);

/// The Secret's keys.
pub mod key {
    /// The authorities' certificates, newest first: the webhook's `caBundle`.
    pub const AUTHORITIES: &str = "ca.crt";
    /// The newest authority's private key.
    pub const AUTHORITY_KEY: &str = "ca.key";
    /// The serving certificate.
    pub const CERTIFICATE: &str = "tls.crt";
    /// Its private key.
    pub const CERTIFICATE_KEY: &str = "tls.key";
}

/// What there is to do about the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// Make all of it.
    Create,
    /// Add a new authority.
    RenewAuthority,
    /// Sign a new serving certificate.
    RenewServing,
}

/// Why certificates can't be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A member is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A member is not what it should be.
    #[error("{member} is unusable: {reason}")]
    Unusable {
        /// The Secret's key.
        member: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Making one failed.
    #[error("a certificate can't be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// An authority and a serving certificate, checked to fit together.
#[derive(Clone)]
pub struct Material {
    authorities: String,
    authority_key: String,
    certificate: String,
    certificate_key: String,
    newest_authority: Facts,
    serving: Facts,
    certified: Arc<CertifiedKey>,
}

/// What a certificate says that plans depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    subject: Vec<u8>,
    issuer: Vec<u8>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    dns_names: Vec<String>,
    public_key: Vec<u8>,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material")
            .field("authority_not_after", &self.newest_authority.not_after)
            .field("serving_not_after", &self.serving.not_after)
            .finish_non_exhaustive()
    }
}

/// What to do next, given what the Secret holds.
pub fn plan(material: Option<&Material>, dns_name: &str, now: OffsetDateTime) -> Step {
    let Some(material) = material else {
        return Step::Create;
    };
    let (authority, serving) = (&material.newest_authority, &material.serving);
    let fits = serving.dns_names.iter().any(|name| name == dns_name);
    // First what the present authority can still sign: a new one is not yet
    // trusted by whoever calls.
    if (serving.is_due(now) || !fits) && now < authority.not_after {
        return Step::RenewServing;
    }
    if authority.is_due(now) {
        return Step::RenewAuthority;
    }
    let published = now >= authority.not_before + BACKDATED + PUBLISHED;
    if published && serving.issuer != authority.subject {
        return Step::RenewServing;
    }
    Step::Keep
}

impl Material {
    /// A new authority and a serving certificate of it.
    pub fn create(dns_name: &str, now: OffsetDateTime) -> Result<Self, CertificateError> {
        let (authority, authority_key) = make_authority(now)?;
        let (certificate, certificate_key) =
            make_serving(&authority, &authority_key, dns_name, now)?;
        Self::check([authority, authority_key, certificate, certificate_key])
    }

    /// The same serving certificate with a new authority in front of the others;
    /// expired ones leave the bundle.
    pub fn with_new_authority(&self, now: OffsetDateTime) -> Result<Self, CertificateError> {
        let (authority, authority_key) = make_authority(now)?;
        let mut bundle = authority;
        for old in split_pem(&self.authorities)? {
            if Facts::read(key::AUTHORITIES, &old)?.not_after > now {
                bundle.push_str(&pem_certificate(&old));
            }
        }
        Self::check([
            bundle,
            authority_key,
            self.certificate.clone(),
            self.certificate_key.clone(),
        ])
    }

    /// The same authorities with a new serving certificate of the newest.
    pub fn with_new_serving(
        &self,
        dns_name: &str,
        now: OffsetDateTime,
    ) -> Result<Self, CertificateError> {
        let (certificate, certificate_key) =
            make_serving(&self.authorities, &self.authority_key, dns_name, now)?;
        Self::check([
            self.authorities.clone(),
            self.authority_key.clone(),
            certificate,
            certificate_key,
        ])
    }

    /// Reads a Secret's data.
    pub fn from_data(data: &BTreeMap<String, ByteString>) -> Result<Self, CertificateError> {
        let text = |member: &'static str| {
            let bytes = data.get(member).ok_or(CertificateError::Missing(member))?;
            String::from_utf8(bytes.0.clone()).map_err(|_| unusable(member, "not text"))
        };
        Self::check([
            text(key::AUTHORITIES)?,
            text(key::AUTHORITY_KEY)?,
            text(key::CERTIFICATE)?,
            text(key::CERTIFICATE_KEY)?,
        ])
    }

    /// A Secret's data.
    pub fn to_data(&self) -> BTreeMap<String, ByteString> {
        [
            (key::AUTHORITIES, &self.authorities),
            (key::AUTHORITY_KEY, &self.authority_key),
            (key::CERTIFICATE, &self.certificate),
            (key::CERTIFICATE_KEY, &self.certificate_key),
        ]
        .into_iter()
        .map(|(member, text)| (member.to_owned(), ByteString(text.clone().into_bytes())))
        .collect()
    }

    /// The authorities' certificates: what `caBundle` must hold.
    pub fn bundle(&self) -> &str {
        &self.authorities
    }

    /// The serving certificate with its key, for rustls.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }

    /// When the serving certificate ends.
    pub fn not_after(&self) -> OffsetDateTime {
        self.serving.not_after
    }

    fn check(
        [authorities, authority_key, certificate, certificate_key]: [String; 4],
    ) -> Result<Self, CertificateError> {
        let bundle = split_pem(&authorities)?;
        let newest = bundle
            .first()
            .ok_or(CertificateError::Missing(key::AUTHORITIES))?;
        let newest_authority = Facts::read(key::AUTHORITIES, newest)?;
        let signer = KeyPair::from_pem(&authority_key)
            .map_err(|error| unusable(key::AUTHORITY_KEY, &error))?;
        if signer.subject_public_key_info() != newest_authority.public_key {
            let problem = "not the key of the first certificate in ca.crt";
            return Err(unusable(key::AUTHORITY_KEY, problem));
        }
        let leaf = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| unusable(key::CERTIFICATE, error))?;
        let private = PrivateKeyDer::from_pem_slice(certificate_key.as_bytes())
            .map_err(|error| unusable(key::CERTIFICATE_KEY, error))?;
        let serving = Facts::read(key::CERTIFICATE, &leaf)?;
        let provider = aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(vec![leaf], private, &provider)
            .map_err(|error| unusable(key::CERTIFICATE_KEY, error))?;
        Ok(Self {
            authorities,
            authority_key,
            certificate,
            certificate_key,
            newest_authority,
            serving,
            certified: Arc::new(certified),
        })
    }
}

impl Facts {
    fn read(member: &'static str, der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(der)
            .map_err(|error| unusable(member, error))?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| unusable(member, error))?;
        let names = names
            .iter()
            .flat_map(|extension| &extension.value.general_names);
        let dns_names = names
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect();
        Ok(Self {
            subject: parsed.subject().as_raw().to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            dns_names,
            public_key: parsed.public_key().raw.to_vec(),
        })
    }

    /// Renewal begins at half-life: as much time is left for it to succeed.
    fn is_due(&self, now: OffsetDateTime) -> bool {
        now >= self.not_before + (self.not_after - self.not_before) / 2
    }
}

fn make_authority(now: OffsetDateTime) -> Result<(String, String), CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    // Each authority has a name of its own: a certificate's issuer tells which.
    let name = format!("linnet-webhook authority {}", now.unix_timestamp_nanos());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - BACKDATED;
    params.not_after = now + AUTHORITY_LIFETIME;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn make_serving(
    authorities: &str,
    authority_key: &str,
    dns_name: &str,
    now: OffsetDateTime,
) -> Result<(String, String), CertificateError> {
    let newest = CertificateDer::from_pem_slice(authorities.as_bytes())
        .map_err(|error| unusable(key::AUTHORITIES, error))?;
    let issuer = Issuer::from_ca_cert_der(&newest, KeyPair::from_pem(authority_key)?)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(vec![dns_name.to_owned()])?;
    params
        .distinguished_name
        .push(DnType::CommonName, "linnet-webhook");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - BACKDATED;
    params.not_after = now + SERVING_LIFETIME;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn split_pem(bundle: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    CertificateDer::pem_slice_iter(bundle.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(key::AUTHORITIES, error))
}

fn pem_certificate(der: &CertificateDer<'_>) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let encoded = BASE64_STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in encoded.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn unusable(member: &'static str, reason: impl fmt::Display) -> CertificateError {
    CertificateError::Unusable {
        member,
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests;
