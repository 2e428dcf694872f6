//! Which endpoint a request goes to, and who is left alone.

use super::support::{Sidecar, Upstream, get, local, rule, status, text};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use linnet_mesh::{
    destination::{
        Balance, ConsistentHash, DestinationPolicy, HashAlgorithm, HashKey, OutlierDetection,
    },
    route::Filters,
};
use linnet_runtime::testing::closed;
use std::{convert::Infallible, future, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::oneshot,
};

fn ejecting(outlier: OutlierDetection) -> DestinationPolicy {
    DestinationPolicy {
        outlier: Some(outlier),
        balance: Balance::Random,
        ..DestinationPolicy::default()
    }
}

async fn failing() -> Upstream {
    Upstream::start(|_| async { status(500) }).await
}

#[tokio::test]
async fn five_errors_eject_and_the_time_brings_back() {
    local(async {
        let (good, bad) = (Upstream::ok().await, failing().await);
        let outlier = OutlierDetection {
            base_ejection_time: Duration::from_millis(300),
            ..OutlierDetection::DEFAULT
        };
        let endpoints = [good.address, bad.address];
        let sidecar = Sidecar::by(ejecting(outlier), None, &endpoints);
        while sidecar.ejected().is_empty() {
            sidecar.get("/").await;
        }
        assert_eq!(bad.count(), 5);
        assert_eq!(sidecar.ejected(), [bad.address]);
        // While it is out, nobody goes there; then it is tried again.
        while bad.count() < 6 {
            let out = !sidecar.ejected().is_empty();
            let status = sidecar.get("/").await.status();
            assert!(status == 200 || !out || sidecar.ejected().is_empty());
        }
    })
    .await;
}

#[tokio::test]
async fn the_last_endpoint_is_never_ejected() {
    local(async {
        let bad = failing().await;
        let outlier = OutlierDetection {
            max_ejection_percent: 100,
            ..OutlierDetection::DEFAULT
        };
        let sidecar = Sidecar::by(ejecting(outlier), None, &[bad.address]);
        for _ in 0..20 {
            assert_eq!(sidecar.get("/").await.status(), 500);
        }
        assert_eq!(bad.count(), 20);
        assert!(sidecar.ejected().is_empty());
    })
    .await;
}

#[tokio::test]
async fn who_refuses_connections_is_ejected_and_nobody_notices() {
    local(async {
        let good = Upstream::ok().await;
        let closed = closed();
        let outlier = OutlierDetection {
            split_local_origin: true,
            consecutive_local_origin_failures: Some(3),
            ..OutlierDetection::DEFAULT
        };
        let sidecar = Sidecar::by(ejecting(outlier), None, &[good.address, closed]);
        while sidecar.ejected().is_empty() {
            assert_eq!(sidecar.get("/").await.status(), 200);
        }
        assert_eq!(sidecar.ejected(), [closed]);
    })
    .await;
}

#[tokio::test]
async fn who_does_not_answer_in_time_is_ejected() {
    local(async {
        let good = Upstream::ok().await;
        let silent = Upstream::start(|_| future::pending()).await;
        let filters = Filters {
            timeout: Some(Duration::from_millis(100)),
            ..Filters::default()
        };
        let policy = ejecting(OutlierDetection {
            consecutive_5xx: None,
            consecutive_gateway_errors: Some(2),
            ..OutlierDetection::DEFAULT
        });
        let endpoints = [good.address, silent.address];
        let sidecar = Sidecar::by(policy, Some(vec![rule(filters)]), &endpoints);
        while sidecar.ejected().is_empty() {
            sidecar.get("/").await;
        }
        assert_eq!(sidecar.ejected(), [silent.address]);
    })
    .await;
}

/// Answers 500 and keeps the connection; tells when its peer has closed it.
async fn failing_and_listening() -> (SocketAddr, oneshot::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (closed, told) = oneshot::channel();
    tokio::task::spawn_local(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        while stream.read(&mut head).await.unwrap() > 0 {
            let answer = b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
        closed.send(()).unwrap();
    });
    (address, told)
}

