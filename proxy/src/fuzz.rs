//! What a fuzzer asks of the sidecar's own parsers; not part of a sidecar.

#![allow(
    clippy::panic,
    reason = "a promise that is broken is a panic, which the fuzzer reports"
)]

use crate::{
    detect::{Finding, Hello, classify},
    mux,
};
use linnet_mesh::protocol::MeshProtocol;

/// Longer beginnings are not tried one by one.
const EACH_BEGINNING: usize = 64;

/// Whether a client that begins so speaks HTTP/1.
pub fn is_http1(data: &[u8]) -> bool {
    classify(data) == Some(Finding::Http1)
}

/// Detection: what a beginning was found to be, the whole is found to be, however
/// the bytes come in.
pub fn detection(data: &[u8]) {
    let whole = classify(data);
    let beginnings = (1..data.len()).filter(|end| *end < EACH_BEGINNING || end % 997 == 0);
    for end in beginnings {
        if let Some(found) = classify(&data[..end]) {
            assert_eq!(Some(found), whole, "the first {end} bytes say otherwise");
        }
    }
}

/// Streams that share a connection: what a peer says means the same in pieces of
/// any size, until it is no frame; and no more waits than may.
pub fn shared(data: &[u8]) {
    let whole = mux::heard(data, data.len());
    for piece in [1, 7, 8, 9, 4096] {
        assert_eq!(mux::heard(data, piece), whole, "in pieces of {piece} bytes");
    }
}

/// The look at a TLS hello: whose it is taken for is what it says. The bytes are a
/// stream of records, or what is to be in one.
pub fn hello(data: &[u8]) {
    let record;
    let data = match data.first() {
        Some(0x16) => data,
        _ => {
            let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
            let mut bytes = vec![0x16, 3, 1];
            bytes.extend(length.to_be_bytes());
            bytes.extend(&data[..usize::from(length)]);
            record = bytes;
            &record[..]
        }
    };
    detection(data);
    let Some(Finding::Tls(Hello { server_name, mesh })) = classify(data) else {
        return;
    };
    let Some(read) = Read::hello(data) else {
        panic!("a hello that cannot be read");
    };
    assert_eq!(mesh, read.mesh);
    if let Some(name) = server_name {
        assert!(
            read.server_name
                .is_some_and(|read| read.eq_ignore_ascii_case(name.as_bytes())),
            "another name than the hello's"
        );
    }
}

/// A hello as RFC 8446, 4.1.2 lays it out, read without the TLS library.
struct Read {
    mesh: Option<MeshProtocol>,
    server_name: Option<Vec<u8>>,
}

impl Read {
    fn hello(mut stream: &[u8]) -> Option<Self> {
        let mut handshake = Vec::new();
        let body = loop {
            if let [1, a, b, c, rest @ ..] = &handshake[..] {
                let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
                if let Some(body) = rest.get(..length) {
                    break body.to_vec();
                }
            }
            let [0x16, _, _, rest @ ..] = stream else {
                return None;
            };
            stream = rest;
            handshake.extend(take(&mut stream, 2)?);
        };
        let mut body = body.get(2 + 32..)?;
        for width in [1, 2, 1] {
            take(&mut body, width)?;
        }
        let mut found = Self {
            mesh: None,
            server_name: None,
        };
        let mut extensions = match body {
            [] => body,
            _ => take(&mut body, 2)?,
        };
        while let [a, b, rest @ ..] = extensions {
            let kind = [*a, *b];
            extensions = rest;
            let mut content = take(&mut extensions, 2)?;
            match kind {
                [0, 16] => {
                    let mut names = take(&mut content, 2)?;
                    while !names.is_empty() {
                        let name = MeshProtocol::from_alpn(take(&mut names, 1)?);
                        found.mesh = found.mesh.or(name);
                    }
                }
                [0, 0] => {
                    let mut names = take(&mut content, 2)?;
                    if let [0, rest @ ..] = names {
                        names = rest;
                        found.server_name = Some(take(&mut names, 2)?.to_vec());
                    }
                }
                _ => {}
            }
        }
        Some(found)
    }
}

/// What follows a length of so many bytes.
fn take<'a>(bytes: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_at_checked(width)?;
    let length = length.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
    let (taken, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}
