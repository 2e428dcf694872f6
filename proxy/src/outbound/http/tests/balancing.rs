//! Which endpoint a request goes to, and who is left alone.

use super::support::{Sidecar, Upstream, get, local, rule, status, text};
use http::header;
use linnet_mesh::{
    destination::{
        Balance, ConsistentHash, DestinationPolicy, HashAlgorithm, HashKey, OutlierDetection,
    },
    route::Filters,
};
use std::{future, net::SocketAddr, time::Duration};
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
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
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