#[tokio::test]
async fn connections_of_the_ejected_are_let_go() {
    local(async {
        let good = Upstream::ok().await;
        let (bad, closed) = failing_and_listening().await;
        let policy = ejecting(OutlierDetection::DEFAULT);
        let sidecar = Sidecar::by(policy, None, &[good.address, bad]);
        let mut requests = 0;
        while sidecar.ejected().is_empty() {
            text(sidecar.get("/").await).await;
            requests += 1;
            // Recorded: its connection has been given back.
            sidecar.flags(requests).await;
        }
        // The next choice sees it.
        text(sidecar.get("/").await).await;
        closed.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn without_endpoints_the_answer_says_so() {
    local(async {
        let policy = ejecting(OutlierDetection::DEFAULT);
        let sidecar = Sidecar::by(policy, None, &[]);
        let response = sidecar.get("/").await;
        assert_eq!(response.status(), 503);
        assert!(text(response).await.contains("default/payment:80"));
        assert_eq!(sidecar.flags(1).await, ["UH"]);
    })
    .await;
}

fn hashing(key: HashKey) -> DestinationPolicy {
    DestinationPolicy {
        balance: Balance::ConsistentHash(ConsistentHash {
            key,
            algorithm: HashAlgorithm::default(),
        }),
        ..DestinationPolicy::default()
    }
}

#[tokio::test]
async fn a_cookie_is_given_and_leads_back() {
    local(async {
        let mut upstreams = Vec::new();
        for _ in 0..4 {
            upstreams.push(Upstream::ok().await);
        }
        let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
        let policy = hashing(HashKey::Cookie {
            name: "sid".into(),
            path: Some("/".into()),
            ttl: Some(Duration::from_secs(60)),
        });
        let sidecar = Sidecar::by(policy, None, &addresses);
        let first = sidecar.get("/").await;
        let given = first.headers()[header::SET_COOKIE].to_str().unwrap();
        let (cookie, attributes) = given.split_once("; ").unwrap();
        assert_eq!(attributes, "Max-Age=60; Path=/; HttpOnly");
        let home = upstreams.iter().position(|u| u.count() == 1).unwrap();
        for _ in 0..20 {
            let mut request = get("/");
            let headers = request.headers_mut();
            headers.insert(header::COOKIE, cookie.parse().unwrap());
            let response = sidecar.send(request).await;
            assert!(!response.headers().contains_key(header::SET_COOKIE));
        }
        assert_eq!(upstreams[home].count(), 21);
    })
    .await;
}

#[tokio::test]
async fn a_query_parameter_leads_to_the_same_place() {
    local(async {
        let upstreams = [Upstream::ok().await, Upstream::ok().await];
        let addresses = [upstreams[0].address, upstreams[1].address];
        let policy = hashing(HashKey::QueryParameter("user".into()));
        let sidecar = Sidecar::by(policy, None, &addresses);
        for user in 0..10 {
            let counts = || upstreams.each_ref().map(Upstream::count);
            let before = counts();
            for _ in 0..3 {
                sidecar.get(&format!("/?user={user}")).await;
            }
            let after = counts();
            assert!(after[0] == before[0] + 3 || after[1] == before[1] + 3);
        }
    })
    .await;
}

/// What an application answers a gRPC call with, and whether it has served it.
const CALLS: [(&str, &str, Option<&str>, bool); 5] = [
    ("application/grpc", "answer", Some("0"), true),
    ("application/grpc", "answer", None, false),
    ("application/grpc", "", None, false),
    ("text/html", "welcome", None, false),
    // It says that in its body.
    ("application/grpc-web+proto", "answer", None, true),
];

/// A server of HTTP/2 that answers each call so.
async fn answering_calls<B>(
    answer: impl Fn() -> B + Clone + 'static,
    kind: &'static str,
) -> SocketAddr
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = hyper::service::service_fn(move |_| {
                let response = Response::builder().header(header::CONTENT_TYPE, kind);
                future::ready(Ok::<_, Infallible>(response.body(answer()).unwrap()))
            });
            let server = hyper::server::conn::http2::Builder::new(crate::http::LocalExecutor);
            let serving = server.serve_connection(TokioIo::new(stream), service);
            tokio::task::spawn_local(serving);
        }
    });
    address
}

