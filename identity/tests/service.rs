//! The identity service over real HTTPS on loopback, and the workload
//! certificates' client against it.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use linnet_identity::{
    Dependencies, Running,
    attest::SignedTokens,
    authority::RootStore,
    config::Config,
    limit::{Budget, Limits},
};
use linnet_mesh::TrustDomain;
use linnet_runtime::{drain, readiness::Readiness};
use linnet_workload::{BundleSource, Source, TokenSource, Workload};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const MINUTE: Duration = Duration::from_secs(60);

struct Fixture {
    running: Running,
    tokens: SignedTokens,
    drain: drain::Signal,
    readiness: Readiness,
}

impl Fixture {
    async fn start() -> Self {
        Self::with(Config::loopback()).await
    }

    async fn with(config: Config) -> Self {
        let tokens = SignedTokens::generate().unwrap();
        let (signal, drain) = drain::channel();
        let readiness = Readiness::new();
        let dependencies = Dependencies {
            attest: Box::new(tokens.clone()),
            root: RootStore::memory(),
            readiness: readiness.clone(),
            drain,
        };
        let running = config.build(dependencies).await.unwrap();
        Self {
            running,
            tokens,
            drain: signal,
            readiness,
        }
    }

    fn token(&self) -> String {
        self.tokens.issue("shop", "payment", MINUTE).unwrap()
    }

    fn source(&self, token: TokenSource) -> Source {
        Source {
            identity_url: format!("https://{}", self.running.https_address)
                .parse()
                .unwrap(),
            token,
            trust_bundle: BundleSource::Text(self.running.bundle_pem().to_string()),
            trust_domain: TrustDomain::default(),
        }
    }

    /// Sends one request, with the trust that a sidecar would have.
    async fn send(&self, request: Request<Full<Bytes>>) -> (StatusCode, Bytes) {
        self.send_from([127, 0, 0, 1], request).await
    }

    /// Connects from an address of loopback's.
    async fn connect(&self, from: [u8; 4]) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.running.bundle_pem().as_bytes()).unwrap())
            .unwrap();
        let config = rustls::ClientConfig::builder_with_provider(linnet_runtime::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let address = self.running.https_address;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let stream = socket.connect(address).await.unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(address.ip().into(), stream)
            .await
            .unwrap()
    }

    /// Sends one request from an address of loopback's.
    async fn send_from(&self, from: [u8; 4], request: Request<Full<Bytes>>) -> (StatusCode, Bytes) {
        let stream = self.connect(from).await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let driven = tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        driven.abort();
        (status, body)
    }

    async fn post(&self, token: &str, body: impl Into<Bytes>) -> (StatusCode, Value) {
        self.post_from([127, 0, 0, 1], token, body).await
    }

    async fn post_from(
        &self,
        from: [u8; 4],
        token: &str,
        body: impl Into<Bytes>,
    ) -> (StatusCode, Value) {
        let request = Request::post("/v1/certificates")
            .header("host", "localhost")
            .header("authorization", format!("Bearer {token}"))
            .body(Full::new(body.into()))
            .unwrap();
        let (status, body) = self.send_from(from, request).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn ask(&self, token: &str, csr: &str) -> (StatusCode, Value) {
        self.post(token, json!({ "csr": csr }).to_string()).await
    }
}

fn csr(key: &KeyPair) -> String {
    CertificateParams::default()
        .serialize_request(key)
        .unwrap()
        .pem()
        .unwrap()
}

fn fresh_csr() -> String {
    csr(&KeyPair::generate().unwrap())
}

#[tokio::test]
async fn a_workload_gets_its_certificate_and_its_peers_take_it() {
    let fixture = Fixture::start().await;
    assert!(fixture.readiness.is_ready());
    let readiness = Readiness::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, fixture.token() + "\n").unwrap();
    let (_signal, drain) = drain::channel();
    let payment = linnet_workload::start(
        fixture.source(TokenSource::File(file)),
        readiness.gate("identity"),
        drain.clone(),
    );
    let token = fixture.tokens.issue("default", "frontend", MINUTE).unwrap();
    let frontend = linnet_workload::start(
        fixture.source(TokenSource::Text(token)),
        readiness.gate("identity"),
        drain,
    );
    let (payment, frontend) = tokio::join!(payment.wait(), frontend.wait());
    assert_eq!(
        payment.id().as_str(),
        "spiffe://cluster.local/ns/shop/sa/payment"
    );
    assert_eq!(payment.bundle_pem(), &*fixture.running.bundle_pem());
    assert_eq!(payment.chain().len(), 2);

    let (near, far) = tokio::io::duplex(64 * 1024);
    let alpn: &[&[u8]] = &[b"linnet/http1"];
    let (client, server) = tokio::join!(
        TlsConnector::from(frontend.client_config(alpn)).connect("x".try_into().unwrap(), near),
        tokio_rustls::TlsAcceptor::from(payment.server_config(alpn, true)).accept(far),
    );
    assert_eq!(
        linnet_runtime::tls::peer_identity(client.unwrap().get_ref().1).as_ref(),
        Some(payment.id())
    );
    assert_eq!(
        linnet_runtime::tls::peer_identity(server.unwrap().get_ref().1).as_ref(),
        Some(frontend.id())
    );
}

