//! Asking identity once: a fresh key, a signing request, the token.

use std::{fmt, path::PathBuf, time::SystemTime};

use linnet_mesh::{SpiffeId, TrustDomain};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    RootCertStore,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use super::{
    Workload,
    client::{self, IdentityUrl, RequestError, SigningRequest, Skew},
    roots,
};

/// Where certificates come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The identity service.
    pub identity_url: IdentityUrl,
    /// What proves to it who we are.
    pub token: TokenSource,
    /// What proves to us that it is the identity service.
    pub trust_bundle: BundleSource,
    /// The trust domain that the certificate must be of.
    pub trust_domain: TrustDomain,
}

/// A token that proves who a workload is.
#[derive(Clone)]
pub enum TokenSource {
    /// A file, read anew each time: the kubelet renews it.
    File(PathBuf),
    /// The token itself.
    Text(String),
}

/// The first trust anchors; an answer's bundle joins them.
#[derive(Clone, Debug)]
pub enum BundleSource {
    /// A PEM file, read anew each time.
    File(PathBuf),
    /// PEM; an answer's bundle replaces it.
    Text(String),
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text(..)"),
        }
    }
}

/// A certificate, and how its issuer's clock stands to ours.
pub(super) struct Answered {
    pub(super) workload: Workload,
    pub(super) skew: Option<Skew>,
}

/// The identity service, as a workload sees it.
pub(super) struct Identity(pub(super) Source);

impl Identity {
    /// Asks; `received` is the bundle that came with the last certificate.
    pub(super) async fn ask(&self, received: Option<&str>) -> Result<Answered, RequestError> {
        let token = match &self.0.token {
            TokenSource::Text(token) => token.clone(),
            TokenSource::File(path) => read("token", path).await?,
        };
        let roots = self.anchors(received).await?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let csr = signing_request(&key)?;
        let request = SigningRequest { csr: &csr };
        let url = &self.0.identity_url;
        let (issued, skew) = client::request(url, roots, token.trim(), &request).await?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let bundle = &issued.trust_bundle;
        issued
            .federation
            .check(&self.0.trust_domain, bundle)
            .map_err(|error| RequestError::Answer(error.to_string()))?;
        let workload = Workload::new(&issued.certificates, key, bundle, issued.federation)?;
        self.check(&workload)?;
        Ok(Answered { workload, skew })
    }

    /// Whom to trust as the identity service. The file of a bundle is the
    /// operator's word and always counts, so that a replaced root is found.
    async fn anchors(&self, received: Option<&str>) -> Result<RootCertStore, RequestError> {
        let mut anchors = match (&self.0.trust_bundle, received) {
            (BundleSource::Text(_), Some(received)) => return Ok(roots(received)?),
            (BundleSource::Text(first), None) => return Ok(roots(first)?),
            (BundleSource::File(path), _) => roots(&read("trust bundle", path).await?)?,
        };
        if let Some(received) = received {
            anchors.extend(roots(received)?.roots);
        }
        Ok(anchors)
    }

    fn check(&self, workload: &Workload) -> Result<(), RequestError> {
        let domain = self.0.trust_domain.as_str();
        if workload.id().trust_domain() != domain {
            let id = workload.id();
            return Err(RequestError::Answer(format!(
                "{id} is not of the trust domain {domain}"
            )));
        }
        workload.verify_at(SystemTime::now()).map_err(|error| {
            let id: &SpiffeId = workload.id();
            RequestError::Answer(format!(
                "peers would not take the certificate of {id}: {error}; is the clock right?"
            ))
        })
    }
}

/// The service decides about names; the request is only about the key.
fn signing_request(key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(key)?.pem()
}

pub(super) async fn read(what: &'static str, path: &PathBuf) -> Result<String, RequestError> {
    tokio::fs::read_to_string(path)
        .await
        .map_err(|source| RequestError::Read {
            what,
            path: path.display().to_string(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_do_not_show() {
        assert_eq!(
            format!("{:?}", TokenSource::Text("secret".to_owned())),
            "Text(..)"
        );
    }
}
