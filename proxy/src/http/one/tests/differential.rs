//! Whatever comes, in whatever pieces: what hyper takes is taken, as the same
//! requests and answers, and what it refuses is refused.
//!
//! Where the codec differs on purpose it is stricter, takes targets that hyper's types do not
//! hold, or tells more of what is true; each difference is a function here that says so.

use super::{Never, Said};
use crate::http::{
    LARGEST_HEAD,
    one::{client::Connection, server},
    target::Sent,
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::TRANSFER_ENCODING, request,
};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use proptest::{collection::vec, prelude::*, sample::select};
use std::{cell::RefCell, convert::Infallible, rc::Rc};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

/// Larger than anything that is sent here: nobody waits for room.
const ROOM: usize = 1024 * 1024;

/// A request as a service saw it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    method: Method,
    target: String,
    version: Version,
    headers: HeaderMap,
    /// `None`: it did not come to its end.
    body: Option<(Bytes, Option<HeaderMap>)>,
    /// Its target has bytes that no URI has.
    odd: bool,
}

type AllSeen = Rc<RefCell<Vec<Seen>>>;

async fn collect<B: Body<Data = Bytes>>(body: B) -> Option<(Bytes, Option<HeaderMap>)> {
    let body = body.collect().await.ok()?;
    let trailers = body.trailers().cloned();
    Some((body.to_bytes(), trailers))
}

async fn see<B: Body<Data = Bytes>>(request: Request<B>, seen: AllSeen) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = collect(body).await;
    let echo = body.as_ref().map(|(data, _)| data.clone());
    seen.borrow_mut().push(Seen {
        method: head.method,
        target: head.uri.to_string(),
        version: head.version,
        headers: head.headers,
        body,
        odd: head.extensions.get::<Sent>().is_some(),
    });
    let mut response = Response::new(Full::new(echo.clone().unwrap_or_default()));
    if echo.is_none() {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    response
}

/// Lets everybody do all that they can.
async fn settle() {
    for _ in 0..30 {
        tokio::task::yield_now().await;
    }
}

/// Sends pieces, and reads whatever is answered until the other side has closed.
async fn send(mut near: DuplexStream, pieces: &[Vec<u8>]) -> Vec<u8> {
    for piece in pieces {
        // It may have been closed already.
        let _ = near.write_all(piece).await;
        settle().await;
    }
    let _ = near.shutdown().await;
    let mut answer = Vec::new();
    let _ = near.read_to_end(&mut answer).await;
    answer
}

/// What a server made of the pieces: requests and the lines of its answers, but
/// for their order and date.
type Served = (Vec<Seen>, Vec<String>);

