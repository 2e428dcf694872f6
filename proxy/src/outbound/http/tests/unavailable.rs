//! An endpoint that can't serve is no caller's trouble: each way of not serving,
//! with each protocol, method and policy of retries, beside an endpoint that can.

mod applications;

use super::support::{
    Callee, Sidecar, Upstream, echo, key, local, meshed, raw, rule, status, text,
};
use crate::{
    io::{Rewind, tls::Server},
    mux,
    tls::Tls,
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use linnet_discovery::Update;
use linnet_mesh::{
    Endpoint, Inbound, MtlsMode,
    destination::{
        Balance, ConnectionPool, ConsistentHash, DestinationPolicy, HashAlgorithm, HashKey,
        Locality, LocalityPolicy, OutlierDetection,
    },
    names::header::UNDELIVERED,
    protocol::MeshProtocol,
    route::{Filters, HttpRule, Mirror, RetryPolicy, Share},
};
use linnet_runtime::{drain, testing::closed};
use linnet_workload::testing::{Authority, Leaf};
use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// Requests of each combination.
const REQUESTS: usize = 10;

/// A payment that nobody's root but a stranger's is good enough for.
fn distrustful(authority: &Authority) -> linnet_workload::Workload {
    let leaf = Leaf::new(&["spiffe://cluster.local/ns/default/sa/payment"]);
    let (chain, key) = authority.issue_pem(&leaf);
    let bundle = Authority::default().bundle_pem();
    linnet_workload::Workload::from_pem(&chain, &key, &bundle).unwrap()
}

/// A server that accepts connections, and does this to them; counts them.
async fn accepting(hangs_up: bool) -> (SocketAddr, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Rc::<Cell<usize>>::default();
    let counted = count.clone();
    tokio::task::spawn_local(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            counted.set(counted.get() + 1);
            if !hangs_up {
                open.push(stream);
            }
        }
    });
    (address, count)
}

/// In which way an endpoint does not serve.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// Its port refuses connections: the pod is gone.
    Refused,
    /// The same, of one without a sidecar.
    PlainRefused,
    /// It ends each handshake.
    HangsUp,
    /// Somebody else is at its address.
    SomebodyElse,
    /// Its sidecar answers, its application does not listen.
    NoApplication,
    /// The same, and the sidecar is on its way out.
    Draining,
    /// Its sidecar does not trust the caller's root, which it says after the caller is
    /// done with the handshake.
    Distrusts,
}

impl Trouble {
    const ALL: [Self; 7] = [
        Self::Refused,
        Self::PlainRefused,
        Self::HangsUp,
        Self::SomebodyElse,
        Self::NoApplication,
        Self::Draining,
        Self::Distrusts,
    ];

