//! From when on the time of an exchange counts: what is timed, and what is not.

use super::{
    blame::watched_by,
    support::{Sidecar, local, rule},
};
use bytes::Bytes;
use http::Request;
use linnet_mesh::{
    destination::{ConnectionPool, DestinationPolicy},
    route::{Filters, HttpRule, RequestMatch, RetryOn, RetryPolicy, StringMatch},
};
use std::{rc::Rc, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// What a rule allows; uploads and streams here take longer.
const LIMIT: Duration = Duration::from_secs(1);
/// Bounds a test that hangs.
const HANGS: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(3);

const HEAD: &str = "POST / HTTP/1.1\r\nhost: payment\r\ncontent-length: 10\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Rules with a limit of each kind, by the resource they stand in.
fn limits(kind: &str) -> [HttpRule; 2] {
    let whole = Filters {
        timeout: Some(LIMIT),
        ..Filters::default()
    };
    let each = Filters {
        retry: Some(RetryPolicy {
            attempts: 0,
            on: RetryOn::default(),
            per_try_timeout: Some(LIMIT),
            ..RetryPolicy::DEFAULT
        }),
        ..Filters::default()
    };
    [whole, each].map(|filters| {
        let mut rule = rule(filters);
        Arc::make_mut(&mut rule.source).kind = kind.to_owned();
        rule
    })
}

async fn hear(stream: &mut TcpStream, end: &str) -> String {
    let mut heard = Vec::new();
    while !heard.ends_with(end.as_bytes()) {
        heard.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(heard).unwrap()
}

/// What happens to a request whose second half comes late, and which is answered late: how its
/// answer begins, how long that took, the flag, and how many endpoints were ejected.
async fn upload(
    rule: HttpRule,
    upload: Duration,
    answer: Duration,
) -> (String, Duration, Vec<String>, usize) {
    let mut addresses = Vec::new();
    for _ in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            hear(&mut stream, "helloworld").await;
            sleep(answer).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
            sleep(LONG).await;
        });
    }
    let sidecar = watched_by(&addresses, Some(vec![rule]));
    let mut client = sidecar.connect().await;
    let begun = tokio::time::Instant::now();
    client.write_all(HEAD.as_bytes()).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let (mut reader, mut writer) = client.split();
    let sending = async {
        sleep(upload).await;
        // The answer may be there already.
        let _ = writer.write_all(b"world").await;
    };
    let hearing = async {
        let mut head = vec![0; 12];
        reader.read_exact(&mut head).await.unwrap();
        (String::from_utf8(head).unwrap(), begun.elapsed())
    };
    let ((), (head, took)) = tokio::join!(sending, hearing);
    (head, took, sidecar.flags(1).await, sidecar.ejected().len())
}

