use super::*;

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let mut builder = Request::builder().uri("/");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

/// A request for a host.
fn hosted(headers: &[(&str, &str)]) -> Request<()> {
    request(&[&[("host", "shop")], headers].concat())
}

fn received(request: &mut Request<()>) -> Result<bool, &'static str> {
    let found = Found::of(request.headers());
    receive(request, found)
}

fn names(request: &Request<()>) -> Vec<&str> {
    let mut names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn connection_level_headers_end_here() {
    let mut request = hosted(&[
        ("connection", "close, x-hop, te"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("content-length", "3"),
        ("x-end", "1"),
    ]);
    assert_eq!(received(&mut request), Ok(false));
    assert_eq!(names(&request), ["content-length", "host", "te", "x-end"]);
}

/// Transfer codings are this hop's, trailers may be the next one's.
#[test]
fn te_is_trailers_or_nothing() {
    for (lines, left) in [
        (&["trailers"][..], Some("trailers")),
        (&["trailers, gzip"], Some("trailers")),
        (&["gzip;q=0.5, Trailers"], Some("trailers")),
        (&["gzip", "trailers"], Some("trailers")),
        (&["gzip"], None),
        (&["gzip, trailers;q=0"], None),
        (&[""], None),
        (&["trailersx", "x-trailers"], None),
    ] {
        for connection in ["te", "close, TE", "close"] {
            let fields: Vec<_> = lines.iter().map(|line| ("te", *line)).collect();
            let mut request = hosted(&[&[("connection", connection)], &fields[..]].concat());
            received(&mut request).unwrap();
            let values = request.headers().get_all("te").iter();
            let values: Vec<_> = values.map(|value| value.to_str().unwrap()).collect();
            assert_eq!(values, Vec::from_iter(left), "{lines:?} {connection}");
        }
    }
}

#[test]
fn cookies_in_several_fields_become_one() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut request = hosted(&[
            ("cookie", "a=1"),
            ("x-a", "1"),
            ("cookie", "b=2"),
            ("x-a", "2"),
        ]);
        *request.version_mut() = version;
        received(&mut request).unwrap();
        let cookies: Vec<_> = request.headers().get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
        assert_eq!(request.headers().get_all("x-a").iter().count(), 2);
    }
}

/// What a value has besides text hides no name beside it.
#[test]
fn a_connection_header_that_is_not_text_names_what_it_names() {
    let mut request = hosted(&[("x-hop", "1")]);
    let value = HeaderValue::from_bytes(b"\xe9, x-hop").unwrap();
    request.headers_mut().insert("connection", value);
    received(&mut request).unwrap();
    assert_eq!(names(&request), ["host"]);
}

/// A host with a query alone has the path `/`; HTTP/2 has no such target.
#[test]
fn a_path_is_never_empty() {
    let mut absolute = hosted(&[]);
    *absolute.uri_mut() = "http://shop?a".parse().unwrap();
    received(&mut absolute).unwrap();
    assert_eq!(absolute.uri().path_and_query().unwrap().as_str(), "/?a");
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut request = hosted(&[]);
        *request.version_mut() = version;
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = Some("?a".parse().unwrap());
        *request.uri_mut() = Uri::from_parts(parts).unwrap();
        assert!(received(&mut request).is_err());
    }
}

#[test]
fn connection_does_not_name_what_is_for_the_last_recipient() {
    for name in END_TO_END {
        let spelt = name.as_str().to_uppercase();
        let mut request = hosted(&[("connection", &format!("close, {spelt}"))]);
        assert!(received(&mut request).is_err(), "{name}");
    }
}

#[test]
fn an_upgrade_keeps_its_headers() {
    let mut request = hosted(&[
        ("connection", "keep-alive, Upgrade, x-hop"),
        ("upgrade", "websocket"),
        ("x-hop", "1"),
    ]);
    assert_eq!(received(&mut request), Ok(true));
    assert_eq!(request.headers()["connection"], "upgrade");
    assert_eq!(request.headers()["upgrade"], "websocket");
    assert!(!request.headers().contains_key("x-hop"));
}

