//! The injector against an API server in memory: its certificate, its `caBundle`,
//! and a review over TLS as the API server would send it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failing unwrap is a failing test with a line number"
)]

mod api_server;

use std::{net::SocketAddr, sync::Arc};

use api_server::ApiServer;
use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret};
use linnet_admission::{Names, serving_certificate::Material};
use linnet_injector::{Config, config::variable};
use linnet_runtime::{drain, settings::Settings};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

type Keeper = linnet_admission::Keeper<MutatingWebhookConfiguration>;

const NAME: &str = "linnet-injector.linnet-system.svc";

fn keeper(api: &ApiServer) -> Keeper {
    let names = Names {
        namespace: "linnet-system".to_owned(),
        secret: api_server::SECRET.to_owned(),
        webhook_configuration: api_server::CONFIGURATION.to_owned(),
        dns_name: NAME.to_owned(),
    };
    Keeper::new(api.client(), names)
}

fn bundles(configuration: Option<&Value>) -> Vec<String> {
    let webhooks = configuration
        .and_then(|c| c["webhooks"].as_array())
        .into_iter()
        .flatten();
    webhooks
        .filter_map(|webhook| webhook["clientConfig"]["caBundle"].as_str())
        .map(|encoded| String::from_utf8(BASE64_STANDARD.decode(encoded).unwrap()).unwrap())
        .collect()
}

fn material(secret: Option<&Value>) -> Option<Material> {
    let secret: Secret = serde_json::from_value(secret?.clone()).unwrap();
    Some(Material::from_data(&secret.data.unwrap()).unwrap())
}

/// Both webhooks trust what the Secret says.
fn in_step(objects: &api_server::Objects) -> bool {
    let Some(material) = material(objects.secret.as_ref()) else {
        return false;
    };
    bundles(objects.configuration.as_ref()) == [material.bundle(), material.bundle()]
}

#[tokio::test]
async fn the_first_start_makes_what_is_missing_and_the_second_nothing() {
    let api = ApiServer::new();
    api.install_configuration();
    let now = OffsetDateTime::now_utc();
    keeper(&api).reconcile(now).await.unwrap();
    assert_eq!(
        api.objects().writes,
        ["create secret", "patch configuration"]
    );
    assert!(in_step(&api.objects()));
    keeper(&api).reconcile(now).await.unwrap();
    assert_eq!(api.objects().writes.len(), 2);
}

#[tokio::test]
async fn without_a_configuration_the_certificate_is_made_anyway() {
    let api = ApiServer::new();
    keeper(&api)
        .reconcile(OffsetDateTime::now_utc())
        .await
        .unwrap();
    assert_eq!(api.objects().writes, ["create secret"]);
}

#[tokio::test]
async fn replicas_that_start_together_agree() {
    let api = ApiServer::new();
    api.install_configuration();
    let now = OffsetDateTime::now_utc();
    let [one, two, three] = [(); 3].map(|()| keeper(&api));
    let (one, two, three) =
        tokio::join!(one.reconcile(now), two.reconcile(now), three.reconcile(now));
    one.and(two).and(three).unwrap();
    let created = api
        .objects()
        .writes
        .iter()
        .filter(|write| *write == "create secret")
        .count();
    assert_eq!(created, 1);
    assert!(in_step(&api.objects()));
}

#[tokio::test]
async fn a_conflict_is_read_again_and_endless_ones_are_an_error() {
    let api = ApiServer::new();
    api.objects().conflicts = 3;
    keeper(&api)
        .reconcile(OffsetDateTime::now_utc())
        .await
        .unwrap();
    assert_eq!(api.objects().writes, ["create secret"]);

    let api = ApiServer::new();
    api.objects().conflicts = usize::MAX;
    let error = keeper(&api)
        .reconcile(OffsetDateTime::now_utc())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("changed by others"), "{error}");
}

#[tokio::test]
async fn a_year_of_rotation_never_breaks_the_chain() {
    let api = ApiServer::new();
    api.install_configuration();
    let start = OffsetDateTime::now_utc();
    let mut seen_two = false;
    for hours in (0..400 * 24).step_by(12) {
        keeper(&api)
            .reconcile(start + Duration::hours(hours))
            .await
            .unwrap();
        let objects = api.objects();
        assert!(in_step(&objects), "after {hours} h");
        let material = material(objects.secret.as_ref()).unwrap();
        assert!(
            material.not_after() > start + Duration::hours(hours + 24),
            "after {hours} h"
        );
        let authorities = CertificateDer::pem_slice_iter(material.bundle().as_bytes()).count();
        assert!(
            (1..=3).contains(&authorities),
            "{authorities} authorities after {hours} h"
        );
        seen_two |= authorities == 2;
    }
    assert!(seen_two, "the authority was renewed");
}

