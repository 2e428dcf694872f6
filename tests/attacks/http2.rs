//! HTTP/2 floods, frame by frame, at both doors that take it in plaintext: from
//! the application to its sidecar, and from outside to a PERMISSIVE port. A flood
//! ends its own connection or waits, and others are served.

use crate::{
    frame::frame,
    support::{Mesh, Pair, sample},
    wire::{PATIENCE, inbound, send},
};
use linnet_proxy::server::Running;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Frame types (RFC 9113, 6).
const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// Flags.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
/// `GET http://payment/`, HPACK.
const GET: &[u8] = b"\x82\x86\x84\x41\x07payment";
/// `POST http://payment/`.
const POST: &[u8] = b"\x83\x86\x84\x41\x07payment";
/// `:status: 200`, as it is always encoded.
const OK: u8 = 0x88;

/// The number of the `n`th stream of a client.
fn stream(n: u32) -> u32 {
    2 * n + 1
}

/// The beginning of a connection.
fn hello() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// A literal header field that is not indexed.
fn literal(name: &str, value: &[u8]) -> Vec<u8> {
    let mut field = vec![0, u8::try_from(name.len()).unwrap()];
    field.extend(name.as_bytes());
    field.extend(length(value.len()));
    field.extend(value);
    field
}

/// A string's length (RFC 7541, 5.1, prefix of 7 bits).
fn length(length: usize) -> Vec<u8> {
    if length < 127 {
        return vec![u8::try_from(length).unwrap()];
    }
    let mut rest = length - 127;
    let mut bytes = vec![127];
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// What a server said.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// It ended the connection.
    ended: bool,
    /// GOAWAY's code.
    pub(crate) goaway: Option<u32>,
    pub(crate) resets: u32,
    /// The first byte of each response's head.
    pub(crate) heads: Vec<u8>,
}

impl Said {
    pub(crate) fn successes(&self) -> usize {
        self.heads.iter().filter(|head| **head == OK).count()
    }

    /// Notes frames; what is left over is the beginning of another.
    fn note(&mut self, bytes: &mut Vec<u8>) {
        while let Some(head) = bytes.get(..9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let kind = head[3];
            let Some(payload) = bytes.get(9..9 + length) else {
                return;
            };
            match kind {
                HEADERS => self.heads.extend(payload.first()),
                RST_STREAM => self.resets += 1,
                GOAWAY => {
                    let code = payload[4..8].try_into().unwrap();
                    self.goaway = Some(u32::from_be_bytes(code));
                }
                _ => {}
            }
            bytes.drain(..9 + length);
        }
    }
}

