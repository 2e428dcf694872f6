//! What a connection speaks, told by its first bytes.
//!
//! Pure: bytes in, a finding or "more" out. Who waits, and what is done while a
//! client is silent, is the accepting side's business.

mod line;

pub(crate) use line::{FirstLine, Line};

use crate::http::one::server::MOST_EMPTY_LINES;
use linnet_mesh::protocol::MeshProtocol;
use std::io::Cursor;

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// A TLS client hello.
    Tls(Hello),
    /// Anything else.
    Opaque,
}

/// What a port is known to speak, which says what its clients' first bytes may be taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Bytes that are not looked at, by its owner's word.
    Bytes,
    /// Nobody said, and nothing depends on it.
    Anything,
    /// Nobody said, and policies or tokens speak of HTTP: what some HTTP server would take
    /// for a request is one.
    PerhapsHttp,
    /// HTTP, by a Service's word: whatever comes is read as HTTP or refused.
    Http,
}

impl Expected {
    /// Reports whether a client is HTTP's that has not told what it speaks in time.
    pub(crate) const fn is_http_in_doubt(self) -> bool {
        matches!(self, Self::PerhapsHttp | Self::Http)
    }

    /// Reports whether a server that says this first makes a connection opaque.
    pub(crate) fn is_opaque_by(self, greeting: &[u8]) -> bool {
        match self {
            Self::Bytes | Self::Anything => true,
            Self::PerhapsHttp => !may_be_http_greeting(greeting),
            Self::Http => false,
        }
    }
}

/// What a TLS client hello asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) server_name: Option<String>,
    /// What the mesh's own ALPN names ask for; `None`: an application's TLS.
    pub(crate) mesh: Option<MeshProtocol>,
}

/// HTTP/2's connection preface (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Methods that, followed by a space and a target, are HTTP without a look at
/// the rest of the line.
const METHODS: [&[u8]; 9] = [
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH",
];
/// Longest request line that detection waits for, bytes.
const LONGEST_LINE: usize = 8 * 1024;
/// Longest method.
const LONGEST_METHOD: usize = 24;
/// Longest client hello, bytes: one TLS record would hold 16 KiB; post-quantum
/// key shares stay far below.
pub(crate) const LONGEST_HELLO: usize = 32 * 1024;

/// What a PROXY protocol header of version 2 begins with. Servers that expect one read HTTP
/// behind it.
const PROXY_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Classifies what a client sent first by what a port is known to speak. `None`: more bytes
/// are needed.
pub(crate) fn classify_as(bytes: &[u8], expected: Expected) -> Option<Finding> {
    let found = classify(bytes);
    match (expected, &found) {
        (Expected::Bytes | Expected::Anything, _) => found,
        (Expected::PerhapsHttp, Some(Finding::Opaque)) => Some(match is_perhaps_http(bytes)? {
            true => Finding::Http1,
            false => Finding::Opaque,
        }),
        // A client chooses the random bytes of its hello.
        (Expected::PerhapsHttp, Some(Finding::Tls(_))) if begins_with_request_line(bytes) => {
            Some(Finding::Http1)
        }
        (Expected::PerhapsHttp, _) => found,
        (Expected::Http, Some(Finding::Tls(Hello { mesh: Some(_), .. }) | Finding::Http2)) => found,
        // A hello may be the mesh's, a preface HTTP/2's; of the rest HTTP/1 is told.
        (Expected::Http, None) if bytes.first().is_none_or(|b| *b == 0x16) => None,
        (Expected::Http, None) if PREFACE.starts_with(bytes) => None,
        (Expected::Http, _) => Some(Finding::Http1),
    }
}

/// Classifies what a client sent first. `None`: more bytes are needed.
pub(crate) fn classify(bytes: &[u8]) -> Option<Finding> {
    match bytes.first()? {
        0x16 => classify_tls(bytes),
        _ if bytes.starts_with(PREFACE) => Some(Finding::Http2),
        b'P' if PREFACE.starts_with(bytes) => None,
        b'\r' | b'\n' => classify_behind_empty_lines(bytes),
        _ => classify_http1(bytes),
    }
}

/// Servers skip empty lines before a request (RFC 9112, 2.2).
fn classify_behind_empty_lines(bytes: &[u8]) -> Option<Finding> {
    let mut rest = bytes;
    while let [b'\r', b'\n', behind @ ..] | [b'\n', behind @ ..] = rest {
        rest = behind;
    }
    if bytes.len() - rest.len() > MOST_EMPTY_LINES {
        return Some(Finding::Opaque);
    }
    match rest {
        [] | b"\r" => None,
        rest => classify_http1(rest),
    }
}

