use std::{sync::Arc, time::Duration};

use rustls::{CipherSuite, ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use linnet_runtime::tls::{peer_identity, provider};

use super::{
    testing::{Authority, Leaf},
    *,
};

const ALPN: &[&[u8]] = &[b"linnet/http1"];

type Pair = (
    client::TlsStream<DuplexStream>,
    server::TlsStream<DuplexStream>,
);

fn server_verifier(roots: RootCertStore) -> Arc<verifier::Server> {
    Arc::new(verifier::Server::new(&Arc::new(verifier::Trust {
        domains: vec!["cluster.local".to_owned()],
        roots: Arc::new(roots),
        federated: std::collections::BTreeMap::new(),
    })))
}

/// Both ends after a handshake and a byte each way, or the server's error and
/// then the client's.
async fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<Pair, (String, String)> {
    let (near, far) = duplex(64 * 1024);
    let accept = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_all(b"s").await?;
        stream.flush().await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        Ok::<_, io::Error>(stream)
    };
    let connect = async {
        let name = "payment.default".try_into().unwrap();
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        stream.write_all(b"c").await?;
        stream.flush().await?;
        Ok::<_, io::Error>(stream)
    };
    match tokio::join!(connect, accept) {
        (Ok(client), Ok(server)) => Ok((client, server)),
        (client, server) => {
            let text = |error: Option<io::Error>| error.map(|e| e.to_string()).unwrap_or_default();
            Err((text(server.err()), text(client.err())))
        }
    }
}

async fn between(client: &Workload, server: &Workload) -> Result<Pair, (String, String)> {
    handshake(client.client_config(ALPN), server.server_config(ALPN, true)).await
}

#[tokio::test]
async fn two_workloads_know_each_other() {
    let authority = Authority::default();
    let (frontend, payment) = (
        authority.workload("default", "frontend"),
        authority.workload("shop", "payment"),
    );
    let (client, server) = between(&frontend, &payment).await.unwrap();
    let (client, server) = (client.get_ref().1, server.get_ref().1);
    assert_eq!(peer_identity(server).as_ref(), Some(frontend.id()));
    assert_eq!(peer_identity(client).as_ref(), Some(payment.id()));
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(client.alpn_protocol(), Some(ALPN[0]));
    let group = client.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    let suite = client.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
}

#[tokio::test]
async fn a_resumed_session_still_knows_the_peer() {
    let authority = Authority::default();
    let (frontend, payment) = (
        authority.workload("default", "frontend"),
        authority.workload("shop", "payment"),
    );
    let (first, _) = between(&frontend, &payment).await.unwrap();
    assert_ne!(
        first.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Resumed)
    );
    let (client, server) = between(&frontend, &payment).await.unwrap();
    assert_eq!(
        client.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Resumed)
    );
    assert_eq!(
        peer_identity(server.get_ref().1).as_ref(),
        Some(frontend.id())
    );
    assert_eq!(
        peer_identity(client.get_ref().1).as_ref(),
        Some(payment.id())
    );
}

#[tokio::test]
async fn a_renewal_on_either_side_ends_resumption() {
    let authority = Authority::default();
    let (frontend, payment) = (
        authority.workload("default", "frontend"),
        authority.workload("shop", "payment"),
    );
    between(&frontend, &payment).await.unwrap();
    let renewed = authority.workload("shop", "payment");
    let (client, _) = between(&frontend, &renewed).await.unwrap();
    assert_ne!(
        client.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Resumed)
    );
    let renewed = authority.workload("default", "frontend");
    let (client, _) = between(&renewed, &payment).await.unwrap();
    assert_ne!(
        client.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Resumed)
    );
}

#[tokio::test]
async fn a_session_made_without_a_client_certificate_does_not_open_a_strict_port() {
    let authority = Authority::default();
    let payment = authority.workload("shop", "payment");
    let roots = roots(&authority.bundle_pem()).unwrap();
    // A client with the server's trust anchors but no certificate of its own.
    let mut anonymous = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(server_verifier(roots))
        .with_no_client_auth();
    anonymous.alpn_protocols = vec![ALPN[0].to_vec()];
    let anonymous = Arc::new(anonymous);

    let open = payment.server_config(ALPN, false);
    let (_, server) = handshake(anonymous.clone(), open.clone()).await.unwrap();
    assert_eq!(peer_identity(server.get_ref().1), None);
    let (client, _) = handshake(anonymous.clone(), open).await.unwrap();
    assert_eq!(
        client.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Resumed)
    );
    let strict = payment.server_config(ALPN, true);
    let (server, _) = handshake(anonymous, strict).await.unwrap_err();
    assert!(server.contains("sent no certificates"), "{server}");
}

