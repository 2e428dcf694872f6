//! Request smuggling: what two readers of the same bytes could take for
//! different requests. Each case is sent twice, through the caller's sidecar and
//! as a mesh peer whose sidecar has been taken over; the application behind
//! believes all that it reads.

use crate::{app::Seen, wire::Front};

/// A request that must never be seen by itself.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: payment\r\n\r\n";

/// The request is refused, both ways, and nothing of it reaches the application.
async fn refused(bytes: &str) {
    let front = Front::start().await;
    for answer in front.send(bytes.as_bytes()).await {
        let refused = ["", "HTTP/1.1 4", "HTTP/1.1 5"];
        let said = answer.get(..10).unwrap_or_default();
        assert!(refused.contains(&said), "{bytes:?}: {answer}");
    }
    assert!(front.app.seen().is_empty(), "{:?}", front.app.seen());
    front.serves_others().await;
}

/// The request is let through as one, both ways, and looks like this.
async fn one_request(bytes: &str, check: impl Fn(&Seen)) {
    let front = Front::start().await;
    for answer in front.send(bytes.as_bytes()).await {
        assert!(answer.starts_with("HTTP/1.1 200"), "{bytes:?}: {answer}");
    }
    let seen = front.app.seen();
    assert_eq!(seen.len(), 2, "one each way: {seen:?}");
    for seen in &seen {
        assert_ne!(seen.target(), "/smuggled");
        check(seen);
    }
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /form HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n{headers}\r\n{body}")
}

/// Whoever goes by the length would take the rest for a request.
#[tokio::test]
async fn cl_te_goes_on_as_chunked_alone() {
    let body = format!("0\r\n\r\n{SMUGGLED}");
    let headers = format!(
        "content-length: {}\r\ntransfer-encoding: chunked\r\n",
        body.len()
    );
    one_request(&post(&headers, &body), |seen| {
        assert!(seen.values("content-length").is_empty(), "{seen:?}");
        assert_eq!(seen.body, b"0\r\n\r\n");
    })
    .await;
}

/// The same the other way round.
#[tokio::test]
async fn te_cl_goes_on_as_chunked_alone() {
    let chunk = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
    let headers = "transfer-encoding: chunked\r\ncontent-length: 4\r\n";
    one_request(&post(headers, &chunk), |seen| {
        assert!(seen.values("content-length").is_empty(), "{seen:?}");
        let body = String::from_utf8_lossy(&seen.body);
        assert!(body.contains("GET /smuggled"), "it is the body: {body}");
    })
    .await;
}

#[tokio::test]
async fn an_obscured_transfer_encoding_is_refused() {
    for value in [
        "xchunked",
        "chunked, identity",
        "identity",
        "chunked;q=1",
        "chunked\u{b}",
        "\"chunked\"",
    ] {
        let headers = format!("transfer-encoding: {value}\r\ncontent-length: 4\r\n");
        refused(&post(&headers, &format!("0\r\n\r\n{SMUGGLED}"))).await;
    }
}

#[tokio::test]
async fn two_transfer_encodings_are_no_way_out() {
    for other in ["identity", "x", "th: 5", "chunked", ""] {
        for headers in [
            format!("transfer-encoding: chunked\r\ntransfer-encoding: {other}\r\n"),
            format!("transfer-encoding: {other}\r\ntransfer-encoding: chunked\r\n"),
            format!("transfer-encoding: {other}, chunked\r\ncontent-length: 4\r\n"),
        ] {
            refused(&post(&headers, &format!("0\r\n\r\n{SMUGGLED}"))).await;
        }
    }
}

#[tokio::test]
async fn transfer_encoding_in_http_1_0_is_refused() {
    let request = format!(
        "POST /form HTTP/1.0\r\nhost: payment\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
    );
    refused(&request).await;
}

#[tokio::test]
async fn a_folded_header_is_refused() {
    let folded = "x-note: a\r\n transfer-encoding: chunked\r\ncontent-length: 0\r\n";
    refused(&post(folded, "")).await;
    let first = "POST /form HTTP/1.1\r\n host: payment\r\nconnection: close\r\n\r\n";
    refused(first).await;
}

#[tokio::test]
async fn differing_lengths_are_refused() {
    refused(&post("content-length: 0\r\ncontent-length: 5\r\n", "hello")).await;
    refused(&post("content-length: 0, 5\r\n", "hello")).await;
}

#[tokio::test]
async fn one_length_said_twice_goes_on_as_one() {
    let twice = post("content-length: 5\r\ncontent-length: 5\r\n", "hello");
    one_request(&twice, |seen| {
        assert_eq!(seen.values("content-length"), ["5"]);
        assert_eq!(seen.body, b"hello");
    })
    .await;
}

#[tokio::test]
async fn a_length_that_is_no_number_is_refused() {
    for length in [
        "+5",
        "-5",
        "0x5",
        "5 5",
        "5;",
        "5_0",
        "",
        "5.0",
        "\"5\"",
        "18446744073709551621",
    ] {
        refused(&post(&format!("content-length: {length}\r\n"), "hello")).await;
    }
}