/// A body of these bytes, and a status in its trailers.
fn told(
    body: &'static str,
    status: Option<&'static str>,
) -> impl http_body::Body<Data = Bytes, Error = Infallible> {
    let data = (!body.is_empty()).then(|| Frame::data(Bytes::from_static(body.as_bytes())));
    let trailers = status.map(|status| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        Frame::trailers(trailers)
    });
    StreamBody::new(stream::iter(data.into_iter().chain(trailers).map(Ok)))
}

async fn call(sidecar: &Sidecar) -> Response<hyper::body::Incoming> {
    let request = Request::post("http://payment/a.B/C");
    let request = request.header(header::CONTENT_TYPE, "application/grpc");
    sidecar
        .send_http2(request.body(Full::default()).unwrap())
        .await
}

/// Whoever does not say how a call ended has not served it, however well it began.
#[tokio::test]
async fn a_call_that_ends_without_its_status_is_a_failure() {
    for (kind, body, grpc_status, served) in CALLS {
        local(async {
            let one = answering_calls(move || told(body, grpc_status), kind).await;
            let other = answering_calls(|| told("", Some("0")), "application/grpc").await;
            let policy = ejecting(OutlierDetection::DEFAULT);
            let sidecar = Sidecar::by(policy, None, &[one, other]);
            for _ in 0..60 {
                let answer = call(&sidecar).await;
                // It is the caller's as it is.
                assert_eq!(answer.status(), 200, "{kind}");
                let answer = answer.into_body().collect().await.unwrap().to_bytes();
                assert!(answer.is_empty() || answer == body, "{kind}");
            }
            sidecar.flags(60).await;
            let expected = if served { vec![] } else { vec![one] };
            assert_eq!(
                sidecar.ejected(),
                expected,
                "{kind} {body:?} {grpc_status:?}"
            );
        })
        .await;
    }
}

/// A caller that gives a call up says nothing of who answered it.
#[tokio::test]
async fn a_call_that_its_caller_gives_up_is_no_failure() {
    local(async {
        let first = || {
            let first = Frame::data(Bytes::from_static(b"first"));
            let first = stream::iter([Ok(first)]);
            StreamBody::new(first.chain(stream::pending()))
        };
        let endless = answering_calls(first, "application/grpc").await;
        let other = Upstream::ok().await;
        let outlier = OutlierDetection {
            consecutive_5xx: Some(1),
            ..OutlierDetection::DEFAULT
        };
        let sidecar = Sidecar::by(ejecting(outlier), None, &[endless]);
        for _ in 0..3 {
            let answer = call(&sidecar).await;
            let mut body = answer.into_body();
            assert!(body.frame().await.unwrap().unwrap().is_data());
        }
        sidecar.flags(3).await;
        // So that it could be.
        let endpoints = [endless, other.address].map(|address| (address, "v1"));
        sidecar.endpoints(&endpoints);
        assert!(sidecar.ejected().is_empty());
    })
    .await;
}

/// Being asked too much makes nobody attractive, however fast it says so.
#[tokio::test]
async fn a_fast_429_attracts_no_more_than_a_fast_500() {
    for code in [429, 500] {
        local(async {
            let refusing = Upstream::start(move |_| async move { status(code) }).await;
            let serving = Upstream::start(|_| async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                status(200)
            })
            .await;
            let sidecar = Sidecar::new(None, &[refusing.address, serving.address]);
            for _ in 0..100 {
                sidecar.get("/").await;
            }
            // No more than a part for trying whether that is still so.
            let (refused, served) = (refusing.count(), serving.count());
            assert!(3 * refused < served, "{code}: {refused} and {served}");
        })
        .await;
    }
}
