//! What a fuzzer asks of the sidecar's own parsers; not part of a sidecar.

#![allow(
    clippy::panic,
    reason = "a promise that is broken is a panic, which the fuzzer reports"
)]

use crate::{
    detect::{Expected, Finding, FirstLine, Hello, Line, classify, classify_as},
    io::{
        Rewind,
        tls::{Client, Server},
    },
    mux,
};
use bytes::Bytes;
use linnet_mesh::protocol::MeshProtocol;
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use std::{io::IoSlice, net::Ipv4Addr, sync::Arc};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex};

/// Longer beginnings are not tried one by one.
const EACH_BEGINNING: usize = 64;

/// Whether a client that begins so speaks HTTP/1.
pub fn is_http1(data: &[u8]) -> bool {
    classify(data) == Some(Finding::Http1)
}

/// Detection: what a beginning was found to be, the whole is found to be, however
/// the bytes come in. Where policies go by HTTP, a beginning with control bytes may be
/// relayed: then whoever relays it finds the request's line before that has ended.
pub fn detection(data: &[u8]) {
    for expected in [Expected::Anything, Expected::PerhapsHttp, Expected::Http] {
        let whole = classify_as(data, expected);
        let beginnings = (1..data.len()).filter(|end| *end < EACH_BEGINNING || end % 997 == 0);
        for end in beginnings {
            let Some(found) = classify_as(&data[..end], expected) else {
                continue;
            };
            let relayed = expected == Expected::PerhapsHttp && found == Finding::Opaque;
            if relayed && matches!(whole, Some(Finding::Http1) | None) {
                let mut line = FirstLine::default();
                let told = [&data[..end], &data[end..]].map(|piece| line.read(piece));
                let ended = match whole {
                    Some(_) => Line::Request,
                    None => Line::Unfinished,
                };
                assert_eq!(told, [Line::Unfinished, ended], "after {end} bytes");
            } else {
                assert_eq!(Some(found), whole, "the first {end} bytes say otherwise");
            }
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

/// TLS: a stranger that says this is refused for the same reason in pieces of any
/// size; and what a peer says in pieces of these sizes arrives.
pub async fn tls(data: &[u8], client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) {
    let beginning = &data[..data.len().min(MOST_SAID)];
    let whole = refusal(beginning, server, LARGE).await;
    for capacity in [7, 1000] {
        let refused = refusal(beginning, server, capacity).await;
        assert_eq!(refused, whole, "in pieces of {capacity} bytes");
    }
    if let [capacity, reads, writes @ ..] = data {
        let capacity = 1 + 64 * usize::from(*capacity);
        let reads = 1 + 128 * usize::from(*reads);
        let writes = &writes[..writes.len().min(MOST_WRITES)];
        let (near, far) = duplex(capacity);
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let connect = Client::connect(client.clone(), name, near);
        let accept = Server::accept(server.clone(), Rewind::new(Bytes::new(), far));
        let near = async {
            let (mut tickets, near) = tokio::io::split(agreed(connect.await));
            let mut nowhere = tokio::io::sink();
            tokio::join!(
                say(near, writes),
                tokio::io::copy(&mut tickets, &mut nowhere)
            )
            .0
        };
        let far = async { hear(agreed(accept.await), reads).await };
        let (said, heard) = tokio::join!(near, far);
        assert!(said == heard, "{} bytes of {}", heard.len(), said.len());
    }
}

/// More than any input.
const LARGE: usize = 64 * 1024;
/// So that one input takes little time: of a stranger, bytes; and of a peer, writes.
const MOST_SAID: usize = 4096;
const MOST_WRITES: usize = 16;

async fn refusal(data: &[u8], server: &Arc<ServerConfig>, capacity: usize) -> String {
    let (near, far) = duplex(capacity);
    let (mut answers, mut stranger) = tokio::io::split(near);
    let says = async {
        // It may not be listened to for so long.
        let _ = stranger.write_all(data).await;
        let _ = stranger.shutdown().await;
    };
    let accept = async {
        Server::accept(server.clone(), Rewind::new(Bytes::new(), far))
            .await
            .err()
    };
    let mut nowhere = tokio::io::sink();
    let (refused, (), _) = tokio::join!(accept, says, tokio::io::copy(&mut answers, &mut nowhere));
    let Some(refused) = refused else {
        panic!("a stranger is let in");
    };
    refused.to_string()
}

fn agreed<T>(stream: std::io::Result<T>) -> T {
    match stream {
        Ok(stream) => stream,
        Err(error) => panic!("two of one mesh do not agree: {error}"),
    }
}

/// Writes so many bytes at a time, some of them in two slices, and tells all.
async fn say(mut stream: impl AsyncWrite + Unpin, writes: &[u8]) -> Vec<u8> {
    let mut said = Vec::new();
    for write in writes {
        let length = 131 * usize::from(*write);
        let data: Vec<u8> = (said.len()..said.len() + length)
            .map(|n| (n % 251) as u8)
            .collect();
        let (one, other) = data.split_at(length / 3);
        let written = match write % 2 {
            0 => stream.write(&data).await,
            _ => {
                stream
                    .write_vectored(&[IoSlice::new(one), IoSlice::new(other)])
                    .await
            }
        };
        let Ok(written) = written else {
            panic!("nothing can be written: {written:?}");
        };
        said.extend_from_slice(&data[..written]);
        if write % 5 == 0
            && let Err(error) = stream.flush().await
        {
            panic!("nothing is sent: {error}");
        }
    }
    if let Err(error) = stream.shutdown().await {
        panic!("no end can be told: {error}");
    }
    said
}

async fn hear(mut stream: impl AsyncRead + AsyncWrite + Unpin, reads: usize) -> Vec<u8> {
    let (mut heard, mut piece) = (Vec::new(), vec![0; reads]);
    loop {
        match stream.read(&mut piece).await {
            Ok(0) => break,
            Ok(length) => heard.extend_from_slice(&piece[..length]),
            Err(error) => panic!("what was sent can't be read: {error}"),
        }
    }
    // The client may be gone.
    let _ = stream.shutdown().await;
    heard
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
