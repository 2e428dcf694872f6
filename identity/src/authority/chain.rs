//! From the certificate that signs to a trust anchor.
//!
//! Verifiers do the same at every handshake, but say no more than "unknown
//! issuer"; here each link that does not hold is named.

use rustls_pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::RootError;

const CHAIN: &str = "tls.crt";
const BUNDLE: &str = "ca.crt";

/// A certificate that peers trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    der: CertificateDer<'static>,
    fingerprint: String,
    not_after: OffsetDateTime,
}

impl Anchor {
    fn new(der: CertificateDer<'static>) -> Result<Self, RootError> {
        let not_after = parse(BUNDLE, &der)?.validity().not_after.to_datetime();
        Ok(Self {
            fingerprint: linnet_workload::fingerprint(&der),
            not_after,
            der,
        })
    }

    /// The first 8 bytes of its SHA-256, hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// The certificate, PEM.
    pub fn pem(&self) -> String {
        pem(&self.der)
    }
}

/// What stands between a signer and the anchor above it.
pub(super) struct Path<'a> {
    pub(super) anchor: &'a Anchor,
    pub(super) intermediates_pem: String,
    /// The time in which all of the chain is valid.
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
}

/// Follows a chain, signer first, to one of the anchors.
pub(super) fn path<'a>(
    chain: &[CertificateDer<'static>],
    anchors: &'a [Anchor],
) -> Result<Path<'a>, RootError> {
    let mut intermediates_pem = String::new();
    let mut validity: Option<(OffsetDateTime, OffsetDateTime)> = None;
    for (position, der) in chain.iter().enumerate() {
        let certificate = parse(CHAIN, der)?;
        check_authority(CHAIN, position, &certificate)?;
        let own = (
            certificate.validity().not_before.to_datetime(),
            certificate.validity().not_after.to_datetime(),
        );
        let (from, to) = validity.map_or(own, |(from, to)| (from.max(own.0), to.min(own.1)));
        validity = Some((from, to));
        let found = anchors.iter().find_map(|anchor| {
            if anchor.der == *der {
                return Some((anchor, from, to));
            }
            let parsed = parse(BUNDLE, &anchor.der).ok()?;
            let issued = is_issued_by(&certificate, &parsed)
                && check_authority(BUNDLE, position + 1, &parsed).is_ok();
            issued.then(|| {
                let validity = parsed.validity();
                let from = from.max(validity.not_before.to_datetime());
                (anchor, from, to.min(validity.not_after.to_datetime()))
            })
        });
        if found.as_ref().is_none_or(|(anchor, ..)| anchor.der != *der) {
            intermediates_pem.push_str(&pem(der));
        }
        if let Some((anchor, not_before, not_after)) = found {
            return Ok(Path {
                anchor,
                intermediates_pem,
                not_before,
                not_after,
            });
        }
        if let Some(next) = chain.get(position + 1)
            && !is_issued_by(&certificate, &parse(CHAIN, next)?)
        {
            return Err(RootError::at(
                CHAIN,
                format!(
                    "certificate {} ({}) is not signed by the one after it",
                    position + 1,
                    certificate.subject()
                ),
            ));
        }
    }
    Err(RootError::at(
        BUNDLE,
        "no certificate in it is tls.crt's root: peers would refuse everything that it signs",
    ))
}

/// That a certificate at this place above an issuer of ours may sign what is below.
fn check_authority(
    field: &'static str,
    position: usize,
    certificate: &X509Certificate<'_>,
) -> Result<(), RootError> {
    let wrong = |reason: &str| {
        let subject = certificate.subject();
        Err(RootError::at(
            field,
            format!("certificate {} ({subject}): {reason}", position + 1),
        ))
    };
    let Ok(constraints) = certificate.basic_constraints() else {
        return wrong("its basic constraints cannot be read");
    };
    let Some(constraints) = constraints
        .map(|found| found.value)
        .filter(|found| found.ca)
    else {
        return wrong("not a certificate authority");
    };
    // Beneath it: those below in the chain, and the issuer that each replica makes.
    let needed = position + 1;
    if let Some(allowed) = constraints.path_len_constraint
        && (allowed as usize) < needed
    {
        return wrong(&format!(
            "its path length of {allowed} allows no issuer beneath it; {needed} is needed"
        ));
    }
    match certificate.key_usage() {
        Ok(Some(usage)) if !usage.value.key_cert_sign() => {
            wrong("its key usage does not allow it to sign certificates")
        }
        Err(_) => wrong("its key usage cannot be read"),
        Ok(_) => Ok(()),
    }
}

fn is_issued_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == issuer.subject().as_raw()
        && certificate
            .verify_signature(Some(issuer.public_key()))
            .is_ok()
}

/// The certificates of a bundle, each once.
pub(super) fn anchors(bundle: &str) -> Result<Vec<Anchor>, RootError> {
    let mut anchors: Vec<Anchor> = Vec::new();
    for der in certificates(BUNDLE, bundle)? {
        let anchor = Anchor::new(der)?;
        if !anchors.contains(&anchor) {
            anchors.push(anchor);
        }
    }
    Ok(anchors)
}

pub(super) fn certificates(
    field: &'static str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, RootError> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| RootError::at(field, format!("not PEM: {error}")))?;
    if found.is_empty() {
        return Err(RootError::at(field, "no certificate in it"));
    }
    Ok(found)
}

pub(super) fn parse<'a>(
    field: &'static str,
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, RootError> {
    X509Certificate::from_der(certificate)
        .map(|(_, parsed)| parsed)
        .map_err(|error| RootError::at(field, error.to_string()))
}

fn pem(der: &CertificateDer<'_>) -> String {
    linnet_workload::pem(der)
}
