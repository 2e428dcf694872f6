//! What a hop changes in a message's head: connection-level headers end here
//! (RFC 9110, 7.6.1), an upgrade's excepted.

use super::{connection::UNDELIVERED, found::Found};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri, Version,
    header::{CONNECTION, HOST, PROXY_AUTHENTICATE, TE, TRANSFER_ENCODING, UPGRADE},
};

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What never goes on.
const HOP: [&str; 4] = ["close", "keep-alive", "proxy-connection", "connection"];

/// Whether a request asks to change the protocol (RFC 9110, 7.8) to one that is
/// not HTTP again: within an `h2c` tunnel requests would go on that no policy
/// and no route has seen. A server need not follow such a wish (RFC 9113, 3.1).
pub(crate) fn wants_upgrade<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && request.headers().contains_key(UPGRADE)
        && connection_tokens(request.headers()).any(|t| t.eq_ignore_ascii_case("upgrade"))
        && !hides_http(request.headers())
}

/// Whether one of the protocols of `Upgrade` carries HTTP.
fn hides_http(headers: &HeaderMap) -> bool {
    const CARRIERS: [&str; 5] = ["h2", "h2c", "http", "tls", "connect-udp"];
    headers.get_all(UPGRADE).iter().any(|value| {
        let Ok(text) = value.to_str() else {
            return true;
        };
        text.split(',').any(|protocol| {
            let name = protocol.split('/').next().unwrap_or(protocol).trim();
            CARRIERS.iter().any(|c| name.eq_ignore_ascii_case(c))
        })
    })
}

/// Checks what HTTP/1 leaves to the recipient, and makes an absolute-form
/// request origin-form, whose `Host` is the target's (RFC 9112, 3.2): who comes
/// after must not read another host or another request than policies and routes
/// did.
///
/// # Errors
/// Why the request can't be forwarded.
pub(crate) fn settle_target<B>(request: &mut Request<B>, found: Found) -> Result<(), &'static str> {
    if request.version() == Version::HTTP_2 {
        return Ok(());
    }
    if request.method() == http::Method::CONNECT {
        // What goes through such a tunnel would be seen by no policy.
        return Err("CONNECT is not forwarded");
    }
    if !found.has(Found::HOST) {
        if request.version() == Version::HTTP_11 {
            return Err("it has no Host header");
        }
        // It goes on as HTTP/1.1, which must not be without (RFC 9112, 3.2).
        let none = HeaderValue::from_static("");
        request.headers_mut().insert(HOST, none);
    } else if found.has(Found::REPEATED) && request.headers().get_all(HOST).iter().count() > 1 {
        return Err("it has several Host headers");
    }
    let Some(authority) = request.uri().authority() else {
        return Ok(());
    };
    if request.uri().scheme().is_none() {
        // `GET admin`: no path to a policy, and one to a careless application.
        return Err("its target is no path");
    }
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| "its target is no host")?;
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    request.headers_mut().insert(HOST, host);
    Ok(())
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
pub(crate) fn request_head<B>(request: &mut Request<B>, found: Found, upgrade: bool) {
    if request.version() == Version::HTTP_2 {
        return;
    }
    // HTTP/1.0 callers are answered as such by the server; upstream it is 1.1.
    *request.version_mut() = Version::HTTP_11;
    strip(request.headers_mut(), found, upgrade);
}

/// Makes a response's head the previous hop's.
pub(crate) fn response_head(headers: &mut HeaderMap, version: Version, upgrade: bool) {
    if version == Version::HTTP_2 {
        headers.remove(&UNDELIVERED);
    } else {
        strip(headers, Found::of(headers), upgrade);
    }
}

fn strip(headers: &mut HeaderMap, found: Found, upgrade: bool) {
    if found.has(Found::CONNECTION) {
        // Usually it names nothing but what goes anyway: then this is empty.
        let named: Vec<HeaderName> = connection_tokens(headers)
            .filter(|token| !HOP.iter().any(|hop| token.eq_ignore_ascii_case(hop)))
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
    if found.has(Found::UNDELIVERED) {
        // What a sidecar has to say to another comes from no application.
        headers.remove(&UNDELIVERED);
    }
    if found.has(Found::KEEP_ALIVE) {
        headers.remove(&KEEP_ALIVE);
    }
    if found.has(Found::PROXY_CONNECTION) {
        headers.remove(&PROXY_CONNECTION);
    }
    if upgrade {
        let value = HeaderValue::from_static("upgrade");
        headers.insert(CONNECTION, value);
    } else if found.has(Found::UPGRADE) {
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

    fn settled(request: &mut Request<()>) -> Result<(), &'static str> {
        let found = Found::of(request.headers());
        settle_target(request, found)
    }

    fn forwarded(request: &mut Request<()>, upgrade: bool) {
        let found = Found::of(request.headers());
        request_head(request, found, upgrade);
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
        forwarded(&mut request, false);
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
        forwarded(&mut request, true);
        assert_eq!(request.headers()["connection"], "upgrade");
        assert_eq!(request.headers()["upgrade"], "websocket");
    }

    #[test]
    fn an_upgrade_to_http_is_not_followed() {
        for protocol in ["h2c", "H2C", "websocket, h2c", "HTTP/2.0", "TLS/1.0", "h2"] {
            let headers = [("connection", "upgrade"), ("upgrade", protocol)];
            let mut request = request(&headers);
            assert!(!wants_upgrade(&request), "{protocol}");
            forwarded(&mut request, false);
            assert!(request.headers().is_empty(), "{protocol}");
        }
    }

    #[test]
    fn a_target_is_one_host_and_origin_form() {
        let mut absolute = request(&[("host", "shop")]);
        *absolute.uri_mut() = "http://other:80/a?b".parse().unwrap();
        settled(&mut absolute).unwrap();
        assert_eq!(absolute.uri(), "/a?b");
        assert_eq!(absolute.headers()["host"], "other:80");
        let mut no_path = request(&[("host", "shop")]);
        *no_path.uri_mut() = "admin".parse().unwrap();
        assert!(settled(&mut no_path).is_err());
        let mut connect = request(&[("host", "shop")]);
        *connect.method_mut() = http::Method::CONNECT;
        for mut bad in [
            request(&[]),
            request(&[("host", "shop"), ("host", "shop")]),
            connect,
        ] {
            assert!(settled(&mut bad).is_err());
        }
        let mut old = request(&[]);
        *old.version_mut() = Version::HTTP_10;
        assert!(settled(&mut old).is_ok());
        assert_eq!(old.headers()["host"], "");
    }

    #[test]
    fn http_1_0_goes_on_as_1_1() {
        let mut request = request(&[]);
        *request.version_mut() = Version::HTTP_10;
        forwarded(&mut request, false);
        assert_eq!(request.version(), Version::HTTP_11);
    }
}
