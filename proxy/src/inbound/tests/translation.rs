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
    let address = world.app;
    declare(&mut world, address, AppProtocol::declared(declared, None));
    world
}

/// Has a world's application at an address, with a port that declares this.
fn declare(world: &mut World, app: SocketAddr, protocol: AppProtocol) {
    world.app = app;
    let port = InboundPort {
        port: app.port(),
        mtls: None,
        protocol,
        services: Vec::new(),
    };
    let inbound = Inbound {
        mtls: MtlsMode::Permissive,
        ports: vec![port],
        ..Inbound::default()
    };
    let directory = world.thread.directory();
    directory.apply(vec![Update::Inbound(Arc::new(inbound))]);
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

/// Speaks WebSocket's opening to a port, and then echoes.
async fn upgrade(world: &World) -> (String, TcpStream) {
    let mut client = world.plain().await;
    let asked = b"GET /chat HTTP/1.1\r\nhost: db:80\r\nconnection: upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    client.write_all(asked).await.unwrap();
    (head(&mut client).await, client)
}

/// The next head that a server says.
async fn head(client: &mut TcpStream) -> String {
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        said.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(said).unwrap()
}

/// HTTP/2 has no such upgrade: it is asked for by HTTP/1.1, and whoever does not speak that
/// is named.
#[tokio::test]
async fn websocket_to_a_port_of_http2_is_http1_or_a_failure_that_says_why() {
    local(async {
        let mut both = world(Some("http2"), App::Both).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        declare(
            &mut both,
            listener.local_addr().unwrap(),
            AppProtocol::Http2,
        );
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let asked = head(&mut stream).await;
                assert!(asked.contains("upgrade: websocket"), "{asked}");
                let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                    upgrade: websocket\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                let (mut reader, mut writer) = stream.split();
                // The client ends it.
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            }
        });
        let (answer, mut client) = upgrade(&both).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        client.write_all(b"\x81\x05hello").await.unwrap();
        let mut echo = [0; 7];
        client.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"\x81\x05hello");

        let alone = world(Some("http2"), App::Http2).await;
        let (answer, mut client) = upgrade(&alone).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        let mut reason = vec![0; 112];
        client.read_exact(&mut reason).await.unwrap();
        let reason = String::from_utf8_lossy(&reason);
        assert!(reason.contains("speaks HTTP/2 alone"), "{reason}");
        // Other requests are translated as before.
        let mut sender = connect(&alone, Client::Http1).await;
        let asked = request(Client::Http1, Method::GET, "/", Empty::new().boxed());
        assert_eq!(send(&mut sender, asked).await.status, 200);
    })
    .await;
}

/// A caller of HTTP/1.1 that waits with its body is told to send it, though HTTP/2 has its
/// own ways; what the application says before its answer does not get in the way.
#[tokio::test]
async fn a_body_that_waits_is_asked_for_on_its_way_to_http2() {
    local(async {
        let mut world = world(Some("http2"), App::Http2).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                tokio::task::spawn_local(async move {
                    assert!(!request.headers().contains_key(header::EXPECT));
                    for code in [100, 103] {
                        let early = Response::builder().status(code).body(()).unwrap();
                        respond.send_informational(early).unwrap();
                    }
                    let mut body = request.into_body();
                    let mut sent = Vec::new();
                    while let Some(data) = body.data().await {
                        sent.extend_from_slice(&data.unwrap());
                    }
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    stream.send_data(sent.into(), true).unwrap();
                });
            }
        });
        declare(&mut world, address, AppProtocol::Http2);
        let mut client = world.plain().await;
        let asked = b"POST / HTTP/1.1\r\nhost: db:80\r\nconnection: close\r\n\
            expect: 100-continue\r\ncontent-length: 4\r\n\r\n";
        client.write_all(asked).await.unwrap();
        let first = head(&mut client).await;
        assert!(first.starts_with("HTTP/1.1 100 "), "{first}");
        client.write_all(b"hell").await.unwrap();
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert!(rest.contains("hell"), "{rest}");
    })
    .await;
}

/// The same the other way: what an application of HTTP/1.1 says before its answer is no
/// answer.
#[tokio::test]
async fn early_words_of_http1_are_no_answer_to_http2() {
    local(async {
        let mut world = world(None, App::Http1).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    let asked = head(&mut stream).await;
                    if asked.starts_with("PRI ") {
                        let refusal = b"HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n";
                        stream.write_all(refusal).await.unwrap();
                        return;
                    }
                    let early = b"HTTP/1.1 100 Continue\r\n\r\n\
                        HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
                    stream.write_all(early).await.unwrap();
                    let mut body = [0; 4];
                    stream.read_exact(&mut body).await.unwrap();
                    let answer = [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", &body[..]];
                    stream.write_all(&answer.concat()).await.unwrap();
                });
            }
        });
        declare(&mut world, address, AppProtocol::Detect);
        let mut sender = connect(&world, Client::Http2).await;
        let body = http_body_util::Full::new(Bytes::from_static(b"hell")).boxed();
        let mut asked = request(Client::Http2, Method::POST, "/", body);
        let headers = asked.headers_mut();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(4));
        headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        let got = send(&mut sender, asked).await;
        assert_eq!((got.status, &got.body[..]), (200, &b"hell"[..]));
        assert!(!got.headers.contains_key("link"));
    })
    .await;
}
