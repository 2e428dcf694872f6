//! Heads that are read, by httparse, as hyper reads them (RFC 9112, 2 to 6).

use super::{Error, MOST_HEADERS, body::Framing};
pub(super) use crate::http::field::has_token;
use crate::http::{LARGEST_HEAD, host::has_one_reading, target};
use bytes::{Buf, Bytes};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{self, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};
use hyper::ext::ReasonPhrase;
use std::{cell::RefCell, mem::MaybeUninit};

/// Longest target of a request; `http::Uri` holds no longer one.
const LONGEST_TARGET: usize = u16::MAX as usize - 1;
/// Lengths above are no length; hyper's figure.
const LONGEST_BODY: u64 = u64::MAX - 2;
/// What an HTTP/2 client begins with.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Header maps that a thread keeps for the next heads.
const MOST_KEPT: usize = 16;

thread_local! {
    static MAPS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a header map's memory for the next head of this thread.
pub(crate) fn recycle(mut map: HeaderMap) {
    map.clear();
    MAPS.with_borrow_mut(|maps| {
        if maps.len() < MOST_KEPT && map.capacity() > 0 && map.capacity() < 2 * MOST_HEADERS {
            maps.push(map);
        }
    });
}

fn map(headers: usize) -> HeaderMap {
    let kept = MAPS.with_borrow_mut(Vec::pop);
    let mut map = kept.unwrap_or_default();
    map.reserve(headers);
    map
}

/// A message's head, if it is whole, and what its connection must know of it.
pub(super) type Head<M, F> = Result<Option<(M, F)>, Error>;

/// What a connection must know of a request besides the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) framing: Framing,
    pub(super) version: Version,
    /// Whether the connection may go on after it.
    pub(super) keep: bool,
    /// The client waits for a word before it sends its body.
    pub(super) expects: bool,
    pub(super) head: bool,
    pub(super) connect: bool,
}

/// Whether a head is to be read: at once, as most are whole and what is wrong is
/// told early, and again when its end may be there. `seen` bytes of it were there
/// the last time.
pub(super) fn may_be_whole(bytes: &[u8], seen: usize) -> bool {
    if seen == 0 {
        return true;
    }
    let new = &bytes[seen.saturating_sub(3)..];
    let mut feeds = new.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    feeds.any(|(position, _)| {
        let rest = &new[position + 1..];
        rest.starts_with(b"\n") || rest.starts_with(b"\r\n")
    })
}

/// Takes empty lines before a request off the bytes (RFC 9112, 2.2); returns their length.
pub(super) fn skip_empty_lines(unread: &mut Bytes) -> usize {
    let mut length = 0;
    loop {
        length += match &unread[length..] {
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            _ => break,
        };
    }
    if length > 0 {
        drop_front(unread, length);
    }
    length
}

/// Takes a request's head off the bytes, if it is whole.
///
/// # Errors
/// It is malformed or too large.
pub(super) fn request(unread: &mut Bytes) -> Head<Request<()>, Asked> {
    let bytes = unread.clone();
    match parse_request(unread, &bytes, None) {
        Err(Error::Malformed(why)) => retry_request(unread, why),
        parsed => parsed,
    }
}

/// Reads a head again that was refused, as it should be if all that is wrong is a target that
/// is no text; says else what is wrong with its target, if anything.
#[cold]
fn retry_request(unread: &mut Bytes, why: &'static str) -> Head<Request<()>, Asked> {
    let head = &unread[..unread.len().min(LARGEST_HEAD + 1)];
    if target::is_cut(head) {
        return Ok(None);
    }
    if let Some((text, sent)) = target::as_text(head) {
        return parse_request(unread, &text, Some(&sent));
    }
    Err(Error::Malformed(target::blame(head).unwrap_or(why)))
}

