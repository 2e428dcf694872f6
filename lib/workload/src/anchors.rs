//! Trust anchors as texts: joined, compared, named.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use linnet_mesh::TrustDomain;
use rustls::{RootCertStore, crypto::aws_lc_rs, pki_types::CertificateDer};
use serde::{Deserialize, Serialize};

use super::{Error, certificates};

/// How much of a certificate's SHA-256 names it.
const FINGERPRINT_BYTES: usize = 8;
/// The width of PEM (RFC 7468, 2).
const PEM_WIDTH: usize = 64;

/// Who is trusted besides the own trust domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Federation {
    /// Other names of the own trust domain; the same roots vouch for them.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Other trust domains, each with the PEM of its own roots.
    #[serde(default)]
    pub bundles: BTreeMap<String, String>,
}

impl Federation {
    /// That every name is a trust domain, none is there twice, and no federated
    /// domain is vouched for by a root of the own.
    ///
    /// # Errors
    /// The first that is not so, with its name.
    pub fn check(&self, own: &TrustDomain, own_bundle: &str) -> Result<(), FederationError> {
        let names = self.aliases.iter().chain(self.bundles.keys());
        for name in names.clone() {
            name.parse::<TrustDomain>()
                .map_err(|error| FederationError::new(name, error.to_string()))?;
            let count = names.clone().filter(|other| *other == name).count();
            if name == own.as_str() || count > 1 {
                let reason = "it is named twice, or is the own trust domain";
                return Err(FederationError::new(name, reason));
            }
        }
        let ours = certificates("trust bundle", own_bundle).unwrap_or_default();
        for (domain, pem) in &self.bundles {
            let theirs = certificates("federated bundle", pem)
                .map_err(|error| FederationError::new(domain, error.to_string()))?;
            super::roots(pem).map_err(|error| FederationError::new(domain, error.to_string()))?;
            if theirs.iter().any(|anchor| ours.contains(anchor)) {
                let reason = "a root of this mesh is in its bundle";
                return Err(FederationError::new(domain, reason));
            }
        }
        Ok(())
    }

    pub(super) fn roots(&self) -> Result<BTreeMap<String, Arc<RootCertStore>>, Error> {
        let bundles = self.bundles.iter();
        bundles
            .map(|(domain, pem)| Ok((domain.clone(), Arc::new(super::roots(pem)?))))
            .collect()
    }
}

/// Why a trust domain cannot be federated with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("trust domain {domain}: {reason}")]
pub struct FederationError {
    domain: String,
    reason: String,
}

impl FederationError {
    fn new(domain: &str, reason: impl Into<String>) -> Self {
        Self {
            domain: domain.to_owned(),
            reason: reason.into(),
        }
    }
}

/// The first 8 bytes of a certificate's SHA-256, hexadecimal: what certificates
/// are called in logs, metrics and commands.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let suite = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let suite = suite.tls13().expect("the suite is one of TLS 1.3");
    let hash = suite.common.hash_provider.hash(certificate);
    let mut text = String::with_capacity(2 * FINGERPRINT_BYTES);
    for byte in hash.as_ref().iter().take(FINGERPRINT_BYTES) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A certificate as PEM.
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    let body = BASE64_STANDARD.encode(certificate);
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(PEM_WIDTH));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text + "-----END CERTIFICATE-----\n"
}

/// A bundle with what another has besides; none if there is nothing.
///
/// # Errors
/// A text that is no bundle.
pub(super) fn union(bundle: &str, other: &str) -> Result<Option<String>, Error> {
    let known = certificates("trust bundle", bundle)?;
    let more: String = certificates("trust bundle", other)?
        .iter()
        .filter(|anchor| !known.contains(anchor))
        .map(pem)
        .collect();
    Ok((!more.is_empty()).then(|| format!("{}\n{more}", bundle.trim_end())))
}

/// Whether two bundles have a certificate in common.
pub fn have_common_anchor(bundle: &str, other: &str) -> bool {
    let known = certificates("trust bundle", bundle).unwrap_or_default();
    let others = certificates("trust bundle", other).unwrap_or_default();
    others.iter().any(|anchor| known.contains(anchor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Authority;

    #[test]
    fn bundles_join_without_doubles() {
        let (one, two) = (
            Authority::default().bundle_pem(),
            Authority::default().bundle_pem(),
        );
        assert_eq!(union(&one, &one).unwrap(), None);
        let both = union(&one, &two).unwrap().unwrap();
        assert_eq!(certificates("bundle", &both).unwrap().len(), 2);
        assert_eq!(union(&both, &one).unwrap(), None);
        assert!(have_common_anchor(&both, &two) && !have_common_anchor(&one, &two));
        assert!(!have_common_anchor(&one, "nonsense"));
        let der = &certificates("bundle", &two).unwrap()[0];
        assert_eq!(certificates("bundle", &pem(der)).unwrap()[0], *der);
        assert_eq!(fingerprint(der).len(), 16);
    }

    #[test]
    fn federation_is_checked() {
        let own = TrustDomain::default();
        let ours = Authority::default().bundle_pem();
        let theirs = Authority::new("west.example").bundle_pem();
        let told = |aliases: &[&str], bundles: &[(&str, &str)]| {
            let federation = Federation {
                aliases: aliases.iter().map(ToString::to_string).collect(),
                bundles: bundles
                    .iter()
                    .map(|(domain, pem)| ((*domain).to_owned(), (*pem).to_owned()))
                    .collect(),
            };
            federation
                .check(&own, &ours)
                .map_err(|error| error.to_string())
        };
        assert_eq!(told(&["old.example"], &[("west.example", &theirs)]), Ok(()));
        for (aliases, bundles, named) in [
            (vec!["Bad Domain"], vec![], "Bad Domain"),
            (vec!["cluster.local"], vec![], "own trust domain"),
            (vec!["a.b", "a.b"], vec![], "a.b"),
            (vec!["a.b"], vec![("a.b", theirs.as_str())], "a.b"),
            (vec![], vec![("west.example", "nonsense")], "no certificate"),
            (
                vec![],
                vec![("west.example", ours.as_str())],
                "root of this mesh",
            ),
        ] {
            let error = told(&aliases, &bundles).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