#[test]
fn an_upgrade_to_http_is_not_followed() {
    for protocol in [
        "h2c",
        "H2C",
        "websocket, h2c",
        "HTTP/2.0",
        "TLS/1.0",
        "h2",
        "h2c;q=1",
        "\"h2c\"",
        "h2c x",
    ] {
        let mut request = hosted(&[("connection", "upgrade"), ("upgrade", protocol)]);
        assert_eq!(received(&mut request), Ok(false), "{protocol}");
        assert_eq!(names(&request), ["host"], "{protocol}");
    }
}

#[test]
fn a_target_is_one_host_and_origin_form() {
    let mut absolute = hosted(&[]);
    *absolute.uri_mut() = "http://other:80/a?b".parse().unwrap();
    received(&mut absolute).unwrap();
    assert_eq!(absolute.uri(), "/a?b");
    assert_eq!(absolute.headers()["host"], "other:80");
    let mut no_path = hosted(&[]);
    *no_path.uri_mut() = "admin".parse().unwrap();
    assert!(received(&mut no_path).is_err());
    let mut user = hosted(&[]);
    *user.uri_mut() = "http://a@other/".parse().unwrap();
    assert!(received(&mut user).is_err());
    let mut connect = hosted(&[]);
    *connect.method_mut() = Method::CONNECT;
    for mut bad in [
        request(&[]),
        request(&[("host", "shop"), ("host", "shop")]),
        connect,
    ] {
        assert!(received(&mut bad).is_err());
    }
    let mut old = request(&[]);
    *old.version_mut() = Version::HTTP_10;
    assert!(received(&mut old).is_ok());
    assert_eq!(old.headers()["host"], "");
}

#[test]
fn an_asterisk_is_for_options_alone() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for (method, passes) in [
            (Method::OPTIONS, true),
            (Method::GET, false),
            (Method::POST, false),
        ] {
            let mut request = hosted(&[]);
            *request.version_mut() = version;
            *request.uri_mut() = "*".parse().unwrap();
            *request.method_mut() = method.clone();
            // HTTP/2 without `:authority`: `Host` is the host.
            assert_eq!(
                received(&mut request).is_ok(),
                passes,
                "{method} {version:?}"
            );
        }
    }
}

#[test]
fn an_http2_request_is_for_its_authority() {
    for (uri, hosts, authority) in [
        ("http://shop/", &[][..], Some("shop")),
        ("http://shop/", &["SHOP:80"], Some("shop")),
        ("http://shop:80/", &["shop", "shop"], Some("shop:80")),
        ("/", &["shop:80"], Some("shop:80")),
        ("http://shop/", &["admin"], None),
        ("http://shop/", &["shop", "admin"], None),
        ("http://shop/", &["sh\u{f6}p"], None),
        ("http://a@shop/", &[], None),
        ("/", &[], None),
        ("/", &["shop", "shop"], None),
        ("/", &["a@shop"], None),
    ] {
        let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
        let mut request = request(&headers);
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = uri.parse().unwrap();
        let passes = received(&mut request).is_ok();
        assert_eq!(passes, authority.is_some(), "{uri} {hosts:?}");
        if passes {
            let read = request.uri().authority().map(Authority::as_str);
            assert_eq!(read, authority, "{uri} {hosts:?}");
            assert!(!request.headers().contains_key(HOST));
            assert_eq!(request.uri().path(), "/");
        }
    }
}

#[test]
fn an_http2_tunnel_is_not_made() {
    let mut connect = request(&[]);
    *connect.version_mut() = Version::HTTP_2;
    *connect.method_mut() = Method::CONNECT;
    *connect.uri_mut() = "shop:80".parse().unwrap();
    assert!(received(&mut connect).is_err());
}

/// Whatever an upstream names, framing and credentials stay.
#[test]
fn a_response_loses_what_its_connection_names_but_framing() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (
            "connection",
            "close, x-hop, content-length, transfer-encoding, set-cookie",
        ),
        ("x-hop", "1"),
        ("content-length", "3"),
        ("set-cookie", "a=b"),
        ("keep-alive", "timeout=5"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response_head(&mut headers, Version::HTTP_11, false);
    let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["content-length", "set-cookie"]);
}
