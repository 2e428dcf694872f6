//! Whatever could make two sides see different protocols: what a port is declared to speak, by
//! which entrance a client comes, what it says first, and how long it pauses in it.

use super::*;
use linnet_mesh::{
    AppProtocol, InboundPort,
    authentication::{Authentication, JwtRule},
};
use std::io::ErrorKind;
use tokio::sync::Notify;

/// A request that names somebody else, for whoever is careless enough to read it as it is.
const REST: &str =
    " HTTP/1.1\r\nhost: db\r\nconnection: close\r\nx-forwarded-client-cert: forged\r\n\r\n";

/// How a client's bytes come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Entrance {
    /// In plaintext, where mutual TLS is permitted.
    Permissive,
    /// In plaintext, where it is disabled.
    Disabled,
    /// From a peer of the mesh that says that it speaks no HTTP, at a STRICT port.
    Strict,
    /// The same at a PERMISSIVE port.
    PermissiveMesh,
}

impl Entrance {
    const ALL: [Self; 4] = [
        Self::Permissive,
        Self::Disabled,
        Self::Strict,
        Self::PermissiveMesh,
    ];

    fn mode(self) -> MtlsMode {
        match self {
            Self::Permissive | Self::PermissiveMesh => MtlsMode::Permissive,
            Self::Disabled => MtlsMode::Disable,
            Self::Strict => MtlsMode::Strict,
        }
    }

    async fn connect(self, world: &World) -> Stream {
        match self {
            Self::Permissive | Self::Disabled => {
                Stream::Plain(Rewind::new(Bytes::new(), world.plain().await))
            }
            Self::Strict | Self::PermissiveMesh => world.mesh("web", OPAQUE).await,
        }
    }
}

impl World {
    /// Declares what the application's port speaks; with tokens that somebody looks for.
    fn declare(&self, mode: MtlsMode, protocol: AppProtocol, tokens: bool) {
        let inbound = self.inbound(mode, protocol, tokens);
        let update = Update::Inbound(Arc::new(inbound));
        self.thread.directory().apply(vec![update]);
    }

    fn inbound(&self, mode: MtlsMode, protocol: AppProtocol, tokens: bool) -> Inbound {
        let source = ResourceRef {
            kind: "RequestAuthentication".into(),
            namespace: "shop".into(),
            name: "jwt".into(),
        };
        let rule = || JwtRule::refusing(source, 0, "nobody's".into());
        let authentication = tokens.then(|| Authentication::new(vec![rule()]).unwrap());
        Inbound {
            mtls: mode,
            ports: vec![InboundPort {
                port: self.app.port(),
                mtls: None,
                protocol,
                services: vec![],
            }],
            authentication: authentication.map(Arc::new),
            ..Inbound::default()
        }
    }
}

