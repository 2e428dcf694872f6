//! Limits, deadlines and changes of route while requests are on their way.

use super::support::{Sidecar, Upstream, get, local, resource, rule, status, text};
use crate::pool::Limit;
use http::{HeaderValue, Request};
use linnet_mesh::{
    destination::{ClientTls, ConnectionPool, Destination, DestinationPolicy, Sources},
    route::{Filters, HttpRule, RetryOn, RetryPolicy},
};
use std::{rc::Rc, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

pub(super) fn policy(pool: ConnectionPool) -> Destination {
    Destination {
        policy: Arc::new(DestinationPolicy {
            pool,
            sources: Sources {
                pool: Some((*resource()).clone()),
                tls: Some((*resource()).clone()),
                ..Sources::default()
            },
            ..DestinationPolicy::default()
        }),
        ..Destination::default()
    }
}

pub(super) fn policy_of(tls: ClientTls) -> Destination {
    let mut destination = policy(ConnectionPool::DEFAULT);
    Arc::make_mut(&mut destination.policy).tls = tls;
    destination
}

/// A server that answers a request for each permit.
pub(super) async fn held() -> (Upstream, Rc<Semaphore>) {
    let gate = Rc::new(Semaphore::new(0));
    let answers = gate.clone();
    let upstream = Upstream::start(move |_| {
        let gate = answers.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            status(200)
        }
    });
    (upstream.await, gate)
}

pub(super) async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn over_the_limit_requests_are_answered_at_once_and_say_whose_limit() {
    local(async {
        let (upstream, gate) = held().await;
        let sidecar = Rc::new(Sidecar::new(None, &[upstream.address]));
        sidecar.called(policy(ConnectionPool {
            max_requests: Some(1),
            ..ConnectionPool::DEFAULT
        }));
        let first = sidecar.clone();
        let first = tokio::task::spawn_local(async move { first.get("/").await.status() });
        until(|| upstream.count() == 1).await;
        let refused = sidecar.get("/").await;
        assert_eq!(refused.status(), 503);
        let body = text(refused).await;
        assert!(body.contains("VirtualService default/payment"), "{body}");
        assert!(body.contains("http.http2MaxRequests is 1"), "{body}");
        assert_eq!(upstream.count(), 1);
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), 200);
        // The slot comes free with the exchange.
        sidecar.flags(2).await;
        let last = sidecar.get("/").await;
        assert_eq!(last.status(), 200);
        text(last).await;
        assert_eq!(sidecar.flags(3).await, ["-", "-", "UO"]);
    })
    .await;
}

