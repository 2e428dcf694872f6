//! The injection webhook: reviews of a Deployment's pod over one kept connection,
//! as the API server sends them.

use crate::{Failure, Figures, credentials::Credentials, http_load::Load, process::Service};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;

const REVIEW: &[u8] = include_bytes!("../../../injector/tests/fixtures/deployment-pod/review.json");
const RATE: u32 = 100;

pub(crate) async fn measure(quick: bool) -> Result<Figures, Failure> {
    let (closed, paced) = if quick { (4000, 500) } else { (16_000, 1000) };
    let place = tempfile::tempdir()?;
    let credentials = Credentials::new()?;
    credentials.write(place.path(), "linnet-injector")?;
    let service = Service::start("injector", place.path())?;
    let tls = credentials
        .workload("kube-system", "api-server")?
        .client_config(&[b"h2"]);
    let request = |_| {
        let mut request = Request::new(Full::new(Bytes::from_static(REVIEW)));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static("https://linnet-injector/inject");
        let json = http::HeaderValue::from_static("application/json");
        request
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, json);
        request
    };
    let load = Load::connect(service.address("webhook")?, tls, request).await?;
    let (p50, p99) = load.paced(RATE, paced).await?;
    let before = service.cpu()?;
    let rate = load.closed(closed).await?;
    let cpu = (service.cpu()? - before).as_secs_f64() * 1e6 / f64::from(closed);
    let mut figures = Figures::new();
    figures.insert("webhook_p50".to_owned(), p50.into());
    figures.insert("webhook_p99".to_owned(), p99.into());
    figures.insert("webhook_rate".to_owned(), rate.into());
    figures.insert("webhook_cpu".to_owned(), cpu.into());
    figures.insert(
        "injector_anonymous".to_owned(),
        service.memory()?.anonymous.into(),
    );
    figures.insert(
        "injector_resident".to_owned(),
        service.memory()?.resident.into(),
    );
    Ok(figures)
}
