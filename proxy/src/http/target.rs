//! Targets with bytes that no URI has, and that clients send all the same (RFC 9112, 3.2 lets
//! a recipient forward them): what nginx and Envoy forward, goes on as it came.
//!
//! `http::Uri` has such a target percent-encoded, which is what rewrites, HTTP/2 and logs go
//! by. The bytes themselves go with the request as an extension, for matches, policies and
//! HTTP/1. A target without such bytes costs a comparison of two lengths.

use bytes::Bytes;
use http::{Extensions, Method, Uri};
use linnet_mesh::target::escaped;
use std::borrow::Cow;

/// The path and query of a request as they were sent, where its URI has them escaped.
#[derive(Clone, Debug)]
pub(crate) struct Sent(Bytes);

/// What a head's line is refused for.
const CONTROL: &str = "its target has a control character, which must be percent-encoded";
const BLANK: &str = "its target has a blank, which must be percent-encoded";
const FRAGMENT: &str = "its target has a `#`, which must be percent-encoded";

impl Sent {
    /// The bytes of the path, and those of the query, if the URI still has them.
    fn of(&self, uri: &Uri) -> (Option<&[u8]>, Option<&[u8]>) {
        let (path, query) = split(&self.0);
        let escaped = escaped(&self.0);
        let (escaped_path, escaped_query) = split(escaped.as_bytes());
        let same_path = escaped_path == uri.path().as_bytes();
        let same_query = escaped_query == uri.query().map(str::as_bytes);
        (same_path.then_some(path), query.filter(|_| same_query))
    }

    /// The path and the query as text: as they were sent, if they were.
    pub(crate) fn text<'a>(&'a self, uri: &'a Uri) -> (&'a str, Option<&'a str>) {
        let (path, query) = self.of(uri);
        let text = |bytes| str::from_utf8(bytes).ok();
        (
            path.and_then(text).unwrap_or(uri.path()),
            query.and_then(text).or(uri.query()),
        )
    }

    /// Writes a request's target: of what is as it was, the bytes that were sent.
    pub(crate) fn write(&self, uri: &Uri, out: &mut Vec<u8>) {
        let (path, query) = self.of(uri);
        out.extend_from_slice(path.unwrap_or(uri.path().as_bytes()));
        if let Some(query) = query.or(uri.query().map(str::as_bytes)) {
            out.push(b'?');
            out.extend_from_slice(query);
        }
    }
}

/// The path of a request as its client sent it, as text if it is.
pub(crate) fn path<'a>(uri: &'a Uri, extensions: &'a Extensions) -> &'a str {
    match extensions.get::<Sent>() {
        None => uri.path(),
        Some(sent) => sent.text(uri).0,
    }
}

/// What a reader of Latin-1 takes a path for that is not UTF-8: Node and Java's servers do.
pub(crate) fn path_in_latin_1(uri: &Uri, extensions: &Extensions) -> Option<String> {
    let (path, _) = extensions.get::<Sent>()?.of(uri);
    let path = path.filter(|path| str::from_utf8(path).is_err())?;
    Some(path.iter().copied().map(char::from).collect())
}

fn split(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    match target.iter().position(|byte| *byte == b'?') {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    }
}

/// Reports whether a URI is all of a target in origin form: the library drops a fragment.
pub(super) fn is_all_of(uri: &Uri, target: &str) -> bool {
    let path = uri.path_and_query().map(http::uri::PathAndQuery::as_str);
    path.is_some_and(|path| path.len() == target.len())
}

/// Reads a target that is no URI, or is in another form than most. `sent`: its own bytes,
/// where they are not text.
///
/// # Errors
/// It has what no target has.
#[cold]
pub(super) fn read(target: &str, sent: Option<&[u8]>) -> Result<(Uri, Option<Sent>), &'static str> {
    let sent = sent.unwrap_or(target.as_bytes());
    if sent.contains(&b'#') {
        return Err(FRAGMENT);
    }
    let escaped = escaped(sent);
    let changed = escaped.as_bytes() != sent;
    let uri = Uri::from_maybe_shared(Bytes::from(escaped)).map_err(|_| "its target")?;
    let kept = changed.then(|| Sent(Bytes::copy_from_slice(&origin_form(sent))));
    Ok((uri, kept))
}

/// A target without its scheme and host.
fn origin_form(target: &[u8]) -> Cow<'_, [u8]> {
    let scheme = target.windows(3).position(|part| part == b"://");
    let Some(scheme) = scheme.filter(|_| !target.starts_with(b"/")) else {
        return Cow::Borrowed(target);
    };
    let host = &target[scheme + 3..];
    let end = host.iter().position(|byte| matches!(byte, b'/' | b'?'));
    let path = &host[end.unwrap_or(host.len())..];
    match path.first() {
        Some(b'/') => Cow::Borrowed(path),
        _ => Cow::Owned([b"/", path].concat()),
    }
}

/// Reports whether a request's first line has not come to its end, so that what is wrong behind
/// its method can't be told yet.
#[cold]
pub(super) fn is_cut(head: &[u8]) -> bool {
    let blank = head.iter().position(|byte| *byte == b' ');
    let has_method = blank.is_some_and(|at| Method::from_bytes(&head[..at]).is_ok());
    has_method && !head.contains(&b'\n')
}

/// The first line's target, where it is followed by a version.
fn target_of(head: &[u8]) -> Option<std::ops::Range<usize>> {
    let end = head.iter().position(|byte| *byte == b'\n')?;
    let line = head[..end].strip_suffix(b"\r").unwrap_or(&head[..end]);
    let line = line
        .strip_suffix(b" HTTP/1.1")
        .or_else(|| line.strip_suffix(b" HTTP/1.0"))?;
    let start = line.iter().position(|byte| *byte == b' ')? + 1;
    Some(start..line.len())
}

