//! What rules do besides choosing a backend.

use super::support::{Sidecar, Upstream, get, local, rule, status, text};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use linnet_mesh::route::{
    Abort, AbortStatus, Answer, Delay, DirectResponse, Fault, Filters, HeaderEdits, HeaderFilters,
    Mirror, PathRewrite, Redirect, RedirectPath, RequestMatch, Rewrite, Share, StringMatch,
};
use std::time::{Duration, Instant};

fn edits(name: &'static str) -> HeaderEdits {
    let name = HeaderName::from_static(name);
    HeaderEdits {
        set: vec![(name, HeaderValue::from_static("1"))],
        ..HeaderEdits::default()
    }
}

fn rewrite() -> Filters {
    Filters {
        rewrite: Some(Rewrite {
            path: Some(PathRewrite::Matched("/v2".into())),
            authority: Some("ratings".parse().unwrap()),
        }),
        headers: HeaderFilters {
            request: edits("x-request"),
            response: edits("x-response"),
        },
        ..Filters::default()
    }
}

#[tokio::test]
async fn rewrites_and_header_edits_in_both_versions() {
    local(async {
        let upstream = Upstream::ok().await;
        let mut rule = rule(rewrite());
        rule.matches = vec![RequestMatch {
            path: Some(StringMatch::Prefix("/api".into())),
            ..RequestMatch::default()
        }];
        rule.backends[0].headers = HeaderFilters {
            request: edits("x-backend"),
            response: edits("x-from"),
        };
        let sidecar = Sidecar::new(Some(vec![rule]), &[upstream.address]);
        let response = sidecar.get("/api/a?q=1").await;
        assert_eq!(response.headers()["x-response"], "1");
        assert_eq!(response.headers()["x-from"], "1");
        let second = Request::get("http://payment/api?q=2").body(Full::default());
        sidecar.send_http2(second.unwrap()).await;
        let seen = upstream.seen.borrow();
        let (first, second) = (&seen[0].0, &seen[1].0);
        assert_eq!(first.uri, "/v2/a?q=1");
        assert_eq!(first.headers["host"], "ratings");
        assert_eq!(second.uri, "http://ratings/v2?q=2");
        for head in [first, second] {
            assert_eq!(head.headers["x-request"], "1");
            assert_eq!(head.headers["x-backend"], "1");
        }
    })
    .await;
}

#[tokio::test]
async fn a_rule_can_answer_itself() {
    local(async {
        let answer = |answer| {
            rule(Filters {
                answer: Some(answer),
                headers: HeaderFilters {
                    response: edits("x-response"),
                    ..HeaderFilters::default()
                },
                ..Filters::default()
            })
        };
        let redirect = answer(Answer::Redirect(Redirect {
            status: StatusCode::PERMANENT_REDIRECT,
            scheme: Some("https".into()),
            authority: None,
            port: None,
            path: Some(RedirectPath::Full("/new".into())),
        }));
        let sidecar = Sidecar::new(Some(vec![redirect]), &[]);
        let response = sidecar.get("/old?q=1").await;
        assert_eq!(response.status(), 308);
        assert_eq!(response.headers()["location"], "https://payment/new?q=1");
        assert_eq!(response.headers()["x-response"], "1");
        let direct = answer(Answer::Direct(DirectResponse {
            status: StatusCode::IM_A_TEAPOT,
            body: b"short".to_vec(),
        }));
        let sidecar = Sidecar::new(Some(vec![direct]), &[]);
        let response = sidecar.get("/").await;
        assert_eq!(response.status(), 418);
        assert_eq!(text(response).await, "short");
        assert_eq!(sidecar.flags(1).await, ["-"]);
    })
    .await;
}

