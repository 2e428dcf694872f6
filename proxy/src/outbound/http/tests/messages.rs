//! Each piece of a message that goes on, is mended or is refused, byte for byte, between a
//! client and a server that both speak HTTP/1.1.

use super::support::{Sidecar, local};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Bounds a test that hangs.
const HANGS: Duration = Duration::from_secs(20);

const GET: &str = "GET / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn hear(stream: &mut TcpStream, end: &str) -> String {
    let mut heard = Vec::new();
    while !heard.ends_with(end.as_bytes()) {
        heard.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(heard).unwrap()
}

/// Sends a request whose end the server knows by `end`, and which it answers like this: what
/// the server heard, and what the client did, without the date.
async fn exchange(request: &str, end: &str, answer: &str) -> (String, String) {
    let exchange = async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sidecar = Sidecar::new(None, &[listener.local_addr().unwrap()]);
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let heard = hear(&mut stream, end).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            heard
        };
        let ask = async {
            let mut client = sidecar.connect().await;
            client.write_all(request.as_bytes()).await.unwrap();
            let mut heard = String::new();
            client.read_to_string(&mut heard).await.unwrap();
            let lines = heard.split_inclusive("\r\n");
            lines.filter(|line| !line.starts_with("date: ")).collect()
        };
        tokio::join!(serve, ask)
    };
    tokio::time::timeout(HANGS, exchange).await.expect("an end")
}

async fn answered(answer: &str) -> String {
    exchange(GET, "\r\n\r\n", answer).await.1
}

#[tokio::test]
async fn a_response_goes_on_with_one_framing() {
    let body = "5\r\nhello\r\n0\r\n\r\n";
    local(async {
        for (codings, goes_on) in [
            ("transfer-encoding: chunked\r\n", "chunked"),
            (
                "transfer-encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                "chunked",
            ),
            ("transfer-encoding: chunked, Chunked\r\n", "chunked"),
            (
                "transfer-encoding: CHUNKED\r\ntransfer-encoding: chunked, chunked\r\n",
                "chunked",
            ),
            ("transfer-encoding: identity, chunked\r\n", "chunked"),
            ("transfer-encoding: gzip, chunked\r\n", "gzip, chunked"),
            (
                "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
                "gzip, chunked",
            ),
            (
                "transfer-encoding: a;b=c, chunked, chunked\r\n",
                "a;b=c, chunked",
            ),
        ] {
            let said = answered(&format!("HTTP/1.1 200 OK\r\n{codings}\r\n{body}")).await;
            let named = format!("transfer-encoding: {goes_on}\r\n");
            assert_eq!(said.matches("ransfer-").count(), 1, "{codings}: {said}");
            assert!(said.contains(&named), "{codings}: {said}");
            assert!(said.ends_with(body), "{codings}: {said}");
        }
        // It was no coding, and is none any more: the connection's end is the body's.
        let said = answered("HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nhello").await;
        assert!(!said.contains("identity") && said.ends_with(body), "{said}");
        for codings in [
            "chunked, gzip",
            "chunked;a=b",
            "chunked, , chunked",
            ", chunked",
            "",
            "gzip chunked",
            "\"chunked\"",
            "\u{e9}, chunked",
        ] {
            let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {codings}\r\n\r\n{body}");
            let said = answered(&answer).await;
            assert!(said.starts_with("HTTP/1.1 502"), "{codings}: {said}");
        }
    })
    .await;
}

