//! Endpoints whose sidecar answers while their application does not listen: no
//! caller notices them.

use crate::support::{Mesh, Sidecar, count, identity};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use linnet_proxy::server::Running;
use linnet_runtime::testing::closed;
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};
use tokio::net::{TcpListener, TcpStream};

/// What a caller speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Speaks {
    Http1,
    Http2,
    Grpc,
}

/// An application that answers each request with its body, and counts them.
async fn echo() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::<AtomicUsize>::default();
    let counted = requests.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counted = counted.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                counted.fetch_add(1, SeqCst);
                async {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let answer = Response::builder().header("grpc-status", "0");
                    Ok::<_, Infallible>(answer.body(Full::new(body)).unwrap())
                }
            });
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                // A connection ends as the test does.
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, requests)
}

/// A caller of a service with an endpoint for each of these applications.
struct Shop {
    caller: Running,
    callee: Running,
}

impl Shop {
    async fn start(mesh: &Mesh, apps: &[SocketAddr]) -> Self {
        let inbound: Vec<_> = apps
            .iter()
            .map(|app| format!("127.0.0.1:0={app}"))
            .collect();
        let callee = mesh
            .start(Sidecar {
                account: "payment",
                outbound: String::new(),
                inbound: inbound.join(","),
                services: "inboundMtls: STRICT\nservices: {}\n".into(),
            })
            .await;
        let host = "payment.default.svc.cluster.local:80";
        let mut services = format!("services:\n  {host}:\n");
        for address in &callee.inbound {
            let identity = identity("payment");
            services += &format!("    - address: {address}\n      identity: {identity}\n");
        }
        let caller = mesh
            .start(Sidecar {
                account: "checkout",
                outbound: format!("127.0.0.1:0={host}"),
                inbound: String::new(),
                services,
            })
            .await;
        Self { caller, callee }
    }

    /// Requests that reached the endpoint without an application.
    fn attempts(&self) -> f64 {
        let metrics = self.callee.metrics_text();
        let flagged = ["reporter=\"destination\"", "response_flags=\"UF\""];
        count(&metrics, "istio_requests_total", &flagged)
    }
}

/// Sends requests one after the other, and returns how many failed.
async fn failures(sidecar: SocketAddr, speaks: Speaks, body: &'static str, times: usize) -> usize {
    let io = TokioIo::new(TcpStream::connect(sidecar).await.unwrap());
    let request = || {
        let builder = match body {
            "" => Request::get("http://payment/a.B/C"),
            _ => Request::post("http://payment/a.B/C"),
        };
        let builder = match speaks {
            Speaks::Grpc => builder.header("content-type", "application/grpc"),
            Speaks::Http1 => builder.header("host", "payment"),
            Speaks::Http2 => builder,
        };
        builder.body(Full::new(Bytes::from(body))).unwrap()
    };
    let mut failed = 0;
    if speaks == Speaks::Http1 {
        let (mut sender, connection) = conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..times {
            sender.ready().await.unwrap();
            failed += is_failure(sender.send_request(request()).await.unwrap(), body).await;
        }
        return failed;
    }
    let executor = TokioExecutor::new();
    let (mut sender, connection) = conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..times {
        failed += is_failure(sender.send_request(request()).await.unwrap(), body).await;
    }
    failed
}

async fn is_failure(answer: Response<Incoming>, body: &str) -> usize {
    let grpc = answer
        .headers()
        .get("grpc-status")
        .map(http::HeaderValue::as_bytes);
    let ok = answer.status() == StatusCode::OK && grpc == Some(b"0");
    let marked = answer.headers().contains_key("x-linnet-undelivered");
    let echoed = answer.into_body().collect().await.unwrap().to_bytes();
    usize::from(!ok || marked || echoed != body)
}

#[tokio::test]
async fn an_endpoint_without_its_application_fails_nobody() {
    for speaks in [Speaks::Http1, Speaks::Http2, Speaks::Grpc] {
        for body in ["", "charge"] {
            let mesh = Mesh::new();
            let apps = [echo().await.0, closed()];
            let half = Shop::start(&mesh, &apps).await;
            let began = Instant::now();
            let failed = failures(half.caller.outbound[0], speaks, body, 200).await;
            assert_eq!(failed, 0, "{speaks:?} {body:?}");
            // One attempt finds it out, and one a second looks whether it is back.
            let most = 1.0 + began.elapsed().as_secs_f64().floor();
            let attempts = half.attempts();
            assert!(attempts <= most, "{speaks:?} {body:?}: {attempts} attempts");
        }
    }
}

#[tokio::test]
async fn equal_endpoints_share_the_requests_of_one_connection() {
    for count in [2, 3] {
        let mesh = Mesh::new();
        let (mut apps, mut counts) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (app, requests) = echo().await;
            apps.push(app);
            counts.push(requests);
        }
        let shop = Shop::start(&mesh, &apps).await;
        let failed = failures(shop.caller.outbound[0], Speaks::Http1, "", 1_000).await;
        assert_eq!(failed, 0);
        let counts: Vec<_> = counts.iter().map(|count| count.load(SeqCst)).collect();
        let even = 1_000 / count;
        let fair = even * 9 / 10..=even * 11 / 10;
        assert!(
            counts.iter().all(|count| fair.contains(count)),
            "{counts:?}"
        );
    }
}