/// Parses a head. `bytes`: what is unread, as text; `sent`: its target, where it is no text.
fn parse_request(
    unread: &mut Bytes,
    bytes: &Bytes,
    sent: Option<&[u8]>,
) -> Head<Request<()>, Asked> {
    let mut headers = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let status = httparse::ParserConfig::default().parse_request_with_uninit_headers(
        &mut parsed,
        bytes,
        &mut headers,
    );
    if status.is_err() && bytes.starts_with(HTTP2_PREFACE) {
        return Err(Error::Http2);
    }
    let Some(length) = length_of(status)? else {
        return Ok(None);
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        unreachable!("a whole head has a method, a target and a version");
    };
    if target.len() > LONGEST_TARGET {
        return Err(Error::TargetTooLong);
    }
    let method = Method::from_bytes(method.as_bytes());
    let method = method.map_err(|_| Error::Malformed("its method"))?;
    let uri = Uri::from_maybe_shared(bytes.slice_ref(target.as_bytes()));
    let (uri, sent) = match uri {
        Ok(uri) if sent.is_none() && target::is_all_of(&uri, target) => (uri, None),
        _ => target::read(target, sent).map_err(Error::Malformed)?,
    };
    let mut asked = Asked {
        framing: Framing::Length(0),
        version: version_of(version),
        keep: version == 1,
        expects: false,
        head: method == Method::HEAD,
        connect: method == Method::CONNECT,
    };
    let headers = request_headers(bytes, parsed.headers, &mut asked)?;
    let mut request = Request::new(());
    *request.version_mut() = asked.version;
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    if let Some(sent) = sent {
        request.extensions_mut().insert(sent);
    }
    drop_front(unread, length);
    Ok(Some((request, asked)))
}

fn request_headers(
    bytes: &Bytes,
    parsed: &[httparse::Header<'_>],
    asked: &mut Asked,
) -> Result<HeaderMap, Error> {
    let mut headers = map(parsed.len());
    let mut closes = false;
    let mut length: Option<u64> = None;
    let (mut lengths, mut codings) = (false, false);
    let mut hosts_read = true;
    for parsed in parsed {
        let (name, value) = header(bytes, parsed)?;
        match name {
            TRANSFER_ENCODING => {
                if asked.version == Version::HTTP_10 {
                    return Err(Error::Malformed("Transfer-Encoding in HTTP/1.0"));
                }
                // Whoever is behind could go by any other that is named.
                if codings || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(Error::Malformed(
                        "its Transfer-Encoding is not chunked alone",
                    ));
                }
                codings = true;
                // It counts alone (RFC 9112, 6.3): nobody behind is to see the length.
                if length.take().is_some() {
                    headers.remove(CONTENT_LENGTH);
                }
            }
            CONTENT_LENGTH => {
                lengths = true;
                if codings {
                    continue;
                }
                let said = digits(value.as_bytes());
                let said = said.ok_or(Error::Malformed("its Content-Length"))?;
                match length {
                    Some(before) if before != said => {
                        return Err(Error::Malformed("its lengths differ"));
                    }
                    Some(_) => continue,
                    None if said > LONGEST_BODY => return Err(Error::TooLarge),
                    None => length = Some(said),
                }
            }
            CONNECTION => {
                closes |= has_token(&value, "close");
                asked.keep = !closes && (asked.keep || has_token(&value, "keep-alive"));
            }
            header::EXPECT => {
                asked.expects = value.as_bytes().eq_ignore_ascii_case(b"100-continue");
            }
            header::HOST => hosts_read &= has_one_reading(value.as_bytes()),
            _ => {}
        }
        headers.append(name, value);
    }
    if !hosts_read {
        return Err(Error::Malformed("its Host is no host"));
    }
    // Somebody before us may have been misled.
    asked.keep &= !(codings && lengths);
    asked.expects &= asked.version == Version::HTTP_11;
    asked.framing = match codings {
        true => Framing::Chunked,
        false => Framing::Length(length.unwrap_or_default()),
    };
    Ok(headers)
}

/// What a connection must know of a response besides the response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) framing: Framing,
    /// Whether the connection may go on after it.
    pub(super) keep: bool,
}

