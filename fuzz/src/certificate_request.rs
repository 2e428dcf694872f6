//! Certificate requests, as identity reads them from a caller it knows nothing of.

use base64::{Engine, prelude::BASE64_STANDARD};
use linnet_identity::csr::{CsrError, ProvenKey, SIZE_LIMIT};
use rcgen::PublicKeyData;

/// A request in PEM, or the DER that is to be in one.
pub fn certificate_request(data: &[u8]) {
    let text = match std::str::from_utf8(data) {
        Ok(text) if text.contains("-----BEGIN") => text.to_owned(),
        _ => {
            let body = BASE64_STANDARD.encode(data);
            format!(
                "-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n"
            )
        }
    };
    match ProvenKey::from_pem(&text) {
        // Only a key of a kind that the mesh takes gets here.
        Ok(key) => assert!(key.public_key().der_bytes().len() >= 32),
        Err(CsrError::Size(size)) => assert!(size > SIZE_LIMIT),
        Err(error) => assert!(error.to_string().starts_with("csr: ")),
    }
}