    /// Such an endpoint, and how often it has been tried, where that can be known.
    async fn start(self, authority: &Authority) -> (Endpoint, Box<dyn Fn() -> usize>) {
        match self {
            Self::Refused => (meshed(closed()), Box::new(|| 0)),
            Self::PlainRefused => (Endpoint::at(closed()), Box::new(|| 0)),
            Self::HangsUp => {
                let (address, count) = accepting(true).await;
                (meshed(address), Box::new(move || count.get()))
            }
            Self::SomebodyElse => {
                let app = Upstream::ok().await;
                let callee = Callee::start(authority, "ledger", app.address).await;
                let endpoint = callee.endpoint();
                // Nothing ever reaches the application.
                (
                    endpoint,
                    Box::new(move || callee.refused() + 100 * app.count()),
                )
            }
            Self::Distrusts => {
                let app = Upstream::ok().await;
                let callee = Callee::with(distrustful(authority), usize::MAX, app.address).await;
                let endpoint = callee.endpoint();
                // Nothing ever reaches the application.
                (
                    endpoint,
                    Box::new(move || callee.turned_away() + 100 * app.count()),
                )
            }
            Self::NoApplication | Self::Draining => {
                let callee = Callee::start(authority, "payment", closed()).await;
                if matches!(self, Self::Draining) {
                    let signal = callee.signal.take().unwrap();
                    tokio::task::spawn_local(signal.drain());
                    tokio::task::yield_now().await;
                }
                (callee.endpoint(), Box::new(move || callee.refused()))
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Speaks {
    Http1,
    Http2,
    Grpc,
}

impl Speaks {
    const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Grpc];
}

/// What a rule says of retries; `None`: there is no rule.
fn rules(number: usize) -> Option<Vec<HttpRule>> {
    let retry = match number {
        0 => return None,
        1 => None,
        2 => Some(RetryPolicy::DEFAULT),
        _ => Some(RetryPolicy {
            attempts: 0,
            ..RetryPolicy::DEFAULT
        }),
    };
    Some(vec![rule(Filters {
        retry,
        ..Filters::default()
    })])
}

async fn ask(
    sidecar: &Sidecar,
    speaks: Speaks,
    body: &'static str,
) -> Response<hyper::body::Incoming> {
    let builder = match body {
        "" => Request::get("http://payment/a.B/C"),
        _ => Request::post("http://payment/a.B/C"),
    };
    let builder = builder.header("host", "payment").header("x-user", "7");
    let builder = match speaks {
        Speaks::Grpc => builder.header("content-type", "application/grpc"),
        Speaks::Http1 | Speaks::Http2 => builder,
    };
    let request = builder.body(Full::new(Bytes::from(body))).unwrap();
    match speaks {
        Speaks::Http1 => sidecar.send(request).await,
        Speaks::Http2 | Speaks::Grpc => sidecar.send_http2(request).await,
    }
}

/// An application behind a sidecar, and one in trouble.
async fn half(sidecar: &Sidecar, trouble: Trouble) -> (Upstream, Box<dyn Fn() -> usize>) {
    let app = Upstream::ok().await;
    let good = Callee::start(&sidecar.authority, "payment", app.address).await;
    let (bad, attempts) = trouble.start(&sidecar.authority).await;
    sidecar.replace(vec![good.endpoint(), bad]);
    // It serves for as long as the test.
    std::mem::forget(good);
    (app, attempts)
}

#[tokio::test]
async fn whoever_can_not_serve_is_no_callers_trouble() {
    for trouble in Trouble::ALL {
        for speaks in Speaks::ALL {
            for body in ["", "charge"] {
                for policy in 0..4 {
                    let case = format!("{trouble:?} {speaks:?} {body:?} policy {policy}");
                    local(one_case(case, trouble, speaks, body, policy)).await;
                }
            }
        }
    }
}

async fn one_case(
    case: String,
    trouble: Trouble,
    speaks: Speaks,
    body: &'static str,
    policy: usize,
) {
    let sidecar = Sidecar::new(rules(policy), &[]);
    let (app, attempts) = half(&sidecar, trouble).await;
    let began = Instant::now();
    for _ in 0..REQUESTS {
        let answer = ask(&sidecar, speaks, body).await;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let said = text(answer).await;
        assert_eq!(status, 200, "{case}: {said}");
        assert!(!headers.contains_key(UNDELIVERED), "{case}");
    }
    let seen = app.seen.borrow();
    assert_eq!(seen.len(), REQUESTS, "{case}");
    for (head, sent) in seen.iter() {
        assert_eq!(
            (sent.as_ref(), &head.headers["x-user"]),
            (body.as_bytes(), &HeaderValue::from_static("7")),
            "{case}"
        );
    }
    let most = 1 + began.elapsed().as_secs() as usize;
    assert!(attempts() <= most, "{case}: {} attempts", attempts());
}

/// An application that speaks first.
async fn greeting() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"hello").await.unwrap();
            open.push(stream);
        }
    });
    address
}

/// Whether a client that says nothing hears it.
async fn is_greeted(sidecar: &Sidecar) -> bool {
    let mut client = sidecar.connect().await;
    let mut said = [0; 5];
    client.read_exact(&mut said).await.is_ok() && &said == b"hello"
}

