//! Certificates as identity signs them: leaf and issuer, P-256.

use crate::Failure;
use linnet_identity::authority::{Authority, Root};
use linnet_mesh::{SpiffeId, TrustDomain};
use linnet_workload::Workload;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use std::path::Path;
use time::{Duration, OffsetDateTime};

pub(crate) struct Credentials {
    authority: Authority,
    trust_domain: TrustDomain,
}

impl Credentials {
    pub(crate) fn new() -> Result<Self, Failure> {
        let now = OffsetDateTime::now_utc();
        let trust_domain = TrustDomain::default();
        let root = Root::generate(&trust_domain, Duration::days(365), now)?;
        let authority = Authority::new(root, Duration::DAY, now)?;
        Ok(Self {
            authority,
            trust_domain,
        })
    }

    /// Chain and key, PEM.
    fn pem(&self, namespace: &str, account: &str) -> Result<(String, String), Failure> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let id = SpiffeId::new(&self.trust_domain, namespace, account)?;
        let now = OffsetDateTime::now_utc();
        let signed = self.authority.sign(&key, &id, Duration::DAY, now)?;
        Ok((signed.chain_pem, key.serialize_pem()))
    }

    /// For this process.
    pub(crate) fn workload(&self, namespace: &str, account: &str) -> Result<Workload, Failure> {
        let (chain, key) = self.pem(namespace, account)?;
        let bundle = self.authority.bundle_pem();
        Ok(Workload::from_pem(&chain, &key, &bundle)?)
    }

    /// For another process, as files.
    pub(crate) fn write(&self, directory: &Path, account: &str) -> Result<(), Failure> {
        let (chain, key) = self.pem("linnet-system", account)?;
        std::fs::write(directory.join("leaf.pem"), chain)?;
        std::fs::write(directory.join("leaf.key"), key)?;
        std::fs::write(directory.join("ca.pem"), &*self.authority.bundle_pem())?;
        Ok(())
    }
}
