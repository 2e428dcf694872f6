use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use http_body_util::BodyExt;
use kube::{Client, client::Body};
use linnet_mesh::TrustDomain;
use linnet_runtime::certificate::Workload;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tower::service_fn;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn authority(lifetime: Duration) -> Authority {
    Authority::new(
        Root::generate(&TrustDomain::default(), now()).unwrap(),
        lifetime,
        now(),
    )
    .unwrap()
}

fn payment() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/payment".parse().unwrap()
}

fn chain(signed: &Signed) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(signed.chain_pem.as_bytes())
        .map(Result::unwrap)
        .collect()
}

/// Panics unless a peer would take this chain at this time.
fn verify(signed: &Signed, bundle_pem: &str, at: OffsetDateTime) {
    use rustls::pki_types::UnixTime;
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle_pem.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let chain = chain(signed);
    let at = u64::try_from(at.unix_timestamp()).unwrap();
    rustls::client::verify_server_cert_signed_by_trust_anchor(
        &rustls::server::ParsedCertificate::try_from(&chain[0]).unwrap(),
        &roots,
        &chain[1..],
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(at)),
        linnet_runtime::certificate::provider()
            .signature_verification_algorithms
            .all,
    )
    .unwrap();
}

#[test]
fn a_leaf_says_what_it_was_told_and_nothing_else() {
    let authority = authority(Duration::DAY);
    let key = KeyPair::generate().unwrap();
    let at = now();
    let signed = authority
        .sign(&key, &payment(), Duration::HOUR, at)
        .unwrap();
    verify(&signed, authority.bundle_pem(), at);
    assert_eq!(signed.not_after, whole_seconds(at + Duration::HOUR));

    let chain = chain(&signed);
    assert_eq!(chain.len(), 2, "leaf and issuer");
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(
        leaf.validity().not_before.to_datetime(),
        whole_seconds(at - Duration::MINUTE)
    );
    assert!(leaf.subject().iter().next().is_none());
    assert!(!leaf.is_ca());
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    let names: Vec<String> = names
        .value
        .general_names
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["URI(spiffe://cluster.local/ns/shop/sa/payment)"]);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "digital signature only");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);

    let (_, issuer) = X509Certificate::from_der(&chain[1]).unwrap();
    let constraints = issuer.basic_constraints().unwrap().unwrap().value;
    assert_eq!(
        (constraints.ca, constraints.path_len_constraint),
        (true, Some(0))
    );

    let pem = key.serialize_pem();
    let workload = Workload::from_pem(&signed.chain_pem, &pem, authority.bundle_pem()).unwrap();
    assert_eq!(*workload.id(), payment());
}

#[test]
fn serial_numbers_differ() {
    let authority = authority(Duration::DAY);
    let key = KeyPair::generate().unwrap();
    let serial = || {
        let signed = authority
            .sign(&key, &payment(), Duration::HOUR, now())
            .unwrap();
        let chain = chain(&signed);
        X509Certificate::from_der(&chain[0])
            .unwrap()
            .1
            .raw_serial_as_string()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn a_longer_lifetime_is_not_given() {
    let authority = authority(Duration::HOUR);
    let key = KeyPair::generate().unwrap();
    let at = now();
    let signed = authority.sign(&key, &payment(), Duration::DAY, at).unwrap();
    assert_eq!(signed.not_after, whole_seconds(at + Duration::HOUR));
}

#[test]
fn issuers_are_replaced_before_they_cut_certificates_short() {
    let authority = authority(Duration::days(30));
    let key = KeyPair::generate().unwrap();
    let start = now();
    let mut issuers = std::collections::BTreeSet::new();
    for day in 0..200 {
        let at = start + Duration::days(day);
        let signed = authority
            .sign(&key, &payment(), Duration::days(30), at)
            .unwrap();
        assert_eq!(
            signed.not_after,
            whole_seconds(at + Duration::days(30)),
            "day {day}"
        );
        verify(&signed, authority.bundle_pem(), at);
        verify(&signed, authority.bundle_pem(), signed.not_after);
        issuers.insert(chain(&signed)[1].as_ref().to_vec());
    }
    assert_eq!(issuers.len(), 7, "one a month");
}

#[test]
fn nothing_outlives_the_root() {
    let authority = authority(Duration::DAY);
    let key = KeyPair::generate().unwrap();
    let end = authority.root.not_after();
    let signed = authority
        .sign(&key, &payment(), Duration::DAY, end - Duration::HOUR)
        .unwrap();
    assert_eq!(signed.not_after, end);
    verify(&signed, authority.bundle_pem(), end);
    let late = authority.sign(&key, &payment(), Duration::DAY, end + Duration::DAY);
    assert!(matches!(late, Err(SignError::RootExpired(_))));
}

#[test]
fn an_intermediate_may_be_brought() {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name("corporate root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let corporate = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name("mesh");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let mesh = params.signed_by(&key, &corporate).unwrap();

    let root = Root::from_pem(&mesh.pem(), &key.serialize_pem(), &corporate.pem()).unwrap();
    let authority = Authority::new(root, Duration::DAY, now()).unwrap();
    let signed = authority
        .sign(&key, &payment(), Duration::DAY, now())
        .unwrap();
    assert_eq!(chain(&signed).len(), 3);
    verify(&signed, &corporate.pem(), now());
}

#[test]
fn a_root_that_cannot_sign_names_the_field() {
    let good = Root::generate(&TrustDomain::default(), now()).unwrap();
    let other = Root::generate(&TrustDomain::default(), now()).unwrap();
    let (certificate, key) = (good.certificate_pem(), good.key_pem());
    let told = |certificate: &str, key: &str, bundle: &str| {
        Root::from_pem(certificate, key, bundle)
            .unwrap_err()
            .to_string()
    };
    assert!(told(certificate, &other.key_pem(), certificate).starts_with("tls.key: not the key"));
    assert!(told(certificate, "", certificate).starts_with("tls.key:"));
    assert!(told("", &key, certificate).starts_with("tls.crt: no certificate"));
    assert!(told(certificate, &key, "").starts_with("ca.crt: no certificate"));
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::default()
        .self_signed(&leaf_key)
        .unwrap()
        .pem();
    assert!(told(&leaf, &leaf_key.serialize_pem(), &leaf).contains("not a certificate authority"));
    let authority = authority(Duration::DAY);
    let issuer = authority.issuer(now()).unwrap();
    let issuer_key = issuer.signer.key().serialize_pem();
    assert!(told(&issuer.signer.pem(), &issuer_key, certificate).contains("path length of 0"));
}

#[tokio::test]
async fn a_directory_keeps_the_root() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca");
    let store = RootStore::Directory(path.clone());
    let first = store.load_or_create(&TrustDomain::default()).await.unwrap();
    let again = store.load_or_create(&TrustDomain::default()).await.unwrap();
    assert_eq!(first.bundle_pem(), again.bundle_pem());
    let mode =
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path.join("tls.key")).unwrap());
    assert_eq!(mode & 0o777, 0o600);

    std::fs::write(path.join("tls.crt"), "damaged").unwrap();
    let error = store
        .load_or_create(&TrustDomain::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("tls.crt") && error.contains(path.to_str().unwrap()),
        "{error}"
    );
    std::fs::remove_file(path.join("tls.crt")).unwrap();
    let error = store
        .load_or_create(&TrustDomain::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("tls.crt"), "{error}");
}