/// A silent client may speak HTTP yet, or wait for its server's first word: who has no
/// application is passed over, whether it is known who speaks first or not.
#[tokio::test]
async fn a_silent_client_is_not_reset_for_want_of_one_application() {
    local(async {
        let app = greeting().await;
        let sidecar = Sidecar::new(None, &[]);
        let good = Callee::start(&sidecar.authority, "payment", app).await;
        for known in [false, true] {
            let bad = Callee::start(&sidecar.authority, "payment", closed()).await;
            sidecar.replace(vec![good.endpoint(), bad.endpoint()]);
            for number in 0..REQUESTS {
                assert!(is_greeted(&sidecar).await, "{number}, {known}");
            }
        }
    })
    .await;
}

/// An answer that breaks off is no success, however fast it began.
#[tokio::test]
async fn an_answer_that_breaks_off_is_a_failure() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await.unwrap();
                let half = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
                stream.write_all(half).await.unwrap();
            }
        });
        let good = Upstream::ok().await;
        let policy = DestinationPolicy {
            outlier: Some(OutlierDetection::DEFAULT),
            balance: Balance::Random,
            ..DestinationPolicy::default()
        };
        let sidecar = Sidecar::by(policy, None, &[good.address, address]);
        for _ in 0..200 {
            let mut client = sidecar.connect().await;
            let request = b"GET / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
            client.write_all(request).await.unwrap();
            // It may break off.
            let _ = client.read_to_end(&mut Vec::new()).await;
        }
        assert_eq!(sidecar.ejected(), [address]);
    })
    .await;
}