#[tokio::test]
async fn a_chunk_extension_hides_nothing() {
    let body = "5;x=\"\n\"\r\nhello\r\n0\r\n\r\n";
    refused_body(body).await;
    let body = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(64 * 1024));
    refused_body(&body).await;
}

#[tokio::test]
async fn a_chunk_size_that_is_none_is_refused() {
    for size in ["+5", "-5", "0x5", "5 5", "fffffffffffffffff", "g", ""] {
        refused_body(&format!("{size}\r\nhello\r\n0\r\n\r\n{SMUGGLED}")).await;
    }
}

#[tokio::test]
async fn a_chunk_that_ends_early_or_late_is_refused() {
    for body in [
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
    ] {
        refused_body(body).await;
    }
}

/// A head may have gone on before its body turns out to be broken: the
/// application must be left without an end of it, and without another request.
async fn refused_body(body: &str) {
    let front = Front::start().await;
    let bytes = post("transfer-encoding: chunked\r\n", body);
    for answer in front.send(bytes.as_bytes()).await {
        assert!(answer.starts_with("HTTP/1.1 400"), "{body:?}: {answer}");
    }
    // It notes requests that are whole.
    assert!(
        front.app.seen().is_empty(),
        "{body:?}: {:?}",
        front.app.seen()
    );
    front.serves_others().await;
}

/// A lone line feed may count as a line's end (RFC 9112, 2.2); then it must for all.
#[tokio::test]
async fn a_bare_line_feed_goes_on_as_a_whole_line_end_or_not_at_all() {
    let front = Front::start().await;
    let bytes = "GET /lf HTTP/1.1\nhost: payment\nconnection: close\nx-a: b\n\n";
    front.send(bytes.as_bytes()).await;
    for seen in front.app.seen() {
        assert!(!seen.head.replace("\r\n", "").contains('\n'), "{seen:?}");
        assert_eq!(seen.target(), "/lf");
    }
    front.serves_others().await;
}

#[tokio::test]
async fn a_carriage_return_in_a_value_is_refused() {
    refused(&post("x-a: b\rtransfer-encoding: chunked\r\n", "")).await;
    refused(&post("x-a: b\r\rx: y\r\n", "")).await;
}

#[tokio::test]
async fn nul_is_refused() {
    refused(&post("x-a: b\0c\r\n", "")).await;
    refused(&post("x\0a: b\r\n", "")).await;
    refused("GET /a\0b HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n").await;
}

#[tokio::test]
async fn a_space_before_the_colon_is_refused() {
    refused(&post("content-length : 5\r\n", "hello")).await;
    refused(&post("transfer-encoding\t: chunked\r\n", "0\r\n\r\n")).await;
}

#[tokio::test]
async fn a_bad_header_name_or_line_is_refused() {
    for line in [": empty", "no colon", "x(y): z", "x y: z", "\u{e9}: z"] {
        refused(&post(&format!("{line}\r\n"), "")).await;
    }
}

/// Refused, or opaque: then the application would see it as it is, and it must
/// not, as HTTP is what the peer said it speaks.
#[tokio::test]
async fn a_bad_request_line_is_refused() {
    let front = Front::start().await;
    for line in [
        "GE(T /a HTTP/1.1",
        "GET  /a HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /a HTTP/1.1 HTTP/1.1",
        "GET /a HTTP/1.2",
        "GET /a HTTP/9.9",
        "GET /a",
        "GET a HTTP/1.1",
    ] {
        let bytes = format!("{line}\r\nhost: payment\r\nconnection: close\r\n\r\n");
        let answer = crate::wire::send(front.as_peer().await, bytes.as_bytes()).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{line}: {answer}");
    }
    assert!(front.app.seen().is_empty(), "{:?}", front.app.seen());
    front.serves_others().await;
}

#[tokio::test]
async fn an_absolute_target_and_another_host_go_on_as_one() {
    let bytes =
        "GET http://other.example/a?b HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
    one_request(bytes, |seen| {
        assert_eq!(seen.target(), "/a?b");
        assert_eq!(seen.values("host"), ["other.example"]);
    })
    .await;
}

#[tokio::test]
async fn two_hosts_are_refused() {
    refused(&post("host: other\r\n", "")).await;
    refused(&post("host: payment\r\n", "")).await;
}

#[tokio::test]
async fn no_host_is_refused() {
    refused("GET /a HTTP/1.1\r\nconnection: close\r\n\r\n").await;
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    refused(&post(&format!("x-a: {}\r\n", "a".repeat(200 * 1024)), "")).await;
    let many: String = (0..5000).map(|n| format!("x-{n}: a\r\n")).collect();
    refused(&post(&many, "")).await;
    let target = "a".repeat(200 * 1024);
    refused(&format!("GET /{target} HTTP/1.1\r\nhost: payment\r\n\r\n")).await;
}

/// The application would say yes to it, and the tunnel is seen by no policy.
#[tokio::test]
async fn connect_makes_no_tunnel() {
    refused("CONNECT payment:80 HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n").await;
}