fn lines(answer: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(answer);
    let lines = text
        .split("\r\n")
        .filter(|line| !line.starts_with("date: "));
    let mut lines: Vec<_> = lines.map(str::to_owned).collect();
    lines.sort();
    lines
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

fn by_us(pieces: &[Vec<u8>]) -> Served {
    let seen = AllSeen::default();
    let noted = seen.clone();
    let answer = run(async {
        let (near, far) = duplex(ROOM);
        let handler = move |request| {
            let noted = noted.clone();
            async move { Ok::<_, Infallible>(see(request, noted).await.map(Said::new)) }
        };
        tokio::task::spawn_local(server::serve(far, handler, Never));
        send(near, pieces).await
    });
    (seen.take(), lines(&answer))
}

fn by_hyper(pieces: &[Vec<u8>]) -> Served {
    let seen = AllSeen::default();
    let noted = seen.clone();
    let answer = run(async {
        let (near, far) = duplex(ROOM);
        let service = hyper::service::service_fn(move |request| {
            let noted = noted.clone();
            async move { Ok::<_, Infallible>(see(request, noted).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(far), service);
        tokio::task::spawn_local(connection);
        send(near, pieces).await
    });
    (seen.take(), lines(&answer))
}

/// A message of parts that are mostly right, with a few bytes of it changed.
fn mutated(message: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let byte = prop_oneof![
        select(&b"\r\n\0\t :;,0159afFx+-\x0b\x7f\x80\xff"[..]),
        any::<u8>()
    ];
    let change = (any::<prop::sample::Index>(), 0..4_u8, byte);
    let changes = prop_oneof![3 => Just(vec![]), 2 => vec(change, 1..4)];
    let cuts = vec(any::<prop::sample::Index>(), 0..5);
    (message, changes, cuts).prop_map(|(mut bytes, changes, cuts)| {
        for (index, how, byte) in changes {
            let at = index.index(bytes.len().max(1));
            match how {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => {
                    bytes.remove(at);
                }
                2 => bytes.truncate(at),
                _ => bytes.insert(at.min(bytes.len()), byte),
            }
        }
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        for cut in cuts.into_iter().rev() {
            pieces.push(bytes.split_off(cut));
        }
        pieces.push(bytes);
        pieces.reverse();
        pieces
    })
}

const HEADERS: &[&str] = &[
    "host: shop",
    "Host:shop",
    "host: a b",
    "host: [::1]:80",
    "host: user@shop",
    "accept: */*",
    "x-a:  b\tc  ",
    "x-a: ",
    "X-ODD~!#$%&'*+-.^_`|: \u{e9}",
    "connection: close",
    "connection: keep-alive",
    "Connection: Keep-Alive, x",
    "connection: close, keep-alive",
    "expect: 100-continue",
    "Expect: 100-Continue",
    "te: trailers",
    "te: gzip, trailers",
    "trailer: x-sum, content-length",
    "content-length: 0",
    "content-length: 5",
    "content-length: 5, 5",
    "content-length: 05",
    "content-length: +5",
    "content-length: 18446744073709551615",
    "content-length: 18446744073709551613",
    "content-length: 18446744073709551616",
    "transfer-encoding: chunked",
    "Transfer-Encoding: Chunked ",
    "transfer-encoding: gzip, chunked",
    "transfer-encoding: chunked, gzip",
    "transfer-encoding: identity",
    "transfer-encoding: chunked;q=1",
    "upgrade: websocket",
    "no colon",
    " folded: x",
    "x-b : y",
    ": z",
];

const BODIES: &[&str] = &[
    "",
    "hello",
    "hello world",
    "0\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    "05;a=b\r\nhello\r\n0\r\n\r\n",
    "5 \t\r\nhello\r\n0 ; x\r\n\r\n",
    "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
    "5\r\nhello\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\ncontent-length: 3\r\n\r\n",
    "5\r\nhello\r\n0\r\nbad trailer\r\n\r\n",
    "5\r\nhello\r\n0\r\nx: 1\ny: 2\r\n\r\n",
    "5\nhello\n0\n\n",
    "5\r\nhello0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "fffffffffffffffff\r\nhello",
    "ffffffffffffffff\r\nhello",
    "5;\n\r\nhello\r\n0\r\n\r\n",
];

fn headers() -> impl Strategy<Value = Vec<u8>> {
    vec(select(HEADERS), 0..6).prop_map(|lines| {
        let mut text = String::new();
        for line in lines {
            text.push_str(line);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        text.into_bytes()
    })
}

fn a_request() -> impl Strategy<Value = Vec<u8>> {
    let first = select(
        &[
            "GET / HTTP/1.1",
            "GET /a?b=c&d HTTP/1.1",
            "POST /form HTTP/1.1",
            "POST /form HTTP/1.0",
            "GET / HTTP/1.0",
            "HEAD /h HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "GET http://other/x HTTP/1.1",
            "CONNECT shop:80 HTTP/1.1",
            "PATCH /\u{e9} HTTP/1.1",
            "ODD!#$ /x HTTP/1.1",
            "\r\nGET / HTTP/1.1",
            "\n\r\n\nGET / HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET / HTTP/1.2",
            "GET / HTTP/2.0",
            "GET /",
        ][..],
    );
    (first, headers(), select(BODIES)).prop_map(|(first, headers, body)| {
        [first.as_bytes(), b"\r\n", &headers, body.as_bytes()].concat()
    })
}

fn requests() -> impl Strategy<Value = Vec<Vec<u8>>> {
    mutated(vec(a_request(), 1..4).prop_map(|requests| requests.concat()))
}

/// Bytes as they are shown where a test fails.
fn shown(pieces: &[Vec<u8>]) -> Vec<String> {
    let shown = pieces.iter().map(|piece| piece.escape_ascii().to_string());
    shown.collect()
}

/// The lines of answers, without what the codec and hyper word differently: the
/// codec also says that the connection ends where a body turned out to be broken, answers
/// nobody who has left in the midst of one,
/// refuses heads in HTTP/1.1 whatever was spoken before, and says nothing of the
/// connection where a tunnel begins, which no stack of ours lets happen.
fn without_wording(seen: &[Seen], lines: &[String]) -> Vec<String> {
    let apart = |seen: &Seen| seen.body.is_none() || seen.method == Method::CONNECT;
    let broken = seen.iter().any(apart);
    // A body may stand before it, on the same line.
    let in_1_1 = |line: &String| line.replace("HTTP/1.0 4", "HTTP/1.1 4");
    let ends = broken || lines.iter().any(|line| in_1_1(line).contains("HTTP/1.1 4"));
    let half = seen.iter().any(|seen| seen.body.is_none());
    let refused = |line: String| match half {
        true => line.replace("HTTP/1.1 400 Bad Request", ""),
        false => line,
    };
    let says = |line: &String| !half || !line.is_empty() && line != "content-length: 0";
    let told = lines
        .iter()
        .filter(|line| !ends || !line.starts_with("connection: "))
        .map(in_1_1)
        .map(refused)
        .filter(says);
    let mut told: Vec<_> = told.collect();
    told.sort();
    told
}

/// Requests that hyper takes and the codec refuses: those with a transfer coding
/// besides `chunked`, which somebody behind could go by.
fn oddly_coded(seen: &Seen) -> bool {
    let mut codings = seen.headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    codings
        .next()
        .is_some_and(|first| !chunked(first) || codings.next().is_some())
}

/// Reports whether a target may have a fragment, which hyper drops and the codec refuses.
fn may_have_fragment(pieces: &[Vec<u8>]) -> bool {
    let all = pieces.concat();
    let mut lines = all.split(|byte| *byte == b'\n');
    lines.any(|line| {
        let mut words = line.splitn(2, |byte| *byte == b' ').skip(1);
        words.any(|rest| rest.contains(&b'#'))
    })
}

/// The lines of answers without the reasons that the codec gives for a refusal.
fn without_reason(lines: &[String]) -> Vec<String> {
    let mut lines = lines.to_vec();
    let kind = |line: &String| line.starts_with("content-type: text/plain");
    let Some(kind) = lines.iter().position(kind) else {
        return lines;
    };
    lines.remove(kind);
    let length = |line: &String| line.strip_prefix("content-length: ")?.parse::<usize>().ok();
    // The echoes are shorter.
    if let Some(longest) = lines.iter_mut().max_by_key(|line| length(line)) {
        "content-length: 0".clone_into(longest);
    }
    let reason = |line: &&mut String| line.starts_with("linnet: ");
    if let Some(reason) = lines.iter_mut().find(reason) {
        reason.clear();
    }
    lines
}

/// Reports whether something follows the last empty line.
fn has_open_head(bytes: &[u8]) -> bool {
    !(bytes.ends_with(b"\n\n") || bytes.ends_with(b"\n\r\n"))
}

/// Reports whether a line feed stands alone, which hyper takes for a trailer's end.
fn has_bare_feed(bytes: &[u8]) -> bool {
    bytes
        .windows(2)
        .any(|pair| pair[0] != b'\r' && pair[1] == b'\n')
}

/// Requests that hyper takes and the codec refuses: those whose `Host` readers may take for
/// different hosts.
fn oddly_hosted(seen: &Seen) -> bool {
    let mut hosts = seen.headers.get_all(http::header::HOST).iter();
    hosts.any(|host| !crate::http::host::has_one_reading(host.as_bytes()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_are_hypers(pieces in requests()) {
        let (ours, theirs) = (by_us(&pieces), by_hyper(&pieces));
        let odd = |seen: &Seen| oddly_coded(seen) || oddly_hosted(seen);
        if let Some(odd) = theirs.0.iter().position(odd) {
            prop_assert_eq!(&ours.0, &theirs.0[..odd], "{:?}", shown(&pieces));
            return Ok(());
        }
        // What hyper does not hold.
        if let Some(odd) = ours.0.iter().position(|seen| seen.odd) {
            prop_assert_eq!(&ours.0[..odd], &theirs.0, "{:?}", shown(&pieces));
            return Ok(());
        }
        let trailed = |seen: &Seen| matches!(seen.body, Some((_, Some(_))));
        if let Some(at) = theirs.0.iter().position(trailed)
            && has_bare_feed(&pieces.concat())
        {
            prop_assert_eq!(&ours.0[..at], &theirs.0[..at], "{:?}", shown(&pieces));
            return Ok(());
        }
        if may_have_fragment(&pieces) {
            prop_assert!(theirs.0.starts_with(&ours.0), "{:?}", shown(&pieces));
            return Ok(());
        }
        prop_assert_eq!(&ours.0, &theirs.0, "{:?}", shown(&pieces));
        // Refused by hyper at once, and at its end by the codec, which may then take its target.
        let refused = |lines: &[String]| lines.iter().any(|line| line.contains(" 400 "));
        if has_open_head(&pieces.concat()) && refused(&theirs.1) && !refused(&ours.1) {
            return Ok(());
        }
        let told = without_wording(&ours.0, &without_reason(&ours.1));
        let their_told = without_wording(&theirs.0, &theirs.1);
        prop_assert_eq!(told, their_told, "{:?}", shown(&pieces));
    }

    #[test]
    fn answers_are_hypers(pieces in answers(), method in select(&["GET", "HEAD", "POST"][..])) {
        let theirs = asked_by_hyper(method, &pieces);
        let ours = asked_by_us(method, &pieces);
        if !stricter(&pieces, &theirs) {
            prop_assert_eq!(ours, theirs, "{:?}", shown(&pieces));
        }
    }
}

/// An answer as a caller saw it.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    status: StatusCode,
    version: Version,
    reason: Option<Vec<u8>>,
    headers: HeaderMap,
    body: Option<(Bytes, Option<HeaderMap>)>,
    /// Another request may follow on the connection.
    reusable: bool,
}

fn told<B>(response: &Response<B>) -> Told {
    let reason = response.extensions().get::<hyper::ext::ReasonPhrase>();
    Told {
        status: response.status(),
        version: response.version(),
        reason: reason.map(|reason| reason.as_bytes().to_vec()),
        headers: response.headers().clone(),
        body: None,
        reusable: false,
    }
}

fn head(method: &str) -> request::Parts {
    let request = Request::builder()
        .method(method)
        .uri("/")
        .header("host", "shop");
    request.body(()).unwrap().into_parts().0
}

fn content(method: &str) -> Full<Bytes> {
    Full::new(Bytes::from_static(match method {
        "POST" => b"hello",
        _ => b"",
    }))
}

/// Answers with pieces once there is a request; then closes, or not.
async fn respond(mut far: DuplexStream, pieces: &[Vec<u8>]) -> DuplexStream {
    let _ = far.read_u8().await;
    for piece in pieces {
        let _ = far.write_all(piece).await;
        settle().await;
    }
    settle().await;
    far
}

fn asked_by_us(method: &str, pieces: &[Vec<u8>]) -> Option<Told> {
    run(async {
        let (near, far) = duplex(ROOM);
        let mut connection = Connection::new(near);
        let asking = async {
            connection.begin(&head(method), content(method)).ok()?;
            let response = connection.answer().await.ok()?;
            let mut told = told(&response);
            let mut body = Vec::new();
            let mut trailers = None;
            loop {
                let frame = std::future::poll_fn(|context| connection.poll_frame(context)).await;
                match frame {
                    None => break,
                    Some(Err(_)) => return Some(told),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => body.extend_from_slice(&data),
                        Err(frame) => trailers = frame.into_trailers().ok(),
                    },
                }
            }
            told.body = Some((body.into(), trailers));
            settle().await;
            told.reusable = connection.is_reusable() && connection.is_quiet();
            Some(told)
        };
        race(asking, far, pieces).await
    })
}

fn asked_by_hyper(method: &str, pieces: &[Vec<u8>]) -> Option<Told> {
    run(async {
        let (near, far) = duplex(ROOM);
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(LARGEST_HEAD)
            .allow_spaces_after_header_name_in_responses(true)
            .handshake(TokioIo::new(near))
            .await
            .unwrap();
        tokio::task::spawn_local(connection);
        let asking = async {
            let request = Request::from_parts(head(method), content(method));
            let mut response = sender.send_request(request).await.ok()?;
            let mut told = told(&response);
            told.body = collect(response.body_mut()).await;
            settle().await;
            told.reusable = sender.is_ready();
            Some(told)
        };
        race(asking, far, pieces).await
    })
}

/// The outcome when all pieces have come, and failing that when the server has
/// closed after them.
async fn race<T>(asking: impl Future<Output = T>, far: DuplexStream, pieces: &[Vec<u8>]) -> T {
    let mut asking = std::pin::pin!(asking);
    let far = tokio::select! {
        biased;
        outcome = &mut asking => return outcome,
        far = respond(far, pieces) => far,
    };
    for _ in 0..100 {
        tokio::select! {
            biased;
            outcome = &mut asking => return outcome,
            () = tokio::task::yield_now() => {}
        }
    }
    drop(far);
    asking.await
}

fn answers() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let first = select(
        &[
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200 ",
            "HTTP/1.1 200",
            "HTTP/1.1 200 Fine",
            "HTTP/1.0 200 OK",
            "HTTP/1.1 204 No Content",
            "HTTP/1.1 304 Not Modified",
            "HTTP/1.1 404 \u{e9}",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK",
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 201 Created",
            "HTTP/1.1 101 Switching Protocols",
            "HTTP/1.1 999 ?",
            "HTTP/1.1 099 ?",
            "HTTP/1.2 200 OK",
            "HTTP/2 200",
            "200 OK",
        ][..],
    );
    let answer = (first, headers(), select(BODIES)).prop_map(|(first, headers, body)| {
        [first.as_bytes(), b"\r\n", &headers, body.as_bytes()].concat()
    });
    mutated(answer)
}

/// Answers that hyper takes and the codec does not, or not as they are: a length beside a
/// transfer coding, which two readers could frame differently, `chunked` twice or before
/// another coding, `identity`, what is no length in an answer to HEAD, trailers that end by a
/// line feed alone, and an upgrade that was not asked for. A blank before a trailer's colon is
/// removed, as hyper does in heads alone.
fn stricter(pieces: &[Vec<u8>], theirs: &Option<Told>) -> bool {
    theirs.as_ref().is_some_and(|told| {
        let headers = &told.headers;
        let both = headers.contains_key(http::header::CONTENT_LENGTH)
            && headers.contains_key(TRANSFER_ENCODING);
        let codings = headers.get_all(TRANSFER_ENCODING).iter();
        let codings = codings.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let codings = codings.map(|coding| coding.trim_ascii().to_ascii_lowercase());
        let codings: Vec<_> = codings.collect();
        let odd = codings.len() > 1
            || codings.iter().any(|coding| coding != b"chunked")
            || crate::http::one::content_length(headers).is_err();
        let bytes = pieces.concat();
        let blank = bytes.windows(2).any(|pair| matches!(pair, b" :" | b"\t:"));
        let trailers = match &told.body {
            Some((_, trailers)) => trailers.is_some() && has_bare_feed(&bytes),
            None => blank,
        };
        both || odd || trailers || told.status == StatusCode::SWITCHING_PROTOCOLS
    })
}
