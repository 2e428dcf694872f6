//! What a connection speaks, told by its first bytes.
//!
//! Pure: bytes in, a finding or "more" out. Who waits, and what is done while a
//! client is silent, is the accepting side's business.

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

/// Classifies what a client sent first. `None`: more bytes are needed.
pub(crate) fn classify(bytes: &[u8]) -> Option<Finding> {
    match bytes.first()? {
        0x16 => classify_tls(bytes),
        _ if bytes.starts_with(PREFACE) => Some(Finding::Http2),
        b'P' if PREFACE.starts_with(bytes) => None,
        _ => classify_http1(bytes),
    }
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

fn classify_http1(bytes: &[u8]) -> Option<Finding> {
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let Some(method_end) = bytes.iter().position(|b| !is_token(b)) else {
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
mod tests {
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
}
