//! Requests that are sent again, and those that are not.

use super::support::{Sidecar, Upstream, get, local, raw, rule, status, text};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use linnet_mesh::route::{Filters, HttpRule, RetryOn, RetryPolicy};
use linnet_runtime::testing::closed;
use std::{net::SocketAddr, time::Duration};
use tokio::net::TcpListener;

fn policy(on: RetryOn) -> RetryPolicy {
    RetryPolicy {
        on,
        back_off: Duration::from_micros(10),
        ..RetryPolicy::DEFAULT
    }
}

fn retrying(retry: RetryPolicy) -> Option<Vec<HttpRule>> {
    Some(vec![rule(Filters {
        retry: Some(retry),
        ..Filters::default()
    })])
}

fn post(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post("/").header("host", "payment");
    request.body(Full::new(body.into())).unwrap()
}

/// Fails but for the last of so many requests.
async fn failing(times: usize) -> Upstream {
    Upstream::start(move |number| async move { status(if number < times { 503 } else { 200 }) })
        .await
}

#[tokio::test]
async fn a_named_status_is_retried_with_the_whole_body() {
    local(async {
        let upstream = failing(2).await;
        let sidecar = Sidecar::new(
            retrying(policy(RetryOn::GATEWAY_ERROR)),
            &[upstream.address],
        );
        let body = vec![7; 60_000];
        let response = sidecar.send(post(body.clone())).await;
        assert_eq!(response.status(), 200);
        text(response).await;
        assert_eq!(sidecar.flags(1).await, ["-"]);
        let seen = upstream.seen.borrow();
        assert_eq!(seen.len(), 3);
        assert!(seen.iter().all(|(_, sent)| *sent == body));
    })
    .await;
}

#[tokio::test]
async fn the_last_answer_is_the_callers_when_retries_are_used_up() {
    local(async {
        let upstream = failing(usize::MAX).await;
        let sidecar = Sidecar::new(retrying(policy(RetryOn::SERVER_ERROR)), &[upstream.address]);
        let response = sidecar.get("/").await;
        assert_eq!(response.status(), 503);
        text(response).await;
        assert_eq!(upstream.count(), 3);
        assert_eq!(sidecar.flags(1).await, ["URX"]);
    })
    .await;
}

