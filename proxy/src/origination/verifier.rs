//! Who a server must prove to be, as a DestinationRule asks.

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use std::sync::Arc;

/// A server whose chain ends at a root and whose certificate names the host
/// asked for, or where names are given, one of them.
pub(super) fn names(
    roots: RootCertStore,
    names: &[String],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let roots = Arc::new(roots);
    if names.is_empty() {
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        return match verifier {
            Ok(verifier) => Ok(verifier),
            Err(error) => Err(format!("caCertificates: {error}")),
        };
    }
    let names = names.iter().map(|name| {
        ServerName::try_from(name.clone()).map_err(|_| {
            format!(
                "subjectAltNames: {name:?} is neither a host name nor an address, which is all that can be asked for in this mode"
            )
        })
    });
    Ok(Arc::new(Asked {
        names: Some(names.collect::<Result<_, _>>()?),
        roots,
        provider,
    }))
}

/// `insecureSkipVerify`: any server.
pub(super) fn any(provider: Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Asked {
        names: None,
        roots: Arc::new(RootCertStore::empty()),
        provider,
    })
}

#[derive(Debug)]
struct Asked {
    /// One of these; `None`: nothing is asked at all.
    names: Option<Vec<ServerName<'static>>>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Asked {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(names) = &self.names else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        let named = names
            .iter()
            .any(|name| verify_server_name(&certificate, name).is_ok());
        if named {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
