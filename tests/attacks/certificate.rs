//! Certificates that are not a caller's or a callee's: at a STRICT port, at the
//! controller, at identity, and at the caller's own sidecar, to which somebody
//! answers who is not who was promised.

use crate::{
    app::App,
    support::{Mesh, identity},
    wire::{self, answer, dial, inbound, outbound, send},
};
use linnet_workload::testing::{Authority, Leaf};
use rustls::{
    DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use std::{net::SocketAddr, sync::Arc};
use time::{Duration, OffsetDateTime};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

/// PEM of a chain and its key.
type Pem = (String, String);

const ALPN: &[u8] = b"linnet/http1";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";

/// Believes whatever it is shown: what an attacker runs.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        linnet_runtime::tls::provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Credulous {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        linnet_runtime::tls::provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn parts(pem: &Pem) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(pem.0.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(pem.1.as_bytes()).unwrap();
    (chain.map(Result::unwrap).collect(), key)
}

fn client(
    pem: Option<&Pem>,
    alpn: &[u8],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<rustls::ClientConfig> {
    let config = rustls::ClientConfig::builder_with_provider(linnet_runtime::tls::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    let mut config = match pem {
        None => config.with_no_client_auth(),
        Some(pem) => {
            let (chain, key) = parts(pem);
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

fn tls13(pem: Option<&Pem>, alpn: &[u8]) -> Arc<rustls::ClientConfig> {
    client(pem, alpn, &[&rustls::version::TLS13])
}

/// All that is wrong with a certificate, by name, for an account of the mesh.
fn wrong(authority: &Authority, account: &str) -> Vec<(&'static str, Option<Pem>)> {
    let right = identity(account);
    let now = OffsetDateTime::now_utc();
    let leaf = |uris: &[&str]| Leaf::new(uris);
    let expired = Leaf {
        not_before: now - Duration::DAY,
        not_after: now - Duration::HOUR,
        ..leaf(&[&right])
    };
    let early = Leaf {
        not_before: now + Duration::HOUR,
        not_after: now + Duration::DAY,
        ..leaf(&[&right])
    };
    let dns = Leaf {
        dns_names: vec![format!("{account}.default.svc.cluster.local")],
        ..leaf(&[])
    };
    let both = Leaf {
        dns_names: vec![format!("{account}.default.svc")],
        ..leaf(&["https://example.org/x"])
    };
    let other_domain = format!("spiffe://other.example/ns/default/sa/{account}");
    let second = identity("admin");
    let sign = |leaf: &Leaf| Some(authority.issue_pem(leaf));
    vec![
        ("none", None),
        ("expired", sign(&expired)),
        ("not yet valid", sign(&early)),
        (
            "of another root",
            Some(Authority::default().issue_pem(&leaf(&[&right]))),
        ),
        ("self-signed", Some(self_signed(&right))),
        ("of another trust domain", sign(&leaf(&[&other_domain]))),
        ("with two identities", sign(&leaf(&[&right, &second]))),
        ("with DNS names only", sign(&dns)),
        ("with a URI that is no identity", sign(&both)),
        ("with no name", sign(&leaf(&[]))),
        (
            "with a path that is no account",
            sign(&leaf(&["spiffe://cluster.local/ns/default/sa/"])),
        ),
        (
            "with an identity of another case",
            sign(&leaf(&["SPIFFE://cluster.local/NS/default/sa/x"])),
        ),
    ]
}

fn self_signed(uri: &str) -> Pem {
    let mut params = rcgen::CertificateParams::default();
    let uri = uri.try_into().unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI(uri));
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// What a TLS port says to a caller that goes on to send a request. In TLS 1.3 a
/// client may take itself for connected before it has been refused.
async fn said(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> String {
    match dial(address, config).await {
        Ok(stream) => send(stream, REQUEST).await,
        Err(_) => String::new(),
    }
}

/// Calls a STRICT port with each certificate; the callee's own sidecar is all that
/// stands before the application.
async fn at_a_strict_port(which: &str) {
    let mesh = Mesh::new();
    let app = App::start().await;
    let server = inbound(&mesh, "STRICT", &[app.address]).await;
    let pem = wrong(&mesh.authority, "checkout")
        .into_iter()
        .find(|(name, _)| *name == which)
        .unwrap()
        .1;
    for alpn in [ALPN, b"linnet/http2", b"linnet/opaque"] {
        let answer = said(server.inbound[0], tls13(pem.as_ref(), alpn)).await;
        assert_eq!(answer, "", "{which}");
    }
    assert!(app.seen().is_empty());
    // The same caller with a right certificate is served.
    let right = mesh
        .authority
        .issue_pem(&Leaf::new(&[&identity("checkout")]));
    let answer = said(server.inbound[0], tls13(Some(&right), ALPN)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

macro_rules! refused_at_a_strict_port {
    ($($test:ident: $which:literal),* $(,)?) => {$(
        #[tokio::test]
        async fn $test() {
            at_a_strict_port($which).await;
        }
    )*};
}

refused_at_a_strict_port! {
    a_caller_without_certificate_is_refused: "none",
    an_expired_caller_is_refused: "expired",
    a_caller_of_tomorrow_is_refused: "not yet valid",
    a_caller_of_another_root_is_refused: "of another root",
    a_self_signed_caller_with_a_right_name_is_refused: "self-signed",
    a_caller_of_another_trust_domain_is_refused: "of another trust domain",
    a_caller_with_two_identities_is_refused: "with two identities",
    a_caller_with_dns_names_only_is_refused: "with DNS names only",
    a_caller_whose_uri_is_no_identity_is_refused: "with a URI that is no identity",
    a_caller_without_a_name_is_refused: "with no name",
    a_caller_without_an_account_is_refused: "with a path that is no account",
    a_caller_of_another_spelling_is_refused: "with an identity of another case",
}

/// A PERMISSIVE port takes plaintext, but no wrong certificate: who shows one is not
/// let in as somebody without.
#[tokio::test]
async fn a_permissive_port_refuses_wrong_certificates_too() {
    let mesh = Mesh::new();
    let app = App::start().await;
    let server = inbound(&mesh, "PERMISSIVE", &[app.address]).await;
    for (name, pem) in wrong(&mesh.authority, "checkout") {
        let answer = said(server.inbound[0], tls13(pem.as_ref(), ALPN)).await;
        assert_eq!(answer, "", "{name}");
    }
    assert!(app.seen().is_empty());
}

/// An attacker that answers for `payment`, and what it was told.
async fn callee(
    config: Arc<rustls::ServerConfig>,
) -> (SocketAddr, Arc<tokio::sync::Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::<tokio::sync::Mutex<Vec<u8>>>::default();
    let noted = heard.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let said = answer(&mut stream, |said| said.ends_with(b"\r\n\r\n")).await;
                noted.lock().await.extend(said);
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen")
                    .await;
            }
        }
    });
    (address, heard)
}

fn server(
    pem: &Pem,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<rustls::ServerConfig> {
    let (chain, key) = parts(pem);
    let mut config = rustls::ServerConfig::builder_with_provider(linnet_runtime::tls::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(Arc::new(Credulous))
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

/// The caller's sidecar was promised `payment`; not a byte goes to anybody else.
#[tokio::test]
async fn an_endpoint_that_is_not_who_was_promised_hears_nothing() {
    let mesh = Mesh::new();
    let somebody = mesh
        .authority
        .issue_pem(&Leaf::new(&[&identity("frontend")]));
    let mut cases = wrong(&mesh.authority, "payment");
    cases.push(("of another account", Some(somebody)));
    for (name, pem) in cases {
        let Some(pem) = pem else { continue };
        let (address, heard) = callee(server(&pem, &[&rustls::version::TLS13])).await;
        let sidecar = outbound(&mesh, address).await;
        let stream = TcpStream::connect(sidecar.outbound[0]).await.unwrap();
        let answer = send(stream, REQUEST).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{name}: {answer}");
        assert_eq!(heard.lock().await.len(), 0, "{name}");
    }
    // It would have been spoken to.
    let right = mesh
        .authority
        .issue_pem(&Leaf::new(&[&identity("payment")]));
    let (address, heard) = callee(server(&right, &[&rustls::version::TLS13])).await;
    let sidecar = outbound(&mesh, address).await;
    let stream = TcpStream::connect(sidecar.outbound[0]).await.unwrap();
    assert!(send(stream, REQUEST).await.contains("stolen"));
    assert_ne!(heard.lock().await.len(), 0);
}

#[tokio::test]
async fn an_endpoint_that_speaks_tls_1_2_only_hears_nothing() {
    let mesh = Mesh::new();
    let right = mesh
        .authority
        .issue_pem(&Leaf::new(&[&identity("payment")]));
    let (address, heard) = callee(server(&right, &[&rustls::version::TLS12])).await;
    let sidecar = outbound(&mesh, address).await;
    let stream = TcpStream::connect(sidecar.outbound[0]).await.unwrap();
    let answer = send(stream, REQUEST).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(heard.lock().await.len(), 0);
}

/// An endpoint that is promised to have a sidecar is not called in plaintext
/// because it has none.
#[tokio::test]
async fn an_endpoint_that_speaks_plaintext_hears_no_request() {
    let mesh = Mesh::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = outbound(&mesh, listener.local_addr().unwrap()).await;
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let heard = answer(&mut stream, |said| !said.is_empty()).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        heard
    });
    let stream = TcpStream::connect(sidecar.outbound[0]).await.unwrap();
    let answer = send(stream, REQUEST).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let heard = heard.await.unwrap();
    assert_eq!(heard[0], 22, "a hello, and nothing else");
    assert!(!heard.windows(3).any(|part| part == b"GET"));
}

/// The right certificate, and TLS 1.2: without renegotiation, tickets or ciphers of
/// old there is nothing to attack.
#[tokio::test]
async fn tls_1_2_is_refused_everywhere() {
    let mesh = Mesh::new();
    let app = App::start().await;
    let server = inbound(&mesh, "STRICT", &[app.address]).await;
    let files = tempfile::tempdir().unwrap();
    let (controller, _signal) = mesh.controller(files.path()).await;
    let right = mesh
        .authority
        .issue_pem(&Leaf::new(&[&identity("checkout")]));
    for (address, alpn) in [
        (server.inbound[0], ALPN),
        (controller.discovery_address, b"h2"),
        (identity_service().await.0.https_address, b"http/1.1"),
    ] {
        let old = client(Some(&right), alpn, &[&rustls::version::TLS12]);
        let error = dial(address, old).await.unwrap_err();
        assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    }
    assert!(app.seen().is_empty());
}

/// Hellos of SSL 3 to TLS 1.1, as they were: without `supported_versions`.
#[tokio::test]
async fn older_hellos_are_refused() {
    let mesh = Mesh::new();
    let app = App::start().await;
    let server = inbound(&mesh, "STRICT", &[app.address]).await;
    for minor in 0..=3 {
        let stream = TcpStream::connect(server.inbound[0]).await.unwrap();
        let mut answer = wire_answer(stream, &old_hello(minor)).await;
        // An alert (21), fatal (2), or nothing at all.
        answer.truncate(1);
        assert!(answer.is_empty() || answer == [21], "{minor}: {answer:?}");
    }
    assert!(app.seen().is_empty());
}

async fn wire_answer(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).await.unwrap();
    wire::answer(&mut stream, |said| !said.is_empty()).await
}

/// A hello of version 3.`minor` with a mesh ALPN name and two old ciphers.
fn old_hello(minor: u8) -> Vec<u8> {
    let mut extensions = vec![0, 16];
    let names = [&[ALPN.len() as u8], ALPN].concat();
    extensions.extend((names.len() as u16 + 2).to_be_bytes());
    extensions.extend((names.len() as u16).to_be_bytes());
    extensions.extend(&names);
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    // No session; RSA with AES-128-CBC and 3DES; no compression.
    body.extend([0, 0, 4, 0, 0x2f, 0, 0x0a, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
    let mut record = vec![22, 3, minor];
    record.extend((message.len() as u16).to_be_bytes());
    record.extend(message);
    record
}

/// A stolen public chain without its key proves nothing.
#[tokio::test]
async fn a_chain_with_another_key_is_refused() {
    let mesh = Mesh::new();
    let app = App::start().await;
    let server = inbound(&mesh, "STRICT", &[app.address]).await;
    let right = mesh
        .authority
        .issue_pem(&Leaf::new(&[&identity("checkout")]));
    let (chain, _) = parts(&right);
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let key = PrivateKeyDer::from_pem_slice(other.as_bytes()).unwrap();
    let key = linnet_runtime::tls::provider()
        .key_provider
        .load_private_key(key)
        .unwrap();
    let stolen = rustls::sign::CertifiedKey::new(chain, key);
    let mut config = rustls::ClientConfig::builder_with_provider(linnet_runtime::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(stolen)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    assert_eq!(said(server.inbound[0], Arc::new(config)).await, "");
    assert!(app.seen().is_empty());
}

/// Discovery asks each certificate what a STRICT port asks.
#[tokio::test]
async fn the_controller_refuses_wrong_certificates() {
    let mesh = Mesh::new();
    let files = tempfile::tempdir().unwrap();
    let (controller, _signal) = mesh.controller(files.path()).await;
    for (name, pem) in wrong(&mesh.authority, "checkout") {
        let said = settings(controller.discovery_address, pem.as_ref()).await;
        if pem.is_none() {
            continue;
        }
        assert!(said.is_empty(), "{name}: {said:?}");
    }
    let right = mesh
        .authority
        .issue_pem(&Leaf::new(&[&identity("checkout")]));
    let said = settings(controller.discovery_address, Some(&right)).await;
    assert!(!said.is_empty(), "a right one is answered");
}

/// What a server says to an HTTP/2 preface.
async fn settings(address: SocketAddr, pem: Option<&Pem>) -> Vec<u8> {
    let Ok(mut stream) = dial(address, tls13(pem, b"h2")).await else {
        return Vec::new();
    };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let _ = stream.write_all(preface).await;
    let _ = stream.flush().await;
    wire::answer(&mut stream, |said| !said.is_empty()).await
}

async fn identity_service() -> (linnet_identity::Running, linnet_runtime::drain::Signal) {
    let (signal, drain) = linnet_runtime::drain::channel();
    let dependencies = linnet_identity::Dependencies {
        attest: Box::new(linnet_identity::attest::SignedTokens::generate().unwrap()),
        root: linnet_identity::authority::RootStore::memory(),
        readiness: linnet_runtime::readiness::Readiness::new(),
        drain,
    };
    let config = linnet_identity::config::Config::loopback();
    (config.build(dependencies).await.unwrap(), signal)
}

/// Identity asks for tokens, not certificates: one of the mesh, right or wrong, is
/// no way to another.
#[tokio::test]
async fn identity_takes_no_certificate_for_a_token() {
    let (service, _signal) = identity_service().await;
    let mesh = Mesh::new();
    let mut cases = wrong(&mesh.authority, "checkout");
    let right = mesh
        .authority
        .issue_pem(&Leaf::new(&[&identity("checkout")]));
    cases.push(("right", Some(right)));
    for (name, pem) in cases {
        let stream = dial(service.https_address, tls13(pem.as_ref(), b"http/1.1")).await;
        let Ok(stream) = stream else { continue };
        let request = b"POST /v1/certificates HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\nconnection: close\r\n\r\n{\"csr\":\"\"}";
        let answer = send(stream, request).await;
        // Some end in the handshake.
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 401");
        assert!(refused, "{name}: {answer}");
    }
}