/// Takes a response's head off the bytes, if it is whole, and gives those of interim
/// responses before it to `interim`. `asked`: whether the request was a HEAD, and the version
/// of its client.
///
/// # Errors
/// It is malformed or too large.
pub(super) fn response(
    unread: &mut Bytes,
    asked: (bool, Version),
    interim: impl Fn(Response<()>),
) -> Head<Response<()>, Answered> {
    loop {
        let bytes = unread.clone();
        let mut headers = [const { MaybeUninit::uninit() }; MOST_HEADERS];
        let mut parsed = httparse::Response::new(&mut []);
        // Such a space is to be removed (RFC 9112, 5.1).
        let mut config = httparse::ParserConfig::default();
        config.allow_spaces_after_header_name_in_responses(true);
        let status = config.parse_response_with_uninit_headers(&mut parsed, &bytes, &mut headers);
        let Some(length) = length_of(status)? else {
            return Ok(None);
        };
        let (Some(code), Some(version)) = (parsed.code, parsed.version) else {
            unreachable!("a whole head has a status and a version");
        };
        let status = StatusCode::from_u16(code).map_err(|_| Error::Malformed("its status"))?;
        let provisional = status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS;
        let reason = parsed.reason.unwrap_or_default();
        let mut headers = map(parsed.headers.len());
        let mut keep = version == 1;
        let mut closes = false;
        for parsed in parsed.headers.iter() {
            let (name, value) = header(&bytes, parsed)?;
            if name == CONNECTION {
                closes |= has_token(&value, "close");
                keep = !closes && (keep || has_token(&value, "keep-alive"));
            }
            headers.append(name, value);
        }
        let framing = response_framing(status, version_of(version), &mut headers, asked)?;
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.version_mut() = version_of(version);
        if Some(reason) != status.canonical_reason()
            && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
        {
            response.extensions_mut().insert(reason);
        }
        *response.headers_mut() = headers;
        drop_front(unread, length);
        if !provisional {
            return Ok(Some((response, Answered { framing, keep })));
        }
        interim(response);
        if unread.is_empty() {
            return Ok(None);
        }
    }
}

/// Whether a response has no body by its status, whatever its headers say (RFC
/// 9112, 6.3).
pub(super) fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

/// RFC 9112, 6.3.
fn response_framing(
    status: StatusCode,
    version: Version,
    headers: &mut HeaderMap,
    (head, client): (bool, Version),
) -> Result<Framing, Error> {
    if head {
        // It is told on, as that of the body which a GET would have had.
        content_length(headers)?;
    }
    if head || is_bodiless(status) {
        return Ok(Framing::Length(0));
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        if version == Version::HTTP_10 {
            return Err(Error::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        if headers.contains_key(CONTENT_LENGTH) {
            return Err(Error::Malformed("it has a length and a Transfer-Encoding"));
        }
        return settle_codings(headers, client);
    }
    match content_length(headers)? {
        Some(length) if length > LONGEST_BODY => Err(Error::TooLarge),
        Some(length) => Ok(Framing::Length(length)),
        None => Ok(Framing::UntilClose),
    }
}

/// Makes the transfer codings of a response one list in which `chunked` is last and stands
/// once: a server that says it twice applies it once. `identity` was none, and is none any
/// more (RFC 9112, 7).
fn settle_codings(headers: &mut HeaderMap, client: Version) -> Result<Framing, Error> {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    if let (Some(only), None) = (values.next(), values.next())
        && only.as_bytes().eq_ignore_ascii_case(b"chunked")
    {
        return Ok(Framing::Chunked);
    }
    let (mut list, mut chunked) = (Vec::new(), false);
    let values = headers.get_all(TRANSFER_ENCODING).iter();
    for coding in values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
        let coding = coding.trim_ascii();
        if coding.eq_ignore_ascii_case(b"chunked") {
            chunked = true;
        } else if chunked || !is_coding(coding) {
            return Err(Error::Malformed("its transfer codings"));
        } else if !coding.eq_ignore_ascii_case(b"identity") {
            list.push(coding);
        }
    }
    if client == Version::HTTP_10 && !list.is_empty() {
        return Err(Error::Malformed(
            "its body has a transfer coding, which its client of HTTP/1.0 does not know",
        ));
    }
    if chunked {
        list.push(b"chunked");
    }
    if list.is_empty() {
        headers.remove(TRANSFER_ENCODING);
        return Ok(Framing::UntilClose);
    }
    let list = HeaderValue::from_bytes(&list.join(&b", "[..]));
    let list = list.map_err(|_| Error::Malformed("its transfer codings"))?;
    headers.insert(TRANSFER_ENCODING, list);
    Ok(match chunked {
        true => Framing::Chunked,
        false => Framing::UntilClose,
    })
}

/// Reports whether this is a transfer coding other than `chunked`, which has no parameters.
fn is_coding(text: &[u8]) -> bool {
    let name = text.split(|byte| *byte == b';').next().unwrap_or_default();
    let name = name.trim_ascii_end();
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(token) && !name.eq_ignore_ascii_case(b"chunked")
}

/// The length that all of `Content-Length` agree on, if there is one.
pub(crate) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for said in value.as_bytes().split(|byte| *byte == b',') {
            let said = digits(said.trim_ascii());
            let said = said.ok_or(Error::Malformed("its Content-Length"))?;
            if length.is_some_and(|before| before != said) {
                return Err(Error::Malformed("its lengths differ"));
            }
            length = Some(said);
        }
    }
    Ok(length)
}

