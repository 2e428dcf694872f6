//! Certificates made on the spot, for tests of what uses them. No service has
//! this: it is compiled for tests and by the feature `testing` only.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use super::Workload;

/// A root that signs leaves for a trust domain.
pub struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    trust_domain: String,
}

/// What a leaf says.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Its URI names.
    pub uris: Vec<String>,
    /// Its DNS names.
    pub dns_names: Vec<String>,
    /// From when it is valid.
    pub not_before: OffsetDateTime,
    /// Until when it is valid.
    pub not_after: OffsetDateTime,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new("cluster.local")
    }
}

#[expect(clippy::expect_used, clippy::missing_panics_doc, reason = "tests only")]
impl Authority {
    /// A fresh root.
    pub fn new(trust_domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "test root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("the system has randomness");
        let root = CertifiedIssuer::self_signed(params, key).expect("the parameters are valid");
        Self {
            root,
            trust_domain: trust_domain.to_owned(),
        }
    }

    /// The root, PEM.
    pub fn bundle_pem(&self) -> String {
        self.root.pem()
    }

    /// A certificate of a service account, valid for an hour.
    pub fn workload(&self, namespace: &str, service_account: &str) -> Workload {
        let uri = format!(
            "spiffe://{}/ns/{namespace}/sa/{service_account}",
            self.trust_domain
        );
        self.issue(&Leaf::new(&[uri.as_str()]))
            .expect("a SPIFFE ID of a service account")
    }

    /// A certificate as told, right or wrong.
    ///
    /// # Errors
    /// What [`Workload::from_pem`] refuses.
    pub fn issue(&self, leaf: &Leaf) -> Result<Workload, super::Error> {
        let (chain, key) = self.issue_pem(leaf);
        Workload::from_pem(&chain, &key, &self.bundle_pem())
    }

    /// A certificate as told and its key, PEM.
    pub fn issue_pem(&self, leaf: &Leaf) -> (String, String) {
        let mut params = CertificateParams::new(leaf.dns_names.clone()).expect("DNS names");
        params.distinguished_name = DistinguishedName::new();
        params.not_before = leaf.not_before;
        params.not_after = leaf.not_after;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        for uri in &leaf.uris {
            let uri = uri.as_str().try_into().expect("an ASCII URI");
            params.subject_alt_names.push(SanType::URI(uri));
        }
        let key = KeyPair::generate().expect("the system has randomness");
        let certificate = params
            .signed_by(&key, &self.root)
            .expect("the parameters are valid");
        (certificate.pem(), key.serialize_pem())
    }
}

impl Leaf {
    /// Valid for an hour.
    pub fn new(uris: &[&str]) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            uris: uris.iter().map(ToString::to_string).collect(),
            dns_names: Vec::new(),
            not_before: now - Duration::MINUTE,
            not_after: now + Duration::HOUR,
        }
    }
}
