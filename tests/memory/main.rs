//! What a flood leaves in a sidecar's memory. A process of its own, so that nothing
//! else is measured: client, sidecar and application together.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a failure is a panic with a line number"
)]

#[path = "../attacks/frame.rs"]
mod frame;
#[allow(dead_code, reason = "shared with the target `mesh`")]
#[path = "../mesh/support.rs"]
mod support;

use frame::frame;
use linnet_meter::resident;
use std::{fs, net::SocketAddr, time::Duration};
use support::{Mesh, Sidecar};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const KIB: usize = 1024;
/// Connections of a flood; fewer where the process may not open as many files.
const MOST: usize = 10_000;
/// What has not come to rest by then never does.
const PATIENCE: Duration = Duration::from_secs(60);

/// By how much memory has grown once it has stood still.
async fn growth(since: usize) -> usize {
    let settled = async {
        let mut last = resident();
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let now = resident();
            if now.abs_diff(last) < 64 * KIB {
                return now;
            }
            last = now;
        }
    };
    let settled = tokio::time::timeout(PATIENCE, settled).await;
    settled.expect("memory stands still").saturating_sub(since)
}

fn connections() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3));
    // A sidecar takes a sixth of its files for connections in each direction, and some for
    // itself; both ends are here.
    let files = soft
        .and_then(|soft| soft.parse().ok())
        .unwrap_or(usize::MAX);
    MOST.min(files / 8)
}

/// So many connections, each of which sends this and nothing more.
async fn flood(sidecar: SocketAddr, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(sidecar).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        open.push(stream);
    }
    open
}

/// Sends until nobody reads any more, or the connection ends.
async fn pour(sidecar: SocketAddr, first: &[u8], again: &[u8], times: usize) -> TcpStream {
    let mut stream = TcpStream::connect(sidecar).await.unwrap();
    stream.write_all(first).await.unwrap();
    let block = again.repeat(1000);
    for _ in 0..times / 1000 {
        let sending = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&block));
        if !matches!(sending.await, Ok(Ok(()))) {
            break;
        }
    }
    stream
}

#[tokio::test]
async fn a_flood_leaves_little_in_memory() {
    let mesh = Mesh::new();
    let app = support::sample().await.addresses().http.unwrap();
    let services = "inboundMtls: PERMISSIVE\nservices: {}\n";
    let sidecar = mesh
        .start(Sidecar {
            account: "payment",
            outbound: String::new(),
            inbound: format!("127.0.0.1:0={app}"),
            services: services.into(),
        })
        .await;
    let address = sidecar.inbound[0];
    let serves = async || {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    };
    serves().await;
    let preface = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(),
        &frame(4, 0, 0, &[]),
    ]
    .concat();
    let get = frame(1, 5, 1, b"\x82\x86\x84\x41\x07payment");
    for (what, again) in [
        ("SETTINGS", frame(4, 0, 0, &[])),
        ("PING", frame(6, 0, 0, &[0; 8])),
        ("PRIORITY", frame(2, 0, 1, &[0, 0, 0, 3, 1])),
        ("empty DATA", frame(0, 0, 1, &[])),
        (
            "one stream opened and reset",
            [get, frame(3, 0, 1, &[0; 4])].concat(),
        ),
        (
            "CONTINUATION",
            [frame(1, 1, 1, &[]), frame(9, 0, 1, &[0; 64])].concat(),
        ),
    ] {
        let before = resident();
        let stream = pour(address, &preface, &again, 1_000_000).await;
        let grown = growth(before).await;
        println!("a flood of {what}: {} KiB", grown / KIB);
        assert!(grown < 8 * 1024 * KIB, "{what}: {grown} bytes");
        serves().await;
        drop(stream);
    }

    // Last: what these leave to the allocator would hide what those take.
    let count = connections();
    // Of all three, since the allocator gives the next what one has left to it.
    let before = resident();
    let kept = "GET / HTTP/1.1\r\nhost: payment\r\n\r\n".as_bytes();
    let slow = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &[b'a'; 16 * 1024]].concat();
    for (what, bytes, limit) in [
        ("silent", &b""[..], 48 * KIB),
        ("kept after a request", kept, 96 * KIB),
        ("in the middle of a head of 16 KiB", &slow, 96 * KIB),
    ] {
        let open = flood(address, count, bytes).await;
        let each = growth(before).await / count;
        println!("{count} connections, {what}: {each} bytes each");
        assert!(each < limit, "{what}: {each} bytes a connection");
        serves().await;
        drop(open);
    }
}
