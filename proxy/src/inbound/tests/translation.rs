//! Each version of HTTP that a caller may speak, to ports that declare each protocol,
//! before applications that speak each: one table.

use super::*;
use ::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use futures_util::stream;
use http_body_util::{StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use hyper_util::server::conn::auto;
use linnet_mesh::inbound::InboundPort;

type Sent = BoxBody<Bytes, Infallible>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    Http1,
    Http2,
    Grpc,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum App {
    Http1,
    Http2,
    Both,
}

const CLIENTS: [Client; 3] = [Client::Http1, Client::Http2, Client::Grpc];
const DECLARED: [Option<&str>; 4] = [None, Some("http"), Some("http2"), Some("grpc")];
const APPS: [App; 3] = [App::Http1, App::Http2, App::Both];

/// What becomes of a first request: the version that the application sees, or the error
/// that the caller sees.
fn expected(client: Client, declared: Option<&str>, app: App) -> Result<Version, u16> {
    let says_http2 = matches!(declared, Some("http2" | "grpc"));
    match (client, app) {
        (Client::Grpc, App::Http1) => Err(200),
        (Client::Http1 | Client::Http2, App::Http1) => Ok(Version::HTTP_11),
        (Client::Http2 | Client::Grpc, App::Http2 | App::Both) => Ok(Version::HTTP_2),
        (Client::Http1, _) if says_http2 => Ok(Version::HTTP_2),
        (Client::Http1, App::Both) => Ok(Version::HTTP_11),
        // It is learnt by this.
        (Client::Http1, App::Http2) => Err(502),
    }
}

/// Says in which version it was asked, and what; sends the body back, and trailers.
async fn echo(request: Request<Incoming>) -> Result<Response<Sent>, Infallible> {
    let (head, body) = request.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    let body = collected.to_bytes();
    let mut response = Response::builder()
        .header("x-version", format!("{:?}", head.version))
        .header("x-host", host(&head))
        .header("x-cookies", joined(&head.headers, "cookie"))
        .header("trailer", "x-sum");
    if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
        response = response.header(header::CONTENT_TYPE, kind);
    }
    if head.uri.path() == "/none" {
        let response = response.status(StatusCode::NO_CONTENT);
        return Ok(response.body(Empty::new().boxed()).unwrap());
    }
    let mut after = HeaderMap::new();
    after.insert("x-sum", HeaderValue::from(body.len()));
    after.insert("grpc-status", HeaderValue::from(0));
    if let Some(value) = trailers.as_ref().and_then(|fields| fields.get("x-sent")) {
        after.insert("x-sum", value.clone());
    }
    let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(after))];
    Ok(response
        .body(StreamBody::new(stream::iter(frames)).boxed())
        .unwrap())
}

fn host(head: &::http::request::Parts) -> String {
    let authority = head.uri.authority().map(ToString::to_string);
    authority.unwrap_or_else(|| joined(&head.headers, "host"))
}

fn joined(headers: &HeaderMap, name: &str) -> String {
    let values = headers.get_all(name).iter();
    let values: Vec<_> = values.map(|value| value.to_str().unwrap()).collect();
    values.join(" | ")
}

async fn world(declared: Option<&str>, app: App) -> World {
    let mut world = World::start(true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.app = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                let server = auto::Builder::new(crate::http::LocalExecutor);
                let server = match app {
                    App::Http1 => server.http1_only(),
                    App::Http2 => server.http2_only(),
                    App::Both => server,
                };
                let service = hyper::service::service_fn(echo);
                // The other side may speak something else.
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let port = InboundPort {
        port: world.app.port(),
        mtls: None,
        protocol: AppProtocol::declared(declared, None),
        services: Vec::new(),
    };
    let inbound = Inbound {
        mtls: MtlsMode::Permissive,
        ports: vec![port],
        ..Inbound::default()
    };
    let directory = world.thread.directory();
    directory.apply(vec![Update::Inbound(Arc::new(inbound))]);
    world
}

/// What a client does with its one connection.
enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Sent>),
    Http2(hyper::client::conn::http2::SendRequest<Sent>),
}

async fn connect(world: &World, client: Client) -> Sender {
    let io = TokioIo::new(world.plain().await);
    match client {
        Client::Http1 => {
            let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::task::spawn_local(connection);
            Sender::Http1(sender)
        }
        Client::Http2 | Client::Grpc => {
            let executor = crate::http::LocalExecutor;
            let shaken = hyper::client::conn::http2::handshake(executor, io).await;
            let (sender, connection) = shaken.unwrap();
            tokio::task::spawn_local(connection);
            Sender::Http2(sender)
        }
    }
}

