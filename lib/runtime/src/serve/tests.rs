mod certificates;

use super::*;
use axum::{Extension, routing::get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn exchange(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = vec![0; 1024];
    let length = stream.read(&mut answer).await.unwrap();
    String::from_utf8(answer[..length].to_vec()).unwrap()
}

#[tokio::test]
async fn a_request_in_flight_outlives_the_drain_signal() {
    let (entered, mut started) = tokio::sync::mpsc::channel::<()>(1);
    let (release, gate) = tokio::sync::watch::channel(false);
    let handler = async move |Extension(peer): Extension<Peer>| {
        entered.send(()).await.unwrap();
        gate.clone().wait_for(|open| *open).await.unwrap();
        format!("{}", peer.address.ip())
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (signal, watch) = drain::channel();
    let router = Router::new().route("/", get(handler));
    let server = tokio::spawn(serve(
        listener,
        router,
        Transport::Plain,
        ListenerKind::Health,
        watch,
    ));
    let client = tokio::spawn(exchange(address));
    started.recv().await.unwrap();

    let drain = tokio::spawn(signal.drain());
    server.await.unwrap();
    assert!(
        TcpStream::connect(address).await.is_err(),
        "the listener is closed"
    );
    assert!(!drain.is_finished());
    release.send_replace(true);
    assert!(client.await.unwrap().ends_with("127.0.0.1"));
    drain.await.unwrap();
}

#[tokio::test]
async fn idle_connections_do_not_hold_the_drain() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (signal, watch) = drain::channel();
    let router = Router::new().route("/", get(async || "ok"));
    tokio::spawn(serve(
        listener,
        router,
        Transport::Plain,
        ListenerKind::Health,
        watch,
    ));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 64];
    assert!(stream.read(&mut answer).await.unwrap() > 0);
    signal.drain().await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn silent_peers_are_closed() {
    let config = certificates::Authority::new().server(&[b"h2"]);
    let tls = Transport::Tls(Arc::new(ArcSwap::new(config)));
    let (_signal, drain) = drain::channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for (transport, sent) in [
        (Transport::Plain, ""),
        (Transport::Plain, "GET / HTTP/1.1\r\n"),
        (tls, ""),
    ] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(sent.as_bytes()).await.unwrap();
        let (stream, address) = listener.accept().await.unwrap();
        let router = Router::new();
        let place = Places::new(1).take(address.ip()).unwrap();
        let connection = Connection {
            address,
            router,
            activity: place.activity(),
            limits: ListenerKind::Health.limits(1024),
            running: Running::default(),
            drain: drain.clone(),
        };
        let ended = timeout(HEAD_TIMEOUT * 2, connection.run(stream, transport.clone())).await;
        assert!(ended.is_ok(), "still open after {sent:?}, {transport:?}");
    }
}

#[tokio::test]
async fn a_mesh_client_over_http2_is_known_to_the_handler() {
    let authority = certificates::Authority::new();
    let tls = Arc::new(ArcSwap::new(authority.server(&[b"h2"])));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_signal, watch) = drain::channel();
    let handler = async |Extension(peer): Extension<Peer>| peer.identity.unwrap().to_string();
    let router = Router::new().route("/", get(handler));
    tokio::spawn(serve(
        listener,
        router,
        Transport::Tls(tls),
        ListenerKind::Discovery,
        watch,
    ));

    let stream = TcpStream::connect(address).await.unwrap();
    let stream = tokio_rustls::TlsConnector::from(authority.client(&[b"h2"]))
        .connect("server".try_into().unwrap(), stream)
        .await
        .unwrap();
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("https://server/").body(axum::body::Body::empty());
    let response = sender.send_request(request.unwrap()).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap();
    assert_eq!(body.to_bytes(), certificates::IDENTITY);
}

/// A server of a kind with few places, and what a client of it is to do first.
struct World {
    address: SocketAddr,
    tls: Option<Arc<rustls::ClientConfig>>,
    _signal: drain::Signal,
}

