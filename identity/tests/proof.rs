//! What a request must prove: tokens as the Kubernetes API judges them, and
//! signing requests that ask for more than their token gives.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use kube::{Client, client::Body};
use linnet_identity::{
    Dependencies, Running, attest::TokenReviews, authority::RootStore, config::Config,
};
use linnet_runtime::{drain, readiness::Readiness};
use linnet_workload::Workload;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::service_fn;

/// A name and a UID.
type Pod = (&'static str, &'static str);

/// What the API server knows of tokens: their audience and the pod they are bound
/// to; and of pods: those that are there, with their UIDs.
#[derive(Default)]
struct ApiServer {
    tokens: BTreeMap<&'static str, (&'static str, Option<Pod>)>,
    pods: BTreeMap<&'static str, &'static str>,
}

impl ApiServer {
    /// Reviews as Kubernetes does: a bound token counts while the very pod exists.
    fn review(&self, token: &str, audience: &str) -> Value {
        let refused = |error: &str| json!({"authenticated": false, "error": error});
        let Some((meant_for, bound)) = self.tokens.get(token) else {
            return refused("invalid bearer token");
        };
        if *meant_for != audience {
            return refused(&format!(
                "[invalid bearer token, token audiences [{meant_for:?}] is invalid for the target audiences [{audience:?}]]"
            ));
        }
        let mut extra = json!({});
        if let Some((pod, uid)) = bound {
            if self.pods.get(pod) != Some(uid) {
                return refused(
                    "[invalid bearer token, service account token has been invalidated]",
                );
            }
            extra["authentication.kubernetes.io/pod-name"] = json!([pod]);
            extra["authentication.kubernetes.io/pod-uid"] = json!([uid]);
        }
        let user = json!({"username": "system:serviceaccount:shop:payment", "extra": extra});
        json!({"authenticated": true, "audiences": [audience], "user": user})
    }
}

struct Fixture {
    running: Running,
    server: Arc<Mutex<ApiServer>>,
    _drain: drain::Signal,
}

impl Fixture {
    async fn start() -> Self {
        let server = Arc::new(Mutex::new(ApiServer {
            tokens: [
                ("good", ("linnet-identity", Some(("payment-0", "uid-1")))),
                ("for-vault", ("vault", Some(("payment-0", "uid-1")))),
                ("unbound", ("linnet-identity", None)),
            ]
            .into(),
            pods: [("payment-0", "uid-1")].into(),
        }));
        let state = server.clone();
        let service = service_fn(move |request: Request<Body>| {
            let state = state.clone();
            async move {
                let body = request.into_body().collect().await?.to_bytes();
                let asked: Value = serde_json::from_slice(&body).unwrap();
                let token = asked["spec"]["token"].as_str().unwrap();
                let audience = asked["spec"]["audiences"][0].as_str().unwrap();
                let status = state.lock().unwrap().review(token, audience);
                let answer = json!({
                    "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
                    "metadata": {}, "spec": {}, "status": status,
                });
                let body = Body::from(answer.to_string().into_bytes());
                Ok::<_, kube::Error>(http::Response::builder().status(201).body(body).unwrap())
            }
        });
        let (signal, drain) = drain::channel();
        let dependencies = Dependencies {
            attest: Box::new(TokenReviews::new(Client::new(service, "default"))),
            root: RootStore::memory(),
            readiness: Readiness::new(),
            drain,
        };
        let running = Config::loopback().build(dependencies).await.unwrap();
        Self {
            running,
            server,
            _drain: signal,
        }
    }

