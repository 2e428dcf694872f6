//! Asking identity once: a fresh key, a signing request, the token.

use std::{fmt, path::PathBuf, time::SystemTime};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use linnet_mesh::{SpiffeId, TrustDomain};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    RootCertStore,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde::Deserialize;

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
        check_holder(workload.id(), token.trim())?;
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

/// Whose a token says it is, in the claims of Kubernetes' ServiceAccount tokens
/// or of standalone ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum Claims {
    Kubernetes { sub: String },
    Standalone { ns: String, sa: String },
}

/// A certificate is for whom the token names, if it names somebody: identity may
/// be trusted by all, but this workload asked for itself alone. The token's
/// signature is identity's to verify.
fn check_holder(id: &SpiffeId, token: &str) -> Result<(), RequestError> {
    let payload = token.split('.').nth(1);
    let payload = payload.and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
    let claims = payload.and_then(|json| serde_json::from_slice(&json).ok());
    let holder = match claims {
        Some(Claims::Kubernetes { sub }) => match sub.strip_prefix("system:serviceaccount:") {
            Some(holder) => holder.to_owned(),
            None => return Ok(()),
        },
        Some(Claims::Standalone { ns, sa }) => format!("{ns}:{sa}"),
        None => return Ok(()),
    };
    if holder != format!("{}:{}", id.namespace(), id.service_account()) {
        return Err(RequestError::Answer(format!(
            "the certificate is for {id}, the token for {holder} (namespace:service account)"
        )));
    }
    Ok(())
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
    fn held_by(claims: &str) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_certificate_is_for_whom_the_token_is() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/payment".parse().unwrap();
        for own in [
            r#"{"sub":"system:serviceaccount:shop:payment","aud":["linnet-identity"]}"#,
            r#"{"ns":"shop","sa":"payment","exp":1}"#,
        ] {
            check_holder(&id, &held_by(own)).unwrap();
        }
        for other in [
            r#"{"sub":"system:serviceaccount:shop:frontend"}"#,
            r#"{"sub":"system:serviceaccount:bank:payment"}"#,
            r#"{"ns":"shop","sa":"frontend"}"#,
        ] {
            let error = check_holder(&id, &held_by(other)).unwrap_err().to_string();
            assert!(error.contains(id.as_str()), "{error}");
        }
    }

    #[test]
    fn a_token_that_names_nobody_is_identitys_to_judge() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/payment".parse().unwrap();
        for token in [
            "opaque",
            "a.b.c",
            &held_by("{}"),
            &held_by(r#"{"sub":"alice"}"#),
        ] {
            check_holder(&id, token).unwrap();
        }
    }
}