#[tokio::test]
async fn grpc_goes_past_an_endpoint_that_speaks_http1_alone() {
    local(async {
        let sidecar = Sidecar::new(None, &[]);
        let app = Upstream::ok().await;
        let old = raw("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        sidecar.replace(vec![Endpoint::at(app.address), Endpoint::at(old)]);
        for _ in 0..REQUESTS {
            ask(&sidecar, Speaks::Grpc, "").await;
        }
        assert_eq!(app.count(), REQUESTS);
    })
    .await;
}

#[tokio::test]
async fn subsets_keys_and_places_leave_who_can_not_serve() {
    let hash = DestinationPolicy {
        balance: Balance::ConsistentHash(ConsistentHash {
            key: HashKey::Header("x-user".parse().unwrap()),
            algorithm: HashAlgorithm::default(),
        }),
        ..DestinationPolicy::default()
    };
    let near = DestinationPolicy {
        locality: Some(LocalityPolicy::Failover(vec![])),
        ..DestinationPolicy::default()
    };
    let turns = DestinationPolicy {
        balance: Balance::RoundRobin,
        ..DestinationPolicy::default()
    };
    for policy in [hash, near, turns] {
        local(async {
            let mut rule = rule(Filters::default());
            rule.backends[0].subset = Some("v1".to_owned());
            let sidecar = Sidecar::by(policy, Some(vec![rule]), &[]);
            let app = Upstream::ok().await;
            let far = Arc::new(Locality {
                region: "us".to_owned(),
                ..Locality::default()
            });
            let of_v1 = |address| Endpoint {
                subsets: vec!["v1".to_owned()],
                ..Endpoint::at(address)
            };
            let good = Endpoint {
                locality: far,
                ..of_v1(app.address)
            };
            sidecar.replace(vec![of_v1(closed()), of_v1(closed()), good]);
            for _ in 0..REQUESTS {
                let answer = ask(&sidecar, Speaks::Http1, "charge").await;
                assert_eq!(answer.status(), 200);
            }
            assert_eq!(app.count(), REQUESTS);
        })
        .await;
    }
}

#[tokio::test]
async fn all_refusing_is_one_pass_and_a_503() {
    local(async {
        let sidecar = Sidecar::new(None, &[]);
        let mut callees = Vec::new();
        for _ in 0..3 {
            callees.push(Callee::start(&sidecar.authority, "payment", closed()).await);
        }
        sidecar.replace(callees.iter().map(Callee::endpoint).collect());
        let answer = sidecar.get("/").await;
        assert_eq!(answer.status(), 503);
        assert!(!answer.headers().contains_key(UNDELIVERED));
        let body = text(answer).await;
        assert!(body.contains("accepts no connection"), "{body}");
        for callee in &callees {
            assert_eq!(callee.refused(), 1);
        }
        assert_eq!(sidecar.flags(1).await, ["UF"]);
        // Known to be so, they cost no storm of attempts, and not nobody either.
        for _ in 0..100 {
            assert_eq!(sidecar.get("/").await.status(), 503);
        }
        let asked: usize = callees.iter().map(Callee::refused).sum();
        assert!((103..200).contains(&asked), "{asked}");
    })
    .await;
}

#[tokio::test]
async fn whoever_is_back_serves_again() {
    // Outlier detection adds no time to that: it has nothing to say of who is away.
    let outlier = OutlierDetection {
        consecutive_gateway_errors: Some(1),
        base_ejection_time: Duration::from_secs(300),
        ..OutlierDetection::DEFAULT
    };
    for outlier in [None, Some(outlier)] {
        back_again(outlier).await;
    }
}

async fn back_again(outlier: Option<OutlierDetection>) {
    local(async {
        let policy = DestinationPolicy {
            outlier,
            ..DestinationPolicy::default()
        };
        let sidecar = Sidecar::by(policy, None, &[]);
        let one = Upstream::ok().await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let other = socket.local_addr().unwrap();
        sidecar.replace(vec![Endpoint::at(one.address), Endpoint::at(other)]);
        for _ in 0..REQUESTS {
            assert_eq!(sidecar.get("/").await.status(), 200);
        }
        let listener = socket.listen(8).unwrap();
        let back = Upstream::on(listener, |_| async { status(200) }).await;
        while back.count() == 0 {
            assert_eq!(sidecar.get("/").await.status(), 200);
            tokio::task::yield_now().await;
        }
        let before = back.count();
        // Its failure is forgotten by and by.
        for _ in 0..200 {
            assert_eq!(sidecar.get("/").await.status(), 200);
        }
        assert!(back.count() - before >= 50, "{}", back.count());
    })
    .await;
}

#[tokio::test]
async fn a_silent_endpoint_holds_few_requests_and_not_for_long() {
    local(async {
        let sidecar = Rc::new(Sidecar::new(None, &[]));
        let app = Upstream::ok().await;
        let (silent, accepted) = accepting(false).await;
        sidecar.replace(vec![meshed(silent), Endpoint::at(app.address)]);
        let began = Instant::now();
        let asking = |_| {
            let sidecar = sidecar.clone();
            tokio::task::spawn_local(async move { sidecar.get("/").await.status() })
        };
        let first: Vec<_> = (0..4).map(asking).collect();
        while accepted.get() == 0 {
            tokio::task::yield_now().await;
        }
        let slow = Duration::from_millis(250);
        tokio::time::sleep(slow).await;
        // Nobody else waits for it from now on.
        for _ in 0..20 {
            assert_eq!(sidecar.get("/").await.status(), 200);
        }
        for asked in first {
            assert_eq!(asked.await.unwrap(), 200);
        }
        assert!(began.elapsed() < Duration::from_secs(8));
        assert!(accepted.get() <= 3, "{}", accepted.get());
    })
    .await;
}

/// An address of a node that is gone: it answers nothing, not even that it refuses. A queue
/// of connections that is full drops whoever comes.
async fn vanished() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket.listen(0).unwrap());
    let soon = Duration::from_millis(100);
    while let Ok(Ok(stream)) = tokio::time::timeout(soon, TcpStream::connect(address)).await {
        std::mem::forget(stream);
    }
    address
}

/// Of four nodes three are gone, and nobody has found out about any of them yet. Each attempt
/// takes a whole `connectTimeout`.
#[tokio::test]
async fn a_request_gets_past_all_that_have_vanished() {
    local(async {
        let app = Upstream::ok().await;
        for _ in 0..4 {
            let policy = DestinationPolicy {
                pool: ConnectionPool {
                    connect_timeout: Duration::from_millis(50),
                    ..ConnectionPool::DEFAULT
                },
                ..DestinationPolicy::default()
            };
            let sidecar = Sidecar::by(policy, None, &[]);
            let gone = [vanished().await, vanished().await, vanished().await];
            let gone = gone.into_iter().map(Endpoint::at);
            sidecar.replace(gone.chain([Endpoint::at(app.address)]).collect());
            let answer = sidecar.get("/").await;
            let status = answer.status();
            assert_eq!(status, 200, "{}", text(answer).await);
        }
    })
    .await;
}