/// Sends all, reading meanwhile, until the server ends the connection or `done`.
pub(crate) async fn exchange(
    address: SocketAddr,
    bytes: Vec<u8>,
    done: impl Fn(&Said) -> bool,
) -> Said {
    let connection = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = connection.into_split();
    let writing = tokio::spawn(async move {
        // The connection may be ended before all is sent.
        let _ = writer.write_all(&[hello(), bytes].concat()).await;
        writer
    });
    let mut said = Said::default();
    let reading = async {
        let mut rest = Vec::new();
        let mut part = vec![0; 64 * 1024];
        while !done(&said) {
            match reader.read(&mut part).await {
                Ok(0) | Err(_) => {
                    said.ended = true;
                    return;
                }
                Ok(length) => rest.extend_from_slice(&part[..length]),
            }
            said.note(&mut rest);
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, reading).await;
    writing.abort();
    assert!(in_time.is_ok(), "neither an answer nor an end: {said:?}");
    said
}

/// Both doors to one application, and the sidecars behind them.
struct Doors {
    pair: Pair,
    permissive: Running,
}

impl Doors {
    async fn open() -> Self {
        let mesh = Mesh::new();
        let app = sample().await.addresses().http.unwrap();
        let permissive = inbound(&mesh, "PERMISSIVE", &[app]).await;
        let pair = Pair::before(&mesh, "payment", &[app]).await;
        Self { pair, permissive }
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        [self.pair.port(0), self.permissive.inbound[0]]
    }

    async fn serve_others(&self) {
        for address in self.addresses() {
            let request = b"GET / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
            let answer = send(TcpStream::connect(address).await.unwrap(), request).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
}

/// At both doors the connection ends, and others are served.
async fn ends(bytes: Vec<u8>) {
    let doors = Doors::open().await;
    for address in doors.addresses() {
        let said = exchange(address, bytes.clone(), |_| false).await;
        assert!(said.ended);
        assert_eq!(said.successes(), 0, "{said:?}");
    }
    doors.serve_others().await;
}

#[tokio::test]
async fn an_honest_request_is_served() {
    let doors = Doors::open().await;
    let bytes = frame(HEADERS, END_STREAM | END_HEADERS, 1, GET);
    for address in doors.addresses() {
        let said = exchange(address, bytes.clone(), |said| !said.heads.is_empty()).await;
        assert_eq!(said.successes(), 1, "{said:?}");
    }
}

/// CVE-2023-44487.
#[tokio::test]
async fn rapid_reset_ends_the_connection() {
    let doors = Doors::open().await;
    let bytes: Vec<u8> = (0..20_000)
        .flat_map(|n| {
            let mut pair = frame(HEADERS, END_STREAM | END_HEADERS, stream(n), GET);
            pair.extend(frame(RST_STREAM, 0, stream(n), &[0, 0, 0, 8]));
            pair
        })
        .collect();
    for address in doors.addresses() {
        let said = exchange(address, bytes.clone(), |_| false).await;
        assert!(said.ended);
    }
    doors.serve_others().await;
}

/// CVE-2025-8671: the client makes the server reset its streams.
#[tokio::test]
async fn made_you_reset_ends_the_connection() {
    let doors = Doors::open().await;
    let bytes: Vec<u8> = (0..5_000)
        .flat_map(|n| {
            let mut pair = frame(HEADERS, END_HEADERS, stream(n), POST);
            // An increment of nothing is a stream error.
            pair.extend(frame(WINDOW_UPDATE, 0, stream(n), &[0; 4]));
            pair
        })
        .collect();
    for address in doors.addresses() {
        let said = exchange(address, bytes.clone(), |_| false).await;
        assert!(said.ended);
    }
    doors.serve_others().await;
}

/// CVE-2024-27316: a head that never ends.
#[tokio::test]
async fn a_continuation_flood_ends_the_connection() {
    let mut bytes = frame(HEADERS, END_STREAM, 1, GET);
    let part = literal("x-a", &[b'a'; 1000]);
    for _ in 0..10_000 {
        bytes.extend(frame(CONTINUATION, 0, 1, &part));
    }
    ends(bytes).await;
}

/// The same with nothing in it.
#[tokio::test]
async fn a_flood_of_empty_continuations_ends_the_connection() {
    let mut bytes = frame(HEADERS, END_STREAM, 1, GET);
    let empty = frame(CONTINUATION, 0, 1, &[]);
    bytes.extend(empty.repeat(100_000));
    ends(bytes).await;
}

/// One entry of the table, referred to by a byte each: 4000 become 16 million.
#[tokio::test]
async fn an_hpack_bomb_is_no_request() {
    let doors = Doors::open().await;
    let mut entry = vec![0x40, 1, b'x'];
    entry.extend(length(4000));
    entry.extend([b'a'; 4000]);
    let block = [GET, &entry, &[0xbe; 4000]].concat();
    let bytes: Vec<u8> = (0..100)
        .flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, stream(n), &block))
        .collect();
    for address in doors.addresses() {
        let done = |said: &Said| said.heads.len() + said.resets as usize >= 100;
        let said = exchange(address, bytes.clone(), done).await;
        assert_eq!(said.successes(), 0, "{said:?}");
    }
    doors.serve_others().await;
}

#[tokio::test]
async fn a_flood_of_headers_is_no_request() {
    let doors = Doors::open().await;
    let field = literal("x-a", &[b'a'; 10_000]);
    let mut bytes = frame(HEADERS, END_STREAM, 1, GET);
    for n in 0..10 {
        let flags = if n == 9 { END_HEADERS } else { 0 };
        bytes.extend(frame(CONTINUATION, flags, 1, &field));
    }
    for address in doors.addresses() {
        let done = |said: &Said| !said.heads.is_empty() || said.resets > 0;
        let said = exchange(address, bytes.clone(), done).await;
        assert_eq!(said.successes(), 0, "{said:?}");
    }
    doors.serve_others().await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let doors = Doors::open().await;
    let bytes: Vec<u8> = (0..1100)
        .flat_map(|n| frame(HEADERS, END_HEADERS, stream(n), POST))
        .collect();
    for address in doors.addresses() {
        let said = exchange(address, bytes.clone(), |said| said.resets >= 76).await;
        assert!(said.ended || said.resets >= 76, "{said:?}");
    }
    doors.serve_others().await;
}

#[tokio::test]
async fn a_frame_beyond_the_limit_ends_the_connection() {
    let mut bytes = frame(HEADERS, END_HEADERS, 1, POST);
    bytes.extend(frame(DATA, 0, 1, &vec![0; 2 * 1024 * 1024]));
    ends(bytes).await;
}

/// Sends the same frames for ever without reading an answer. Somebody who keeps
/// what it has to say in memory would take all of them.
async fn waits(frames: Vec<u8>) {
    const MOST: usize = 64 * 1024 * 1024;
    let doors = Doors::open().await;
    for address in doors.addresses() {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(&hello()).await.unwrap();
        let mut taken = 0;
        while taken < MOST {
            let writing = connection.write_all(&frames);
            match tokio::time::timeout(Duration::from_secs(2), writing).await {
                Ok(Ok(())) => taken += frames.len(),
                // It waits for us, or has ended the connection.
                Ok(Err(_)) | Err(_) => break,
            }
        }
        assert!(taken < MOST, "{taken} bytes were taken");
        // While that connection is open.
        doors.serve_others().await;
    }
}

#[tokio::test]
async fn a_ping_flood_waits() {
    waits(frame(PING, 0, 0, &[7; 8]).repeat(10_000)).await;
}

#[tokio::test]
async fn a_settings_flood_waits() {
    waits(frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]).repeat(10_000)).await;
}

