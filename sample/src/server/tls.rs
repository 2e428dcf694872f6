//! The TLS port's certificate, made at start and trusted by nobody: what a mesh
//! passes through is the application's own TLS.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The name is not fit for a certificate.
    #[error("{0}")]
    Generate(#[from] rcgen::Error),
    /// rustls refused what was made.
    #[error("{0}")]
    Configure(#[from] rustls::Error),
}

pub(super) fn acceptor(name: &str) -> Result<TlsAcceptor, CertificateError> {
    let names = vec![name.to_owned(), "localhost".to_owned()];
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