#[tokio::test]
async fn attempts_0_and_unnamed_ends_send_once() {
    local(async {
        let off = RetryPolicy {
            attempts: 0,
            ..policy(RetryOn::SERVER_ERROR)
        };
        let only_connecting = policy(RetryOn::CONNECT_FAILURE);
        for rules in [retrying(off), retrying(only_connecting), None] {
            let upstream = failing(1).await;
            let sidecar = Sidecar::new(rules, &[upstream.address]);
            assert_eq!(sidecar.get("/").await.status(), 503);
            assert_eq!(upstream.count(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn a_post_that_reached_the_app_is_not_repeated_unless_named() {
    local(async {
        // Takes the request, then hangs up without a word.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = connections.clone();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.set(counted.get() + 1);
                tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap();
            }
        });
        for (rules, expected) in [
            (None, 1),
            (retrying(RetryPolicy::DEFAULT), 1),
            (retrying(policy(RetryOn::RESET)), 3),
        ] {
            connections.set(0);
            let sidecar = Sidecar::new(rules, &[address]);
            assert_eq!(sidecar.send(post("charge")).await.status(), 503);
            assert_eq!(connections.get(), expected);
        }
    })
    .await;
}

/// Answers the first request of its first connection and hangs up at the second.
async fn hangs_up_once() -> (SocketAddr, std::rc::Rc<std::cell::Cell<usize>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = std::rc::Rc::new(std::cell::Cell::new(0));
    let counted = requests.clone();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            while stream.read(&mut head).await.unwrap() > 0 {
                counted.set(counted.get() + 1);
                if counted.get() == 2 {
                    break;
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        }
    });
    (address, requests)
}

#[tokio::test]
async fn an_idle_connection_s_end_does_not_fail_what_may_be_repeated() {
    local(async {
        for (request, expected, sent) in [(get("/"), 200, 3), (post(""), 503, 2)] {
            let (address, requests) = hangs_up_once().await;
            let sidecar = Sidecar::new(None, &[address]);
            text(sidecar.get("/").await).await;
            sidecar.flags(1).await;
            // Longer than a connection may be idle before it is at risk.
            tokio::time::sleep(Duration::from_millis(101)).await;
            assert_eq!(sidecar.send(request).await.status(), expected);
            assert_eq!(requests.get(), sent);
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_too_large_to_keep_is_sent_once() {
    local(async {
        let upstream = failing(1).await;
        let sidecar = Sidecar::new(retrying(policy(RetryOn::SERVER_ERROR)), &[upstream.address]);
        let response = sidecar.send(post(vec![7; 70_000])).await;
        assert_eq!(response.status(), 503);
        assert_eq!(upstream.count(), 1);
        assert_eq!(upstream.seen.borrow()[0].1.len(), 70_000);
    })
    .await;
}

#[tokio::test]
async fn a_retry_goes_to_an_endpoint_that_was_not_tried() {
    local(async {
        let upstream = Upstream::ok().await;
        let addresses = [closed(), closed(), upstream.address];
        for _ in 0..10 {
            let sidecar = Sidecar::new(retrying(policy(RetryOn::CONNECT_FAILURE)), &addresses);
            assert_eq!(sidecar.get("/").await.status(), 200);
        }
    })
    .await;
}

#[tokio::test]
async fn an_attempt_has_its_own_timeout() {
    local(async {
        let silent = raw("").await;
        let limited = RetryPolicy {
            attempts: 1,
            per_try_timeout: Some(Duration::from_millis(20)),
            ..policy(RetryOn::RESET)
        };
        let sidecar = Sidecar::new(retrying(limited.clone()), &[silent]);
        assert_eq!(sidecar.get("/").await.status(), 504);
        assert_eq!(sidecar.flags(1).await, ["UT,URX"]);
        let upstream = Upstream::start(|number| async move {
            if number == 0 {
                std::future::pending::<()>().await;
            }
            status(200)
        })
        .await;
        let sidecar = Sidecar::new(retrying(limited), &[upstream.address]);
        assert_eq!(sidecar.send(post("a")).await.status(), 200);
        assert_eq!(upstream.count(), 2);
    })
    .await;
}

#[tokio::test]
async fn grpc_is_retried_by_its_own_status_by_default() {
    local(async {
        let upstream = Upstream::start(|number| async move {
            let mut response: Response<Full<Bytes>> = status(200);
            let code = if number < 2 { "14" } else { "0" };
            let headers = response.headers_mut();
            headers.insert("grpc-status", HeaderValue::from_static(code));
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            response
        })
        .await;
        let sidecar = Sidecar::new(Some(vec![rule(Filters::default())]), &[upstream.address]);
        let mut request = get("http://payment/a.B/C");
        let grpc = HeaderValue::from_static("application/grpc");
        request.headers_mut().insert("content-type", grpc);
        let response = sidecar.send_http2(request).await;
        assert_eq!(response.headers()["grpc-status"], "0");
        assert_eq!(upstream.count(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_failing_service_sees_no_more_than_the_budget() {
    local(async {
        let upstream = failing(usize::MAX).await;
        let sidecar = Sidecar::new(retrying(policy(RetryOn::SERVER_ERROR)), &[upstream.address]);
        let started = std::time::Instant::now();
        for _ in 0..200 {
            assert_eq!(sidecar.get("/").await.status(), 503);
        }
        let seconds = started.elapsed().as_secs() as usize + 1;
        let most = 200 + 200 / 5 + 3 * seconds;
        assert!(
            (240..=most).contains(&upstream.count()),
            "{}",
            upstream.count()
        );
    })
    .await;
}