#[tokio::test]
async fn an_opaque_connection_is_opened_elsewhere() {
    local(async {
        let sidecar = Sidecar::new(None, &[]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let echo = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    let (mut reader, mut writer) = stream.split();
                    // The client ends it as it likes.
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                });
            }
        });
        let (hangs_up, attempts) = accepting(true).await;
        sidecar.replace(vec![
            Endpoint::at(closed()),
            meshed(hangs_up),
            Endpoint::at(echo),
        ]);
        for _ in 0..REQUESTS {
            let mut client: TcpStream = sidecar.connect().await;
            client.write_all(b"\x00\x01hello").await.unwrap();
            let mut heard = [0; 7];
            client.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"\x00\x01hello");
        }
        assert!(attempts.get() <= 2, "{}", attempts.get());
    })
    .await;
}

#[tokio::test]
async fn a_mirrored_copy_goes_elsewhere_too() {
    local(async {
        let original = rule(Filters::default());
        let mirrored = rule(Filters {
            mirrors: vec![Mirror {
                backend: original.backends[0].clone(),
                share: Share::ALL,
            }],
            ..Filters::default()
        });
        let sidecar = Sidecar::new(Some(vec![mirrored]), &[]);
        let (app, _) = half(&sidecar, Trouble::NoApplication).await;
        for _ in 0..REQUESTS {
            assert_eq!(ask(&sidecar, Speaks::Http1, "charge").await.status(), 200);
        }
        while app.count() < 2 * REQUESTS {
            tokio::task::yield_now().await;
        }
        assert!(app.seen.borrow().iter().all(|(_, body)| body == "charge"));
    })
    .await;
}

/// A rule's mirrors may be silent, and a copy waits for a minute.
#[tokio::test]
async fn copies_to_a_silent_destination_have_a_bound() {
    local(async {
        let to = |subset: &str| {
            let mut backend = rule(Filters::default()).backends[0].clone();
            backend.subset = Some(subset.to_owned());
            backend
        };
        let mirror = Mirror {
            backend: to("v2"),
            share: Share::ALL,
        };
        let mut mirrored = rule(Filters {
            mirrors: vec![mirror; 16],
            ..Filters::default()
        });
        mirrored.backends = vec![to("v1")];
        let sidecar = Sidecar::new(Some(vec![mirrored]), &[]);
        let app = Upstream::ok().await;
        let (hangs, accepted) = accepting(false).await;
        sidecar.endpoints(&[(app.address, "v1"), (hangs, "v2")]);
        for _ in 0..40 {
            assert_eq!(sidecar.get("/").await.status(), 200);
        }
        let balancer = sidecar.thread.balancer_of(&key()).unwrap();
        assert_eq!(balancer.copies.get(), 256);
        while accepted.get() < 256 {
            tokio::task::yield_now().await;
        }
        assert_eq!(sidecar.get("/").await.status(), 200);
        assert_eq!((accepted.get(), app.count()), (256, 41));
    })
    .await;
}

#[tokio::test]
async fn a_body_too_large_to_keep_is_not_sent_to_look_whether_somebody_is_back() {
    local(async {
        let sidecar = Sidecar::new(None, &[]);
        let (app, attempts) = half(&sidecar, Trouble::NoApplication).await;
        while attempts() == 0 {
            assert_eq!(ask(&sidecar, Speaks::Http1, "").await.status(), 200);
        }
        let small = app.count();
        let began = Instant::now();
        let body = Bytes::from(vec![7; 100_000]);
        while began.elapsed() < Duration::from_millis(1_500) {
            let request = Request::post("/").header("host", "payment");
            let request = request.body(Full::new(body.clone())).unwrap();
            assert_eq!(sidecar.send(request).await.status(), 200);
        }
        assert_eq!(attempts(), 1);
        assert!(app.count() > small);
    })
    .await;
}