type Kept = Arc<Mutex<BTreeMap<String, Value>>>;

/// A Kubernetes API with Secrets. Readers of an absent Secret wait for one
/// another, so that all of them find it absent.
fn secrets(readers: usize) -> (Client, Kept) {
    let kept = Arc::new(Mutex::new(BTreeMap::new()));
    let barrier = Arc::new(tokio::sync::Barrier::new(readers));
    let state = kept.clone();
    let service = service_fn(move |request: http::Request<Body>| {
        let (state, barrier) = (state.clone(), barrier.clone());
        async move {
            let path = request.uri().path().to_owned();
            let created = request.method() == http::Method::POST;
            let body = request.into_body().collect().await?.to_bytes();
            let (code, answer) = if created {
                assert_eq!(path, "/api/v1/namespaces/linnet-system/secrets");
                create(&state, &body)
            } else {
                assert_eq!(path, "/api/v1/namespaces/linnet-system/secrets/linnet-root");
                let found = state.lock().unwrap().get("linnet-root").cloned();
                if found.is_none() {
                    barrier.wait().await;
                }
                found.map_or_else(|| failure(404, "NotFound"), |secret| (200, secret))
            };
            let response = http::Response::builder().status(code);
            Ok::<_, kube::Error>(
                response
                    .body(Body::from(answer.to_string().into_bytes()))
                    .unwrap(),
            )
        }
    });
    (Client::new(service, "default"), kept)
}

fn create(state: &Mutex<BTreeMap<String, Value>>, body: &[u8]) -> (u16, Value) {
    let secret: Value = serde_json::from_slice(body).unwrap();
    let mut state = state.lock().unwrap();
    if state.contains_key("linnet-root") {
        return failure(409, "AlreadyExists");
    }
    state.insert("linnet-root".to_owned(), secret.clone());
    (201, secret)
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code,
    });
    (code, status)
}

#[tokio::test]
async fn replicas_that_race_end_with_one_root() {
    let (client, kept) = secrets(2);
    let store = RootStore::Secret {
        client,
        namespace: "linnet-system".to_owned(),
    };
    let domain = TrustDomain::default();
    let (one, two) = tokio::join!(store.load_or_create(&domain), store.load_or_create(&domain));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.bundle_pem(), two.bundle_pem());
    assert_eq!(one.key_pem(), two.key_pem());
    let later = store.load_or_create(&domain).await.unwrap();
    assert_eq!(later.bundle_pem(), one.bundle_pem());
    let kept = kept.lock().unwrap();
    assert_eq!(kept["linnet-root"]["type"], "kubernetes.io/tls");
    assert_eq!(
        kept["linnet-root"]["metadata"]["labels"]["app.kubernetes.io/part-of"],
        "linnet"
    );
}

#[tokio::test]
async fn a_damaged_secret_is_reported_and_left_alone() {
    let (client, kept) = secrets(1);
    let damaged = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "linnet-root"}, "data": {"tls.crt": "bm90aGluZw=="},
    });
    kept.lock()
        .unwrap()
        .insert("linnet-root".to_owned(), damaged.clone());
    let store = RootStore::Secret {
        client,
        namespace: "linnet-system".to_owned(),
    };
    let error = store
        .load_or_create(&TrustDomain::default())
        .await
        .unwrap_err();
    assert!(!error.is_transient());
    let error = error.to_string();
    assert!(
        error.contains("Secret linnet-system/linnet-root: tls.key"),
        "{error}"
    );
    assert_eq!(kept.lock().unwrap()["linnet-root"], damaged);
}
