//! SPIFFE identities in the one form the mesh uses:
//! `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
//!
//! A value of these types has been checked; text from a certificate or a
//! message becomes one by `parse` or not at all.

use std::{fmt, str::FromStr, sync::Arc};

/// A trust domain: lower-case letters, digits, dots, dashes and underscores
/// (SPIFFE-ID 2.1), at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// The identity of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain_end: u16,
    namespace_end: u16,
}

/// Why a text is not an identity of this mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a trust domain.
    #[error(
        "{0:?} is not a trust domain: lower-case letters, digits, '.', '-' and '_', at most 255"
    )]
    TrustDomain(String),
    /// Not a SPIFFE ID of a Kubernetes workload.
    #[error("{0:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Form(String),
    /// A part that Kubernetes would not take as a name.
    #[error("{0:?} is not a Kubernetes name: lower-case letters, digits, '-' and '.', at most 253")]
    Name(String),
}

const SCHEME: &str = "spiffe://";
const NAMESPACE: &str = "/ns/";
const SERVICE_ACCOUNT: &str = "/sa/";

impl TrustDomain {
    /// The trust domain's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl FromStr for TrustDomain {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let valid = !text.is_empty()
            && text.len() <= 255
            && text
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'));
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(ParseError::TrustDomain(excerpt(text)))
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SpiffeId {
    /// The identity of a service account.
    ///
    /// # Errors
    /// A namespace or service account that Kubernetes would not take.
    pub fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, ParseError> {
        for name in [namespace, service_account] {
            if !is_kubernetes_name(name) {
                return Err(ParseError::Name(excerpt(name)));
            }
        }
        let uri = format!(
            "{SCHEME}{trust_domain}{NAMESPACE}{namespace}{SERVICE_ACCOUNT}{service_account}"
        );
        let trust_domain_end = SCHEME.len() + trust_domain.as_str().len();
        let namespace_end = trust_domain_end + NAMESPACE.len() + namespace.len();
        Ok(Self {
            uri: uri.into(),
            // Lengths: scheme 9 + domain ≤ 255, + 4 + namespace ≤ 253.
            trust_domain_end: trust_domain_end as u16,
            namespace_end: namespace_end as u16,
        })
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// Whether another value shares this one's text.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.uri) > 1
    }

    /// The principal as Istio's metrics and policies write it: the URI without
    /// its scheme.
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..usize::from(self.trust_domain_end)]
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.uri
            [usize::from(self.trust_domain_end) + NAMESPACE.len()..usize::from(self.namespace_end)]
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.uri[usize::from(self.namespace_end) + SERVICE_ACCOUNT.len()..]
    }
}

impl FromStr for SpiffeId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let form = || ParseError::Form(excerpt(text));
        let rest = text.strip_prefix(SCHEME).ok_or_else(form)?;
        let mut parts = rest.split('/');
        let (domain, ns, namespace, sa, service_account) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        );
        match (domain, ns, namespace, sa, service_account, parts.next()) {
            (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Self::new(&domain.parse()?, namespace, account)
            }
            _ => Err(form()),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// RFC 1123 subdomain, what Kubernetes demands of most names.
fn is_kubernetes_name(name: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    name.len() <= 253
        && bytes.first().is_some_and(|&b| alphanumeric(b))
        && bytes.last().is_some_and(|&b| alphanumeric(b))
        && bytes
            .iter()
            .all(|&b| alphanumeric(b) || b == b'-' || b == b'.')
}

/// Text of a peer's choosing, cut short before it reaches an error.
fn excerpt(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_where_they_were_put() {
        let id: SpiffeId = "spiffe://cluster.local/ns/default/sa/payment"
            .parse()
            .unwrap();
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!(id.namespace(), "default");
        assert_eq!(id.service_account(), "payment");
        assert_eq!(id.principal(), "cluster.local/ns/default/sa/payment");
        let made = SpiffeId::new(&TrustDomain::default(), "default", "payment").unwrap();
        assert_eq!(id, made);
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "spiffe://",
            "https://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/sa/a/ns/b",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b?c",
            "spiffe://cluster.local/ns/a/sa/-b",
            "spiffe://user@cluster.local/ns/a/sa/b",
            "SPIFFE://cluster.local/ns/a/sa/b",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
    }
}
