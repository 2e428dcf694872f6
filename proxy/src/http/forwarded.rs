//! What a hop changes in a message's head: connection-level headers end here
//! (RFC 9110, 7.6.1), an upgrade's excepted.

use http::{
    HeaderMap, HeaderName, Request, Version,
    header::{CONNECTION, PROXY_AUTHENTICATE, TE, TRANSFER_ENCODING, UPGRADE},
};

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Whether a request asks to change the protocol (RFC 9110, 7.8).
pub(crate) fn wants_upgrade<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && (request.method() == http::Method::CONNECT
            || (request.headers().contains_key(UPGRADE)
                && connection_tokens(request.headers()).any(|t| t.eq_ignore_ascii_case("upgrade"))))
}

fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// Makes a request's head the next hop's.
pub(crate) fn request_head<B>(request: &mut Request<B>, upgrade: bool) {
    if request.version() == Version::HTTP_2 {
        return;
    }
    // HTTP/1.0 callers are answered as such by the server; upstream it is 1.1.
    *request.version_mut() = Version::HTTP_11;
    strip(request.headers_mut(), upgrade);
}

/// Makes a response's head the previous hop's.
pub(crate) fn response_head(headers: &mut HeaderMap, version: Version, upgrade: bool) {
    if version != Version::HTTP_2 {
        strip(headers, upgrade);
    }
}

fn strip(headers: &mut HeaderMap, upgrade: bool) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = connection_tokens(headers)
            .filter_map(|token| token.parse().ok())
            // Framing headers and trailers' permission are not a peer's to remove.
            .filter(|name| {
                *name != UPGRADE
                    && *name != TE
                    && *name != TRANSFER_ENCODING
                    && *name != PROXY_AUTHENTICATE
                    && *name != http::header::HOST
                    && *name != http::header::CONTENT_LENGTH
                    && *name != http::header::AUTHORIZATION
            })
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    headers.remove(&KEEP_ALIVE);
    headers.remove(&PROXY_CONNECTION);
    if upgrade {
        let value = http::HeaderValue::from_static("upgrade");
        headers.insert(CONNECTION, value);
    } else {
        headers.remove(UPGRADE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::builder().uri("/");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    #[test]
    fn connection_level_headers_end_here() {
        let mut request = request(&[
            ("connection", "close, x-hop, content-length"),
            ("keep-alive", "timeout=5"),
            ("x-hop", "1"),
            ("content-length", "3"),
            ("x-end", "1"),
        ]);
        assert!(!wants_upgrade(&request));
        request_head(&mut request, false);
        let names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-length", "x-end"]);
    }

    #[test]
    fn an_upgrade_keeps_its_headers() {
        let mut request = request(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        assert!(wants_upgrade(&request));
        request_head(&mut request, true);
        assert_eq!(request.headers()["connection"], "upgrade");
        assert_eq!(request.headers()["upgrade"], "websocket");
    }

    #[test]
    fn http_1_0_goes_on_as_1_1() {
        let mut request = request(&[]);
        *request.version_mut() = Version::HTTP_10;
        request_head(&mut request, false);
        assert_eq!(request.version(), Version::HTTP_11);
    }
}