#[tokio::test]
async fn an_upgrade_to_h2c_makes_no_tunnel() {
    for protocol in ["h2c", "H2C", "websocket, h2c", "HTTP/2.0", "TLS/1.0"] {
        let bytes = format!(
            "GET /up HTTP/1.1\r\nhost: payment\r\nconnection: upgrade, http2-settings, close\r\nupgrade: {protocol}\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n"
        );
        one_request(&bytes, |seen| {
            assert!(seen.values("upgrade").is_empty(), "{seen:?}");
            assert!(seen.values("http2-settings").is_empty(), "{seen:?}");
        })
        .await;
    }
}

/// `Connection` may not take away what the next hop frames or decides by.
#[tokio::test]
async fn connection_does_not_name_framing_or_credentials() {
    for name in [
        "content-length",
        "Host",
        "transfer-encoding",
        "AUTHORIZATION",
        "cookie",
        "content-type",
        "content-encoding",
        "cache-control",
    ] {
        let headers = format!("connection: x-a, {name}\r\ncontent-length: 5\r\n");
        refused(&post(&headers, "hello")).await;
    }
}

/// Servers skip empty lines before a request (RFC 9112, 2.2), but not for ever.
#[tokio::test]
async fn empty_lines_before_a_request_are_skipped() {
    let request = "GET /a HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
    for lines in ["\r\n", "\n", "\r\n\r\n\n"] {
        one_request(&format!("{lines}{request}"), |seen| {
            assert!(seen.head.starts_with("GET /a HTTP/1.1\r\n"), "{seen:?}");
        })
        .await;
    }
    let front = Front::start().await;
    let bytes = format!("{}{request}", "\r\n".repeat(1000));
    let answer = crate::wire::send(front.as_peer().await, bytes.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(front.app.seen().is_empty());
}

/// A host that readers may take for different ones (RFC 9112, 3.2).
#[tokio::test]
async fn a_host_that_is_none_is_refused() {
    for host in [
        "a b", "a/b", "a@b", "a:port", "[::1", "a?b", "a\\b", "a#b", "a,b", "a%2eb", ":80",
        "a:80:80", "a:65536", "[::1]80", "::1", "a;b",
    ] {
        let request = |target: &str, host: &str| {
            format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
        };
        refused(&request("/a", host)).await;
        if !host.contains([' ', '/', '?', '#']) {
            refused(&request(&format!("http://{host}/a"), "payment")).await;
        }
    }
}

#[tokio::test]
async fn an_asterisk_is_for_options_alone() {
    for method in ["GET", "POST", "HEAD", "BREW"] {
        refused(&format!(
            "{method} * HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n"
        ))
        .await;
    }
    let options = "OPTIONS * HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
    one_request(options, |seen| assert_eq!(seen.target(), "*")).await;
}

/// Two requests in one piece are two, in order, and each is decided for.
#[tokio::test]
async fn pipelined_requests_are_two() {
    let front = Front::start().await;
    let bytes = "GET /1 HTTP/1.1\r\nhost: payment\r\n\r\nGET /2 HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
    for answer in front.send(bytes.as_bytes()).await {
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    }
    assert_eq!(front.app.targets(), ["/1", "/2", "/1", "/2"]);
}

/// Through both sidecars, and as a peer: they end the body, and are no request.
#[tokio::test]
async fn trailers_go_on_behind_the_body() {
    let body = "5\r\nhello\r\n0\r\nx-sum: 1\r\nHost: other\r\n\r\n";
    for announced in ["", "trailer: x-sum\r\n"] {
        let headers = format!("transfer-encoding: chunked\r\n{announced}");
        one_request(&post(&headers, body), |seen| {
            let body = String::from_utf8_lossy(&seen.body);
            assert_eq!(body, "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n");
        })
        .await;
    }
}

/// Half a body is none, whichever way it is framed.
#[tokio::test]
async fn a_body_that_breaks_off_is_no_request() {
    for (headers, body) in [
        ("transfer-encoding: chunked\r\n", "5\r\nhello\r\n"),
        ("content-length: 10\r\n", "hello"),
    ] {
        let front = Front::start().await;
        let bytes = post(headers, body);
        let app = crate::wire::send_and_end(front.as_app().await, bytes.as_bytes()).await;
        let peer = crate::wire::send_and_end(front.as_peer().await, bytes.as_bytes()).await;
        assert_eq!([app, peer], ["", ""], "{headers}");
        assert!(front.app.seen().is_empty(), "{:?}", front.app.seen());
        front.serves_others().await;
    }
}

/// Whoever has said all may end its side, and still hear.
#[tokio::test]
async fn a_client_that_sends_no_more_is_answered() {
    let front = Front::start().await;
    let bytes = b"GET /slow HTTP/1.1\r\nhost: payment\r\n\r\n";
    let app = crate::wire::send_and_end(front.as_app().await, bytes).await;
    let peer = crate::wire::send_and_end(front.as_peer().await, bytes).await;
    for answer in [app, peer] {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("ok"), "{answer}");
    }
}
