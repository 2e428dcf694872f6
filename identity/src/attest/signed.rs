//! Attestation without Kubernetes: JWTs (ES256) signed by a key of the operator.
//!
//! The claims are `aud` (`linnet-identity`), `ns`, `sa`, `iat` and `exp`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, ready},
};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode, errors::ErrorKind,
};
use linnet_mesh::names::TOKEN_AUDIENCE;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::{Deserialize, Serialize};

use super::{Attest, AttestError, Caller};
use crate::authority::private_file;

/// Issues tokens and attests them.
#[derive(Clone)]
pub struct SignedTokens {
    signing: EncodingKey,
    verifying: DecodingKey,
}

/// Why tokens cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// A file that cannot be read or made.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not an ECDSA P-256 key.
    #[error("the token key is not an ECDSA P-256 private key in PKCS #8 PEM: {0}")]
    Key(#[from] rcgen::Error),
    /// The token could not be made.
    #[error("cannot sign a token: {0}")]
    Token(#[from] jsonwebtoken::errors::Error),
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    ns: String,
    sa: String,
    iat: u64,
    exp: u64,
}

impl SignedTokens {
    /// With a fresh key that this process alone knows.
    ///
    /// # Errors
    /// A system without randomness.
    pub fn generate() -> Result<Self, TokenKeyError> {
        Self::from_key(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
    }

    /// With a PEM private key.
    ///
    /// # Errors
    /// Text that is no ECDSA P-256 key.
    pub fn from_pem(key_pem: &str) -> Result<Self, TokenKeyError> {
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(key_pem, &PKCS_ECDSA_P256_SHA256)?;
        Self::from_key(&key)
    }

    /// With the key in `token.key` in a directory, which is made if absent.
    ///
    /// # Errors
    /// A file that cannot be read or made, or is no key.
    pub fn in_directory(directory: &Path) -> Result<Self, TokenKeyError> {
        let path = directory.join("token.key");
        let failed = |source| TokenKeyError::File {
            path: path.clone(),
            source,
        };
        if !path.exists() {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            fs::create_dir_all(directory).map_err(failed)?;
            private_file(&path, &key.serialize_pem()).map_err(failed)?;
        }
        Self::from_pem(&fs::read_to_string(&path).map_err(failed)?)
    }

    fn from_key(key: &KeyPair) -> Result<Self, TokenKeyError> {
        Ok(Self {
            signing: EncodingKey::from_ec_der(key.serialized_der()),
            verifying: DecodingKey::from_ec_der(key.public_key_raw()),
        })
    }

    /// A token for a service account.
    ///
    /// # Errors
    /// A signature that could not be made.
    pub fn issue(
        &self,
        namespace: &str,
        service_account: &str,
        lifetime: Duration,
    ) -> Result<String, TokenKeyError> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.sign(&Claims {
            aud: TOKEN_AUDIENCE.to_owned(),
            ns: namespace.to_owned(),
            sa: service_account.to_owned(),
            iat: now.as_secs(),
            exp: now.saturating_add(lifetime).as_secs(),
        })
    }

    fn sign(&self, claims: &Claims) -> Result<String, TokenKeyError> {
        Ok(encode(
            &Header::new(Algorithm::ES256),
            claims,
            &self.signing,
        )?)
    }

    fn verify(&self, token: &str) -> Result<Caller, AttestError> {
        let mut validation = Validation::new(Algorithm::ES256);
        // A token is over at its `exp`, not a second later (RFC 7519, 4.1.4).
        validation.leeway = 0;
        validation.reject_tokens_expiring_in_less_than = 1;
        validation.set_audience(&[TOKEN_AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "aud"]);
        let verified = decode::<Claims>(token, &self.verifying, &validation);
        let claims = verified.map_err(|error| refusal(error.kind()))?.claims;
        Ok(Caller {
            namespace: claims.ns,
            service_account: claims.sa,
            pod: None,
            pod_uid: None,
        })
    }
}

fn refusal(kind: &ErrorKind) -> AttestError {
    match kind {
        ErrorKind::ExpiredSignature => AttestError::Expired,
        ErrorKind::InvalidAudience => AttestError::WrongAudience(TOKEN_AUDIENCE),
        ErrorKind::InvalidSignature => AttestError::BadToken("signed by another key".to_owned()),
        ErrorKind::InvalidAlgorithm => AttestError::BadToken("not signed with ES256".to_owned()),
        ErrorKind::MissingRequiredClaim(claim) => {
            AttestError::BadToken(format!("no claim {claim}"))
        }
        // The other texts may quote the token.
        _ => AttestError::BadToken("not a JWT of the expected form".to_owned()),
    }
}

impl Attest for SignedTokens {
    fn attest<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Caller, AttestError>> {
        ready(self.verify(token)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn claims() -> Claims {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        Claims {
            aud: TOKEN_AUDIENCE.to_owned(),
            ns: "shop".to_owned(),
            sa: "payment".to_owned(),
            iat: now,
            exp: now + 60,
        }
    }

    #[test]
    fn an_issued_token_is_attested() {
        let tokens = SignedTokens::generate().unwrap();
        let token = tokens.issue("shop", "payment", MINUTE).unwrap();
        let caller = tokens.verify(&token).unwrap();
        assert_eq!(
            (caller.namespace.as_str(), caller.service_account.as_str()),
            ("shop", "payment")
        );
    }

    #[test]
    fn a_key_from_pem_verifies_across_processes() {
        let pem = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .unwrap()
            .serialize_pem();
        let token = SignedTokens::from_pem(&pem)
            .unwrap()
            .issue("a", "b", MINUTE)
            .unwrap();
        SignedTokens::from_pem(&pem)
            .unwrap()
            .verify(&token)
            .unwrap();
        assert!(SignedTokens::from_pem("no key").is_err());
    }

    #[test]
    fn a_directory_keeps_the_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca");
        let token = SignedTokens::in_directory(&path)
            .unwrap()
            .issue("a", "b", MINUTE)
            .unwrap();
        SignedTokens::in_directory(&path)
            .unwrap()
            .verify(&token)
            .unwrap();
        std::fs::write(path.join("token.key"), "damaged").unwrap();
        assert!(SignedTokens::in_directory(&path).is_err());
    }

    #[test]
    fn expired_foreign_and_damaged_tokens_are_told_apart() {
        let tokens = SignedTokens::generate().unwrap();
        let expired = tokens
            .sign(&Claims {
                exp: claims().iat - 1,
                ..claims()
            })
            .unwrap();
        assert_eq!(tokens.verify(&expired), Err(AttestError::Expired));
        let foreign = tokens
            .sign(&Claims {
                aud: "vault".to_owned(),
                ..claims()
            })
            .unwrap();
        assert_eq!(
            tokens.verify(&foreign),
            Err(AttestError::WrongAudience(TOKEN_AUDIENCE))
        );
        let other = SignedTokens::generate().unwrap().sign(&claims()).unwrap();
        assert!(matches!(
            tokens.verify(&other),
            Err(AttestError::BadToken(_))
        ));
        assert!(matches!(
            tokens.verify("a.b.c"),
            Err(AttestError::BadToken(_))
        ));
        assert!(matches!(tokens.verify(""), Err(AttestError::BadToken(_))));
    }

    #[test]
    fn an_unsigned_token_is_refused() {
        let tokens = SignedTokens::generate().unwrap();
        let token = tokens.sign(&claims()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        // {"alg":"none","typ":"JWT"}
        let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
        assert!(matches!(
            tokens.verify(&none),
            Err(AttestError::BadToken(_))
        ));
    }
}
