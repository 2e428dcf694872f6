use super::*;

#[test]
fn http_is_known_by_its_line() {
    for line in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"POST /x HTTP/1.0\r\n",
        b"GET /",
        b"PURGE /x HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
    ] {
        assert_eq!(classify(line), Some(Finding::Http1), "{line:?}");
    }
    assert_eq!(classify(PREFACE), Some(Finding::Http2));
}

#[test]
fn a_line_that_is_too_long_is_none_even_if_it_comes_at_once() {
    let line = |length: usize| {
        let target = "x".repeat(length - "BREW / HTTP/1.1\n".len());
        format!("BREW /{target} HTTP/1.1\n").into_bytes()
    };
    assert_eq!(classify(&line(LONGEST_LINE + 1)), Some(Finding::Http1));
    assert_eq!(classify(&line(LONGEST_LINE + 2)), Some(Finding::Opaque));
}

#[test]
fn part_of_a_line_needs_more() {
    for line in [
        &b"G"[..],
        b"GET",
        b"GET ",
        b"PRI * HTTP/2.0\r\n",
        b"PURGE /x",
    ] {
        assert_eq!(classify(line), None, "{line:?}");
    }
    assert_eq!(classify(b""), None);
}

#[test]
fn other_bytes_are_opaque() {
    for bytes in [
        &b"\x00\x01\x02"[..],
        b"*1\r\n$4\r\nPING\r\n",
        b"EHLO example.org\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x16\x09\x00",
        b" / HTTP/1.1\r\n",
    ] {
        assert_eq!(classify(bytes), Some(Finding::Opaque), "{bytes:?}");
    }
    assert_eq!(classify(&[b'A'; 25]), Some(Finding::Opaque));
}

#[test]
fn a_hello_shows_its_name_and_whether_it_is_the_meshs() {
    use std::sync::Arc;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut hello = |alpn: &[u8]| {
        config.alpn_protocols = vec![alpn.to_vec()];
        let name = "example.org".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config.clone()), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    };
    let own = hello(b"linnet/http1");
    assert_eq!(classify(&own[..own.len() - 1]), None);
    assert_eq!(
        classify(&own),
        Some(Finding::Tls(Hello {
            server_name: Some("example.org".into()),
            mesh: Some(MeshProtocol::Http1),
        }))
    );
    let others = hello(b"h2");
    let Some(Finding::Tls(found)) = classify(&others) else {
        panic!("a hello");
    };
    assert_eq!(found.mesh, None);
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    for line in [
        &b"\r\nGET / HTTP/1.1\r\n"[..],
        b"\n\n\r\nGET /",
        b"\r\n\r\nBREW / HTTP/1.1\n",
    ] {
        assert_eq!(classify(line), Some(Finding::Http1), "{line:?}");
    }
    for more in [&b"\r"[..], b"\r\n", b"\n\r", b"\r\n\r\nGE"] {
        assert_eq!(classify(more), None, "{more:?}");
    }
    for other in [&b"\r\r\n"[..], b"\r\n\0", b"\r\n / HTTP/1.1\r\n"] {
        assert_eq!(classify(other), Some(Finding::Opaque), "{other:?}");
    }
    let most = [&vec![b'\n'; MOST_EMPTY_LINES], &b"GET /"[..]].concat();
    assert_eq!(classify(&most), Some(Finding::Http1));
    let more = [&vec![b'\n'; MOST_EMPTY_LINES + 1], &b"GET /"[..]].concat();
    assert_eq!(classify(&more), Some(Finding::Opaque));
}

/// What some server takes for a request. Each is read so by a server that is in use, but
/// for those that merely could be.
const REQUESTS: [&[u8]; 30] = [
    b"GET / HTTP/1.1\r\n",
    b"\r\n\r\nGET / HTTP/1.1\r\n",
    b" GET / HTTP/1.1\r\n",
    b"\t\x0bGET / HTTP/1.1\r\n",
    b"\x1cGET / HTTP/1.1\r\n",
    b"\xa0\x85GET / HTTP/1.1\r\n",
    b"get / http/1.1\r\n",
    b"GET\t/\tHTTP/1.1\r\n",
    b"GET   /   HTTP/1.1   \r\n",
    b"GET /\r\n",
    b"get /\n",
    b"GET x\n",
    b"GET / HTTP/3.7\r\n",
    b"BREW x HTTP/1.1\n",
    b"BREW x y HTTP/1.1 z\n",
    b"a-method-of-more-than-24-letters / HTTP/1.1\r\n",
    b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
    b"GET /\0 HTTP/1.1\r\n",
    b"GET /\xff HTTP/1.1\r\n",
    b"\0GET / HTTP/1.1\r\n",
    b"\x01\x1b\x7fGET / HTTP/1.1\r\n",
    b"\x80\x9f\xa0GET / HTTP/1.1\r\n",
    b"(X / HTTP/1.1\r\n",
    b"{X / HTTP/1.1\r\n",
    b"\xffX / HTTP/1.1\r\n",
    b"\x16\x09\0GET /admin\r\n",
    b"X\x01Y / HTTP/1.0\r\n",
    b"BREW /\0 HTTP/1.1\n",
    b"\x04\0\0\0\x05\0\0\0\0GET /\r\n",
];

