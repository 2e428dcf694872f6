//! An endpoint that can't serve is no caller's trouble: each way of not serving,
//! with each protocol, method and policy of retries, beside an endpoint that can.

use super::support::{Sidecar, Upstream, local, raw, rule, status, text};
use crate::{
    access_log::Log,
    cap::Cap,
    directory::Directory,
    inbound::{self, Arrival},
    telemetry::Telemetry,
    thread::{Shared, Thread},
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use linnet_mesh::{
    Endpoint, Inbound, MtlsMode,
    destination::{
        Balance, ConsistentHash, DestinationPolicy, HashAlgorithm, HashKey, Locality,
        LocalityPolicy, OutlierDetection,
    },
    discovery::Update,
    names::header::UNDELIVERED,
    route::{Filters, HttpRule, Mirror, RetryPolicy, Share},
};
use linnet_runtime::{
    certificate::{self, testing::Authority},
    drain,
};
use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Requests of each combination.
const REQUESTS: usize = 10;

/// An address where nobody listens.
async fn closed() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// A callee's sidecar before an application.
struct Callee {
    thread: Rc<Thread>,
    address: SocketAddr,
    signal: Cell<Option<drain::Signal>>,
}

impl Callee {
    async fn start(authority: &Authority, account: &str, app: SocketAddr) -> Self {
        let (directory, commands) = Directory::new(vec![]);
        drop(commands);
        directory.apply(vec![Update::Inbound(Arc::new(Inbound {
            mtls: MtlsMode::Strict,
            ..Inbound::default()
        }))]);
        let (signal, watch) = drain::channel();
        let thread = Thread::new(Shared {
            directory,
            certificates: certificate::Handle::fixed(authority.workload("default", account)),
            telemetry: Telemetry::new("test"),
            access_log: Log::for_test(1024).0,
            opaque_ports: Arc::default(),
            drain: watch,
            cap: Cap::new(usize::MAX),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = thread.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let arrival = Arrival {
                    thread: accepting.clone(),
                    peer,
                    port: app.port(),
                    app,
                    activity: None,
                };
                tokio::task::spawn_local(inbound::serve_connection(arrival, stream));
            }
        });
        Self {
            thread,
            address,
            signal: Cell::new(Some(signal)),
        }
    }

    /// Requests that it has answered itself for want of an application.
    fn refused(&self) -> usize {
        let text = self.thread.shared.telemetry.render();
        let lines = text.lines().filter(|line| {
            line.starts_with("istio_requests_total{") && line.contains("response_flags=\"UF\"")
        });
        let counts = lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap());
        counts.sum::<f64>() as usize
    }

    fn endpoint(&self) -> Endpoint {
        meshed(self.address)
    }
}

/// An endpoint that must prove to be payment.
fn meshed(address: SocketAddr) -> Endpoint {
    let identity = "spiffe://cluster.local/ns/default/sa/payment";
    Endpoint {
        identity: Some(identity.parse().unwrap()),
        ..Endpoint::at(address)
    }
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
}

impl Trouble {
    const ALL: [Self; 6] = [
        Self::Refused,
        Self::PlainRefused,
        Self::HangsUp,
        Self::SomebodyElse,
        Self::NoApplication,
        Self::Draining,
    ];

    /// Such an endpoint, and how often it has been tried, where that can be known.
    async fn start(self, authority: &Authority) -> (Endpoint, Box<dyn Fn() -> usize>) {
        match self {
            Self::Refused => (meshed(closed().await), Box::new(|| 0)),
            Self::PlainRefused => (Endpoint::at(closed().await), Box::new(|| 0)),
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
            Self::NoApplication | Self::Draining => {
                let callee = Callee::start(authority, "payment", closed().await).await;
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
        assert_eq!(answer.status(), 200, "{case}");
        assert!(!answer.headers().contains_key(UNDELIVERED), "{case}");
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

/// A silent client may speak HTTP yet, or wait for its server's first word: who has no
/// application is passed over, whether it is known who speaks first or not.
#[tokio::test]
async fn a_silent_client_is_not_reset_for_want_of_one_application() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(b"hello").await.unwrap();
                open.push(stream);
            }
        });
        let sidecar = Sidecar::new(None, &[]);
        let good = Callee::start(&sidecar.authority, "payment", app).await;
        for known in [false, true] {
            let bad = Callee::start(&sidecar.authority, "payment", closed().await).await;
            sidecar.replace(vec![good.endpoint(), bad.endpoint()]);
            for number in 0..REQUESTS {
                let mut client = sidecar.connect().await;
                let mut said = [0; 5];
                let read = client.read_exact(&mut said).await;
                assert_eq!((read.ok(), &said), (Some(5), b"hello"), "{number}, {known}");
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
            sidecar.replace(vec![of_v1(closed().await), of_v1(closed().await), good]);
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
            callees.push(Callee::start(&sidecar.authority, "payment", closed().await).await);
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
    local(async {
        let sidecar = Sidecar::new(None, &[]);
        let (one, other) = (Upstream::ok().await, closed().await);
        sidecar.replace(vec![Endpoint::at(one.address), Endpoint::at(other)]);
        for _ in 0..REQUESTS {
            assert_eq!(sidecar.get("/").await.status(), 200);
        }
        let listener = TcpListener::bind(other).await.unwrap();
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
            Endpoint::at(closed().await),
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
        let callee = Callee::start(&authority, "payment", closed().await).await;
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
