use super::*;
use crate::probe::grpc::{HealthCheckRequest, HealthCheckResponse, ServingStatus};
use ::http::Request;
use ::http::header;
use axum::{
    body::Body,
    extract::Request as AxumRequest,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use prost::Message;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::TcpListener};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// Serves an app on a port of its own, over HTTP/1 or HTTP/2.
async fn serve(app: Router, tls: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let server =
            hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper_util::service::TowerToHyperService::new(app.clone());
            // Serving ends in an error when the probe hangs up first.
            let _ = match &tls {
                Some(tls) => {
                    let stream = tls.accept(stream).await.unwrap();
                    let io = hyper_util::rt::TokioIo::new(stream);
                    server.serve_connection(io, service).await
                }
                None => {
                    let io = hyper_util::rt::TokioIo::new(stream);
                    server.serve_connection(io, service).await
                }
            };
        }
    });
    port
}

/// Asks as a stranger would, with headers and a query of its own.
async fn ask(router: &Router) -> StatusCode {
    let request = Request::get("/probe/app/readiness?deep=2")
        .header("user-agent", "stranger")
        .header("x-user", "root")
        .body(Body::empty())
        .unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    for name in response.headers().keys() {
        assert_eq!(name, "content-length", "{:?}", response.headers());
    }
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), 0, "{status}: {body:?}");
    status
}

fn router(mut description: Value) -> Router {
    description["path"] = json!("/probe/app/readiness");
    Probes::parse(&json!([description]).to_string())
        .unwrap()
        .router()
}

async fn probe(description: Value) -> StatusCode {
    ask(&router(description)).await
}

/// The same, with what the log would say of a failure.
async fn failure(mut description: Value) -> String {
    description["path"] = json!("/probe/app/readiness");
    let (_, probe) = parse_element(description).unwrap();
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), probe.port);
    probe.make(address).await.unwrap_err().to_string()
}

/// An application that keeps what it was asked.
#[derive(Clone, Default)]
struct Seen(Arc<std::sync::Mutex<Vec<String>>>);

impl Seen {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn app(&self) -> Router {
        let seen = self.clone();
        Router::new().fallback(async move |request: AxumRequest| {
            seen.0.lock().unwrap().push(format!(
                "{:?} {} {:?}",
                request.version(),
                request.uri(),
                request.headers()
            ));
            answer_to(request.uri())
        })
    }
}

fn answer_to(uri: &Uri) -> Response {
    let moved = |to: String| (StatusCode::FOUND, [(header::LOCATION, to)]).into_response();
    match uri.path() {
        "/ill" => (StatusCode::INTERNAL_SERVER_ERROR, "ill").into_response(),
        "/moved" => moved(uri.query().unwrap_or("/elsewhere").to_owned()),
        "/for-ever" => moved("/for-ever".to_owned()),
        "/unmodified" => (StatusCode::NOT_MODIFIED, [(header::LOCATION, "/ill")]).into_response(),
        "/large" => "x".repeat(1 << 20).into_response(),
        _ => ([("x-secret", "s")], "the application's answer").into_response(),
    }
}