trait Connected: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Connected for S {}

const PLACES: usize = 8;
const STRANGER: [u8; 4] = [127, 0, 0, 2];
const HONEST: [u8; 4] = [127, 0, 0, 1];
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

impl World {
    async fn start(kind: ListenerKind, over_tls: bool, router: Router) -> Self {
        let authority = certificates::Authority::new();
        let config = authority.server(&[b"http/1.1"]);
        let transport = match over_tls {
            true => Transport::Tls(Arc::new(ArcSwap::new(config))),
            false => Transport::Plain,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (signal, drain) = drain::channel();
        let limits = Limits {
            connections: PLACES,
            ..kind.limits(1024)
        };
        let server = Server {
            router,
            transport,
            kind,
            limits,
            drain,
        };
        tokio::spawn(server.run(listener));
        Self {
            address,
            tls: over_tls.then(|| authority.client(&[b"http/1.1"])),
            _signal: signal,
        }
    }

    async fn tcp(&self, from: [u8; 4]) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn connect(&self, from: [u8; 4]) -> io::Result<Box<dyn Connected>> {
        let stream = self.tcp(from).await;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let connector = tokio_rustls::TlsConnector::from(config.clone());
                Box::new(
                    connector
                        .connect("server".try_into().unwrap(), stream)
                        .await?,
                )
            }
        })
    }
}

async fn ask(stream: &mut (impl Connected + ?Sized), request: &[u8]) -> String {
    if stream.write_all(request).await.is_err() {
        return String::new();
    }
    let mut answer = vec![0; 1024];
    let length = stream.read(&mut answer).await.unwrap_or(0);
    String::from_utf8(answer[..length].to_vec()).unwrap()
}

/// Connections that a stranger leaves idle, in each way, more than there are places.
async fn flood(world: &World) -> Vec<Box<dyn Connected>> {
    let mut open: Vec<Box<dyn Connected>> = Vec::new();
    for number in 0..3 * PLACES {
        match number % 3 {
            0 => open.push(Box::new(world.tcp(STRANGER).await)),
            1 => {
                if let Ok(mut stream) = world.connect(STRANGER).await {
                    let _ = stream.write_all(b"GET / HT").await;
                    open.push(stream);
                }
            }
            _ => {
                if let Ok(mut stream) = world.connect(STRANGER).await {
                    ask(&mut *stream, REQUEST).await;
                    open.push(stream);
                }
            }
        }
    }
    open
}