/// Reports whether some HTTP server, however lenient, could take bytes for a request that
/// begins; `None`: more bytes tell. Known leniences: blanks, control bytes and empty lines
/// before the method, methods of any bytes, HTTP/0.9, any blanks between words, a PROXY
/// protocol header.
///
/// A control byte in a line that has not ended says no before it is known: the messages of
/// binary protocols have some, and need not have a line's end ever. Whoever relays them
/// watches for that end ([`FirstLine`]).
fn is_perhaps_http(bytes: &[u8]) -> Option<bool> {
    if bytes.starts_with(PROXY_V2) {
        return Some(true);
    }
    if PROXY_V2.starts_with(bytes) {
        return None;
    }
    let endless = bytes.len() > LONGEST_LINE;
    let bytes = &bytes[..bytes.len().min(LONGEST_LINE + 1)];
    let start = bytes.iter().position(|byte| !is_skipped(*byte));
    let line = start.map_or(bytes, |start| &bytes[start..]);
    match FirstLine::default().read(line) {
        Line::Request => Some(true),
        Line::Other => Some(false),
        Line::Unfinished if line.iter().any(|byte| is_control(*byte)) => Some(false),
        Line::Unfinished => endless.then_some(true),
    }
}

/// Reports whether the first line of a whole message is a request's to a server that takes
/// any bytes for a method.
fn begins_with_request_line(bytes: &[u8]) -> bool {
    FirstLine::default().read(bytes) == Line::Request
}

/// Reports whether some server skips a byte before a request: controls, those of Latin-1
/// too, and blanks.
const fn is_skipped(byte: u8) -> bool {
    matches!(byte, 0..=b' ' | 0x7f..=0xa0)
}

/// Reports whether a byte is a control that ends no word.
const fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && !is_blank(byte)
}

/// Reports whether some language's split takes a byte for the end of a word.
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | 0x1c..=0x20 | 0x85 | 0xa0)
}

/// Reports whether a server that says this first may be one of HTTP: an answer to nobody,
/// such as 408, or the SETTINGS that HTTP/2 servers need not wait with.
fn may_be_http_greeting(greeting: &[u8]) -> bool {
    let answer = b"HTTP/";
    let settings = [(0, 0), (3, 4), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0)];
    let as_settings = |&(at, byte): &(usize, u8)| greeting.get(at).is_none_or(|b| *b == byte);
    let length = answer.len().min(greeting.len());
    greeting[..length].eq_ignore_ascii_case(&answer[..length]) || settings.iter().all(as_settings)
}

fn classify_tls(bytes: &[u8]) -> Option<Finding> {
    // Record type handshake, version 3.x, then a handshake of type client hello.
    let shape = |position: usize, expected: u8| bytes.get(position).is_none_or(|b| *b == expected);
    if !shape(1, 3) || !shape(5, 1) {
        return Some(Finding::Opaque);
    }
    let mut acceptor = rustls::server::Acceptor::default();
    let mut cursor = Cursor::new(bytes);
    loop {
        match acceptor.read_tls(&mut cursor) {
            Ok(0) if bytes.len() > LONGEST_HELLO => return Some(Finding::Opaque),
            Ok(0) => return None,
            Ok(_) => {}
            Err(_) => return Some(Finding::Opaque),
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let mesh = hello
                    .alpn()
                    .and_then(|mut names| names.find_map(MeshProtocol::from_alpn));
                return Some(Finding::Tls(Hello {
                    server_name: hello.server_name().map(str::to_owned),
                    mesh,
                }));
            }
            // Not a hello that we understand: some application's business.
            Err(_) => return Some(Finding::Opaque),
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn classify_http1(bytes: &[u8]) -> Option<Finding> {
    let Some(method_end) = bytes.iter().position(|b| !is_token(*b)) else {
        return (bytes.len() > LONGEST_METHOD).then_some(Finding::Opaque);
    };
    if bytes[method_end] != b' ' || method_end == 0 || method_end > LONGEST_METHOD {
        return Some(Finding::Opaque);
    }
    let (method, target) = (&bytes[..method_end], &bytes[method_end + 1..]);
    if METHODS.contains(&method) && matches!(target.first(), Some(b'/' | b'*' | b'h' | b'H')) {
        return Some(Finding::Http1);
    }
    // A line that is longer is none, however much of it is there already.
    let longest = &bytes[..bytes.len().min(LONGEST_LINE + 1)];
    let Some(line_end) = longest.iter().position(|&b| b == b'\n') else {
        return (bytes.len() > LONGEST_LINE).then_some(Finding::Opaque);
    };
    let line = bytes[..line_end]
        .strip_suffix(b"\r")
        .unwrap_or(&bytes[..line_end]);
    if line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0") {
        Some(Finding::Http1)
    } else {
        Some(Finding::Opaque)
    }
}

#[cfg(test)]
mod tests;