#[tokio::test]
async fn another_root_is_unknown() {
    let frontend = Authority::default().workload("default", "frontend");
    let payment = Authority::default().workload("shop", "payment");
    let (server, client) = between(&frontend, &payment).await.unwrap_err();
    assert!(
        client.contains("UnknownIssuer") || client.contains("BadSignature"),
        "{client}"
    );
    assert!(!server.is_empty());

    // The server's side, with a client that trusts it.
    let authority = Authority::default();
    let other = Authority::default();
    let uri = "spiffe://cluster.local/ns/default/sa/frontend";
    let (chain, key) = other.issue_pem(&Leaf::new(&[uri]));
    let stranger = Workload::from_pem(&chain, &key, &authority.bundle_pem()).unwrap();
    let (server, _) = between(&stranger, &authority.workload("shop", "payment"))
        .await
        .unwrap_err();
    assert!(
        server.contains("UnknownIssuer") || server.contains("BadSignature"),
        "{server}"
    );
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_both_sides() {
    let authority = Authority::default();
    let now = OffsetDateTime::now_utc();
    let mut leaf = Leaf::new(&["spiffe://cluster.local/ns/default/sa/late"]);
    leaf.not_before = now - Duration::from_secs(120);
    leaf.not_after = now - Duration::from_secs(60);
    let late = authority.issue(&leaf).unwrap();
    let good = authority.workload("default", "good");
    let (server, _) = between(&late, &good).await.unwrap_err();
    assert!(server.contains("expired"), "{server}");
    let (_, client) = between(&good, &late).await.unwrap_err();
    assert!(client.contains("expired"), "{client}");

    leaf.not_before = now + Duration::from_secs(3600);
    leaf.not_after = now + Duration::from_secs(7200);
    let early = authority.issue(&leaf).unwrap();
    let (server, _) = between(&early, &good).await.unwrap_err();
    assert!(server.contains("not valid yet"), "{server}");
}

#[tokio::test]
async fn a_resumed_session_does_not_outlive_the_peers_certificate() {
    let authority = Authority::default();
    let mut leaf = Leaf::new(&["spiffe://cluster.local/ns/default/sa/brief"]);
    leaf.not_after = OffsetDateTime::now_utc() + Duration::from_secs(2);
    let brief = authority.issue(&leaf).unwrap();
    let good = authority.workload("default", "good");
    between(&brief, &good).await.unwrap();
    while OffsetDateTime::now_utc() < brief.not_after() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (client, server) = between(&brief, &good).await.unwrap();
    assert_eq!(
        client.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Resumed)
    );
    assert_eq!(peer_identity(server.get_ref().1), None);
}

#[tokio::test]
async fn another_trust_domain_is_refused_even_under_the_same_root() {
    let authority = Authority::default();
    let other = authority
        .issue(&Leaf::new(&["spiffe://other.example/ns/a/sa/b"]))
        .unwrap();
    let good = authority.workload("default", "good");
    let (server, client) = between(&other, &good).await.unwrap_err();
    let told = "spiffe://other.example/ns/a/sa/b is not of the trust domain cluster.local";
    assert!(
        format!("{server}{client}").contains("trust domain"),
        "{server} {client}"
    );
    let (_, client) = between(&good, &other).await.unwrap_err();
    assert!(client.contains(told), "{client}");
}

/// A workload of this trust domain under this root, that trusts so.
fn in_domain(authority: &Authority, domain: &str, trust: &Federation) -> Workload {
    let uri = format!("spiffe://{domain}/ns/shop/sa/web");
    let workload = authority.issue(&Leaf::new(&[&uri])).unwrap();
    workload
        .trusting(&authority.bundle_pem(), trust.clone())
        .unwrap()
}

#[tokio::test]
async fn an_alias_is_the_same_trust_domain_under_the_same_root_only() {
    let authority = Authority::default();
    let trust = Federation {
        aliases: vec!["old.example".to_owned()],
        ..Federation::default()
    };
    let own = in_domain(&authority, "cluster.local", &trust);
    let back = Federation {
        aliases: vec!["cluster.local".to_owned()],
        ..Federation::default()
    };
    let old = in_domain(&authority, "old.example", &back);
    between(&own, &old).await.unwrap();
    between(&old, &own).await.unwrap();
    assert!(own.is_of_own_domain(old.id()) && old.is_of_own_domain(own.id()));
    assert!(
        own.is_expected(old.id(), own.id())
            && !own.is_expected(
                old.id(),
                &"spiffe://cluster.local/ns/shop/sa/other".parse().unwrap()
            )
    );
    let stranger = Authority::new("old.example");
    let chain = in_domain(&stranger, "old.example", &back);
    between(&chain, &own).await.unwrap_err();
    let other = in_domain(&authority, "other.example", &back);
    assert!(!own.is_expected(other.id(), own.id()));
    between(&other, &own).await.unwrap_err();
}