#[tokio::test]
async fn at_each_kind_of_listener_idle_strangers_keep_no_honest_caller_out() {
    for kind in ListenerKind::ALL {
        for over_tls in [false, true] {
            let router = Router::new().route("/", get(async || "ok"));
            let world = World::start(kind, over_tls, router).await;
            let _open = flood(&world).await;
            for _ in 0..PLACES / 2 {
                let mut honest = world.connect(HONEST).await.unwrap();
                let said = ask(&mut *honest, REQUEST).await;
                assert!(said.ends_with("ok"), "{kind:?}, TLS {over_tls}: {said}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn at_each_kind_of_listener_what_is_idle_is_closed() {
    for kind in ListenerKind::ALL {
        for over_tls in [false, true] {
            let router = Router::new().route("/", get(async || "ok"));
            let world = World::start(kind, over_tls, router).await;
            for mut stream in flood(&world).await {
                let limit = kind.limits(1024).idle + 3 * HEAD_TIMEOUT;
                let end = timeout(limit, stream.read_to_end(&mut Vec::new())).await;
                assert!(end.is_ok(), "{kind:?}, TLS {over_tls}: still open");
            }
        }
    }
}

/// An HTTP/2 client that answers pings and asks for nothing more.
#[tokio::test(start_paused = true)]
async fn an_idle_http2_connection_is_closed_and_a_stream_is_not() {
    for streams in [false, true] {
        let endless = async || {
            let parts = futures_util::stream::pending::<Result<Bytes, Infallible>>();
            Body::from_stream(parts)
        };
        let router = Router::new()
            .route("/", get(async || "ok"))
            .route("/stream", get(endless));
        let world = World::start(ListenerKind::Discovery, false, router).await;
        let io = TokioIo::new(world.tcp(HONEST).await);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .unwrap();
        let mut connection = tokio::spawn(connection);
        let path = if streams {
            "http://x/stream"
        } else {
            "http://x/"
        };
        let request = http::Request::get(path).body(Body::empty()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let kept = streams.then_some(response);
        let limit = ListenerKind::Discovery.limits(1024).idle * 5;
        let ended = timeout(limit, &mut connection).await.is_ok();
        assert_eq!(ended, !streams);
        drop(kept);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_end_ends_its_connection_where_there_are_no_streams() {
    let hang = async |_body: Bytes| std::future::pending::<()>().await;
    let router = Router::new().route("/", axum::routing::post(hang));
    let world = World::start(ListenerKind::Health, false, router).await;
    let mut stream = world.tcp(STRANGER).await;
    let request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nx";
    let said = ask(&mut stream, request).await;
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
}

/// An HTTP/2 client by prior knowledge, and how its connection ends.
async fn http2(
    world: &World,
) -> (
    hyper::client::conn::http2::SendRequest<Body>,
    tokio::task::JoinHandle<hyper::Result<()>>,
) {
    let io = TokioIo::new(world.tcp(STRANGER).await);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    (sender, tokio::spawn(connection))
}

#[tokio::test]
async fn each_kind_of_listener_takes_so_many_requests_of_one_connection_at_a_time() {
    for kind in ListenerKind::ALL {
        let (entered, mut started) = tokio::sync::mpsc::unbounded_channel::<()>();
        let hang = async move || {
            let _ = entered.send(());
            std::future::pending::<()>().await;
        };
        let quick = async || "ok";
        let router = Router::new()
            .route("/", get(hang))
            .route("/quick", get(quick));
        let world = World::start(kind, false, router).await;
        let (mut sender, connection) = http2(&world).await;
        let Some(streams) = kind.limits(1024).streams else {
            let ended = timeout(HEAD_TIMEOUT * 6, connection).await;
            assert!(ended.is_ok(), "{kind:?} speaks HTTP/2");
            continue;
        };
        assert!(streams <= 32);
        // Its settings have come with its first answer.
        let request = http::Request::get("http://x/quick").body(Body::empty());
        sender.send_request(request.unwrap()).await.unwrap();
        for _ in 0..3 * streams {
            let request = http::Request::get("http://x/").body(Body::empty());
            tokio::spawn(sender.send_request(request.unwrap()));
        }
        for _ in 0..streams {
            started.recv().await.unwrap();
        }
        // What could have begun by now has not.
        let mut one = world.tcp(HONEST).await;
        let request = b"GET /quick HTTP/1.1\r\nhost: x\r\n\r\n";
        assert!(ask(&mut one, request).await.ends_with("ok"));
        assert!(started.try_recv().is_err(), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn newer_requests_do_not_prolong_an_older_one() {
    let endless = async || {
        let parts = futures_util::stream::pending::<Result<Bytes, Infallible>>();
        Body::from_stream(parts)
    };
    let router = Router::new()
        .route("/", get(async || "ok"))
        .route("/endless", get(endless));
    let world = World::start(ListenerKind::Identity, false, router).await;
    let (mut sender, connection) = http2(&world).await;
    let request = http::Request::get("http://x/endless").body(Body::empty());
    let _kept = sender.send_request(request.unwrap()).await.unwrap();
    let limit = ListenerKind::Identity.limits(1024).request.unwrap() + 2 * HEAD_TIMEOUT;
    let until = Instant::now() + limit;
    while Instant::now() < until {
        let request = http::Request::get("http://x/").body(Body::empty());
        if sender.send_request(request.unwrap()).await.is_err() {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    let ended = timeout(HEAD_TIMEOUT, connection).await;
    assert!(ended.is_ok(), "kept open by newer requests");
}
