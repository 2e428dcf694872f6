//! Verifying a peer of the mesh: the chain by webpki, the name as a SPIFFE ID.
//!
//! DNS names play no part. A peer's leaf carries exactly one URI name, and that
//! is an identity of the trust domain, or the handshake fails (SPIFFE's X.509-SVID
//! rules). The name decides which anchors its chain must lead to: those of the
//! own trust domain and its aliases, or those of the federated domain that it
//! names, and never another's.

use std::{collections::BTreeMap, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use linnet_runtime::tls::{IdentityError, Leaf, provider};

/// Verifies that a chain of certificates leads to a root, is in its time, and
/// may serve.
pub(super) fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: UnixTime,
) -> Result<(), Error> {
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(leaf)?,
        roots,
        intermediates,
        now,
        algorithms().all,
    )
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

/// Whom to trust.
#[derive(Debug)]
pub(super) struct Trust {
    /// The own trust domain, then its aliases.
    pub(super) domains: Vec<String>,
    pub(super) roots: Arc<RootCertStore>,
    /// Other trust domains, each with its own roots.
    pub(super) federated: BTreeMap<String, Arc<RootCertStore>>,
}

/// Who must vouch for a peer.
enum Voucher<'a> {
    Own,
    Federated(&'a str),
}

impl Trust {
    /// Who must vouch for this leaf, by the name in it.
    fn voucher(&self, leaf: &CertificateDer<'_>) -> Result<Voucher<'_>, Error> {
        let found = Leaf::parse(leaf).and_then(|leaf| {
            let domain = leaf.id.trust_domain();
            if self.domains.iter().any(|own| own == domain) {
                return Ok(Voucher::Own);
            }
            match self.federated.get_key_value(domain) {
                Some((domain, _)) => Ok(Voucher::Federated(domain)),
                None => Err(IdentityError::TrustDomain {
                    expected: self.domains.first().cloned().unwrap_or_default(),
                    id: leaf.id,
                }),
            }
        });
        found.map_err(|error| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
        })
    }

    fn roots_of(&self, voucher: &Voucher<'_>) -> &Arc<RootCertStore> {
        match voucher {
            Voucher::Own => &self.roots,
            Voucher::Federated(domain) => &self.federated[*domain],
        }
    }
}

/// What a client of the mesh demands of a server.
#[derive(Debug)]
pub(super) struct Server {
    trust: Arc<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Server {
    pub(super) fn new(trust: &Arc<Trust>) -> Self {
        Self {
            trust: trust.clone(),
            algorithms: algorithms(),
        }
    }
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let voucher = self.trust.voucher(end_entity)?;
        verify_chain(
            end_entity,
            intermediates,
            self.trust.roots_of(&voucher),
            now,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("the mesh speaks TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What a server of the mesh demands of a client.
#[derive(Debug)]
pub(super) struct Client {
    chain: Arc<dyn ClientCertVerifier>,
    federated: BTreeMap<String, Arc<dyn ClientCertVerifier>>,
    trust: Arc<Trust>,
    mandatory: bool,
}

impl Client {
    pub(super) fn new(trust: &Arc<Trust>, mandatory: bool) -> Result<Self, Error> {
        let chain = |roots: &Arc<RootCertStore>| {
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
                .build()
                .map_err(|error| Error::General(error.to_string()))
        };
        let federated = trust.federated.iter();
        Ok(Self {
            chain: chain(&trust.roots)?,
            federated: federated
                .map(|(domain, roots)| Ok((domain.clone(), chain(roots)?)))
                .collect::<Result<_, Error>>()?,
            trust: trust.clone(),
            mandatory,
        })
    }
}

impl ClientCertVerifier for Client {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Peers have one certificate; a hint would be bytes for nothing.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = match self.trust.voucher(end_entity)? {
            Voucher::Own => &self.chain,
            Voucher::Federated(domain) => &self.federated[domain],
        };
        chain.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