/// What HTTP/2 has no use for would be framing to whoever speaks HTTP/1 behind.
#[tokio::test]
async fn headers_of_http_1_are_refused() {
    let doors = Doors::open().await;
    for field in [
        literal("transfer-encoding", b"chunked"),
        literal("connection", b"x-a"),
        literal("X-Upper", b"a"),
        literal("x-a", b"a\r\nx-b: c"),
        literal("x-a\r\nx-b", b"c"),
        literal(":path", b"/again"),
        literal("content-length", b"-5"),
    ] {
        let block = [POST, &field].concat();
        let mut bytes = frame(HEADERS, END_HEADERS, 1, &block);
        bytes.extend(frame(DATA, END_STREAM, 1, b"hello"));
        for address in doors.addresses() {
            let done = |said: &Said| !said.heads.is_empty() || said.resets > 0;
            let said = exchange(address, bytes.clone(), done).await;
            assert_eq!(said.successes(), 0, "{field:?}: {said:?}");
        }
    }
    doors.serve_others().await;
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_said_is_refused() {
    let doors = Doors::open().await;
    for body in [&b"hell"[..], b"hello, and GET /smuggled"] {
        let block = [POST, &literal("content-length", b"5")].concat();
        let mut bytes = frame(HEADERS, END_HEADERS, 1, &block);
        bytes.extend(frame(DATA, END_STREAM, 1, body));
        for address in doors.addresses() {
            let done = |said: &Said| !said.heads.is_empty() || said.resets > 0;
            let said = exchange(address, bytes.clone(), done).await;
            assert_eq!(said.successes(), 0, "{said:?}");
        }
    }
    doors.serve_others().await;
}

/// A tunnel that no policy sees into (extended CONNECT is not offered).
#[tokio::test]
async fn connect_makes_no_tunnel() {
    let doors = Doors::open().await;
    let method = literal(":method", b"CONNECT");
    let authority = literal(":authority", b"payment:80");
    let grpc = literal("content-type", b"application/grpc");
    let websocket = [
        literal(":method", b"CONNECT"),
        literal(":protocol", b"websocket"),
        literal(":scheme", b"http"),
        literal(":path", b"/"),
        literal(":authority", b"payment"),
    ];
    for block in [
        [&method[..], &authority].concat(),
        [&method[..], &authority, &grpc].concat(),
        websocket.concat(),
    ] {
        let bytes = frame(HEADERS, END_HEADERS, 1, &block);
        for address in doors.addresses() {
            let done = |said: &Said| !said.heads.is_empty() || said.resets > 0;
            let said = exchange(address, bytes.clone(), done).await;
            assert_eq!(said.successes(), 0, "{said:?}");
        }
    }
    doors.serve_others().await;
}

/// `Host` and `:authority` are one host (RFC 9113, 8.3.1), which has one reading.
#[tokio::test]
async fn a_request_is_for_one_host() {
    let doors = Doors::open().await;
    for (host, succeeds) in [
        ("payment", true),
        ("PAYMENT:80", true),
        ("admin", false),
        ("payment:8080", false),
        ("payment.", false),
        ("payment, admin", false),
        ("admin@payment", false),
    ] {
        let block = [GET, &literal("host", host.as_bytes())].concat();
        let bytes = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block);
        for address in doors.addresses() {
            let done = |said: &Said| !said.heads.is_empty() || said.resets > 0;
            let said = exchange(address, bytes.clone(), done).await;
            assert_eq!(said.successes() == 1, succeeds, "{host}: {said:?}");
        }
    }
    for authority in ["a@payment", "a:port", "a%2eb", "[::1", "a,b"] {
        let block = [
            b"\x82\x86\x84".to_vec(),
            literal(":authority", authority.as_bytes()),
        ];
        let bytes = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block.concat());
        for address in doors.addresses() {
            let done = |said: &Said| !said.heads.is_empty() || said.resets > 0;
            let said = exchange(address, bytes.clone(), done).await;
            assert_eq!(said.successes(), 0, "{authority}: {said:?}");
        }
    }
    doors.serve_others().await;
}