#[tokio::test]
async fn an_http_probe_is_the_manifest_s_and_its_answer_the_status_alone() {
    let seen = Seen::default();
    let port = serve(seen.app(), None).await;
    let status = probe(json!({
        "kind": "http", "port": port, "scheme": "HTTP", "http_path": "/ready?deep=a b",
        "headers": [{"name": "Host", "value": "payment.example"}, {"name": "X-A", "value": "1"},
            {"name": "Accept", "value": ""}],
        "timeout_seconds": 1,
    }))
    .await;
    assert_eq!(status, StatusCode::OK);
    let asked = seen.take().remove(0);
    for part in [
        "HTTP/1.1 /ready?deep=a%20b ",
        "\"host\": \"payment.example\"",
        "\"x-a\": \"1\"",
        "\"user-agent\": \"kube-probe/linnet\"",
    ] {
        assert!(asked.contains(part), "{part} in {asked}");
    }
    // Nothing that the asker says arrives.
    for part in ["accept", "stranger", "x-user", "deep=2"] {
        assert!(!asked.contains(part), "{part} in {asked}");
    }
    let at = |path: &str| json!({"kind": "http", "port": port, "http_path": path});
    assert_eq!(probe(at("ill")).await, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(probe(at("/large")).await, StatusCode::OK);
    seen.take();
    probe(at("")).await;
    let asked = seen.take().remove(0);
    let host = format!("\"host\": \"127.0.0.1:{port}\"");
    assert!(asked.contains(&host), "{asked}");
}

/// What the kubelet makes of each: a redirect to the pod is followed, one to
/// elsewhere is a success, the eleventh request is one too many.
#[tokio::test]
async fn redirects_are_followed_within_the_pod_and_nowhere_else() {
    let seen = Seen::default();
    let port = serve(seen.app(), None).await;
    let other = serve(seen.app(), None).await;
    let own = StatusCode::INTERNAL_SERVER_ERROR;
    let elsewhere = StatusCode::FOUND;
    for (location, status, asked) in [
        ("/ill".to_owned(), own, "/ill"),
        ("ill".to_owned(), own, "/ill"),
        (format!("http://127.0.0.1:{port}/ill"), own, "/ill"),
        (format!("//127.0.0.1:{port}/ill"), own, "/ill"),
        // The kubelet compares hosts, not ports.
        (format!("http://127.0.0.1:{other}/ill"), own, "/ill"),
        (format!("http://127.0.0.2:{other}/ill"), elsewhere, ""),
        (format!("http://localhost:{port}/ill"), elsewhere, ""),
        ("http://payment.example/ill".to_owned(), elsewhere, ""),
        ("http://127.0.0.1:15000/ill".to_owned(), elsewhere, ""),
        (
            "http://127.0.0.1:15020/probe/app/readiness".to_owned(),
            elsewhere,
            "",
        ),
        (
            "http://127.0.0.1@evil.example/ill".to_owned(),
            elsewhere,
            "",
        ),
        ("http://[::1]:80/ill".to_owned(), elsewhere, ""),
        ("http://127.0.0.1:0/".to_owned(), elsewhere, ""),
        ("file:///etc/passwd".to_owned(), elsewhere, ""),
        ("javascript:x".to_owned(), elsewhere, ""),
    ] {
        let path = format!("/moved?{location}");
        let found = probe(json!({"kind": "http", "port": port, "http_path": path})).await;
        assert_eq!(found, status, "{location}");
        let then = seen.take().split_off(1);
        assert_eq!(
            then.len(),
            usize::from(!asked.is_empty()),
            "{location}: {then:?}"
        );
        assert!(
            then.iter().all(|line| line.contains(asked)),
            "{location}: {then:?}"
        );
    }
    let at = |path: &str| json!({"kind": "http", "port": port, "http_path": path});
    assert_eq!(
        probe(at("/for-ever")).await,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(seen.take().len(), http::REQUESTS);
    assert_eq!(probe(at("/unmodified")).await, StatusCode::NOT_MODIFIED);
    assert_eq!(seen.take().len(), 1);
}

/// However many ask, hang up and ask again, the application sees one probe.
#[tokio::test]
async fn a_crowd_makes_one_probe() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = router(json!({"kind": "http", "port": port, "timeout_seconds": 600}));
    // One after another, and each hangs up while the application thinks.
    let ask_and_hang_up = async |router: &Router| {
        let asking = std::pin::pin!(ask(router));
        tokio::select! {
            biased;
            status = asking => panic!("answered: {status}"),
            () = tokio::task::yield_now() => {}
        }
    };
    ask_and_hang_up(&router).await;
    let (mut app, _) = listener.accept().await.unwrap();
    for _ in 0..100 {
        ask_and_hang_up(&router).await;
    }
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let router = router.clone();
        crowd.spawn(async move { ask(&router).await });
    }
    let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut app, answer)
        .await
        .unwrap();
    for status in crowd.join_all().await {
        assert_eq!(status, StatusCode::NO_CONTENT);
    }
    let another = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(another.is_err(), "a second connection");
}

/// The limit for who asks as fast as can be, by the clock of the process.
#[tokio::test(start_paused = true)]
async fn the_application_sees_two_probes_a_second() {
    let (_socket, port) = shut();
    let (_, probe) = parse_element(json!({
        "path": "/probe/app/readiness", "kind": "tcp", "port": port,
    }))
    .unwrap();
    let shared = Shared::new(probe, Ipv4Addr::LOCALHOST.into());
    let mut made = 0;
    let mut before = None;
    for _ in 0..10_000 {
        shared.ask("/probe/app/readiness").await;
        let last = *shared.last.lock().await;
        made += usize::from(last != before);
        before = last;
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert!((19..=20).contains(&made), "{made} in ten seconds");
}

fn acceptor(alpn: &[&[u8]]) -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["app".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = rustls::ServerConfig::builder_with_provider(linnet_runtime::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config).into()
}

#[tokio::test]
async fn https_probe_takes_any_certificate() {
    for (alpn, version) in [(&[][..], "HTTP/1.1"), (&[&b"h2"[..]][..], "HTTP/2.0")] {
        let seen = Seen::default();
        let port = serve(seen.app(), Some(acceptor(alpn))).await;
        let status = probe(json!({
            "kind": "http", "port": port, "scheme": "HTTPS", "http_path": "/ready",
            "timeout_seconds": 5,
        }))
        .await;
        assert_eq!(status, StatusCode::OK);
        let asked = seen.take().remove(0);
        assert!(asked.starts_with(version), "{asked}");
    }
}

/// A health service that knows one healthy and one ailing service.
async fn health(request: AxumRequest) -> Response {
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let asked = HealthCheckRequest::decode(&body[5..]).unwrap();
    let status = match asked.service.as_str() {
        "" => ServingStatus::Serving,
        "ailing" => ServingStatus::NotServing,
        _ => {
            let headers = [("grpc-status", "5"), ("grpc-message", "unknown service")];
            return headers.into_response();
        }
    };
    let message = grpc::frame(&HealthCheckResponse {
        status: status.into(),
    });
    let trailers = [("grpc-status", "0")]
        .into_iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect::<HeaderMap>();
    let body = http_body_util::Full::new(message).with_trailers(async move { Some(Ok(trailers)) });
    Response::new(Body::new(body))
}

#[tokio::test]
async fn grpc_probe_asks_the_health_service() {
    let port = serve(Router::new().fallback(health), None).await;
    let at = |service: &str| json!({"kind": "grpc", "port": port, "service": service});
    assert_eq!(probe(at("")).await, StatusCode::OK);
    for (service, reason) in [
        ("ailing", "NotServing"),
        ("nobody", "gRPC status 5 unknown service"),
    ] {
        assert_eq!(probe(at(service)).await, StatusCode::SERVICE_UNAVAILABLE);
        let logged = failure(at(service)).await;
        assert!(logged.contains(reason), "{logged}");
    }
}

/// A port that refuses connections, for as long as the socket is held.
fn shut() -> (socket2::Socket, u16) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}