#[tokio::test]
async fn a_mirror_gets_a_copy_under_another_name() {
    local(async {
        // The same service, so that it sees each request twice.
        let upstream = Upstream::ok().await;
        let original = rule(Filters::default());
        let mirrored = rule(Filters {
            mirrors: vec![Mirror {
                backend: original.backends[0].clone(),
                share: Share::ALL,
            }],
            ..Filters::default()
        });
        let sidecar = Sidecar::new(Some(vec![mirrored]), &[upstream.address]);
        let request = Request::post("/a").header("host", "payment:80");
        let body = Full::new(Bytes::from_static(b"charge"));
        let answer = sidecar.send(request.body(body).unwrap());
        let both = async {
            while upstream.count() < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(answer, both);
        let seen = upstream.seen.borrow();
        let mut hosts: Vec<_> = seen.iter().map(|(head, _)| &head.headers["host"]).collect();
        hosts.sort();
        assert_eq!(hosts, ["payment-shadow:80", "payment:80"]);
        assert!(seen.iter().all(|(_, body)| body == "charge"));
    })
    .await;
}

fn abort(status: AbortStatus, share: f64) -> Fault {
    Fault {
        delay: None,
        abort: Some(Abort {
            share: Share::percent(share),
            status,
        }),
    }
}

fn with(fault: Fault) -> Option<Vec<linnet_mesh::route::HttpRule>> {
    Some(vec![rule(Filters {
        fault: Some(fault),
        ..Filters::default()
    })])
}

fn grpc() -> Request<Full<Bytes>> {
    let mut request = get("/a.B/C");
    let grpc = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", grpc);
    request
}

#[tokio::test]
async fn a_fault_answers_instead_of_the_backend() {
    local(async {
        let upstream = Upstream::ok().await;
        let http = abort(AbortStatus::Http(StatusCode::BAD_GATEWAY), 100.0);
        let sidecar = Sidecar::new(with(http), &[upstream.address]);
        let response = sidecar.get("/").await;
        assert_eq!(response.status(), 502);
        assert!(
            text(response)
                .await
                .contains("VirtualService default/payment")
        );
        assert_eq!(sidecar.send(grpc()).await.headers()["grpc-status"], "14");
        assert_eq!(sidecar.flags(2).await, ["FI", "FI"]);
        let sidecar = Sidecar::new(with(abort(AbortStatus::Grpc(7), 100.0)), &[]);
        assert_eq!(sidecar.send(grpc()).await.headers()["grpc-status"], "7");
        assert_eq!(sidecar.get("/").await.status(), 403);
        assert_eq!(upstream.count(), 0);
        let never = abort(AbortStatus::Grpc(7), 0.0);
        let sidecar = Sidecar::new(with(never), &[upstream.address]);
        assert_eq!(sidecar.get("/").await.status(), 200);
    })
    .await;
}

#[tokio::test]
async fn a_delay_comes_before_the_request_goes_on() {
    local(async {
        let upstream = Upstream::ok().await;
        let duration = Duration::from_millis(30);
        let delay = Fault {
            delay: Some(Delay {
                share: Share::ALL,
                duration,
            }),
            abort: None,
        };
        let sidecar = Sidecar::new(with(delay), &[upstream.address]);
        let started = Instant::now();
        let response = sidecar.get("/").await;
        assert_eq!(response.status(), 200);
        assert!(started.elapsed() >= duration);
        text(response).await;
        assert_eq!(sidecar.flags(1).await, ["DI"]);
    })
    .await;
}

fn limited() -> Option<Vec<linnet_mesh::route::HttpRule>> {
    Some(vec![rule(Filters {
        timeout: Some(Duration::from_millis(30)),
        ..Filters::default()
    })])
}

#[tokio::test]
async fn no_head_within_the_timeout_is_504() {
    local(async {
        let silent = Upstream::start(|_| std::future::pending()).await;
        let sidecar = Sidecar::new(limited(), &[silent.address]);
        assert_eq!(sidecar.get("/").await.status(), 504);
        assert_eq!(sidecar.send(grpc()).await.headers()["grpc-status"], "4");
        assert_eq!(sidecar.flags(2).await, ["UT", "UT"]);
    })
    .await;
}

#[tokio::test]
async fn a_body_that_does_not_end_within_the_timeout_is_broken_off() {
    local(async {
        let stalled =
            super::support::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        let sidecar = Sidecar::new(limited(), &[stalled]);
        let response = sidecar.get("/").await;
        assert_eq!(response.status(), 200);
        assert!(response.into_body().collect().await.is_err());
        assert_eq!(sidecar.flags(1).await, ["UT"]);
    })
    .await;
}

#[tokio::test]
async fn an_answer_within_the_timeout_is_whole() {
    local(async {
        let upstream = Upstream::start(|_| async { status(201) }).await;
        let sidecar = Sidecar::new(limited(), &[upstream.address]);
        let response = sidecar.get("/").await;
        assert_eq!(response.status(), 201);
        assert_eq!(text(response).await, "");
        assert_eq!(sidecar.flags(1).await, ["-"]);
    })
    .await;
}
