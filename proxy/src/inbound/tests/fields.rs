//! Fields that speak for somebody, wherever they stand and however they are spelt: nothing
//! that a client says of them reaches the application.

use super::*;
use ::http::{HeaderMap, HeaderName, HeaderValue, Version};
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use linnet_mesh::authentication::{Authentication, JwtRule, Place};
use std::cell::RefCell;

/// What only a sidecar may say, by itself and by the rules of a RequestAuthentication, and
/// where it looks for a token.
const OWN: [&str; 8] = [
    "x-forwarded-client-cert",
    "x-envoy-internal",
    "x-envoy-peer-metadata",
    "x-envoy-peer-metadata-id",
    "x-envoy-expected-rq-timeout-ms",
    "grpc-timeout",
    "x-jwt-payload",
    "x-jwt-token",
];
/// Of them: which are dropped from the head of a caller of the mesh as they are.
const NOBODYS: [&str; 2] = ["x-forwarded-client-cert", "x-jwt-payload"];

const FORGED: &str = "7777m";

type Seen = Rc<RefCell<Vec<HeaderMap>>>;

/// An application that notes heads and trailers.
async fn noting() -> (World, Seen) {
    let mut world = World::start(true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.app = listener.local_addr().unwrap();
    let seen = Seen::default();
    let noted = seen.clone();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let noted = noted.clone();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let noted = noted.clone();
                async move {
                    noted.borrow_mut().push(request.headers().clone());
                    if let Ok(body) = request.into_body().collect().await {
                        noted.borrow_mut().extend(body.trailers().cloned());
                    }
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            });
            let executor = crate::http::LocalExecutor;
            let server = hyper_util::server::conn::auto::Builder::new(executor);
            tokio::task::spawn_local(async move {
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let source = ResourceRef {
        kind: "RequestAuthentication".into(),
        namespace: "shop".into(),
        name: "jwt".into(),
    };
    let rule = JwtRule {
        payload_header: Some(HeaderName::from_static("x-jwt-payload")),
        places: vec![Place::Header {
            name: HeaderName::from_static("x-jwt-token"),
            prefix: "Bearer ".to_owned(),
        }],
        ..JwtRule::refusing(source, 0, "nobody's".into())
    };
    let inbound = Inbound {
        mtls: MtlsMode::Permissive,
        authentication: Authentication::new(vec![rule]).map(Arc::new),
        ..Inbound::default()
    };
    let update = Update::Inbound(Arc::new(inbound));
    world.thread.directory().apply(vec![update]);
    (world, seen)
}

/// A client says these, by a version of HTTP, in the mesh or in plaintext.
async fn say(world: &World, version: Version, mesh: bool, head: HeaderMap, trailers: HeaderMap) {
    let http2 = version == Version::HTTP_2;
    let stream = match (mesh, http2) {
        (true, true) => world.mesh("web", MeshProtocol::Http2).await,
        (true, false) => world.mesh("web", HTTP1).await,
        (false, _) => Stream::Plain(Rewind::new(Bytes::new(), world.plain().await)),
    };
    let names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
    let frames = [
        Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"hello"))),
        Ok(Frame::trailers(trailers.clone())),
    ];
    let mut request = Request::post("http://db/")
        .header("te", "trailers")
        .header("trailer", names.join(", "))
        .body(StreamBody::new(stream::iter(frames)))
        .unwrap();
    request.headers_mut().extend(head);
    let io = TokioIo::new(stream);
    let response = if http2 {
        let executor = crate::http::LocalExecutor;
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
            .await
            .unwrap();
        tokio::task::spawn_local(connection);
        sender.send_request(request).await
    } else {
        *request.uri_mut() = "/".parse().unwrap();
        let host = HeaderValue::from_static("db");
        request.headers_mut().insert("host", host);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::task::spawn_local(connection);
        sender.send_request(request).await
    };
    assert_eq!(response.unwrap().status(), 200, "{version:?} {mesh}");
}

fn field(name: &str, value: &'static str) -> HeaderMap {
    let name: HeaderName = name.parse().unwrap();
    HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
}

#[tokio::test]
async fn no_spelling_of_an_own_field_comes_through_in_head_or_trailers() {
    let test = async {
        let (world, seen) = noting().await;
        for version in [Version::HTTP_11, Version::HTTP_2] {
            for mesh in [true, false] {
                for own in OWN {
                    let spellings = [
                        own.to_owned(),
                        own.replace('-', "_"),
                        own.replacen('-', "_", 1),
                        own.replace('-', "."),
                    ];
                    for spelt in &spellings {
                        let mut trailers = field(spelt, FORGED);
                        trailers.insert("x-sum", HeaderValue::from_static("1"));
                        let head = match spelt != own || NOBODYS.contains(&own) {
                            true => field(spelt, FORGED),
                            false => HeaderMap::new(),
                        };
                        say(&world, version, mesh, head, trailers).await;
                        let seen = seen.take();
                        let forged = |seen: &HeaderMap| {
                            let mut values = seen.iter();
                            values.any(|(name, value)| name != "trailer" && value == FORGED)
                        };
                        assert!(
                            !seen.iter().any(forged),
                            "{version:?} {mesh} {spelt}: {seen:?}"
                        );
                        assert_eq!(seen.len(), 2, "head and trailers: {seen:?}");
                        assert_eq!(seen[1]["x-sum"], "1", "{version:?} {mesh} {spelt}");
                    }
                }
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

/// What frames, routes or authorizes is no trailer (RFC 9110, 6.5.1).
#[tokio::test]
async fn what_belongs_in_a_head_is_no_trailer() {
    let test = async {
        let (world, seen) = noting().await;
        for name in [
            "authorization",
            "cookie",
            "host",
            "content-type",
            "content-encoding",
            "cache-control",
            "content_length",
            "expect",
            "range",
            "forwarded",
            "x-forwarded-for",
            "set-cookie",
        ] {
            for mesh in [true, false] {
                let mut trailers = field(name, FORGED);
                trailers.insert("x-sum", HeaderValue::from_static("1"));
                // hyper sends no such trailer by HTTP/1.1.
                say(&world, Version::HTTP_2, mesh, HeaderMap::new(), trailers).await;
                let seen = seen.take();
                assert_eq!(seen[1], field("x-sum", "1"), "{name} {mesh}");
            }
        }
    };
    LocalSet::new().run_until(test).await;
}