/// The reason why the target of a head that can't be parsed is none, if that is it.
#[cold]
pub(super) fn blame(head: &[u8]) -> Option<&'static str> {
    let target = &head[target_of(head)?];
    if target.iter().any(u8::is_ascii_control) {
        Some(CONTROL)
    } else {
        target.contains(&b' ').then_some(BLANK)
    }
}

/// A head whose target is no text, with letters in place of what is none, and the target. The
/// parser takes no other.
#[cold]
pub(super) fn as_text(head: &[u8]) -> Option<(Bytes, Vec<u8>)> {
    let range = target_of(head)?;
    let target = head[range.clone()].to_vec();
    if str::from_utf8(&target).is_ok() {
        return None;
    }
    // What follows the head is not its to hold.
    let feeds = head.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let ends = feeds.filter_map(|(at, _)| match head[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    });
    let end = ends.min().unwrap_or(head.len());
    let mut text = head[..end].to_vec();
    for byte in &mut text[range] {
        if !byte.is_ascii() {
            *byte = b'_';
        }
    }
    Some((text.into(), target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(target: &[u8]) -> (Uri, Sent) {
        let text = String::from_utf8_lossy(target);
        let (uri, sent) = read(&text, Some(target)).unwrap();
        (uri, sent.unwrap())
    }

    fn written(uri: &Uri, sent: &Sent) -> Vec<u8> {
        let mut out = Vec::new();
        sent.write(uri, &mut out);
        out
    }

    #[test]
    fn what_is_as_it_was_is_written_as_it_was_sent() {
        for target in [
            &b"/a?q=up{job=\"x\"}"[..],
            b"/<a>?b",
            b"/`",
            b"/caf\xe9?<",
            b"/a?\"?\"",
            b"http://shop:80/<a>?\"",
        ] {
            let (mut uri, sent) = sent(target);
            let origin = target.strip_prefix(b"http://shop:80").unwrap_or(target);
            if let Some(path) = uri.path_and_query().filter(|_| uri.authority().is_some()) {
                uri = path.clone().into();
            }
            assert_eq!(written(&uri, &sent), origin);
        }
        let (_, nothing) = read("http://shop", None).unwrap();
        assert!(nothing.is_none());
        let (_, sent) = sent(b"http://shop?\"");
        assert_eq!(written(&"/?%22".parse().unwrap(), &sent), b"/?\"");
    }

    #[test]
    fn what_was_rewritten_is_written_escaped() {
        let (_, sent) = sent(b"/old/<a>?q=\"x\"");
        let rewritten: Uri = "/new/%3Ca%3E?q=%22x%22".parse().unwrap();
        assert_eq!(written(&rewritten, &sent), b"/new/%3Ca%3E?q=\"x\"");
        assert_eq!(sent.text(&rewritten), ("/new/%3Ca%3E", Some("q=\"x\"")));
        let edited: Uri = "/old/%3Ca%3E?p".parse().unwrap();
        assert_eq!(written(&edited, &sent), b"/old/<a>?p");
        let gone: Uri = "/other".parse().unwrap();
        assert_eq!(written(&gone, &sent), b"/other");
    }

    #[test]
    fn what_is_no_text_is_compared_escaped_and_as_latin_1() {
        let (uri, sent) = sent(b"/caf\xe9");
        assert_eq!(sent.text(&uri), ("/caf%E9", None));
        let mut extensions = Extensions::new();
        extensions.insert(sent);
        let latin_1 = path_in_latin_1(&uri, &extensions);
        assert_eq!(latin_1.as_deref(), Some("/caf\u{e9}"));
    }

    #[test]
    fn what_no_target_has_is_named() {
        for (head, reason) in [
            (&b"GET /a\x01 HTTP/1.1\r\n\r\n"[..], Some(CONTROL)),
            (b"GET /a\x7f HTTP/1.1\r\n\r\n", Some(CONTROL)),
            (b"GET /a b HTTP/1.1\n\n", Some(BLANK)),
            (b"GET /a HTTP/1.1\r\n\r\n", None),
            (b"GET /a HTTP/3\r\n\r\n", None),
            (b"GET\r\n", None),
        ] {
            assert_eq!(blame(head), reason, "{head:?}");
        }
        assert_eq!(read("/a#b", None).unwrap_err(), FRAGMENT);
    }

    #[test]
    fn a_head_that_is_no_text_is_made_one_up_to_its_end() {
        for (head, text) in [
            (
                &b"GET /\xe9 HTTP/1.1\r\n\r\nmore\n\n"[..],
                Some(&b"GET /_ HTTP/1.1\r\n\r\n"[..]),
            ),
            (
                b"GET /\xe9 HTTP/1.1\na: b\n\nmore",
                Some(b"GET /_ HTTP/1.1\na: b\n\n"),
            ),
            (
                b"GET /\xe9 HTTP/1.1\r\na: \xe9",
                Some(b"GET /_ HTTP/1.1\r\na: \xe9"),
            ),
            (b"GET / HTTP/1.1\r\na: \xe9\r\n\r\n", None),
            (b"GET /\xe9", None),
        ] {
            let made = as_text(head);
            assert_eq!(made.as_ref().map(|(text, _)| &text[..]), text);
            if let Some((_, target)) = made {
                assert_eq!(target, b"/\xe9");
            }
        }
    }
}