/// What clients of other protocols begin with.
const OTHERS: [&[u8]; 14] = [
    b"\0\0\0\x08\x04\xd2\x16\x2f",
    b"*1\r\n$4\r\nPING\r\n",
    b"PING\r\n",
    b"AMQP\0\0\x09\x01",
    b"\x3a\0\0\0\x01\0\0\0",
    b"A\0\0\0\x01\0\0\0",
    b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04abcd",
    b"\x80\x01\0\x01\0\0\0\x04ping\0\0\0\0\0",
    b"SSH-2.0-OpenSSH\r\n",
    b"set key 0 0 5\r\n",
    b"EHLO example.org\r\n",
    b"@RSYNCD: 31.0\n",
    b"\x12\x01\0\x2f\0\0\x01\0\0\0\x1a\0\x06",
    b"\x16\x09\0a\x01",
];

#[test]
fn what_some_server_takes_for_a_request_is_one_where_policies_speak_of_http() {
    for bytes in REQUESTS {
        let found = classify_as(bytes, Expected::PerhapsHttp);
        assert_eq!(
            found,
            Some(Finding::Http1),
            "{:?}",
            bytes.escape_ascii().to_string()
        );
    }
    for bytes in OTHERS {
        let found = classify_as(bytes, Expected::PerhapsHttp);
        assert_eq!(
            found,
            Some(Finding::Opaque),
            "{:?}",
            bytes.escape_ascii().to_string()
        );
    }
}

#[test]
fn whatever_comes_to_a_port_of_http_is_http() {
    for bytes in REQUESTS.iter().chain(&OTHERS) {
        let found = classify_as(bytes, Expected::Http);
        assert_eq!(
            found,
            Some(Finding::Http1),
            "{:?}",
            bytes.escape_ascii().to_string()
        );
    }
    assert_eq!(classify_as(PREFACE, Expected::Http), Some(Finding::Http2));
    for more in [
        &b""[..],
        b"P",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"\x16",
        b"\x16\x03\x01",
    ] {
        assert_eq!(classify_as(more, Expected::Http), None, "{more:?}");
    }
}

/// Whatever the bytes come in: no beginning is opaque whose whole is a request, unless it
/// has control bytes, and then whoever relays it sees the request's line before it ends.
#[test]
fn no_beginning_of_a_request_is_opaque() {
    for bytes in REQUESTS.iter().chain(&[PREFACE]) {
        for end in 0..bytes.len() {
            let found = classify_as(&bytes[..end], Expected::Http);
            assert_ne!(found, Some(Finding::Opaque), "{end} of {bytes:?}");
            let found = classify_as(&bytes[..end], Expected::PerhapsHttp);
            if found == Some(Finding::Opaque) {
                let mut line = FirstLine::default();
                assert!(
                    bytes[..end].iter().any(|byte| is_control(*byte)),
                    "{end} of {bytes:?}"
                );
                assert_eq!(
                    line.read(&bytes[..end]),
                    Line::Unfinished,
                    "{end} of {bytes:?}"
                );
                assert_eq!(
                    line.read(&bytes[end..]),
                    Line::Request,
                    "{end} of {bytes:?}"
                );
            }
        }
    }
}

#[test]
fn a_server_of_http_that_speaks_first_makes_nothing_opaque() {
    for greeting in [
        &b"HTTP/1.1 408 Request Timeout\r\n"[..],
        b"H",
        b"\0\0\x12\x04\0\0\0\0\0\0\x03",
        b"\0\0\0\x04\0\0\0\0\0",
        b"\0\0",
    ] {
        assert!(
            !Expected::PerhapsHttp.is_opaque_by(greeting),
            "{greeting:?}"
        );
        assert!(Expected::Anything.is_opaque_by(greeting), "{greeting:?}");
    }
    for greeting in [
        &b"\x4a\0\0\0\x0a5.7.1\0"[..],
        b"220 mail.example ESMTP\r\n",
        b"SSH-2.0-OpenSSH_9.0\r\n",
        b"INFO {}\r\n",
        b"+OK ready\r\n",
    ] {
        assert!(Expected::PerhapsHttp.is_opaque_by(greeting), "{greeting:?}");
        assert!(!Expected::Http.is_opaque_by(greeting), "{greeting:?}");
    }
}