#[tokio::test]
async fn certificates_are_renewed_before_they_expire() {
    let mut config = Config::loopback();
    config.lifetime = Duration::from_secs(4);
    let fixture = Fixture::with(config).await;
    let readiness = Readiness::new();
    let (_signal, drain) = drain::channel();
    let handle = linnet_workload::start(
        fixture.source(TokenSource::Text(fixture.token())),
        readiness.gate("identity"),
        drain,
    );
    let first = handle.wait().await;
    assert!(readiness.is_ready());
    let mut generations = handle.subscribe();
    // Two renewals; the service's own certificate is renewed in between.
    for _ in 0..2 {
        tokio::time::timeout(Duration::from_secs(10), generations.changed())
            .await
            .unwrap()
            .unwrap();
    }
    let later = handle.current().unwrap();
    assert_eq!(handle.generation(), 3);
    assert_eq!(later.id(), first.id());
    assert!(later.not_after() > first.not_after());
    assert_ne!(later.chain()[0], first.chain()[0]);
}

#[tokio::test]
async fn a_failed_renewal_keeps_the_certificate() {
    let mut config = Config::loopback();
    config.lifetime = Duration::from_secs(4);
    let fixture = Fixture::with(config).await;
    let (_signal, drain) = drain::channel();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, fixture.token()).unwrap();
    let source = fixture.source(TokenSource::File(file.clone()));
    let handle = linnet_workload::start(source, Readiness::new().gate("identity"), drain);
    let first = handle.wait().await;
    std::fs::write(&file, "damaged").unwrap();
    let mut generations = handle.subscribe();
    let kept = tokio::time::timeout(Duration::from_secs(3), generations.changed()).await;
    assert!(kept.is_err(), "no renewal with a bad token");
    assert!(Arc::ptr_eq(&handle.current().unwrap(), &first));
    std::fs::write(&file, fixture.token()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), generations.changed())
        .await
        .unwrap()
        .unwrap();
    assert!(handle.current().unwrap().not_after() > first.not_after());
}

#[tokio::test]
async fn a_service_of_another_root_is_not_asked() {
    let fixture = Fixture::start().await;
    let other = linnet_workload::testing::Authority::default();
    let mut source = fixture.source(TokenSource::Text(fixture.token()));
    source.trust_bundle = BundleSource::Text(other.bundle_pem());
    let readiness = Readiness::new();
    let (signal, drain) = drain::channel();
    let handle = linnet_workload::start(source, readiness.gate("identity"), drain);
    let waited = tokio::time::timeout(Duration::from_secs(1), handle.wait()).await;
    assert!(waited.is_err());
    assert_eq!(readiness.pending(), ["identity"]);
    // Who has no certificate yet does not hold the drain.
    signal.drain().await;
}

#[tokio::test]
async fn the_token_decides_the_identity_and_the_request_nothing() {
    let fixture = Fixture::start().await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["bank.example".to_owned()]).unwrap();
    let admin = "spiffe://cluster.local/ns/kube-system/sa/admin";
    params
        .subject_alt_names
        .push(SanType::URI(admin.try_into().unwrap()));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let (status, answer) = fixture.ask(&fixture.token(), &csr).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        answer["identity"],
        "spiffe://cluster.local/ns/shop/sa/payment"
    );
    let chain = answer["certificates"].as_str().unwrap();
    let bundle = answer["trust_bundle"].as_str().unwrap();
    let workload = Workload::from_pem(chain, &key.serialize_pem(), bundle).unwrap();
    assert_eq!(workload.id().service_account(), "payment");
    let (_, leaf) = x509_parser::parse_x509_certificate(&workload.chain()[0]).unwrap();
    assert!(!leaf.is_ca());
    let names = leaf.subject_alternative_name().unwrap().unwrap().value;
    assert_eq!(names.general_names.len(), 1);
    let format = &time::format_description::well_known::Rfc3339;
    let not_after = time::OffsetDateTime::parse(answer["not_after"].as_str().unwrap(), format);
    assert_eq!(not_after.unwrap(), workload.not_after());
}