#[tokio::test]
async fn spaces_behind_a_response_s_field_names_are_removed() {
    local(async {
        for space in [" ", "\t", " \t  "] {
            let said = answered(&format!(
                "HTTP/1.1 200 OK\r\nX-Foo{space}: bar\r\nContent-Length{space}: 2\r\n\r\nok"
            ))
            .await;
            assert!(said.contains("\r\nx-foo: bar\r\n"), "{said}");
            assert!(said.ends_with("\r\n\r\nok"), "{said}");
            // Framing that is said so counts (RFC 9112, 5.1).
            let said = answered(&format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding{space}: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
            ))
            .await;
            assert!(said.ends_with("\r\n\r\n2\r\nok\r\n0\r\n\r\n"), "{said}");
            let said = answered(&format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nX-Sum{space}: 1\r\n\r\n"
            ))
            .await;
            assert!(said.ends_with("0\r\nx-sum: 1\r\n\r\n"), "{said}");
        }
        for line in ["x foo: bar", " x: bar", "x\u{e9}: bar", ": bar"] {
            let said = answered(&format!("HTTP/1.1 200 OK\r\na: b\r\n{line}\r\n\r\n")).await;
            assert!(said.starts_with("HTTP/1.1 502"), "{line}: {said}");
        }
    })
    .await;
}

#[tokio::test]
async fn interim_responses_go_on_to_clients_of_http_1_1() {
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    let processing = "HTTP/1.1 102 Processing\r\n\r\n";
    let other = "HTTP/1.1 199 Odd\r\nx-a: b\r\n\r\n";
    let own = "HTTP/1.1 103 Early Hints\r\nconnection: x-a\r\nx-a: b\r\nkeep-alive: timeout=5\r\ncontent-length: 5\r\n\r\n";
    local(async {
        for (interim, goes_on) in [
            (hints.to_owned(), hints.to_owned()),
            (processing.to_owned(), processing.to_owned()),
            (other.to_owned(), other.to_owned()),
            (
                format!("{processing}{hints}{hints}"),
                format!("{processing}{hints}{hints}"),
            ),
            (
                own.to_owned(),
                "HTTP/1.1 103 Early Hints\r\n\r\n".to_owned(),
            ),
            // Each hop says itself that it wants a body.
            ("HTTP/1.1 100 Continue\r\n\r\n".to_owned(), String::new()),
        ] {
            let said = answered(&format!("{interim}{OK}")).await;
            let rest = said.strip_prefix(&goes_on);
            let rest = rest.unwrap_or_else(|| panic!("{interim}: {said}"));
            assert!(rest.starts_with("HTTP/1.1 200 OK\r\n"), "{interim}: {said}");
        }
        let old = "GET / HTTP/1.0\r\nhost: payment\r\n\r\n";
        let (_, said) = exchange(old, "\r\n\r\n", &format!("{hints}{OK}")).await;
        assert!(said.starts_with("HTTP/1.0 200 OK\r\n"), "{said}");
        assert!(!said.contains("link"), "{said}");
    })
    .await;
}

/// It must not wait for the answer that it is to come before.
#[tokio::test]
async fn an_interim_response_goes_on_at_once() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sidecar = Sidecar::new(None, &[listener.local_addr().unwrap()]);
        let mut client = sidecar.connect().await;
        client.write_all(GET.as_bytes()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        hear(&mut server, "\r\n\r\n").await;
        for _ in 0..3 {
            let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
            server.write_all(hints.as_bytes()).await.unwrap();
            let heard = tokio::time::timeout(HANGS, hear(&mut client, "\r\n\r\n")).await;
            assert_eq!(heard.expect("hints"), hints);
        }
    })
    .await;
}

/// A server that does not stop makes nothing grow, though its client reads nothing.
#[tokio::test]
async fn interim_responses_that_nobody_reads_are_dropped() {
    local(async {
        let hints = format!(
            "HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n",
            "a".repeat(8000)
        );
        let said = answered(&format!("{}{OK}", hints.repeat(200))).await;
        let heard = said.matches("103 Early Hints").count();
        assert!((1..=200).contains(&heard), "{heard}");
        assert!(said.contains("\r\n\r\nHTTP/1.1 200 OK\r\n"));
        assert!(said.ends_with("\r\n\r\nok"));
    })
    .await;
}