/// The length of a head that was parsed, if it is whole.
fn length_of(parsed: httparse::Result<usize>) -> Result<Option<usize>, Error> {
    match parsed.map_err(malformed)? {
        httparse::Status::Complete(length) if length > LARGEST_HEAD => Err(Error::TooLarge),
        httparse::Status::Complete(length) => Ok(Some(length)),
        httparse::Status::Partial => Ok(None),
    }
}

/// Refuses a head that is not whole with so many bytes.
pub(super) fn limit(length: usize) -> Result<(), Error> {
    match length >= LARGEST_HEAD {
        true => Err(Error::TooLarge),
        false => Ok(()),
    }
}

fn malformed(error: httparse::Error) -> Error {
    Error::Malformed(match error {
        httparse::Error::TooManyHeaders => return Error::TooLarge,
        httparse::Error::HeaderName => "a header's name",
        httparse::Error::HeaderValue => "a header's value",
        httparse::Error::NewLine => "a line's end",
        httparse::Error::Status => "its status",
        httparse::Error::Version => "its version",
        httparse::Error::Token => "its first line",
    })
}

fn version_of(minor: u8) -> Version {
    match minor {
        1 => Version::HTTP_11,
        _ => Version::HTTP_10,
    }
}

fn header(
    bytes: &Bytes,
    parsed: &httparse::Header<'_>,
) -> Result<(HeaderName, HeaderValue), Error> {
    let name = HeaderName::from_bytes(parsed.name.as_bytes());
    let name = name.map_err(|_| Error::Malformed("a header's name"))?;
    let value = HeaderValue::from_maybe_shared(bytes.slice_ref(parsed.value));
    let value = value.map_err(|_| Error::Malformed("a header's value"))?;
    Ok((name, value))
}

/// Takes off what has been used; holds on to nothing if it was all.
fn drop_front(unread: &mut Bytes, length: usize) {
    if length == unread.len() {
        *unread = Bytes::new();
    } else {
        unread.advance(length);
    }
}

fn digits(text: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let add = |number: u64, byte: &u8| number.checked_mul(10)?.checked_add(digit(byte)?);
    (!text.is_empty()).then_some(())?;
    text.iter().try_fold(0, add)
}

/// Whether the last of a value's codings is `chunked`.
pub(super) fn is_chunked(value: &HeaderValue) -> bool {
    let last = value.to_str().ok().and_then(|text| text.rsplit(',').next());
    last.is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked"))
}