struct Got {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

async fn send(sender: &mut Sender, request: Request<Sent>) -> Got {
    let response = match sender {
        Sender::Http1(sender) => {
            sender.ready().await.unwrap();
            sender.send_request(request).await
        }
        Sender::Http2(sender) => sender.send_request(request).await,
    };
    let (head, body) = response.unwrap().into_parts();
    let body = body.collect().await.unwrap();
    Got {
        status: head.status.as_u16(),
        headers: head.headers,
        trailers: body.trailers().cloned().unwrap_or_default(),
        body: body.to_bytes(),
    }
}

fn request(client: Client, method: Method, path: &str, body: Sent) -> Request<Sent> {
    let mut request = Request::builder().method(method);
    request = match client {
        Client::Http1 => request.uri(path).header("host", "db:80"),
        Client::Http2 | Client::Grpc => request.uri(format!("http://db:80{path}")),
    };
    if client == Client::Grpc {
        request = request.header(header::CONTENT_TYPE, "application/grpc+proto");
    }
    request.header("te", "trailers").body(body).unwrap()
}

/// Bodies: none, one of a known length, one of pieces, one with trailers.
fn bodies() -> [(&'static str, Sent); 4] {
    let pieces = || [b"he", b"ll"].map(|piece| Ok(Frame::data(Bytes::from_static(piece))));
    let mut fields = HeaderMap::new();
    fields.insert("x-sent", HeaderValue::from_static("kept"));
    let trailers = [Ok(Frame::trailers(fields))];
    [
        ("", Empty::new().boxed()),
        (
            "hell",
            http_body_util::Full::new(Bytes::from_static(b"hell")).boxed(),
        ),
        ("hell", StreamBody::new(stream::iter(pieces())).boxed()),
        (
            "hell",
            StreamBody::new(stream::iter(pieces().into_iter().chain(trailers))).boxed(),
        ),
    ]
}

async fn local(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn every_caller_is_understood_by_every_application_or_told_why_not() {
    local(async {
        for app in APPS {
            for declared in DECLARED {
                for client in CLIENTS {
                    let what = format!("{client:?} to {declared:?}, {app:?}");
                    let world = world(declared, app).await;
                    let mut sender = connect(&world, client).await;
                    let mut wanted = expected(client, declared, app);
                    for (number, (text, body)) in bodies().into_iter().enumerate() {
                        let method = if number == 0 {
                            Method::GET
                        } else {
                            Method::POST
                        };
                        let mut asked = request(client, method, "/", body);
                        if number == 3 {
                            let names = HeaderValue::from_static("x-sent");
                            asked.headers_mut().insert("trailer", names);
                        }
                        let got = send(&mut sender, asked).await;
                        let what = format!("{what}, body {number}");
                        check(&what, client, wanted, &got, text, number == 3);
                        if wanted == Err(502) {
                            // The version is known from then on.
                            wanted = Ok(Version::HTTP_2);
                            sender = connect(&world, client).await;
                        }
                    }
                }
            }
        }
    })
    .await;
}

fn check(
    what: &str,
    client: Client,
    wanted: Result<Version, u16>,
    got: &Got,
    text: &str,
    trailers: bool,
) {
    let version = match wanted {
        Ok(version) => version,
        Err(status) => {
            let body = String::from_utf8_lossy(&got.body);
            assert_eq!(got.status, status, "{what}: {body}");
            match client {
                Client::Grpc => assert_eq!(got.headers["grpc-status"], "14", "{what}"),
                _ => assert!(body.contains("appProtocol"), "{what}: {body}"),
            }
            return;
        }
    };
    assert_eq!(got.status, 200, "{what}: {:?}", got.body);
    assert_eq!(got.headers["x-version"], format!("{version:?}"), "{what}");
    assert_eq!(got.headers["x-host"], "db:80", "{what}");
    assert!(!got.headers.contains_key(header::CONNECTION), "{what}");
    assert_eq!(got.body, text, "{what}");
    if client != Client::Http1 && version == Version::HTTP_2 {
        let sum = if trailers {
            "kept".to_owned()
        } else {
            text.len().to_string()
        };
        assert_eq!(got.trailers["x-sum"], sum.as_str(), "{what}");
    }
}

#[tokio::test]
async fn answers_without_a_body_keep_their_framing_in_translation() {
    local(async {
        for (client, declared, app) in [
            (Client::Http1, Some("http2"), App::Http2),
            (Client::Http2, Some("http"), App::Http1),
        ] {
            let world = world(declared, app).await;
            let mut sender = connect(&world, client).await;
            for (method, path, status) in [
                (Method::HEAD, "/", 200),
                (Method::GET, "/none", 204),
                (Method::POST, "/none", 204),
                (Method::OPTIONS, "/", 200),
            ] {
                let asked = request(client, method.clone(), path, Empty::new().boxed());
                let got = send(&mut sender, asked).await;
                assert_eq!((got.status, got.body.len()), (status, 0), "{method} {path}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn cookies_are_one_header_to_http1() {
    local(async {
        let world = world(None, App::Http1).await;
        let mut sender = connect(&world, Client::Http2).await;
        let mut asked = request(Client::Http2, Method::GET, "/", Empty::new().boxed());
        for cookie in ["a=1", "b=2"] {
            let value = HeaderValue::from_static(cookie);
            asked.headers_mut().append("cookie", value);
        }
        let got = send(&mut sender, asked).await;
        assert_eq!(got.headers["x-cookies"], "a=1; b=2");
    })
    .await;
}