#[tokio::test]
async fn requests_wait_for_a_connection_as_far_as_they_may() {
    local(async {
        let (upstream, gate) = held().await;
        let sidecar = Rc::new(Sidecar::new(None, &[upstream.address]));
        sidecar.called(policy(ConnectionPool {
            max_connections: Some(1),
            max_pending_requests: Some(1),
            ..ConnectionPool::DEFAULT
        }));
        let send = |sidecar: &Rc<Sidecar>| {
            let sidecar = sidecar.clone();
            tokio::task::spawn_local(async move {
                let response = sidecar.get("/").await;
                let status = response.status().as_u16();
                (status, text(response).await)
            })
        };
        let busy = send(&sidecar);
        until(|| upstream.count() == 1).await;
        // One of these may wait, whichever comes first.
        let (one, other) = (send(&sidecar), send(&sidecar));
        until(|| one.is_finished() || other.is_finished()).await;
        gate.add_permits(2);
        let mut answers = [
            busy.await.unwrap(),
            one.await.unwrap(),
            other.await.unwrap(),
        ];
        answers.sort();
        assert_eq!(answers[0].0, 200);
        assert_eq!(answers[1].0, 200);
        assert_eq!(answers[2].0, 503);
        let body = &answers[2].1;
        assert!(body.contains("http1MaxPendingRequests is 1"), "{body}");
        assert_eq!(upstream.count(), 2);
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_elsewhere_makes_room() {
    local(async {
        let (one, other) = (Upstream::ok().await, Upstream::ok().await);
        let sidecar = Sidecar::new(None, &[one.address, other.address]);
        sidecar.called(policy(ConnectionPool {
            max_connections: Some(1),
            ..ConnectionPool::DEFAULT
        }));
        for requests in 1.. {
            let response = sidecar.get("/").await;
            assert_eq!(response.status(), 200);
            text(response).await;
            sidecar.flags(requests).await;
            if one.count() > 0 && other.count() > 0 {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_limit_reached_is_not_retried() {
    local(async {
        let (upstream, _gate) = held().await;
        let retry = RetryPolicy {
            on: RetryOn::SERVER_ERROR.and(RetryOn::REFUSED_STREAM),
            ..RetryPolicy::DEFAULT
        };
        let rules = vec![rule(Filters {
            retry: Some(retry),
            ..Filters::default()
        })];
        let sidecar = Rc::new(Sidecar::new(Some(rules), &[upstream.address]));
        sidecar.called(policy(ConnectionPool {
            max_requests: Some(1),
            ..ConnectionPool::DEFAULT
        }));
        let first = sidecar.clone();
        tokio::task::spawn_local(async move { first.get("/").await });
        until(|| upstream.count() == 1).await;
        assert_eq!(sidecar.get("/").await.status(), 503);
        assert_eq!(sidecar.flags(1).await, ["UO"]);
    })
    .await;
}

#[tokio::test]
async fn retries_have_a_limit_of_their_own() {
    local(async {
        let upstream = Upstream::start(|_| async { status(503) }).await;
        let retry = RetryPolicy {
            on: RetryOn::SERVER_ERROR,
            back_off: Duration::from_secs(1000),
            ..RetryPolicy::DEFAULT
        };
        let rules = vec![rule(Filters {
            retry: Some(retry),
            ..Filters::default()
        })];
        let sidecar = Rc::new(Sidecar::new(Some(rules), &[upstream.address]));
        sidecar.called(policy(ConnectionPool {
            max_retries: Some(1),
            ..ConnectionPool::DEFAULT
        }));
        let first = sidecar.clone();
        tokio::task::spawn_local(async move { first.get("/").await });
        until(|| upstream.count() == 1).await;
        // The first one's retry waits: there is none left for another.
        until(|| sidecar.taken(Limit::Retries) == 1).await;
        let second = sidecar.get("/").await;
        assert_eq!(second.status(), 503);
        text(second).await;
        assert_eq!(upstream.count(), 2);
        assert_eq!(sidecar.flags(1).await, ["UO"]);
    })
    .await;
}

fn by_subset(share: u32) -> Vec<HttpRule> {
    let mut rule = rule(Filters::default());
    let mut other = rule.backends[0].clone();
    rule.backends[0].subset = Some("v1".into());
    rule.backends[0].weight = 100 - share;
    other.subset = Some("v2".into());
    other.weight = share;
    rule.backends.push(other);
    vec![rule]
}

#[tokio::test]
async fn rolling_from_one_subset_to_the_other_fails_no_request() {
    local(async {
        let (old, new) = (Upstream::ok().await, Upstream::ok().await);
        let sidecar = Rc::new(Sidecar::new(Some(by_subset(0)), &[]));
        sidecar.endpoints(&[(old.address, "v1"), (new.address, "v2")]);
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let sidecar = sidecar.clone();
                tokio::task::spawn_local(async move {
                    for _ in 0..50 {
                        let response = sidecar.get("/").await;
                        assert_eq!(response.status(), 200);
                        text(response).await;
                    }
                })
            })
            .collect();
        until(|| old.count() >= 100).await;
        assert_eq!(new.count(), 0);
        for share in [10, 50, 100] {
            sidecar.told(Some(by_subset(share)), None);
            let sent = old.count() + new.count();
            until(|| old.count() + new.count() >= (sent + 50).min(400)).await;
        }
        for caller in callers {
            caller.await.unwrap();
        }
        let before = old.count();
        for _ in 0..20 {
            assert_eq!(sidecar.get("/").await.status(), 200);
        }
        assert_eq!(old.count(), before);
        assert_eq!(old.count() + new.count(), 420);
    })
    .await;
}

#[tokio::test]
async fn a_deadline_goes_on_with_little_more_and_ends_the_exchange() {
    local(async {
        let (upstream, _gate) = held().await;
        let sidecar = Sidecar::new(None, &[upstream.address]);
        let request = Request::get("/").header("host", "payment");
        let request = request.header("x-envoy-expected-rq-timeout-ms", "60");
        let response = sidecar
            .send(request.body(Default::default()).unwrap())
            .await;
        assert_eq!(response.status(), 504);
        assert!(text(response).await.contains("60ms"));
        assert_eq!(sidecar.flags(1).await, ["UT"]);
        let carried = |upstream: &Upstream, name: &str| {
            let seen = upstream.seen.borrow();
            seen.last().unwrap().0.headers[name]
                .to_str()
                .unwrap()
                .to_owned()
        };
        let left: u64 = carried(&upstream, "x-envoy-expected-rq-timeout-ms")
            .parse()
            .unwrap();
        assert!((1..=70).contains(&left), "{left}");

        let request = Request::post("http://payment/a.B/C").version(http::Version::HTTP_2);
        let request = request
            .header("content-type", "application/grpc")
            .header("grpc-timeout", "70m");
        let response = sidecar
            .send_http2(request.body(Default::default()).unwrap())
            .await;
        assert_eq!(response.headers()["grpc-status"], "4");
        let left = carried(&upstream, "grpc-timeout");
        let left: u64 = left.strip_suffix('m').unwrap().parse().unwrap();
        assert!((1..=80).contains(&left), "{left}");
    })
    .await;
}

#[tokio::test]
async fn a_route_s_timeout_is_the_upper_bound_and_is_carried() {
    local(async {
        let upstream = Upstream::ok().await;
        let rules = vec![rule(Filters {
            timeout: Some(Duration::from_secs(2)),
            ..Filters::default()
        })];
        let sidecar = Sidecar::new(Some(rules), &[upstream.address]);
        let request = Request::get("/").header("host", "payment");
        let request = request.header("x-envoy-expected-rq-timeout-ms", "90000");
        sidecar
            .send(request.body(Default::default()).unwrap())
            .await;
        let seen = upstream.seen.borrow();
        let left = &seen[0].0.headers["x-envoy-expected-rq-timeout-ms"];
        let left: u64 = left.to_str().unwrap().parse().unwrap();
        assert!((1000..=2010).contains(&left), "{left}");
    })
    .await;
}

#[tokio::test]
async fn who_asks_to_be_left_alone_is_for_a_bounded_time() {
    local(async {
        let upstream = Upstream::start(|number| async move {
            let mut response = status(if number == 1 { 200 } else { 429 });
            let seconds = if number == 0 { "1" } else { "3600" };
            let seconds = HeaderValue::from_static(seconds);
            response.headers_mut().insert("retry-after", seconds);
            response
        })
        .await;
        let rules = |statuses: &[u16]| {
            let retry = RetryPolicy {
                statuses: statuses.to_vec(),
                back_off: Duration::from_micros(1),
                ..RetryPolicy::DEFAULT
            };
            Some(vec![rule(Filters {
                retry: Some(retry),
                ..Filters::default()
            })])
        };
        let sidecar = Sidecar::new(rules(&[429]), &[upstream.address]);
        let start = tokio::time::Instant::now();
        assert_eq!(sidecar.get("/").await.status(), 200);
        assert!(start.elapsed() >= Duration::from_secs(1));
        // An hour is too long: the caller is told, and nobody is asked again.
        let response = sidecar.get("/").await;
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "3600");
        assert_eq!(upstream.count(), 3);
        // Nor is anybody without being told to.
        sidecar.told(rules(&[]), None);
        assert_eq!(sidecar.get("/").await.status(), 429);
        assert_eq!(upstream.count(), 4);
    })
    .await;
}

#[tokio::test]
async fn a_connection_serves_so_many_requests() {
    local(async {
        let upstream = Upstream::ok().await;
        let sidecar = Sidecar::new(None, &[upstream.address]);
        sidecar.called(policy(ConnectionPool {
            max_requests_per_connection: Some(2),
            ..ConnectionPool::DEFAULT
        }));
        for requests in 1..=6 {
            text(sidecar.get("/").await).await;
            sidecar.flags(requests).await;
        }
        assert_eq!(upstream.connections.get(), 3);
        for _ in 0..4 {
            let request = Request::get("http://payment/").version(http::Version::HTTP_2);
            let request = request.body(Default::default()).unwrap();
            text(sidecar.send_http2(request).await).await;
        }
        assert_eq!(upstream.connections.get(), 5);
    })
    .await;
}

#[tokio::test]
async fn plaintext_never_goes_to_who_takes_mutual_tls_alone() {
    local(async {
        let upstream = Upstream::ok().await;
        let sidecar = Sidecar::new(None, &[]);
        sidecar.meshed_endpoint(upstream.address, true);
        for (tls, reason) in [
            (ClientTls::Disable, "mode STRICT"),
            (ClientTls::Simple(Default::default()), "mode STRICT"),
        ] {
            let mut destination = policy(ConnectionPool::DEFAULT);
            Arc::make_mut(&mut destination.policy).tls = tls;
            sidecar.called(destination);
            let response = sidecar.send(get("/")).await;
            assert_eq!(response.status(), 503);
            let body = text(response).await;
            assert!(body.contains(reason), "{body}");
            assert!(body.contains("VirtualService default/payment"), "{body}");
        }
        assert_eq!(upstream.connections.get(), 0);
        // Nor does anything go where nobody can take it.
        sidecar.endpoints(&[(upstream.address, "v1")]);
        let mut destination = policy(ConnectionPool::DEFAULT);
        Arc::make_mut(&mut destination.policy).tls = ClientTls::IstioMutual;
        sidecar.called(destination);
        let body = text(sidecar.get("/").await).await;
        assert!(body.contains("no sidecar"), "{body}");
        assert_eq!(upstream.connections.get(), 0);
    })
    .await;
}

#[tokio::test]
async fn what_goes_in_plaintext_is_not_counted_as_mutual_tls() {
    local(async {
        let upstream = Upstream::ok().await;
        let sidecar = Sidecar::new(None, &[]);
        sidecar.meshed_endpoint(upstream.address, false);
        sidecar.called(policy_of(ClientTls::Disable));
        let response = sidecar.get("/").await;
        assert_eq!(response.status(), 200);
        text(response).await;
        sidecar.flags(1).await;
        let metrics = sidecar.metrics();
        let policy = |name: &str| format!("connection_security_policy=\"{name}\"");
        assert!(metrics.contains(&policy("none")), "{metrics}");
        assert!(!metrics.contains(&policy("mutual_tls")), "{metrics}");
        // The same endpoint, called by the mesh's TLS, which the server is not up
        // to, is another series.
        sidecar.called(policy_of(ClientTls::Auto));
        assert_eq!(sidecar.get("/").await.status(), 503);
        sidecar.flags(2).await;
        let metrics = sidecar.metrics();
        assert!(metrics.contains(&policy("mutual_tls")), "{metrics}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_waits_for_nothing() {
    local(async {
        let pool = ConnectionPool {
            max_requests: Some(1),
            ..ConnectionPool::DEFAULT
        };
        let (upstream, _gate) = held().await;
        let sidecar = Rc::new(Sidecar::new(None, &[upstream.address]));
        sidecar.called(policy(pool));
        let first = sidecar.clone();
        let first = tokio::task::spawn_local(async move { first.get("/").await });
        while upstream.count() == 0 {
            tokio::task::yield_now().await;
        }
        // The clock stands still but when everybody waits for it alone.
        let start = tokio::time::Instant::now();
        for requests in 1..=100 {
            let refused = sidecar.get("/").await;
            assert_eq!(refused.status(), 503);
            text(refused).await;
            assert_eq!(sidecar.flags(requests).await, vec!["UO"; requests]);
        }
        let took = start.elapsed();
        assert!(took < Duration::from_millis(1), "{took:?}");
        assert_eq!(upstream.count(), 1);
        first.abort();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_for_a_connection_waits_for_nothing() {
    local(async {
        let (upstream, gate) = held().await;
        let sidecar = Rc::new(Sidecar::new(None, &[upstream.address]));
        sidecar.called(policy(ConnectionPool {
            max_connections: Some(1),
            max_pending_requests: Some(1),
            ..ConnectionPool::DEFAULT
        }));
        let send = || {
            let sidecar = sidecar.clone();
            tokio::task::spawn_local(async move { sidecar.get("/").await.status() })
        };
        let busy = send();
        while upstream.count() == 0 {
            tokio::task::yield_now().await;
        }
        let waiting = send();
        while sidecar.taken(Limit::Pending) == 0 {
            tokio::task::yield_now().await;
        }
        // The clock stands still but when everybody waits for it alone.
        let start = tokio::time::Instant::now();
        for _ in 0..100 {
            let refused = sidecar.get("/").await;
            assert_eq!(refused.status(), 503);
            let body = text(refused).await;
            assert!(body.contains("http1MaxPendingRequests is 1"), "{body}");
        }
        let took = start.elapsed();
        assert!(took < Duration::from_millis(1), "{took:?}");
        assert_eq!(sidecar.flags(100).await, vec!["UO"; 100]);
        gate.add_permits(2);
        assert_eq!(busy.await.unwrap(), 200);
        assert_eq!(waiting.await.unwrap(), 200);
        assert_eq!(upstream.connections.get(), 1);
    })
    .await;
}
