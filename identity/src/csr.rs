//! Reading a certificate signing request.
//!
//! Only its public key counts, and that its sender holds the private one. The
//! names and extensions that it asks for are ignored: the token decides them.

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_SIG_ED25519, Oid,
    },
    prelude::FromDer,
    x509::AlgorithmIdentifier,
};

/// The longest request, in PEM. Real ones have about 400 bytes.
pub const SIZE_LIMIT: usize = 16 * 1024;

/// A public key whose private key the sender of the request holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenKey(SubjectPublicKeyInfo);

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Too long.
    #[error("csr: {0} bytes are more than the limit of {SIZE_LIMIT}")]
    Size(usize),
    /// Not PEM.
    #[error("csr: not a PEM block CERTIFICATE REQUEST")]
    Pem,
    /// Not a request inside the PEM.
    #[error("csr: not a PKCS #10 certificate request")]
    Malformed,
    /// A key that the mesh does not take.
    #[error("csr: the key is neither ECDSA P-256, ECDSA P-384 nor Ed25519")]
    Key,
    /// Somebody else's public key, or a damaged request.
    #[error("csr: the signature is not of the request's own key")]
    Signature,
}

impl ProvenKey {
    /// The key of a PEM request that it signed itself.
    ///
    /// # Errors
    /// Anything else.
    pub fn from_pem(pem: &str) -> Result<Self, CsrError> {
        if pem.len() > SIZE_LIMIT {
            return Err(CsrError::Size(pem.len()));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| CsrError::Pem)?;
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        let key = &request.certification_request_info.subject_pki;
        if !is_accepted(&key.algorithm) {
            return Err(CsrError::Key);
        }
        request
            .verify_signature()
            .map_err(|_| CsrError::Signature)?;
        SubjectPublicKeyInfo::from_der(key.raw)
            .map(Self)
            .map_err(|_| CsrError::Key)
    }

    /// The key, for a certificate.
    pub fn public_key(&self) -> &SubjectPublicKeyInfo {
        &self.0
    }
}

fn is_accepted(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    if algorithm.algorithm == OID_SIG_ED25519 {
        return true;
    }
    let curve = algorithm
        .parameters
        .as_ref()
        .and_then(|curve| Oid::try_from(curve).ok());
    algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve.is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
        PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm,
    };

    fn request(algorithm: &'static SignatureAlgorithm) -> String {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::default()
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap()
    }

    #[test]
    fn modern_keys_are_accepted_and_others_refused() {
        for algorithm in [
            &PKCS_ECDSA_P256_SHA256,
            &PKCS_ECDSA_P384_SHA384,
            &PKCS_ED25519,
        ] {
            ProvenKey::from_pem(&request(algorithm)).unwrap();
        }
        for algorithm in [&PKCS_RSA_SHA256, &PKCS_ECDSA_P521_SHA512] {
            assert_eq!(ProvenKey::from_pem(&request(algorithm)), Err(CsrError::Key));
        }
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        use x509_parser::pem::Pem;
        let text = request(&PKCS_ECDSA_P256_SHA256);
        let mut der = Pem::iter_from_buffer(text.as_bytes())
            .next()
            .unwrap()
            .unwrap()
            .contents;
        // Inside the public key, which ends well before the signature.
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let at = der
            .windows(3)
            .position(|bytes| bytes == [0x42, 0x00, 0x04])
            .unwrap()
            + 2;
        der[at..at + 65].copy_from_slice(key.public_key_raw());
        let forged = pem("CERTIFICATE REQUEST", &der);
        assert_eq!(ProvenKey::from_pem(&forged), Err(CsrError::Signature));
    }

    #[test]
    fn damaged_texts_are_refused() {
        let text = request(&PKCS_ECDSA_P256_SHA256);
        assert_eq!(ProvenKey::from_pem(""), Err(CsrError::Pem));
        assert_eq!(
            ProvenKey::from_pem(&text[..text.len() / 2]),
            Err(CsrError::Pem)
        );
        let certificate = text.replace("CERTIFICATE REQUEST", "CERTIFICATE");
        assert_eq!(ProvenKey::from_pem(&certificate), Err(CsrError::Pem));
        let nothing = pem("CERTIFICATE REQUEST", b"nothing");
        assert_eq!(ProvenKey::from_pem(&nothing), Err(CsrError::Malformed));
        let long = "x".repeat(SIZE_LIMIT + 1);
        assert_eq!(
            ProvenKey::from_pem(&long),
            Err(CsrError::Size(SIZE_LIMIT + 1))
        );
    }

    fn pem(label: &str, der: &[u8]) -> String {
        use base64::{Engine, prelude::BASE64_STANDARD};
        let body = BASE64_STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    }

    proptest::proptest! {
        #[test]
        fn a_damaged_request_is_refused_or_its_key_is_unchanged(at in 0_usize..2000, byte: u8) {
            use x509_parser::pem::Pem;
            static REQUEST: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
                let text = request(&PKCS_ECDSA_P256_SHA256);
                Pem::iter_from_buffer(text.as_bytes()).next().unwrap().unwrap().contents
            });
            let mut der = REQUEST.clone();
            let length = der.len();
            der[at % length] = byte;
            let original = ProvenKey::from_pem(&pem("CERTIFICATE REQUEST", &REQUEST)).unwrap();
            if let Ok(key) = ProvenKey::from_pem(&pem("CERTIFICATE REQUEST", &der)) {
                proptest::prop_assert_eq!(key, original);
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,400}") {
            proptest::prop_assert!(ProvenKey::from_pem(&text).is_err());
        }
    }
}
