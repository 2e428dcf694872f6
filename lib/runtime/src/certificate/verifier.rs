//! Verifying a peer of the mesh: the chain by webpki, the name as a SPIFFE ID.
//!
//! DNS names play no part. A peer's leaf carries exactly one URI name, and that
//! is an identity of the trust domain, or the handshake fails (SPIFFE's X.509-SVID
//! rules). The name decides which anchors its chain must lead to: those of the
//! own trust domain and its aliases, or those of the federated domain that it
//! names, and never another's.

use std::{collections::BTreeMap, fmt, sync::Arc};

use linnet_mesh::{SpiffeId, spiffe};
use rustls::{
    CertificateError, CommonState, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    RootCertStore, SignatureScheme,
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
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::tls::provider;

/// Why a certificate names no workload of this mesh.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a certificate.
    #[error("it cannot be parsed")]
    Malformed,
    /// Zero or several URI names.
    #[error("it has {0} URI names where a workload's has exactly one")]
    Names(usize),
    /// A URI that is no SPIFFE ID of a workload.
    #[error(transparent)]
    SpiffeId(#[from] spiffe::ParseError),
    /// An identity of somebody else's mesh.
    #[error("{id} is not of the trust domain {expected}")]
    TrustDomain {
        /// The peer's identity.
        id: SpiffeId,
        /// The trust domain of this workload.
        expected: String,
    },
}

impl fmt::Debug for IdentityError {
    /// Like `Display`: rustls shows a verifier's own errors this way.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a workload's certificate says.
pub(super) struct Leaf {
    pub(super) id: SpiffeId,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
}

impl Leaf {
    pub(super) fn parse(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| IdentityError::Malformed)?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| IdentityError::Malformed)?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        let [uri] = uris[..] else {
            return Err(IdentityError::Names(uris.len()));
        };
        Ok(Self {
            id: uri.parse()?,
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
        })
    }
}

/// The verified identity of the peer after a handshake with a configuration of
/// a [`Workload`](super::Workload), resumed or not.
///
/// None if the peer presented no certificate, or if that has expired: a session
/// may have been resumed since it was verified.
pub fn peer_identity(connection: &CommonState) -> Option<SpiffeId> {
    let leaf = Leaf::parse(connection.peer_certificates()?.first()?).ok()?;
    (OffsetDateTime::now_utc() < leaf.not_after).then_some(leaf.id)
}

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