#[tokio::test]
async fn bad_tokens_get_a_clear_answer() {
    let fixture = Fixture::start().await;
    let other = SignedTokens::generate()
        .unwrap()
        .issue("shop", "payment", MINUTE)
        .unwrap();
    let expired = fixture
        .tokens
        .issue("shop", "payment", Duration::ZERO)
        .unwrap();
    let nobody = fixture
        .tokens
        .issue("Not A Namespace", "payment", MINUTE)
        .unwrap();
    for (token, status, reason) in [
        ("", StatusCode::UNAUTHORIZED, "no_token"),
        ("damaged", StatusCode::UNAUTHORIZED, "bad_token"),
        (other.as_str(), StatusCode::UNAUTHORIZED, "bad_token"),
        (expired.as_str(), StatusCode::UNAUTHORIZED, "expired_token"),
        (nobody.as_str(), StatusCode::FORBIDDEN, "not_a_workload"),
    ] {
        let (answered, body) = fixture.ask(token, &fresh_csr()).await;
        assert_eq!(answered, status, "{body}");
        assert_eq!(body["reason"], reason, "{body}");
        assert!(token.is_empty() || !body["error"].as_str().unwrap().contains(token));
    }
}

#[tokio::test]
async fn a_token_for_another_audience_is_refused() {
    let fixture = Fixture::start().await;
    // Signed with the right key, for somebody else.
    let pem = KeyPair::generate().unwrap().serialize_pem();
    let tokens = SignedTokens::from_pem(&pem).unwrap();
    let (_signal, drain) = drain::channel();
    let dependencies = Dependencies {
        attest: Box::new(tokens),
        root: RootStore::memory(),
        readiness: Readiness::new(),
        drain,
    };
    let running = Config::loopback().build(dependencies).await.unwrap();
    let fixture = Fixture { running, ..fixture };
    let exp = time::OffsetDateTime::now_utc().unix_timestamp() + 60;
    let claims = json!({"aud": "vault", "ns": "shop", "sa": "payment", "iat": 0, "exp": exp});
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    let key = jsonwebtoken::EncodingKey::from_ec_pem(pem.as_bytes()).unwrap();
    let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    let (status, body) = fixture.ask(&token, &fresh_csr()).await;
    assert_eq!(
        (status, &body["reason"]),
        (StatusCode::UNAUTHORIZED, &json!("wrong_audience"))
    );
}

