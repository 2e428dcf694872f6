//! Identity: certificates for a thousand callers over one kept connection, each
//! request with a token and a proof of its key.

use crate::{Failure, Figures, http_load::Load, process::Service};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use std::sync::Arc;

pub(crate) async fn measure(quick: bool) -> Result<Figures, Failure> {
    let closed = if quick { 4000 } else { 16_000 };
    let place = tempfile::tempdir()?;
    let service = Service::start("identity", place.path())?;
    let tokens = service.said["tokens"].as_array().ok_or("no tokens")?;
    let asked: Vec<(String, Bytes)> = tokens
        .iter()
        .map(|token| {
            Ok((
                format!("Bearer {}", token.as_str().unwrap_or_default()),
                body()?,
            ))
        })
        .collect::<Result<_, Failure>>()?;
    let requests = move |number: u32| {
        let (token, body) = &asked[number as usize % asked.len()];
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static("https://localhost/v1/certificates");
        if let Ok(value) = token.parse() {
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        request
    };
    let bundle = service.said["bundle"].as_str().unwrap_or_default();
    let load = Load::connect(service.address("https")?, trusting(bundle)?, requests).await?;
    let before = service.cpu()?;
    let rate = load.closed(closed).await?;
    let cpu = (service.cpu()? - before).as_secs_f64() * 1e6 / f64::from(closed);
    let mut figures = Figures::new();
    figures.insert("sign_rate".to_owned(), rate.into());
    figures.insert("sign_cpu".to_owned(), cpu.into());
    figures.insert(
        "identity_anonymous".to_owned(),
        service.memory()?.anonymous.into(),
    );
    figures.insert(
        "identity_resident".to_owned(),
        service.memory()?.resident.into(),
    );
    Ok(figures)
}

/// A request for a certificate of a fresh key.
fn body() -> Result<Bytes, Failure> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let csr = CertificateParams::default()
        .serialize_request(&key)?
        .pem()?;
    Ok(json!({ "csr": csr }).to_string().into())
}

fn trusting(bundle: &str) -> Result<Arc<rustls::ClientConfig>, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(bundle.as_bytes())?)?;
    let provider = linnet_runtime::tls::provider();
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}