#[tokio::test]
async fn tcp_probe_wants_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let open = probe(json!({"kind": "tcp", "port": port})).await;
    assert_eq!(open, StatusCode::OK);
    let (_socket, port) = shut();
    let at = json!({"kind": "tcp", "port": port});
    assert_eq!(probe(at.clone()).await, StatusCode::SERVICE_UNAVAILABLE);
    let logged = failure(at).await;
    let reason = format!("connecting to 127.0.0.1:{port}");
    assert!(logged.contains(&reason), "{logged}");
}

#[tokio::test]
async fn silent_app_is_not_waited_for_longer_than_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // Until the probe gives up and hangs up.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let logged = failure(json!({"kind": "http", "port": port, "timeout_seconds": 1})).await;
    assert!(logged.contains("within 1 s"), "{logged}");
    app.await.unwrap();
}

#[tokio::test]
async fn pod_address_is_probed_where_there_is_one() {
    let (_socket, port) = shut();
    let _listener = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let list = json!([{"path": "/probe/app/liveness", "kind": "tcp", "port": port}]).to_string();
    let probes = Probes::parse(&list).unwrap();
    for (probes, expected) in [
        (probes.clone().at("127.0.0.2".parse().ok()), StatusCode::OK),
        (probes, StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let request = Request::get("/probe/app/liveness")
            .body(Body::empty())
            .unwrap();
        let response = probes.router().oneshot(request).await.unwrap();
        assert_eq!(response.status(), expected);
    }
}

#[tokio::test]
async fn unknown_probe_is_not_found() {
    let request = Request::get("/probe/app/liveness")
        .body(Body::empty())
        .unwrap();
    let response = Probes::default().router().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let list = json!([
        {"path": "/elsewhere", "kind": "tcp", "port": 1},
        {"path": "/probe/a/readiness", "kind": "exec", "port": 1},
        {"path": "/probe/a/readiness", "kind": "http", "port": 80, "scheme": "FTP"},
        {"path": "/probe/a/readiness", "kind": "http", "port": 80,
            "headers": [{"name": "a b", "value": "c"}]},
        {"path": "/probe/a/readiness", "kind": "tcp", "port": 0},
        {"path": "/probe/a/readiness", "kind": "tcp", "port": 70000},
        {"path": "/probe/a/liveness", "kind": "tcp", "port": 1},
        {"path": "/probe/a/liveness", "kind": "tcp", "port": 2},
        {"path": "/probe/a/startup", "kind": "tcp", "port": 15000},
        {"path": "/probe/a/startup", "kind": "http", "port": 15020},
    ]);
    let error = Probes::parse(&list.to_string()).unwrap_err();
    let parts = [
        "[0].path",
        "[1]: unknown variant",
        "[2].scheme: \"FTP\"",
        "[3].headers[0]: \"a b\"",
        "[4].port",
        "[5]:",
        "[7].path: /probe/a/liveness is there twice",
        "[8].port: 15000 is the sidecar's own",
        "[9].port: 15020 is the sidecar's own",
    ];
    assert_eq!(error.problems.len(), parts.len(), "{error}");
    for (problem, part) in error.problems.iter().zip(parts) {
        assert!(problem.starts_with(part), "{part} in {problem}");
    }
    assert!(Probes::parse("{}").is_err());
    assert_eq!(Probes::parse("[]"), Ok(Probes::default()));
}
