//! Requests that last: what becomes of them when the policies change.

use super::*;
use crate::inbound::token::tests::rules;
use futures_util::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::server::conn::auto;
use linnet_workload::token::Issuer;
use std::time::SystemTime;

/// A world whose application never comes to an end: it answers with a piece and keeps
/// the rest to itself, sends an upgrade's bytes back, and says nothing to `/silent`.
/// `reached` counts its connections that ended.
async fn world() -> World {
    let mut world = World::start(true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.app = listener.local_addr().unwrap();
    let ended = world.reached.clone();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let ended = ended.clone();
            tokio::task::spawn_local(async move {
                let server = auto::Builder::new(crate::http::LocalExecutor);
                let service = hyper::service::service_fn(endless);
                let served = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
                // The sidecar breaks it off.
                let _ = served.await;
                ended.set(ended.get() + 1);
            });
        }
    });
    world
}

async fn endless(
    mut request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    if request.uri().path() == "/silent" {
        std::future::pending::<()>().await;
    }
    let grpc = request.headers().get("content-type").cloned();
    let upgrade = request.headers().contains_key("upgrade");
    if upgrade {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::task::spawn_local(async move {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
    }
    let pieces = stream::iter((!upgrade).then(|| Ok(Frame::data(Bytes::from_static(b"hello")))));
    let rest = match upgrade {
        true => stream::empty().left_stream(),
        false => stream::pending().right_stream(),
    };
    let mut response = Response::new(StreamBody::new(pieces.chain(rest)));
    if upgrade {
        *response.status_mut() = ::http::StatusCode::SWITCHING_PROTOCOLS;
        for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket")] {
            let value = ::http::HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
    }
    if let Some(grpc) = grpc {
        response.headers_mut().insert("content-type", grpc);
    }
    Ok(response)
}

fn deny(text: &str) -> Vec<Policy> {
    vec![policy(Action::Deny, vec![path(text)])]
}

async fn http1(world: &World) -> hyper::client::conn::http1::SendRequest<Empty<Bytes>> {
    let io = TokioIo::new(world.mesh("web", HTTP1).await);
    let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::task::spawn_local(connection);
    sender
}

async fn piece(body: &mut Incoming) -> Result<Frame<Bytes>, hyper::Error> {
    body.frame().await.expect("more, or an error")
}

/// Lets everything run that can.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_websocket_is_cut_when_a_policy_forbids_it() {
    let test = async {
        let world = world().await;
        world.set(vec![]);
        let mut stream = world.mesh("web", HTTP1).await;
        let head =
            b"GET /chat HTTP/1.1\r\nhost: db\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"));
        let mut echo = [0; 5];
        for policies in [vec![], deny("/other")] {
            world.set(policies);
            settle().await;
            stream.write_all(b"hello").await.unwrap();
            stream.read_exact(&mut echo).await.unwrap();
        }
        world.set(deny("/chat"));
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
        let line = world.line().await;
        let by = "AuthorizationPolicy shop/p (DENY), spec.rules[0]";
        assert_eq!((&*line.decision, &*line.decided_by), ("denied", by));
        assert_eq!(line.path, "/chat");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn an_http_stream_is_cut_at_both_ends_and_others_are_not() {
    let test = async {
        let world = world().await;
        world.set(vec![]);
        let (mut one, mut other) = (http1(&world).await, http1(&world).await);
        let mut cut = one.send_request(get("/events")).await.unwrap().into_body();
        let left = other.send_request(get("/left")).await.unwrap();
        let mut left = left.into_body();
        for body in [&mut cut, &mut left] {
            assert_eq!(
                &piece(body).await.unwrap().into_data().unwrap()[..],
                b"hello"
            );
        }
        world.set(deny("/events"));
        assert!(
            piece(&mut cut).await.is_err(),
            "it is no end that looks like one"
        );
        while world.reached.get() == 0 {
            tokio::task::yield_now().await;
        }
        settle().await;
        assert_eq!(world.reached.get(), 1, "the application hears of it");
        let quiet = tokio::time::timeout(Duration::from_millis(20), piece(&mut left)).await;
        assert!(quiet.is_err(), "another request goes on");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_request_that_waits_for_its_answer_is_refused() {
    let test = async {
        let world = world().await;
        world.set(vec![policy(Action::Allow, vec![from("web")])]);
        let mut sender = http1(&world).await;
        let sending = sender.send_request(get("/silent"));
        let change = async {
            settle().await;
            world.set(vec![policy(Action::Allow, vec![from("other")])]);
        };
        let (answer, ()) = tokio::join!(sending, change);
        let (status, _, body) = read(answer.unwrap()).await;
        assert_eq!(status, 403);
        assert_eq!(body, "RBAC: access denied\nno ALLOW rule matched");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_grpc_stream_ends_with_permission_denied_and_its_connection_stays() {
    let test = async {
        let world = world().await;
        world.set(vec![]);
        let io = TokioIo::new(world.mesh("web", MeshProtocol::Http2).await);
        let executor = crate::http::LocalExecutor;
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
            .await
            .unwrap();
        tokio::task::spawn_local(connection);
        let call = |path: &str| {
            let request = Request::post(format!("http://db{path}"));
            let request = request.header("content-type", "application/grpc");
            request.body(Empty::<Bytes>::new()).unwrap()
        };
        let mut cut = sender
            .send_request(call("/shop.Db/Watch"))
            .await
            .unwrap()
            .into_body();
        let mut left = sender
            .send_request(call("/shop.Db/List"))
            .await
            .unwrap()
            .into_body();
        for body in [&mut cut, &mut left] {
            piece(body).await.unwrap();
        }
        world.set(deny("/shop.Db/Watch"));
        let trailers = piece(&mut cut).await.unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "7");
        assert!(cut.frame().await.is_none());
        let quiet = tokio::time::timeout(Duration::from_millis(20), piece(&mut left)).await;
        assert!(quiet.is_err(), "another call of the connection goes on");
    };
    LocalSet::new().run_until(test).await;
}

/// Headers are kept only where policies go by them; a policy that is the first to do
/// so ends what it can't be asked about.
#[tokio::test]
async fn policies_that_go_by_headers_are_asked_with_them() {
    let test = async {
        let world = world().await;
        let by_header = |value: &str| {
            let condition = linnet_mesh::authorization::Condition::new(
                "request.headers[x-user]",
                &[value.to_owned()],
                &[],
                "shop",
            );
            let rule = Rule {
                when: vec![condition.unwrap()],
                ..Rule::default()
            };
            vec![policy(Action::Deny, vec![rule])]
        };
        let open = async |policies| {
            world.set(policies);
            let mut request = get("/events");
            let user = ::http::HeaderValue::from_static("ann");
            request.headers_mut().insert("x-user", user);
            let mut sender = http1(&world).await;
            let mut body = sender.send_request(request).await.unwrap().into_body();
            piece(&mut body).await.unwrap();
            (sender, body)
        };
        let (_sender, mut known) = open(by_header("bob")).await;
        world.set(by_header("eve"));
        let quiet = tokio::time::timeout(Duration::from_millis(20), piece(&mut known)).await;
        assert!(quiet.is_err(), "she is still allowed");
        world.set(by_header("ann"));
        assert!(piece(&mut known).await.is_err());
        let (_sender, mut unknown) = open(vec![]).await;
        world.set(by_header("bob"));
        assert!(piece(&mut unknown).await.is_err());
    };
    LocalSet::new().run_until(test).await;
}

/// A token is looked at when its request begins, and when policies change.
#[tokio::test]
async fn a_stream_outlives_its_token_until_policies_change() {
    let test = async {
        let world = world().await;
        let issuer = Issuer::default();
        let authentication = rules(&issuer.jwks());
        let set = |policies: Vec<Policy>| {
            let inbound = Inbound {
                mtls: MtlsMode::Permissive,
                authentication: Some(authentication.clone()),
                authorization: Some(Arc::new(Policies::new(policies))),
                ..Inbound::default()
            };
            let update = Update::Inbound(Arc::new(inbound));
            world.thread.directory().apply(vec![update]);
        };
        set(deny("/other"));
        let now = || {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since.unwrap().as_secs()
        };
        // It ends within the second, with the minute that clocks may be off; on a slow
        // machine it may have ended before it is looked at.
        let (mut body, end) = loop {
            let end = now() + 1;
            let claims = serde_json::json!({"iss": "issuer", "sub": "ann", "exp": end - 60});
            let bearer = format!("Bearer {}", issuer.token("ES256", &claims));
            let mut request = get("/events");
            let headers = request.headers_mut();
            headers.insert("authorization", bearer.parse().unwrap());
            let response = http1(&world).await.send_request(request).await.unwrap();
            if response.status() == 200 {
                break (response.into_body(), end);
            }
        };
        assert_eq!(
            &piece(&mut body).await.unwrap().into_data().unwrap()[..],
            b"hello"
        );
        // Of the attempts that came too late.
        world.lines();
        while now() <= end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let quiet = tokio::time::timeout(Duration::from_millis(20), piece(&mut body)).await;
        assert!(quiet.is_err(), "it goes on without its token");
        set(deny("/another"));
        assert!(piece(&mut body).await.is_err());
        let line = world.line().await;
        assert_eq!(line.decision, "denied");
        assert!(line.decided_by.contains("jwt"), "{line:?}");
    };
    LocalSet::new().run_until(test).await;
}
