//! Heads and bodies that are written. What a body's end looks like is decided
//! here, whatever the headers of the message say that came in.

use super::{
    Error,
    head::{Asked, content_length, has_token, is_bodiless, is_chunked},
    wire::Out,
};
use crate::http::{field::may_trail, target::Sent};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version,
    header::{self, CONNECTION, CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING},
    request, response,
};
use http_body::{Body, Frame};
use hyper::ext::ReasonPhrase;
use std::{
    cell::Cell,
    fmt::Display,
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How the end of a body that is being written is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Encoder {
    /// By its length; so many bytes are still to come.
    Length(u64),
    /// By a last chunk, and trailers, announced or not.
    Chunked,
    /// By the connection's end.
    UntilClose,
}

impl Encoder {
    /// Adds a part of the body; `last`: nothing comes after it.
    pub(super) fn data(&mut self, out: &mut Out, data: Bytes, last: bool) -> Result<(), Error> {
        match self {
            Self::Length(left) => {
                let after = left.checked_sub(data.len() as u64);
                *left = after.ok_or_else(|| Error::Body("it is longer than was said".into()))?;
                out.data(data, b"");
            }
            Self::UntilClose => out.data(data, b""),
            Self::Chunked if data.is_empty() => {}
            Self::Chunked => {
                hexadecimal(out.flat(), data.len());
                let end: &[u8] = match last {
                    true => b"\r\n0\r\n\r\n",
                    false => b"\r\n",
                };
                out.data(data, end);
                return Ok(());
            }
        }
        if last { self.end(out) } else { Ok(()) }
    }

    /// Ends the body.
    pub(super) fn end(&self, out: &mut Out) -> Result<(), Error> {
        match self {
            Self::Length(0) | Self::UntilClose => {}
            Self::Length(_) => return Err(Error::Body("it is shorter than was said".into())),
            Self::Chunked => out.flat().extend_from_slice(b"0\r\n\r\n"),
        }
        Ok(())
    }

    /// Adds what a body yields; says whether that was all. `last`: the body says
    /// that nothing comes after it.
    pub(super) fn frame<E: Display>(
        &mut self,
        out: &mut Out,
        frame: Option<Result<Frame<Bytes>, E>>,
        last: bool,
    ) -> Result<bool, Error> {
        let Some(frame) = frame else {
            self.end(out)?;
            return Ok(true);
        };
        let frame = frame.map_err(|error| Error::Body(error.to_string()))?;
        match frame.into_data() {
            Ok(data) => {
                self.data(out, data, last)?;
                Ok(last || matches!(self, Self::Length(0)))
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                self.trailers(out, &trailers)?;
                Ok(true)
            }
        }
    }

    /// Ends the body with those of the trailers that may be there.
    pub(super) fn trailers(&self, out: &mut Out, trailers: &HeaderMap) -> Result<(), Error> {
        if *self != Self::Chunked {
            return self.end(out);
        }
        let flat = out.flat();
        flat.extend_from_slice(b"0\r\n");
        for (name, value) in trailers {
            if may_trail(name) {
                line(flat, name, value);
            }
        }
        flat.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// Writes a request's head; says how its body is to be written, and whether the
/// connection may go on after it.
pub(super) fn request<B: Body>(
    out: &mut Out,
    head: &request::Parts,
    body: &B,
) -> Result<(Encoder, bool), Error> {
    let flat = out.flat();
    flat.extend_from_slice(head.method.as_str().as_bytes());
    flat.push(b' ');
    match (
        head.uri.scheme(),
        head.uri.authority(),
        head.uri.path_and_query(),
    ) {
        (None, None, Some(path)) if !path.as_str().is_empty() => {
            match head.extensions.get::<Sent>() {
                None => flat.extend_from_slice(path.as_str().as_bytes()),
                Some(sent) => sent.write(&head.uri, flat),
            }
        }
        _ => write!(flat, "{}", head.uri).expect("memory takes what is written to it"),
    }
    flat.extend_from_slice(b" HTTP/1.1\r\n");
    let mut facts = Facts::default();
    for (name, value) in &head.headers {
        match *name {
            CONTENT_LENGTH => facts.length = true,
            TRANSFER_ENCODING => facts.codings = true,
            CONNECTION => {
                facts.closes |= has_token(value, "close");
                line(flat, name, value);
            }
            _ => line(flat, name, value),
        }
    }
    let encoder = request_framing(flat, head, body, &facts)?;
    flat.extend_from_slice(b"\r\n");
    Ok((encoder, !facts.closes))
}

/// Which headers were seen that framing goes by.
#[derive(Default)]
struct Facts {
    length: bool,
    codings: bool,
    closes: bool,
    date: bool,
}

fn request_framing<B: Body>(
    flat: &mut Vec<u8>,
    head: &request::Parts,
    body: &B,
    facts: &Facts,
) -> Result<Encoder, Error> {
    let empty = body.is_end_stream();
    if facts.codings && !empty {
        codings(flat, &head.headers);
        return Ok(Encoder::Chunked);
    }
    if facts.length
        && let Some(said) = content_length(&head.headers)?
    {
        length(flat, said);
        return Ok(Encoder::Length(said));
    }
    if empty {
        return Ok(Encoder::Length(0));
    }
    if let Some(known) = body.size_hint().exact() {
        length(flat, known);
        return Ok(Encoder::Length(known));
    }
    if matches!(head.method, Method::GET | Method::HEAD | Method::CONNECT) {
        return Err(Error::Body(
            "its length is unknown, and its method has none".into(),
        ));
    }
    flat.extend_from_slice(b"transfer-encoding: chunked\r\n");
    Ok(Encoder::Chunked)
}

/// Writes a response's head; says how its body is to be written, and whether the
/// connection goes on after it. `keep`: whether it may.
pub(super) fn response<B: Body>(
    out: &mut Out,
    head: &response::Parts,
    body: &B,
    asked: &Asked,
    mut keep: bool,
) -> Result<(Encoder, bool), Error> {
    let flat = out.flat();
    status_line(flat, head, asked.version);
    let status = head.status;
    let http_1_1 = asked.version == Version::HTTP_11;
    let bodiless = asked.head || has_none(status, asked);
    let chunkable = http_1_1 && !bodiless;
    let mut facts = Facts::default();
    for (name, value) in &head.headers {
        match *name {
            CONTENT_LENGTH => facts.length = true,
            TRANSFER_ENCODING => facts.codings = true,
            CONNECTION => {
                facts.closes |= has_token(value, "close");
                line(flat, name, value);
            }
            TRAILER if !chunkable => {}
            header::DATE => {
                facts.date = true;
                line(flat, name, value);
            }
            _ => line(flat, name, value),
        }
    }
    // Behind the first would be another protocol, and a tunnel behind the second.
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    let tunnels = asked.connect && status.is_success();
    keep &= !facts.closes && !tunnels;
    let encoder = response_framing(flat, head, body, asked, &facts)?;
    keep &= encoder != Encoder::UntilClose;
    match (keep, http_1_1) {
        (false, true) if !facts.closes && !switching && !tunnels => {
            flat.extend_from_slice(b"connection: close\r\n");
        }
        (true, false) => flat.extend_from_slice(b"connection: keep-alive\r\n"),
        _ => {}
    }
    if !facts.date {
        date(flat);
    }
    flat.extend_from_slice(b"\r\n");
    Ok((encoder, keep))
}

fn response_framing<B: Body>(
    flat: &mut Vec<u8>,
    head: &response::Parts,
    body: &B,
    asked: &Asked,
    facts: &Facts,
) -> Result<Encoder, Error> {
    let status = head.status;
    if has_none(status, asked) {
        return Ok(Encoder::Length(0));
    }
    if asked.head {
        // What a GET would have been answered with.
        let known = || body.size_hint().exact().filter(|_| !body.is_end_stream());
        if let Some(said) = content_length(&head.headers)?.or_else(known) {
            length(flat, said);
        }
        return Ok(Encoder::Length(0));
    }
    if body.is_end_stream() {
        length(flat, 0);
        return Ok(Encoder::Length(0));
    }
    let http_1_1 = asked.version == Version::HTTP_11;
    if facts.codings && http_1_1 {
        codings(flat, &head.headers);
        return Ok(Encoder::Chunked);
    }
    let said = match facts.length && !facts.codings {
        true => content_length(&head.headers)?,
        false => None,
    };
    if let Some(known) = said.or_else(|| body.size_hint().exact()) {
        length(flat, known);
        return Ok(Encoder::Length(known));
    }
    if !http_1_1 {
        return Ok(Encoder::UntilClose);
    }
    flat.extend_from_slice(b"transfer-encoding: chunked\r\n");
    Ok(Encoder::Chunked)
}

/// Whether an answer to such a request has no body: behind one to CONNECT would be
/// a tunnel.
fn has_none(status: StatusCode, asked: &Asked) -> bool {
    is_bodiless(status) || asked.connect && status.is_success()
}

/// Writes an interim response (RFC 9110, 15.2).
pub(super) fn interim(out: &mut Out, head: &response::Parts) {
    let flat = out.flat();
    status_line(flat, head, Version::HTTP_11);
    for (name, value) in &head.headers {
        line(flat, name, value);
    }
    flat.extend_from_slice(b"\r\n");
}

/// Writes the answer to a head that could not be read, with the reason as its body. `head`: it
/// is a HEAD's, which has none.
pub(super) fn refusal(out: &mut Out, status: StatusCode, reason: &str, head: bool) {
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = status;
    let text = crate::error::Error::BadRequest(reason.to_owned()).text();
    let flat = out.flat();
    status_line(flat, &parts, Version::HTTP_11);
    flat.extend_from_slice(b"connection: close\r\ncontent-type: text/plain; charset=utf-8\r\n");
    length(flat, text.len() as u64);
    date(flat);
    flat.extend_from_slice(b"\r\n");
    if !head {
        flat.extend_from_slice(text.as_bytes());
    }
}

fn status_line(flat: &mut Vec<u8>, head: &response::Parts, version: Version) {
    if version == Version::HTTP_11 && head.status == StatusCode::OK && head.extensions.is_empty() {
        flat.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    flat.extend_from_slice(match version {
        Version::HTTP_10 => b"HTTP/1.0 ",
        _ => b"HTTP/1.1 ",
    });
    flat.extend_from_slice(head.status.as_str().as_bytes());
    flat.push(b' ');
    match head.extensions.get::<ReasonPhrase>() {
        Some(reason) => flat.extend_from_slice(reason.as_bytes()),
        None => {
            let reason = head.status.canonical_reason().unwrap_or("<none>");
            flat.extend_from_slice(reason.as_bytes());
        }
    }
    flat.extend_from_slice(b"\r\n");
}

fn line(flat: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    flat.reserve(name.len() + value.len() + 4);
    flat.extend_from_slice(name);
    flat.extend_from_slice(b": ");
    flat.extend_from_slice(value);
    flat.extend_from_slice(b"\r\n");
}

/// The transfer codings that a head has, `chunked` last.
fn codings(flat: &mut Vec<u8>, headers: &HeaderMap) {
    flat.extend_from_slice(b"transfer-encoding: ");
    let mut last = None;
    for value in headers.get_all(TRANSFER_ENCODING) {
        if last.is_some() {
            flat.extend_from_slice(b", ");
        }
        flat.extend_from_slice(value.as_bytes());
        last = Some(value);
    }
    if !last.is_some_and(is_chunked) {
        flat.extend_from_slice(b", chunked");
    }
    flat.extend_from_slice(b"\r\n");
}

fn length(flat: &mut Vec<u8>, length: u64) {
    flat.extend_from_slice(b"content-length: ");
    let mut digits = [0; 20];
    let mut position = digits.len();
    let mut left = length;
    while left > 0 || position == digits.len() {
        position -= 1;
        digits[position] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    flat.extend_from_slice(&digits[position..]);
    flat.extend_from_slice(b"\r\n");
}

/// A chunk's size and its line's end.
fn hexadecimal(flat: &mut Vec<u8>, size: usize) {
    write!(flat, "{size:x}\r\n").expect("memory takes what is written to it");
}

/// A response has a date, if need be the proxy's (RFC 9110, 6.6.1).
fn date(flat: &mut Vec<u8>) {
    thread_local! {
        /// The second, and its text.
        static NOW: Cell<(u64, [u8; 29])> = const { Cell::new((0, [0; 29])) };
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let second = since.as_ref().map_or(0, Duration::as_secs);
    let (known, mut text) = NOW.get();
    if known != second || known == 0 {
        let now = UNIX_EPOCH + Duration::from_secs(second);
        text.copy_from_slice(httpdate::fmt_http_date(now).as_bytes());
        NOW.set((second, text));
    }
    flat.extend_from_slice(b"date: ");
    flat.extend_from_slice(&text);
    flat.extend_from_slice(b"\r\n");
}