/// An application that claims that it has not seen the request.
async fn lying() -> Upstream {
    Upstream::start(|_| async {
        let mut answer = status(503);
        let word = HeaderValue::from_static("connect");
        answer.headers_mut().insert(UNDELIVERED, word);
        answer
    })
    .await
}

#[tokio::test]
async fn no_application_is_believed_that_it_has_not_seen_a_request() {
    for speaks in Speaks::ALL {
        local(async {
            let sidecar = Sidecar::new(None, &[]);
            let apps = [lying().await, lying().await];
            // Behind its sidecar, which takes the word away; and without one.
            let callee = Callee::start(&sidecar.authority, "payment", apps[0].address).await;
            for endpoint in [callee.endpoint(), Endpoint::at(apps[1].address)] {
                let app = if endpoint.identity.is_some() {
                    &apps[0]
                } else {
                    &apps[1]
                };
                // Somewhere to go, if it were believed.
                let other = Upstream::ok().await;
                sidecar.replace(vec![endpoint, Endpoint::at(other.address)]);
                while app.count() == 0 {
                    let before = other.count();
                    let answer = ask(&sidecar, speaks, "charge").await;
                    assert!(!answer.headers().contains_key(UNDELIVERED), "{speaks:?}");
                    let expected = if app.count() == 1 { 503 } else { 200 };
                    assert_eq!(answer.status(), expected, "{speaks:?}");
                    assert_eq!(app.count() + other.count() - before, 1, "{speaks:?}");
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_seen_is_not_moved() {
    // The second one may be repeated, and its sidecar does so in vain.
    for body in ["charge", ""] {
        local(seen_once(body)).await;
    }
}

async fn seen_once(body: &'static str) {
    // Serves one request, hangs up at the next, and listens no longer.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut head = [0; 2048];
        assert!(stream.read(&mut head).await.unwrap() > 0);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        assert!(stream.read(&mut head).await.unwrap() > 0);
    });
    let sidecar = Sidecar::new(None, &[]);
    let callee = Callee::start(&sidecar.authority, "payment", address).await;
    sidecar.replace(vec![callee.endpoint()]);
    text(ask(&sidecar, Speaks::Http1, body).await).await;
    sidecar.flags(1).await;
    // Longer than a connection may be idle before it is at risk.
    tokio::time::sleep(Duration::from_millis(101)).await;
    let other = Upstream::ok().await;
    sidecar.replace(vec![callee.endpoint(), Endpoint::at(other.address)]);
    let mut answered = 0;
    while ask(&sidecar, Speaks::Http1, body).await.status() == 200 {
        answered += 1;
        assert!(answered < 20);
    }
    assert_eq!(other.count(), answered);
    assert_eq!(callee.refused(), 0);
}

#[tokio::test]
async fn a_stranger_is_not_told() {
    local(async {
        let authority = Authority::default();
        let callee = Callee::start(&authority, "payment", closed()).await;
        let open = Update::Inbound(Arc::new(Inbound::default()));
        callee.thread.directory().apply(vec![open]);
        let mut client = TcpStream::connect(callee.address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(!answer.contains(UNDELIVERED), "{answer}");
    })
    .await;
}

/// How a sidecar says that it passes a request to nobody, besides its answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Refusal {
    /// It has no place for one more stream.
    Full,
    /// It ends each stream in order, as one that is idle when a drain begins.
    Ends,
    /// It resets streams of HTTP/2 as refused.
    Resets,
    /// It names the last stream of HTTP/2 that it looks at.
    GoesAway,
    /// It ends the shared connection before it has looked at the stream.
    Closes,
}

/// A callee's sidecar that passes no request on; counts what it refused.
async fn refusing(sidecar: &Sidecar, refusal: Refusal) -> (SocketAddr, Rc<Cell<usize>>) {
    let workload = sidecar.authority.workload("default", "payment");
    let tls = Tls::new(linnet_workload::Handle::fixed(workload), &[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Rc::<Cell<usize>>::default();
    let counted = count.clone();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = Rewind::new(Bytes::new(), stream);
            let (stream, _, protocol) = tls.accept(stream).await.unwrap();
            let counted = counted.clone();
            tokio::task::spawn_local(async move {
                match protocol {
                    MeshProtocol::Shared => refuse_shared(stream, refusal, counted).await,
                    _ => refuse_http2(stream, refusal, counted).await,
                }
            });
        }
    });
    (address, count)
}

async fn refuse_shared(mut stream: Server<TcpStream>, refusal: Refusal, counted: Rc<Cell<usize>>) {
    if refusal == Refusal::Closes {
        // The frame that says that no more streams are wanted.
        let _ = stream.write_all(&[0, 0, 0, 0, 4, 0, 0, 0]).await;
        counted.set(counted.get() + 1);
        let _ = stream.shutdown().await;
        // Until the caller is gone, too.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        return;
    }
    let (_signal, watch) = drain::channel();
    let accept = |stream: mux::Stream| {
        counted.set(counted.get() + 1);
        if refusal == Refusal::Full {
            stream.refuse();
            return;
        }
        tokio::task::spawn_local(async move {
            let mut stream = stream;
            // As the sidecar's HTTP does between requests.
            let _ = stream.shutdown().await;
        });
    };
    let _ = mux::serve(stream, accept, watch).await;
}

async fn refuse_http2(stream: Server<TcpStream>, refusal: Refusal, counted: Rc<Cell<usize>>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    if refusal == Refusal::GoesAway {
        counted.set(counted.get() + 1);
        connection.graceful_shutdown();
    }
    while let Some(Ok((_request, mut respond))) = connection.accept().await {
        counted.set(counted.get() + 1);
        respond.send_reset(h2::Reason::REFUSED_STREAM);
    }
}

/// Whatever the method: it was seen by nobody. And it is no failure of the endpoint.
#[tokio::test]
async fn a_refused_stream_goes_elsewhere_and_tells_nothing_against_its_endpoint() {
    for (refusal, speaks) in [
        (Refusal::Full, Speaks::Http1),
        (Refusal::Ends, Speaks::Http1),
        (Refusal::Closes, Speaks::Http1),
        (Refusal::Resets, Speaks::Http2),
        (Refusal::Resets, Speaks::Grpc),
        (Refusal::GoesAway, Speaks::Http2),
    ] {
        for body in ["", "charge"] {
            local(refused_case(refusal, speaks, body)).await;
        }
    }
}

async fn refused_case(refusal: Refusal, speaks: Speaks, body: &'static str) {
    let case = format!("{refusal:?} {speaks:?} {body:?}");
    let policy = DestinationPolicy {
        outlier: Some(OutlierDetection {
            // The application answers no call as gRPC does.
            consecutive_5xx: None,
            consecutive_gateway_errors: Some(1),
            ..OutlierDetection::DEFAULT
        }),
        balance: Balance::RoundRobin,
        ..DestinationPolicy::default()
    };
    let sidecar = Sidecar::by(policy, None, &[]);
    let app = Upstream::ok().await;
    let good = Callee::start(&sidecar.authority, "payment", app.address).await;
    let (bad, refused) = refusing(&sidecar, refusal).await;
    sidecar.replace(vec![good.endpoint(), meshed(bad)]);
    for _ in 0..REQUESTS {
        let answer = ask(&sidecar, speaks, body).await;
        let message = answer.headers().get("grpc-message").cloned();
        assert_eq!((answer.status().as_u16(), message), (200, None), "{case}");
    }
    let seen = app.seen.borrow();
    assert_eq!(seen.len(), REQUESTS, "{case}");
    assert!(seen.iter().all(|(_, sent)| sent == body), "{case}");
    assert!(refused.get() > 0, "{case}");
    assert!(sidecar.ejected().is_empty(), "{case}");
    let unavailable = "linnet_endpoints_unavailable";
    assert!(!sidecar.metrics().contains(unavailable), "{case}");
}

/// Whatever crosses the ends that a drain brings, at whatever moment it comes.
#[tokio::test]
async fn a_drain_fails_nobody() {
    for speaks in Speaks::ALL {
        local(async {
            let sidecar = Rc::new(Sidecar::new(None, &[]));
            let mut callees = Vec::new();
            for _ in 0..2 {
                let app = Upstream::ok().await;
                let callee = Callee::start(&sidecar.authority, "payment", app.address).await;
                callees.push((callee, app));
            }
            sidecar.replace(
                callees
                    .iter()
                    .map(|(callee, _)| callee.endpoint())
                    .collect(),
            );
            let asked = Rc::new(Cell::new(0));
            let clients = (0..4).map(|_| {
                let (sidecar, asked) = (sidecar.clone(), asked.clone());
                tokio::task::spawn_local(async move {
                    while asked.get() < 400 {
                        asked.set(asked.get() + 1);
                        let answer = ask(&sidecar, speaks, "charge").await;
                        let status = (
                            answer.status(),
                            answer.headers().get("grpc-message").cloned(),
                        );
                        assert_eq!(
                            status,
                            (StatusCode::OK, None),
                            "{speaks:?} {}",
                            text(answer).await
                        );
                    }
                })
            });
            let clients: Vec<_> = clients.collect();
            while asked.get() < 100 {
                tokio::task::yield_now().await;
            }
            let signal = callees[0].0.signal.take().unwrap();
            tokio::task::spawn_local(signal.drain());
            for client in clients {
                client.await.unwrap();
            }
            let served: usize = callees.iter().map(|(_, app)| app.count()).sum();
            assert_eq!(served, asked.get(), "{speaks:?}");
        })
        .await;
    }
}

/// A sidecar that has no place for a stream says so.
#[tokio::test]
async fn a_stream_without_a_place_is_refused_unseen() {
    local(async {
        let sidecar = Sidecar::new(None, &[]);
        let app = Upstream::ok().await;
        let good = Callee::start(&sidecar.authority, "payment", app.address).await;
        let workload = sidecar.authority.workload("default", "payment");
        let full = Callee::with(workload, 0, app.address).await;
        sidecar.replace(vec![good.endpoint(), full.endpoint()]);
        for _ in 0..REQUESTS {
            assert_eq!(ask(&sidecar, Speaks::Http1, "charge").await.status(), 200);
        }
        assert!(full.connections.get() > 0);
        // Where there is nobody else, the caller is told.
        sidecar.replace(vec![full.endpoint()]);
        let answer = ask(&sidecar, Speaks::Http1, "charge").await;
        assert_eq!(answer.status(), 503);
        let body = text(answer).await;
        assert!(body.contains("refused a request unseen"), "{body}");
        assert_eq!(app.count(), REQUESTS);
    })
    .await;
}

/// An opaque connection whose certificate is refused is one that did not come about.
#[tokio::test]
async fn a_silent_client_goes_past_an_endpoint_that_refuses_the_certificate() {
    local(async {
        let app = greeting().await;
        let sidecar = Sidecar::new(None, &[]);
        let good = Callee::start(&sidecar.authority, "payment", app).await;
        let bad = Callee::with(distrustful(&sidecar.authority), usize::MAX, app).await;
        sidecar.replace(vec![good.endpoint(), bad.endpoint()]);
        for number in 0..REQUESTS {
            assert!(is_greeted(&sidecar).await, "{number}");
        }
        assert!((1..=3).contains(&bad.connections.get()));
    })
    .await;
}

/// The same where the client speaks first: what it said is gone, and nobody else's is.
#[tokio::test]
async fn the_next_client_that_speaks_first_goes_past_an_endpoint_that_refuses_the_certificate() {
    local(async {
        let sidecar = Sidecar::new(None, &[]);
        let bad = Callee::with(distrustful(&sidecar.authority), usize::MAX, closed()).await;
        sidecar.replace(vec![bad.endpoint()]);
        let mut client = sidecar.connect().await;
        client.write_all(b"\x00\x01hello").await.unwrap();
        assert!(client.read_u8().await.is_err());
        let cell = sidecar.thread.directory().service(&key()).unwrap();
        let states = cell.states(Instant::now());
        assert!(states[0].unavailable);
    })
    .await;
}
