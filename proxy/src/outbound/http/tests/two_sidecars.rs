//! Exchanges through two sidecars: what the callee's makes of one is no fault to the caller's.

use super::{
    blame::watched_by,
    support::{Callee, Sidecar, local, rule},
};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use linnet_mesh::route::{Filters, HttpRule};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Bounds a test that hangs.
const HANGS: Duration = Duration::from_secs(20);

async fn hear(stream: &mut TcpStream, end: &str) -> Vec<u8> {
    let mut heard = Vec::new();
    while !heard.ends_with(end.as_bytes()) {
        match stream.read_u8().await {
            Ok(byte) => heard.push(byte),
            Err(_) => break,
        }
    }
    heard
}

/// A caller before callees' sidecars before applications.
async fn mesh(apps: &[SocketAddr], rules: Option<Vec<HttpRule>>) -> (Sidecar, Vec<Callee>) {
    let sidecar = watched_by(apps, rules);
    let mut callees = Vec::new();
    for app in apps {
        callees.push(Callee::start(&sidecar.authority, "payment", *app).await);
    }
    sidecar.replace(callees.iter().map(Callee::endpoint).collect());
    (sidecar, callees)
}

/// Applications that take requests and answer none.
async fn silent() -> Vec<SocketAddr> {
    let mut apps = Vec::new();
    for _ in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        apps.push(listener.local_addr().unwrap());
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(hold(stream));
            }
        });
    }
    apps
}

/// Takes requests of either version until their client goes.
async fn hold(mut stream: TcpStream) {
    let mut first = [0; 4];
    while stream.peek(&mut first).await.is_ok_and(|length| length > 0) {
        if first != *b"PRI " {
            drop(stream.read_u8().await);
            continue;
        }
        let Ok(mut connection) = h2::server::handshake(stream).await else {
            return;
        };
        let mut held = Vec::new();
        while let Some(Ok(accepted)) = connection.accept().await {
            held.push(accepted);
        }
        return;
    }
}

/// The time that a client gives is its own: that it is over tells nothing against the
/// endpoint, whose sidecar hears of it, too.
#[tokio::test]
async fn a_client_s_own_deadline_blames_no_endpoint() {
    local(async {
        for grpc in [false, true] {
            let (sidecar, _callees) = mesh(&silent().await, None).await;
            for number in 0..60 {
                let millis = 20 + number % 7;
                if grpc {
                    let request = Request::post("http://payment/a/b")
                        .header("content-type", "application/grpc")
                        .header("grpc-timeout", format!("{millis}m"));
                    let request = request.body(Full::<Bytes>::default());
                    let answer = timeout(HANGS, sidecar.send_http2(request.unwrap())).await;
                    assert_eq!(answer.expect("an answer").headers()["grpc-status"], "4");
                } else {
                    let mut client = sidecar.connect().await;
                    let request = format!(
                        "GET / HTTP/1.1\r\nhost: payment\r\n\
                         x-envoy-expected-rq-timeout-ms: {millis}\r\n\r\n"
                    );
                    client.write_all(request.as_bytes()).await.unwrap();
                    let heard = timeout(HANGS, hear(&mut client, "\r\n\r\n")).await;
                    assert!(heard.expect("an answer").starts_with(b"HTTP/1.1 504"));
                }
                assert!(sidecar.ejected().is_empty(), "{grpc} {number}");
            }
            let flags = sidecar.flags(60).await;
            assert!(flags.iter().all(|flag| flag == "UT"), "{flags:?}");
        }
    })
    .await;
}

/// What is left of a rule's limit goes to the callee's sidecar, which is not the first to find
/// out that it is over: no endpoint is blamed for what its client took.
#[tokio::test]
async fn a_rule_s_limit_is_over_at_the_caller_s_first() {
    local(async {
        for (kind, upload) in [
            ("VirtualService", false),
            ("HTTPRoute", false),
            ("HTTPRoute", true),
        ] {
            let mut limited = rule(Filters {
                // Long enough for a handshake on a busy machine.
                timeout: Some(Duration::from_millis(300)),
                ..Filters::default()
            });
            Arc::make_mut(&mut limited.source).kind = kind.to_owned();
            let (sidecar, _callees) = mesh(&silent().await, Some(vec![limited])).await;
            let request = match upload {
                true => "POST / HTTP/1.1\r\nhost: payment\r\ncontent-length: 10\r\n\r\nhello",
                false => "GET / HTTP/1.1\r\nhost: payment\r\n\r\n",
            };
            for _ in 0..10 {
                let mut client = sidecar.connect().await;
                client.write_all(request.as_bytes()).await.unwrap();
                let heard = timeout(HANGS, hear(&mut client, "\r\n\r\n")).await;
                assert!(heard.expect("an answer").starts_with(b"HTTP/1.1 504"));
                assert!(!upload || sidecar.ejected().is_empty());
            }
            let flags = sidecar.flags(10).await;
            assert!(flags.iter().all(|flag| flag == "UT"), "{kind}: {flags:?}");
        }
    })
    .await;
}