#[tokio::test]
async fn a_request_of_http_1_0_without_a_host_is_for_the_service() {
    local(async {
        for (request, host) in [
            (
                "GET / HTTP/1.0\r\n\r\n",
                "payment.default.svc.cluster.local",
            ),
            (
                "GET / HTTP/1.0\r\nHost: \t\r\n\r\n",
                "payment.default.svc.cluster.local",
            ),
            ("GET http://other/ HTTP/1.0\r\n\r\n", "other"),
            ("GET / HTTP/1.0\r\nHost: own:8080\r\n\r\n", "own:8080"),
        ] {
            let (heard, said) = exchange(request, "\r\n\r\n", OK).await;
            assert!(said.starts_with("HTTP/1.0 200 OK\r\n"), "{request}: {said}");
            assert!(heard.starts_with("GET / HTTP/1.1\r\n"), "{heard}");
            let hosts: Vec<_> = heard
                .lines()
                .filter(|line| line.starts_with("host:"))
                .collect();
            assert_eq!(hosts, [format!("host: {host}")], "{request}");
        }
        let none = "GET / HTTP/1.1\r\nconnection: close\r\n\r\n";
        let sidecar = Sidecar::new(None, &[]);
        let mut client = sidecar.connect().await;
        client.write_all(none.as_bytes()).await.unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 400"), "{said}");
    })
    .await;
}

#[tokio::test]
async fn trailers_go_on_both_ways_announced_or_not() {
    let chunks = "5\r\nhello\r\n0\r\nx-sum: 1\r\nX-Other: 2\r\nhost: other\r\n\r\n";
    let goes_on = "5\r\nhello\r\n0\r\nx-sum: 1\r\nx-other: 2\r\n\r\n";
    local(async {
        for trailer in ["", "trailer: x-sum\r\n"] {
            let head = format!("transfer-encoding: chunked\r\n{trailer}\r\n{chunks}");
            let request =
                format!("POST / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n{head}");
            let answer = format!("HTTP/1.1 200 OK\r\n{head}");
            let (heard, said) =
                exchange(&request, "0\r\nx-sum: 1\r\nx-other: 2\r\n\r\n", &answer).await;
            assert!(heard.ends_with(goes_on), "{heard}");
            assert!(said.ends_with(goes_on), "{said}");
        }
    })
    .await;
}

/// It could not be told of the coding, and would take the body for another one.
#[tokio::test]
async fn a_client_of_http_1_0_gets_no_body_with_a_transfer_coding() {
    local(async {
        for answer in [
            "transfer-encoding: gzip, chunked\r\n\r\n5\r\n\x1fZIP!\r\n0\r\n\r\n",
            "transfer-encoding: gzip\r\n\r\n\x1fZIP!",
        ] {
            let request = "GET / HTTP/1.0\r\nhost: payment\r\n\r\n";
            let answer = format!("HTTP/1.1 200 OK\r\n{answer}");
            let (_, said) = exchange(request, "\r\n\r\n", &answer).await;
            assert!(said.starts_with("HTTP/1.0 502"), "{answer}: {said}");
        }
    })
    .await;
}

/// A client of HTTP/2 takes no list for a length.
#[tokio::test]
async fn a_length_that_is_said_twice_is_one_over_http_2() {
    local(async {
        for lengths in ["2, 2", "2\r\ncontent-length: 2", "2"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let sidecar = Sidecar::new(None, &[listener.local_addr().unwrap()]);
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {lengths}\r\n\r\nok");
            tokio::task::spawn_local(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let heard = hear(&mut stream, "\r\n\r\n").await;
                    let says = match heard.starts_with("PRI ") {
                        true => "HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n",
                        false => &answer,
                    };
                    stream.write_all(says.as_bytes()).await.unwrap();
                }
            });
            let request = Request::get("http://payment/").body(Full::<Bytes>::default());
            let response = sidecar.send_http2(request.unwrap()).await;
            let told = response.headers().get_all("content-length").iter();
            assert_eq!(told.collect::<Vec<_>>(), ["2"], "{lengths:?}");
        }
    })
    .await;
}