#[tokio::test(start_paused = true)]
async fn a_virtual_service_s_clock_starts_when_the_request_has_been_sent() {
    local(async {
        for rule in limits("VirtualService") {
            let (head, took, flags, ejected) = upload(rule.clone(), LONG, LIMIT / 2).await;
            assert_eq!(
                (&*head, &*flags, ejected),
                ("HTTP/1.1 200", &["-".to_owned()][..], 0)
            );
            assert!(took >= LONG);
            // From then on it counts, and the endpoint is to blame.
            let (head, took, flags, ejected) = upload(rule, LONG, LONG).await;
            assert_eq!(
                (&*head, &*flags, ejected),
                ("HTTP/1.1 504", &["UT".to_owned()][..], 1)
            );
            assert!(took >= LONG + LIMIT && took < LONG + LONG, "{took:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_http_route_s_clock_starts_with_the_request_and_blames_no_endpoint_for_its_client() {
    local(async {
        for rule in limits("HTTPRoute") {
            let (head, took, flags, ejected) = upload(rule.clone(), LONG, LIMIT / 2).await;
            assert_eq!(
                (&*head, &*flags, ejected),
                ("HTTP/1.1 504", &["UT".to_owned()][..], 0)
            );
            assert!(took >= LIMIT && took < LONG, "{took:?}");
            let (head, _, flags, ejected) = upload(rule, LIMIT / 2, LONG).await;
            assert_eq!(
                (&*head, &*flags, ejected),
                ("HTTP/1.1 504", &["UT".to_owned()][..], 1)
            );
        }
    })
    .await;
}

/// A call that its caller has not ended is not timed by a VirtualService; then it is.
#[tokio::test(start_paused = true)]
async fn a_stream_of_grpc_is_timed_by_a_virtual_service_from_its_half_close_on() {
    local(async {
        for (kind, allowed) in [("VirtualService", true), ("HTTPRoute", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::task::spawn_local(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut open = Vec::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert!(!request.headers().contains_key("grpc-timeout") || !allowed);
                    let head = http::Response::builder().header("content-type", "application/grpc");
                    let mut body = respond
                        .send_response(head.body(()).unwrap(), false)
                        .unwrap();
                    body.send_data(Bytes::from_static(b"\0\0\0\0\0"), false)
                        .unwrap();
                    open.push((request, body));
                }
            });
            let [rule, _] = limits(kind);
            let sidecar = Rc::new(watched_by(&[address], Some(vec![rule])));
            let stream = sidecar.connect().await;
            let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::task::spawn_local(async move { drop(connection.await) });
            let request =
                Request::post("http://payment/").header("content-type", "application/grpc");
            let (answer, mut calls) = sender
                .send_request(request.body(()).unwrap(), false)
                .unwrap();
            calls
                .send_data(Bytes::from_static(b"\0\0\0\0\0"), false)
                .unwrap();
            let mut answer = answer.await.unwrap().into_body();
            answer.data().await.unwrap().unwrap();
            let begun = tokio::time::Instant::now();
            let early = tokio::time::timeout(LONG, answer.data()).await;
            assert_eq!(early.is_err(), allowed, "{kind}: {early:?}");
            if allowed {
                calls.send_data(Bytes::new(), true).unwrap();
                let end = tokio::time::timeout(LONG, answer.data()).await;
                assert!(!matches!(end.expect("an end"), Some(Ok(_))), "{kind}");
                assert!(begun.elapsed() >= LONG + LIMIT, "{kind}");
            }
            assert_eq!(sidecar.flags(1).await, ["UT"], "{kind}");
        }
    })
    .await;
}

/// A limit of the whole exchange is one although the client reads nothing.
#[tokio::test]
async fn a_client_that_does_not_read_is_timed() {
    local(async {
        for kind in ["HTTPRoute", "VirtualService"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::task::spawn_local(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                hear(&mut stream, "\r\n\r\n").await;
                let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n";
                stream.write_all(head).await.unwrap();
                let block = vec![7; 64 * 1024];
                while stream.write_all(&block).await.is_ok() {}
            });
            let [limited, _] = limits(kind);
            let sidecar = watched_by(&[address], Some(vec![limited]));
            let mut client = sidecar.connect().await;
            let request = b"GET / HTTP/1.1\r\nhost: payment\r\n\r\n";
            client.write_all(request).await.unwrap();
            hear(&mut client, "\r\n\r\n").await;
            let flags = timeout(HANGS, sidecar.flags(1)).await;
            assert_eq!(flags.expect("an end"), ["UT"], "{kind}");
        }
    })
    .await;
}

/// Where it may be sent again, something of its body is read before it has a connection.
#[tokio::test(start_paused = true)]
async fn a_clock_runs_while_a_request_waits_for_a_connection() {
    local(async {
        for retries in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let policy = DestinationPolicy {
                pool: ConnectionPool {
                    max_connections: Some(1),
                    ..ConnectionPool::DEFAULT
                },
                ..DestinationPolicy::default()
            };
            let [mut limited, _] = limits("VirtualService");
            limited.filters.retry = retries.then(|| RetryPolicy {
                attempts: 1,
                on: RetryOn::default(),
                ..RetryPolicy::DEFAULT
            });
            let mut first = rule(Filters::default());
            first.matches = vec![RequestMatch {
                path: Some(StringMatch::Exact("/first".into())),
                ..RequestMatch::default()
            }];
            let sidecar = Sidecar::by(policy, Some(vec![first, limited]), &[address]);
            let mut busy = sidecar.connect().await;
            let request = b"GET /first HTTP/1.1\r\nhost: payment\r\n\r\n";
            busy.write_all(request).await.unwrap();
            let (mut server, _) = listener.accept().await.unwrap();
            hear(&mut server, "\r\n\r\n").await;
            let mut client = sidecar.connect().await;
            let request = format!("{HEAD}hello");
            client.write_all(request.as_bytes()).await.unwrap();
            let heard = timeout(10 * LIMIT, hear(&mut client, "\r\n\r\n")).await;
            let heard = heard.expect("an answer");
            assert!(heard.starts_with("HTTP/1.1 504"), "{retries}: {heard}");
        }
    })
    .await;
}