    async fn ask(&self, token: &str, body: String) -> (StatusCode, Value) {
        let mut roots = rustls::RootCertStore::empty();
        let bundle = self.running.bundle_pem();
        roots
            .add(CertificateDer::from_pem_slice(bundle.as_bytes()).unwrap())
            .unwrap();
        let config = rustls::ClientConfig::builder_with_provider(linnet_runtime::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let address = self.running.https_address;
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(address.ip().into(), stream)
            .await
            .unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = Request::post("/v1/certificates")
            .header("host", "localhost")
            .header("authorization", format!("Bearer {token}"))
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn sign(&self, token: &str, csr: &str) -> (StatusCode, Value) {
        self.ask(token, json!({ "csr": csr }).to_string()).await
    }
}

fn csr(key: &KeyPair, uris: &[&str]) -> String {
    let mut params = CertificateParams::default();
    for uri in uris {
        let uri = SanType::URI((*uri).try_into().unwrap());
        params.subject_alt_names.push(uri);
    }
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn plain_csr() -> String {
    csr(&KeyPair::generate().unwrap(), &[])
}

#[tokio::test]
async fn a_token_that_was_stolen_from_another_service_is_refused() {
    let fixture = Fixture::start().await;
    let (status, body) = fixture.sign("for-vault", &plain_csr()).await;
    assert_eq!(
        (status, &body["reason"]),
        (StatusCode::UNAUTHORIZED, &json!("wrong_audience"))
    );
}

#[tokio::test]
async fn a_token_ends_with_its_pod_and_is_not_another_pods_of_that_name() {
    let fixture = Fixture::start().await;
    assert_eq!(fixture.sign("good", &plain_csr()).await.0, StatusCode::OK);
    fixture.server.lock().unwrap().pods.clear();
    let (status, body) = fixture.sign("good", &plain_csr()).await;
    assert_eq!(
        (status, &body["reason"]),
        (StatusCode::UNAUTHORIZED, &json!("bad_token"))
    );
    // A StatefulSet's next pod has the same name, and is another.
    fixture
        .server
        .lock()
        .unwrap()
        .pods
        .insert("payment-0", "uid-2");
    let (status, _) = fixture.sign("good", &plain_csr()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_token_that_is_bound_to_no_pod_is_refused() {
    let fixture = Fixture::start().await;
    let (status, body) = fixture.sign("unbound", &plain_csr()).await;
    assert_eq!(
        (status, &body["reason"]),
        (StatusCode::FORBIDDEN, &json!("unbound_token")),
        "{body}"
    );
}

#[tokio::test]
async fn a_request_that_names_somebody_else_gets_the_tokens_identity() {
    let fixture = Fixture::start().await;
    let key = KeyPair::generate().unwrap();
    for uris in [
        &["spiffe://cluster.local/ns/bank/sa/vault"][..],
        &["spiffe://other.example/ns/shop/sa/payment"],
        &[
            "spiffe://cluster.local/ns/shop/sa/payment",
            "spiffe://cluster.local/ns/bank/sa/vault",
        ],
    ] {
        let (status, body) = fixture.sign("good", &csr(&key, uris)).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let text = |name: &str| body[name].as_str().unwrap();
        let (chain, bundle) = (text("certificates"), text("trust_bundle"));
        let workload = Workload::from_pem(chain, &key.serialize_pem(), bundle).unwrap();
        assert_eq!(
            workload.id().as_str(),
            "spiffe://cluster.local/ns/shop/sa/payment"
        );
    }
}

#[tokio::test]
async fn oversized_and_malformed_requests_are_refused_with_their_reason() {
    let fixture = Fixture::start().await;
    let pem = |body: &str| {
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
    };
    let valid = plain_csr();
    for (csr, status) in [
        ("x".repeat(17 * 1024), StatusCode::PAYLOAD_TOO_LARGE),
        (pem(&"A".repeat(15 * 1024)), StatusCode::BAD_REQUEST),
        (pem("!!!!"), StatusCode::BAD_REQUEST),
        (pem(""), StatusCode::BAD_REQUEST),
        (valid[..valid.len() / 2].to_owned(), StatusCode::BAD_REQUEST),
        (valid.replacen("MI", "MA", 1), StatusCode::BAD_REQUEST),
    ] {
        let (answered, body) = fixture.sign("good", &csr).await;
        assert_eq!(
            (answered, &body["reason"]),
            (status, &json!("bad_csr")),
            "{body}"
        );
    }
    let long = json!({ "csr": "x".repeat(70 * 1024) }).to_string();
    let (status, body) = fixture.ask("good", long).await;
    assert_eq!(
        (status, &body["reason"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("too_large"))
    );
}