#[tokio::test]
async fn bad_requests_get_a_clear_answer() {
    let fixture = Fixture::start().await;
    let token = fixture.token();
    let long = "x".repeat(17 * 1024);
    let too_long = "x".repeat(65 * 1024);
    let ask = |csr: &str| json!({ "csr": csr }).to_string();
    let brief = json!({ "csr": fresh_csr(), "lifetime_seconds": 59 }).to_string();
    for (body, status, reason, named) in [
        (
            "not JSON".to_owned(),
            StatusCode::BAD_REQUEST,
            "bad_request",
            "line 1",
        ),
        (
            "{}".to_owned(),
            StatusCode::BAD_REQUEST,
            "bad_request",
            "csr",
        ),
        (ask(""), StatusCode::BAD_REQUEST, "bad_csr", "csr"),
        (
            ask("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"),
            StatusCode::BAD_REQUEST,
            "bad_csr",
            "csr",
        ),
        (
            ask(&long),
            StatusCode::PAYLOAD_TOO_LARGE,
            "bad_csr",
            "16384",
        ),
        (
            ask(&too_long),
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "65536",
        ),
        (
            brief,
            StatusCode::BAD_REQUEST,
            "bad_lifetime",
            "lifetime_seconds",
        ),
    ] {
        let (answered, answer) = fixture.post(&token, body).await;
        assert_eq!(answered, status, "{answer}");
        assert_eq!(answer["reason"], reason, "{answer}");
        assert!(
            answer["error"].as_str().unwrap().contains(named),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_shorter_lifetime_may_be_asked_for_and_a_longer_not() {
    let fixture = Fixture::start().await;
    let format = &time::format_description::well_known::Rfc3339;
    for (asked, given) in [(60_u64, 60), (u64::MAX, 24 * 3600)] {
        let body = json!({ "csr": fresh_csr(), "lifetime_seconds": asked }).to_string();
        let (status, answer) = fixture.post(&fixture.token(), body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let end =
            time::OffsetDateTime::parse(answer["not_after"].as_str().unwrap(), format).unwrap();
        let left = (end - time::OffsetDateTime::now_utc()).whole_seconds();
        assert!((given - 30..=given).contains(&left), "{left}");
    }
}

#[tokio::test]
async fn one_caller_in_a_loop_is_told_to_wait_and_others_are_served() {
    let mut config = Config::loopback();
    let caller = Budget {
        burst: NonZeroU32::new(2).unwrap(),
        per_second: NonZeroU32::MIN,
    };
    config.limits = Limits {
        caller,
        ..Limits::default()
    };
    let fixture = Fixture::with(config).await;
    let token = fixture.token();
    let csr = fresh_csr();
    let mut refused = None;
    for _ in 0..20 {
        let (status, body) = fixture.ask(&token, &csr).await;
        if status == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(body);
            break;
        }
    }
    assert_eq!(refused.unwrap()["reason"], "rate_limited");
    let other = fixture.tokens.issue("shop", "checkout", MINUTE).unwrap();
    assert_eq!(fixture.ask(&other, &csr).await.0, StatusCode::OK);
}

#[tokio::test]
async fn an_address_in_a_loop_is_stopped_before_its_tokens_are_looked_at() {
    let mut config = Config::loopback();
    let address = Budget {
        burst: NonZeroU32::new(2).unwrap(),
        per_second: NonZeroU32::MIN,
    };
    config.limits = Limits {
        address,
        ..Limits::default()
    };
    let fixture = Fixture::with(config).await;
    let mut reasons = Vec::new();
    for _ in 0..10 {
        let (_, body) = fixture.ask("guess", &fresh_csr()).await;
        reasons.push(body["reason"].as_str().unwrap().to_owned());
    }
    assert_eq!(reasons[0], "bad_token");
    assert!(reasons.contains(&"rate_limited".to_owned()), "{reasons:?}");
}

/// Bodies that never end: the third is not even waited for.
#[tokio::test]
async fn an_address_pays_before_its_body_is_read() {
    let mut config = Config::loopback();
    config.limits.address = Budget {
        burst: NonZeroU32::new(2).unwrap(),
        per_second: NonZeroU32::MIN,
    };
    let fixture = Fixture::with(config).await;
    let mut open = Vec::new();
    let refused = async {
        loop {
            let mut stream = fixture.connect([127, 0, 0, 1]).await;
            let head = b"POST /v1/certificates HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n";
            stream.write_all(head).await.unwrap();
            let mut status = [0; 12];
            tokio::select! {
                read = stream.read_exact(&mut status) => {
                    read.unwrap();
                    return status;
                }
                // Those within the budget are waited for.
                () = tokio::time::sleep(Duration::from_millis(50)) => open.push(stream),
            }
        }
    };
    // Before the time limit of a request answers the first.
    let status = tokio::time::timeout(Duration::from_secs(8), refused).await;
    assert_eq!(&status.unwrap(), b"HTTP/1.1 429");
    assert!(open.len() >= 2);
}

#[tokio::test]
async fn junk_from_other_addresses_takes_nothing_of_who_has_a_token() {
    let budget = |burst: u32| Budget {
        burst: burst.try_into().unwrap(),
        per_second: NonZeroU32::MIN,
    };
    let mut config = Config::loopback();
    config.limits = Limits {
        address: budget(10),
        network: budget(10),
        caller: budget(12),
        namespace: budget(12),
        all: budget(12),
    };
    let fixture = Fixture::with(config).await;
    let body = json!({ "csr": fresh_csr() }).to_string();
    for host in 2..6 {
        for _ in 0..12 {
            let from = [127, 0, 0, host];
            let (status, _) = fixture.post_from(from, "guess", body.clone()).await;
            assert_ne!(status, StatusCode::OK);
        }
    }
    // More than its address may send unattested: these give back what they take.
    let token = fixture.token();
    for _ in 0..11 {
        assert_eq!(fixture.post(&token, body.clone()).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn the_bundle_and_health_are_public() {
    let fixture = Fixture::start().await;
    let request = Request::get("/v1/bundle").header("host", "localhost");
    let (status, body) = fixture.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body, &*fixture.running.bundle_pem());

    let (status, _) = fixture.ask(&fixture.token(), &fresh_csr()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(plain(&fixture, "/healthz/ready").await.0, StatusCode::OK);
    let (_, metrics) = plain(&fixture, "/metrics").await;
    assert!(
        metrics.contains("linnet_identity_requests_total{result=\"issued\"}"),
        "{metrics}"
    );
    assert!(
        metrics.contains("linnet_identity_root_expiry_timestamp_seconds"),
        "{metrics}"
    );
}

async fn plain(fixture: &Fixture, path: &str) -> (StatusCode, String) {
    let stream = TcpStream::connect(fixture.running.health_address)
        .await
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "localhost")
        .body(Full::<Bytes>::default());
    let response = sender.send_request(request.unwrap()).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_drain_closes_the_service() {
    let fixture = Fixture::start().await;
    fixture.drain.drain().await;
    assert!(
        TcpStream::connect(fixture.running.https_address)
            .await
            .is_err()
    );
}