#[tokio::test]
async fn a_federated_domain_is_vouched_for_by_its_own_roots_alone() {
    let (east, west) = (
        Authority::new("east.example"),
        Authority::new("west.example"),
    );
    let federated = |domain: &str, authority: &Authority| Federation {
        aliases: Vec::new(),
        bundles: [(domain.to_owned(), authority.bundle_pem())].into(),
    };
    let to_west = federated("west.example", &west);
    let to_east = federated("east.example", &east);
    let in_east = in_domain(&east, "east.example", &to_west);
    let in_west = in_domain(&west, "west.example", &to_east);
    between(&in_east, &in_west).await.unwrap();
    between(&in_west, &in_east).await.unwrap();
    assert!(in_east.is_of_own_domain(in_east.id()) && !in_east.is_of_own_domain(in_west.id()));
    assert!(
        !in_east.is_expected(in_west.id(), in_east.id()),
        "nobody is taken for another"
    );

    // Each root names workloads of the other domain: neither side takes it.
    let west_by_east = in_domain(&east, "west.example", &to_east);
    let east_by_west = in_domain(&west, "east.example", &to_west);
    for forged in [&west_by_east, &east_by_west] {
        let (server, _) = between(forged, &in_east).await.unwrap_err();
        assert!(!server.is_empty());
        let (_, client) = between(&in_east, forged).await.unwrap_err();
        assert!(!client.is_empty());
    }
    // Nor is a third domain trusted because one of the two vouches for it.
    let third = in_domain(&west, "third.example", &to_east);
    let (_, client) = between(&in_east, &third).await.unwrap_err();
    assert!(client.contains("trust domain"), "{client}");
}

/// A certificate that the mesh refuses, presented by a client that does not mind.
async fn refused(uris: &[&str]) -> String {
    let authority = Authority::default();
    let (chain, key) = authority.issue_pem(&Leaf::new(uris));
    let chain = certificates("certificate chain", &chain).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let roots = roots(&authority.bundle_pem()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(server_verifier(roots))
        .with_client_auth_cert(chain, key)
        .unwrap();
    client.alpn_protocols = vec![ALPN[0].to_vec()];
    let server = authority
        .workload("shop", "payment")
        .server_config(ALPN, false);
    handshake(Arc::new(client), server).await.unwrap_err().0
}

#[tokio::test]
async fn exactly_one_spiffe_id_or_no_handshake() {
    let (one, two) = (
        "spiffe://cluster.local/ns/a/sa/b",
        "spiffe://cluster.local/ns/a/sa/c",
    );
    let error = refused(&[one, two]).await;
    assert!(error.contains("2 URI names"), "{error}");
    let error = refused(&[one, "https://example.com/"]).await;
    assert!(error.contains("2 URI names"), "{error}");
    let error = refused(&[]).await;
    assert!(error.contains("0 URI names"), "{error}");
    let error = refused(&["https://example.com/"]).await;
    assert!(error.contains("is not of the form"), "{error}");
}

#[test]
fn files_become_a_workload_or_a_clear_error() {
    let authority = Authority::default();
    let uri = "spiffe://cluster.local/ns/a/sa/b";
    let (chain, key) = authority.issue_pem(&Leaf::new(&[uri]));
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("leaf.pem", &chain);
    write("ca.pem", &authority.bundle_pem());
    let error = from_files(directory.path()).unwrap_err().to_string();
    assert!(error.contains("leaf.key"), "{error}");
    write("leaf.key", &key);
    let workload = from_files(directory.path()).unwrap();
    assert_eq!(workload.id().as_str(), uri);
    assert!(workload.not_after() > OffsetDateTime::now_utc());
    assert_eq!(workload.chain().len(), 1);

    let (_, other_key) = authority.issue_pem(&Leaf::new(&[uri]));
    write("leaf.key", &other_key);
    assert!(matches!(
        from_files(directory.path()),
        Err(Error::Unusable(_))
    ));
    write("leaf.key", "no key");
    assert!(matches!(
        from_files(directory.path()),
        Err(Error::Pem {
            what: "private key",
            ..
        })
    ));
    write("leaf.key", &key);
    write("ca.pem", "");
    assert!(matches!(
        from_files(directory.path()),
        Err(Error::Empty("trust bundle"))
    ));
}

#[tokio::test]
async fn a_handle_gives_its_certificate_and_tells_of_the_next() {
    let workload = Authority::default().workload("default", "frontend");
    let handle = Handle::fixed(workload);
    assert_eq!(handle.generation(), 1);
    assert_eq!(handle.wait().await.id().service_account(), "frontend");
    assert_eq!(handle.current().unwrap().id().namespace(), "default");
}

proptest::proptest! {
    #[test]
    fn no_certificate_of_a_peers_making_panics(at in 0_usize..2000, byte: u8, cut in 0_usize..2000) {
        static LEAF: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            Authority::default().workload("default", "frontend").chain()[0].to_vec()
        });
        let mut bytes = LEAF.clone();
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(length - (cut % length));
        if let Ok(leaf) = linnet_runtime::tls::Leaf::parse(&bytes.into()) {
            proptest::prop_assert!(!leaf.id.namespace().is_empty());
        }
    }
}