#[tokio::test]
async fn a_spoilt_secret_is_made_anew() {
    let api = ApiServer::new();
    api.install_configuration();
    let now = OffsetDateTime::now_utc();
    keeper(&api).reconcile(now).await.unwrap();
    api.change(|objects, version| {
        let secret = objects.secret.as_mut().unwrap();
        secret["data"]["tls.key"] = json!(BASE64_STANDARD.encode("not a key"));
        secret["metadata"]["resourceVersion"] = json!(version.to_string());
    });
    keeper(&api).reconcile(now).await.unwrap();
    assert!(in_step(&api.objects()));
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let api = ApiServer::new();
    api.objects().forbidden = true;
    let error = keeper(&api)
        .reconcile(OffsetDateTime::now_utc())
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("Secret linnet-system/linnet-injector-tls"),
        "{text}"
    );
    assert!(
        text.contains("needs get, list, watch, create and update"),
        "{text}"
    );
}

struct Running {
    addresses: linnet_injector::server::Addresses,
    signal: drain::Signal,
}

async fn run(api: &ApiServer) -> Running {
    let loopback = |name: &str| {
        let loopback = [variable::WEBHOOK_ADDRESS, variable::HEALTH_ADDRESS].contains(&name);
        loopback.then(|| "127.0.0.1:0".to_owned())
    };
    let config = Config::read(Settings::new(&loopback));
    let injector = config.unwrap().build(api.client()).await.unwrap();
    let addresses = injector.addresses().unwrap();
    let (signal, watch) = drain::channel();
    tokio::spawn(injector.serve(watch));
    Running { addresses, signal }
}

/// Sends a review as the API server does: trusting the `caBundle`, expecting the
/// Service's name. Answers the response and the certificate that was presented.
async fn review(
    address: SocketAddr,
    bundle: &str,
    body: &str,
) -> std::io::Result<(String, CertificateDer<'static>)> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(authority.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(NAME).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let mut stream = connector.connect(name, stream).await?;
    let presented = stream.get_ref().1.peer_certificates().unwrap()[0]
        .clone()
        .into_owned();
    let head = format!(
        "POST /inject HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok((response, presented))
}

fn creation(namespace: &str) -> String {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u1", "operation": "CREATE", "namespace": namespace,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "object": {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}},
    }})
    .to_string()
}

async fn ready(address: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /healthz/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response.starts_with("HTTP/1.1 200")
}

#[tokio::test]
async fn a_review_over_tls_and_a_rotation_without_restart() {
    let api = ApiServer::new();
    api.install_configuration();
    api.change(|objects, _| {
        let shop = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": "shop", "uid": "1", "resourceVersion": "1", "labels": {"istio-injection": "enabled"}}});
        objects.namespaces.insert("shop".to_owned(), shop);
    });
    let running = run(&api).await;
    api.until(in_step).await;
    let limit = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while !ready(running.addresses.health).await {
            tokio::task::yield_now().await;
        }
    });
    limit.await.expect("never ready");

    let bundle = bundles(api.objects().configuration.as_ref()).remove(0);
    let address = running.addresses.webhook;
    let (response, first) = review(address, &bundle, &creation("shop")).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(
        response.contains("\"patchType\":\"JSONPatch\""),
        "{response}"
    );
    let (response, _) = review(address, &bundle, "{").await.unwrap();
    assert!(response.starts_with("HTTP/1.1 400"), "{response}");

    // Somebody applies the manifest again, which empties the bundle.
    api.install_configuration();
    api.until(in_step).await;

    // Somebody puts another authority and certificate into the Secret.
    let other = Material::create(NAME, OffsetDateTime::now_utc()).unwrap();
    api.change(|objects, version| {
        let secret = objects.secret.as_mut().unwrap();
        secret["data"] = json!(other.to_data());
        secret["metadata"]["resourceVersion"] = json!(version.to_string());
    });
    api.until(in_step).await;
    let (_, second) = review(address, other.bundle(), &creation("shop"))
        .await
        .unwrap();
    assert_ne!(first, second);
    assert!(
        review(address, &bundle, "{}").await.is_err(),
        "the old authority no longer vouches"
    );

    assert!(
        running
            .signal
            .drain_within(std::time::Duration::from_secs(10))
            .await
    );
    assert!(
        TcpStream::connect(address).await.is_err(),
        "the listener is closed"
    );
}