/// Sends pieces with a pause between them; returns what is answered until the end, a reset or
/// a minute without a word.
async fn said(mut stream: Stream, pieces: &[Vec<u8>]) -> Vec<u8> {
    for (position, piece) in pieces.iter().enumerate() {
        if position > 0 {
            tokio::time::sleep(Duration::from_millis(1300)).await;
        }
        // It may have been refused.
        let _ = stream.write_all(piece).await;
        let _ = stream.flush().await;
    }
    let mut answer = Vec::new();
    let reading = async {
        let mut part = [0; 1024];
        while let Ok(length @ 1..) = stream.read(&mut part).await {
            answer.extend_from_slice(&part[..length]);
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(60), reading).await;
    answer
}

/// A hello whose random bytes are a request to whoever reads lines.
fn polyglot(alpn: &[u8]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = "forged.example".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    // Behind the record's header, the handshake's and the version.
    hello[11..43].copy_from_slice(b"GET /admin HTTP/1.1\r\nx-user:aaaa");
    hello
}

/// What a client may begin with, in pieces.
fn beginnings() -> Vec<Vec<Vec<u8>>> {
    let whole = |first: &[u8]| vec![[first, REST.as_bytes()].concat()];
    let parted = |one: &[u8], other: &[u8]| vec![one.to_vec(), [other, REST.as_bytes()].concat()];
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    vec![
        whole(b"\r\nGET /"),
        whole(b"\r\n\r\n\n\r\nGET /"),
        parted(b"\r", b"\nGET /"),
        parted(b"\r\n", b"GET /"),
        parted(b"G", b"ET /"),
        parted(b"GET", b" /"),
        parted(b"BREW /a", b"b"),
        whole(b" GET /"),
        whole(b"\tGET /"),
        whole(b"get /"),
        whole(b"GET\t/\t"),
        parted(b"GET /\r\n", b"x-a:"),
        whole(b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET /"),
        parted(b"PROXY", b" UNKNOWN\r\nGET /"),
        parted(
            b"\r\n\r\n\0\r\nQUIT\n",
            b"\x21\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\0\x01\0\x02GET /",
        ),
        whole(b"\0GET /"),
        whole(b"X\x01Y /"),
        parted(b"X\x01Y", b" /"),
        parted(b"\x04\0", b"GET /"),
        parted(b"BREW /\0", b"b"),
        parted(b"\x16\x03\x01\x02", b"\0\x05GET /"),
        whole(b"\x01GET /"),
        whole(b"\x7f\x9f GET /"),
        parted(b"\x05", b"\x01\0GET /"),
        whole(b"(X /"),
        whole(b"\xffX /"),
        parted(b"{X", b" /"),
        vec![polyglot(b"linnet/opaque")],
        vec![polyglot(b"h2")],
        parted(&preface[..10], &preface[10..]),
        parted(&preface[..20], b"XX /"),
        vec![b"GET /".to_vec()],
        vec![b"GE".to_vec()],
    ]
}

/// Whether the application, which sends back what it gets, got the bytes as they were.
fn is_relayed(answer: &[u8], pieces: &[Vec<u8>]) -> bool {
    let sent = pieces.concat();
    let forged = b"forged";
    answer.starts_with(&sent[..sent.len().min(5)])
        || answer.windows(forged.len()).any(|part| part == forged)
}

#[tokio::test(start_paused = true)]
async fn no_request_is_relayed_to_a_port_of_http_or_where_tokens_are_looked_for() {
    let test = async {
        let world = World::start(false).await;
        for (protocol, tokens) in [
            (AppProtocol::Http1, false),
            (AppProtocol::Http2, false),
            (AppProtocol::Http1, true),
            (AppProtocol::Detect, true),
        ] {
            for entrance in Entrance::ALL {
                world.declare(entrance.mode(), protocol, tokens);
                for pieces in beginnings() {
                    let stream = entrance.connect(&world).await;
                    let answer = said(stream, &pieces).await;
                    assert!(
                        !is_relayed(&answer, &pieces),
                        "{protocol:?} {tokens} {entrance:?} {:?}: {:?}",
                        pieces.concat().escape_ascii().to_string(),
                        answer.escape_ascii().to_string(),
                    );
                }
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn what_begins_no_request_is_relayed_but_to_a_port_of_http() {
    let test = async {
        let world = World::start(false).await;
        // Binary protocols have control bytes in their messages, not only before them.
        let binary = [b"\0\x01\x02 hello\0".to_vec()];
        for (protocol, tokens, relayed) in [
            (AppProtocol::Detect, false, true),
            (AppProtocol::Detect, true, true),
            (AppProtocol::Opaque, true, true),
            (AppProtocol::Http1, false, false),
            (AppProtocol::Http2, false, false),
        ] {
            for entrance in Entrance::ALL {
                world.declare(entrance.mode(), protocol, tokens);
                let before = world.reached.get();
                let mut stream = entrance.connect(&world).await;
                stream.write_all(&binary[0]).await.unwrap();
                let mut echo = vec![0; binary[0].len()];
                let answered = stream.read_exact(&mut echo).await.is_ok() && echo == binary[0];
                assert_eq!(answered, relayed, "{protocol:?} {tokens} {entrance:?}");
                assert_eq!(world.reached.get() > before, relayed);
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

/// What clients of binary protocols begin with, which speak first.
const BINARY: [(&str, &[u8]); 9] = [
    ("PostgreSQL, SSLRequest", b"\0\0\0\x08\x04\xd2\x16\x2f"),
    (
        "PostgreSQL, StartupMessage",
        b"\0\0\0\x21\0\x03\0\0user\0app\0database\0app\0\0",
    ),
    (
        "MongoDB",
        b"\x2d\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0\x18\0\0\0\x10hello\0\x01\0\0\0\0",
    ),
    (
        "Kafka, ApiVersions",
        b"\0\0\0\x18\0\x12\0\x03\0\0\0\x01\0\x09rdkafka-1\0\x01a\x01b\0",
    ),
    ("Redis", b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"),
    ("AMQP", b"AMQP\0\0\x09\x01"),
    ("Cassandra, OPTIONS", b"\x04\0\0\0\x05\0\0\0\0"),
    (
        "Cassandra, STARTUP",
        b"\x04\0\0\0\x01\0\0\0\x16\0\x01\0\x0bCQL_VERSION\0\x053.0.0",
    ),
    ("MQTT", b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04abcd"),
];

/// Each of their messages gets its answer before the next, whatever follows.
#[tokio::test]
async fn binary_protocols_come_through_at_once_where_tokens_are_looked_for() {
    let test = async {
        let world = World::start(false).await;
        let large: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        for entrance in Entrance::ALL {
            world.declare(entrance.mode(), AppProtocol::Detect, true);
            for (name, first) in BINARY {
                let mut stream = entrance.connect(&world).await;
                for message in [first, b"x\0\n", b"GET / HTTP/1.1\r\n", &large] {
                    let (mut reader, mut writer) = tokio::io::split(&mut stream);
                    let mut echo = vec![0; message.len()];
                    let (sent, heard) = tokio::join!(
                        async {
                            writer.write_all(message).await?;
                            writer.flush().await
                        },
                        reader.read_exact(&mut echo),
                    );
                    assert!(sent.is_ok() && heard.is_ok(), "{name} {entrance:?}");
                    assert!(echo == message, "{name} {entrance:?}");
                }
            }
        }
    };
    // Whoever waited would wait for ten seconds each time.
    let patience = Duration::from_secs(60);
    let test = tokio::time::timeout(patience, test);
    LocalSet::new().run_until(test).await.unwrap();
}

/// Ports that are declared to speak no HTTP stay as they are.
#[tokio::test]
async fn a_port_declared_tcp_is_not_looked_at() {
    let test = async {
        let world = World::start(false).await;
        for entrance in Entrance::ALL {
            world.declare(entrance.mode(), AppProtocol::Opaque, true);
            let mut stream = entrance.connect(&world).await;
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let mut echo = [0; 18];
            stream.read_exact(&mut echo).await.unwrap();
            assert_eq!(&echo, b"GET / HTTP/1.1\r\n\r\n", "{entrance:?}");
        }
    };
    LocalSet::new().run_until(test).await;
}

/// A peer that says it speaks no HTTP, and does, is served as HTTP.
#[tokio::test]
async fn http_behind_an_opaque_hello_is_http() {
    let test = async {
        let world = World::start(true).await;
        for (protocol, tokens) in [(AppProtocol::Http1, false), (AppProtocol::Detect, true)] {
            world.declare(MtlsMode::Strict, protocol, tokens);
            let stream = world.mesh("web", OPAQUE).await;
            assert_eq!(world.request(stream, get("/")).await.0, 200);
        }
    };
    LocalSet::new().run_until(test).await;
}

/// An application that says something as soon as it is connected to, and tells when it was.
async fn greeting(greeting: &'static [u8]) -> (SocketAddr, Rc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let greeted = Rc::new(Notify::new());
    let told = greeted.clone();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let told = told.clone();
            tokio::task::spawn_local(async move {
                let _ = stream.write_all(greeting).await;
                told.notify_one();
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    (address, greeted)
}

/// gRPC servers may send their SETTINGS before they have read anything.
#[tokio::test]
async fn a_server_of_http_that_speaks_first_is_no_way_past_tokens() {
    let test = async {
        let mut world = World::start(false).await;
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x80";
        for (first, relayed) in [
            (&b"\x4a\0\0\0\x0a5.7.1\0"[..], true),
            (settings, false),
            (
                b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                false,
            ),
        ] {
            for entrance in Entrance::ALL {
                let (address, greeted) = greeting(first).await;
                world.app = address;
                world.declare(entrance.mode(), AppProtocol::Detect, true);
                let mut stream = entrance.connect(&world).await;
                if relayed {
                    let mut heard = vec![0; first.len()];
                    stream.read_exact(&mut heard).await.unwrap();
                    assert_eq!(heard, first, "{entrance:?}");
                    continue;
                }
                greeted.notified().await;
                // What was said is most likely heard by then; nothing depends on it.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let request = [[b"GET /", REST.as_bytes()].concat()];
                let answer = said(stream, &request).await;
                let heard = answer.starts_with(first);
                assert!(
                    !heard && !is_relayed(&answer, &request),
                    "{first:?} {entrance:?}"
                );
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

/// A port where nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// As without a mesh: the client is refused at once, silent or not.
#[tokio::test]
async fn a_client_of_nobody_is_reset_whatever_it_has_sent() {
    let test = async {
        let mut world = World::start(false).await;
        world.app = nobody().await;
        for protocol in [AppProtocol::Detect, AppProtocol::Opaque, AppProtocol::Http1] {
            for entrance in Entrance::ALL {
                for sent in [&b""[..], b"\0\x01\x02"] {
                    if protocol == AppProtocol::Http1 && !sent.is_empty() {
                        continue;
                    }
                    world.declare(entrance.mode(), protocol, false);
                    let mut stream = entrance.connect(&world).await;
                    let _ = stream.write_all(sent).await;
                    let end = stream.read_u8().await.unwrap_err();
                    let reset = end.kind();
                    assert_eq!(
                        reset,
                        ErrorKind::ConnectionReset,
                        "{protocol:?} {entrance:?} {sent:?}"
                    );
                }
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

/// An application that resets is heard to reset. A mesh peer hears of an end without TLS' last
/// word: a reset would say that the application was not reached.
#[tokio::test]
async fn a_reset_is_passed_on_as_one() {
    let test = async {
        let mut world = World::start(false).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        world.app = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read_u8().await;
                crate::stream::abort(&stream);
            }
        });
        for entrance in Entrance::ALL {
            world.declare(entrance.mode(), AppProtocol::Opaque, false);
            let mut stream = entrance.connect(&world).await;
            stream.write_all(b"\0\x01\x02").await.unwrap();
            let end = stream.read(&mut [0]).await.unwrap_err();
            let expected = match entrance {
                Entrance::Permissive | Entrance::Disabled => ErrorKind::ConnectionReset,
                Entrance::Strict | Entrance::PermissiveMesh => ErrorKind::UnexpectedEof,
            };
            assert_eq!(end.kind(), expected, "{entrance:?}");
        }
    };
    LocalSet::new().run_until(test).await;
}

/// What was relayed before anybody looked is looked at again once somebody does.
#[tokio::test]
async fn a_relayed_connection_ends_when_its_port_becomes_one_of_http() {
    let test = async {
        let world = World::start(false).await;
        for (protocol, tokens) in [
            (AppProtocol::Http1, false),
            (AppProtocol::Http2, false),
            (AppProtocol::Detect, true),
        ] {
            for entrance in Entrance::ALL {
                for before in [AppProtocol::Detect, AppProtocol::Opaque] {
                    world.declare(entrance.mode(), before, false);
                    let mut stream = entrance.connect(&world).await;
                    stream.write_all(b"\0\x01\x02").await.unwrap();
                    stream.read_exact(&mut [0; 3]).await.unwrap();
                    world.declare(entrance.mode(), protocol, tokens);
                    let mut rest = Vec::new();
                    // An end or a reset.
                    let _ = stream.read_to_end(&mut rest).await;
                    assert!(rest.is_empty(), "{protocol:?} {entrance:?} {before:?}");
                }
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

/// Whoever connects ahead of time, as pools and browsers do, may be silent for as long as it
/// likes: each request is asked about by itself.
#[tokio::test(start_paused = true)]
async fn a_silent_client_of_http_is_not_denied_before_it_speaks() {
    let test = async {
        let world = World::start(true).await;
        for protocol in [AppProtocol::Detect, AppProtocol::Http1] {
            for entrance in Entrance::ALL {
                let policies = Policies::new([policy(Action::Allow, vec![path("/ok")])]);
                let inbound = Inbound {
                    authorization: Some(Arc::new(policies)),
                    access_log: "denied".parse::<AccessLog>().unwrap().into(),
                    ..world.inbound(entrance.mode(), protocol, false)
                };
                let update = Update::Inbound(Arc::new(inbound));
                world.thread.directory().apply(vec![update]);
                let [silent, other] = [
                    entrance.connect(&world).await,
                    entrance.connect(&world).await,
                ];
                tokio::time::sleep(Duration::from_secs(30)).await;
                tokio::time::resume();
                let reached = world.reached.get();
                assert!(world.lines().is_empty(), "{protocol:?} {entrance:?}");
                assert_eq!(world.request(other, get("/no")).await.0, 403);
                assert_eq!(world.reached.get(), reached, "{protocol:?} {entrance:?}");
                assert_eq!(world.request(silent, get("/ok")).await.0, 200);
                tokio::time::pause();
                world.lines();
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

/// A client that is silent as it waits for the server's word hears of the end at once.
#[tokio::test]
async fn a_silent_client_learns_that_it_is_denied_or_that_the_application_hung_up() {
    let test = async {
        let mut world = World::start(false).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        world.set(vec![policy(Action::Deny, vec![from("web")])]);
        let mut denied = world.mesh("web", OPAQUE).await;
        // Not as one that ends in order, and not as one whose application accepts nothing.
        let end = denied.read(&mut [0]).await.unwrap_err();
        assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
        assert_eq!(world.reached.get(), 0);

        world.app = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move { while listener.accept().await.is_ok() {} });
        for tokens in [false, true] {
            for entrance in Entrance::ALL {
                world.declare(entrance.mode(), AppProtocol::Detect, tokens);
                let mut stream = entrance.connect(&world).await;
                let end = stream.read_u8().await.unwrap_err();
                assert_eq!(
                    end.kind(),
                    ErrorKind::UnexpectedEof,
                    "{tokens} {entrance:?}"
                );
                // Nobody spoke.
                let target = linnet_discovery::Target::Address(world.app);
                let spoke = world.thread.first_speaker(&target);
                assert!(spoke.is_none(), "{tokens} {entrance:?}");
            }
        }
    };
    LocalSet::new().run_until(test).await;
}
