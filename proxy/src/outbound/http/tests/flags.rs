//! Every response flag there is, raised once by what it stands for; UAEX is the
//! inbound side's, whose tests raise it.

use super::{
    blame::reset,
    resilience::{held, policy, until},
    support::{Sidecar, Upstream, local, raw, rule, status, text},
};
use crate::telemetry::Flags;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use linnet_mesh::{
    destination::ConnectionPool,
    route::{
        Abort, AbortStatus, Delay, Fault, Filters, HttpRule, RequestMatch, RetryOn, RetryPolicy,
        Share, StringMatch, Unresolved,
    },
};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// A sidecar whose one rule has these filters, after one request.
async fn filtered(filters: Filters, endpoint: SocketAddr) -> Sidecar {
    asked(Sidecar::new(Some(vec![rule(filters)]), &[endpoint])).await
}

/// A server that ends each connection once it has heard something.
async fn hanging_up() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.read_u8().await.unwrap();
        }
    });
    address
}

async fn asked(sidecar: Sidecar) -> Sidecar {
    text(sidecar.get("/").await).await;
    sidecar
}

fn fault(delay: Option<Delay>, abort: Option<Abort>) -> Filters {
    Filters {
        fault: Some(Fault { delay, abort }),
        ..Filters::default()
    }
}

const ALL: Share = Share {
    per_million: 1_000_000,
};

/// Whatever a rule decides, the answer says which: resource, place and name.
#[tokio::test]
async fn an_error_names_the_rule_that_decided() {
    local(async {
        let (silent, _gate) = held().await;
        let decided = |filters: Filters| HttpRule {
            position: 4,
            name: Some("canary".to_owned()),
            ..rule(filters)
        };
        let abort = Abort {
            share: ALL,
            status: AbortStatus::Http(StatusCode::IM_A_TEAPOT),
        };
        let mut unresolved = decided(Filters::default());
        unresolved.backends[0].unresolved = Some(Unresolved {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            reason: "nobody knows it".to_owned(),
        });
        let mut weightless = decided(Filters::default());
        weightless.backends.push(weightless.backends[0].clone());
        for backend in &mut weightless.backends {
            backend.weight = 0;
        }
        let mut empty = decided(Filters::default());
        empty.backends[0].subset = Some("v9".to_owned());
        let hasty = decided(Filters {
            timeout: Some(Duration::from_millis(20)),
            ..Filters::default()
        });
        let hasty_try = decided(Filters {
            retry: Some(RetryPolicy {
                per_try_timeout: Some(Duration::from_millis(20)),
                attempts: 0,
                ..RetryPolicy::DEFAULT
            }),
            ..Filters::default()
        });
        for (rule, status, reason) in [
            (decided(fault(None, Some(abort))), 418, "an injected fault"),
            (unresolved, 500, "nobody knows it"),
            (weightless, 503, "gives every destination weight 0"),
            (empty, 503, "subset v9 has no endpoint"),
            (hasty, 504, "no complete answer within 20ms"),
            (hasty_try, 504, "no complete answer within 20ms"),
        ] {
            let sidecar = Sidecar::new(Some(vec![rule]), &[silent.address]);
            let response = sidecar.get("/").await;
            assert_eq!(response.status(), status, "{reason}");
            let body = text(response).await;
            let decided = "VirtualService default/payment, rule 4 (canary): ";
            assert!(body.contains(decided), "{body}");
            assert!(body.contains(reason), "{body}");
        }
    })
    .await;
}

/// Raises a flag and returns who counted it.
async fn raise(flag: &str) -> Sidecar {
    let good = Upstream::ok().await;
    match flag {
        "UH" => asked(Sidecar::new(None, &[])).await,
        "UT" => {
            let (silent, _gate) = held().await;
            let timeout = Some(Duration::from_millis(20));
            let filters = Filters {
                timeout,
                ..Filters::default()
            };
            filtered(filters, silent.address).await
        }
        "UF" => {
            let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = closed.local_addr().unwrap();
            drop(closed);
            asked(Sidecar::new(None, &[address])).await
        }
        "UC" => asked(Sidecar::new(None, &[hanging_up().await])).await,
        "UO" => {
            let sidecar = Sidecar::new(None, &[good.address]);
            sidecar.called(policy(ConnectionPool {
                max_requests: Some(0),
                ..ConnectionPool::DEFAULT
            }));
            asked(sidecar).await
        }
        "NR" => {
            let matches = vec![RequestMatch {
                path: Some(StringMatch::Exact("/other".into())),
                ..RequestMatch::default()
            }];
            let rule = HttpRule {
                matches,
                ..rule(Filters::default())
            };
            asked(Sidecar::new(Some(vec![rule]), &[good.address])).await
        }
        "NC" => {
            let mut rule = rule(Filters::default());
            rule.backends[0].unresolved = Some(Unresolved {
                status: StatusCode::SERVICE_UNAVAILABLE,
                reason: "nobody knows it".to_owned(),
            });
            asked(Sidecar::new(Some(vec![rule]), &[good.address])).await
        }
        "DI" => {
            let delay = Delay {
                share: ALL,
                duration: Duration::from_millis(1),
            };
            filtered(fault(Some(delay), None), good.address).await
        }
        "FI" => {
            let abort = Abort {
                share: ALL,
                status: AbortStatus::Http(StatusCode::IM_A_TEAPOT),
            };
            filtered(fault(None, Some(abort)), good.address).await
        }
        "URX" => {
            let failing = Upstream::start(|_| async { status(503) }).await;
            let retry = RetryPolicy {
                on: RetryOn::SERVER_ERROR,
                back_off: Duration::from_micros(1),
                ..RetryPolicy::DEFAULT
            };
            let filters = Filters {
                retry: Some(retry),
                ..Filters::default()
            };
            filtered(filters, failing.address).await
        }
        "DC" => {
            let (silent, _gate) = held().await;
            let sidecar = Sidecar::new(None, &[silent.address]);
            let mut caller = sidecar.connect().await;
            let request = b"GET / HTTP/1.1\r\nhost: payment\r\n\r\n";
            caller.write_all(request).await.unwrap();
            until(|| silent.count() == 1).await;
            reset(caller);
            sidecar
        }
        "UPE" => asked(Sidecar::new(None, &[raw("220 smtp\r\n\r\n").await])).await,
        "DPE" => {
            let sidecar = Sidecar::new(None, &[good.address]);
            let request = Request::get("/").header("host", "payment");
            let request = request
                .header("host", "other")
                .body(Full::<Bytes>::default());
            text(sidecar.send(request.unwrap()).await).await;
            sidecar
        }
        other => panic!("no test raises {other}"),
    }
}

#[tokio::test]
async fn each_flag_says_what_happened() {
    local(async {
        for (_, flag) in Flags::NAMES {
            // Inbound, and of opaque connections: raised by tests of their own.
            if ["UAEX", "SI", "DT"].contains(flag) {
                continue;
            }
            let sidecar = raise(flag).await;
            assert_eq!(sidecar.flags(1).await, [*flag]);
        }
    })
    .await;
}
