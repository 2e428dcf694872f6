use super::*;
use crate::probe::grpc::{HealthCheckRequest, HealthCheckResponse, ServingStatus};
use ::http::Request;
use axum::{body::Body, extract::Request as AxumRequest};
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

async fn probe(description: Value) -> (StatusCode, String) {
    ask(description, "kube-probe/1.34").await
}

async fn ask(mut description: Value, agent: &str) -> (StatusCode, String) {
    description["path"] = json!("/probe/app/readiness");
    let probes = Probes::parse(&json!([description]).to_string()).unwrap();
    let request = Request::get("/probe/app/readiness")
        .header("user-agent", agent)
        .body(Body::empty())
        .unwrap();
    let response = probes.router().oneshot(request).await.unwrap();
    assert!(response.headers().get(header::LOCATION).is_none());
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn echo(request: AxumRequest) -> Response {
    let text = format!(
        "{:?} {} {:?}",
        request.version(),
        request.uri(),
        request.headers()
    );
    match request.uri().path() {
        "/ill" => (StatusCode::INTERNAL_SERVER_ERROR, "ill").into_response(),
        "/moved" => (StatusCode::FOUND, [(header::LOCATION, "/elsewhere")]).into_response(),
        "/large" => "x".repeat(1 << 20).into_response(),
        _ => text.into_response(),
    }
}

fn echo_app() -> Router {
    Router::new().fallback(echo)
}

#[tokio::test]
async fn http_probe_passes_status_and_headers_on() {
    let port = serve(echo_app(), None).await;
    let (status, body) = probe(json!({
        "kind": "http", "port": port, "scheme": "HTTP", "http_path": "/ready?deep=a b",
        "headers": [{"name": "Host", "value": "payment.example"}, {"name": "X-A", "value": "1"},
            {"name": "Accept", "value": ""}],
        "timeout_seconds": 1,
    }))
    .await;
    assert_eq!(status, StatusCode::OK);
    for part in [
        "HTTP/1.1 /ready?deep=a%20b ",
        "\"host\": \"payment.example\"",
        "\"x-a\": \"1\"",
        "\"user-agent\": \"kube-probe/1.34\"",
    ] {
        assert!(body.contains(part), "{part} in {body}");
    }
    assert!(!body.contains("accept"), "{body}");

    let at = |path: &str| json!({"kind": "http", "port": port, "http_path": path});
    let (status, body) = probe(at("ill")).await;
    assert_eq!(
        (status, body.as_str()),
        (StatusCode::INTERNAL_SERVER_ERROR, "ill")
    );
    assert_eq!(probe(at("/moved")).await.0, StatusCode::FOUND);
    assert_eq!(probe(at("/large")).await.1.len(), BODY_LIMIT);
    let (_, body) = probe(at("")).await;
    assert!(
        body.contains(&format!("\"host\": \"127.0.0.1:{port}\"")),
        "{body}"
    );
}

fn acceptor(alpn: &[&[u8]]) -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["app".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config =
        rustls::ServerConfig::builder_with_provider(linnet_runtime::certificate::provider())
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
        let port = serve(echo_app(), Some(acceptor(alpn))).await;
        let (status, body) = probe(json!({
            "kind": "http", "port": port, "scheme": "HTTPS", "http_path": "/ready",
            "timeout_seconds": 5,
        }))
        .await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert!(body.starts_with(version), "{body}");
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
    assert_eq!(
        probe(at("")).await,
        (StatusCode::OK, "SERVING\n".to_owned())
    );
    let (status, body) = probe(at("ailing")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("NotServing"), "{body}");
    let (status, body) = probe(at("nobody")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("gRPC status 5 unknown service"), "{body}");
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
    assert_eq!(open.0, StatusCode::OK);
    let (_socket, port) = shut();
    let (status, body) = probe(json!({"kind": "tcp", "port": port})).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        body.contains(&format!("connecting to 127.0.0.1:{port}")),
        "{body}"
    );
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
    let (status, body) = probe(json!({"kind": "http", "port": port, "timeout_seconds": 1})).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("within 1 s"), "{body}");
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
    ];
    assert_eq!(error.problems.len(), parts.len(), "{error}");
    for (problem, part) in error.problems.iter().zip(parts) {
        assert!(problem.starts_with(part), "{part} in {problem}");
    }
    assert!(Probes::parse("{}").is_err());
    assert_eq!(Probes::parse("[]"), Ok(Probes::default()));
}
