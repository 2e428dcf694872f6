//! HTTP/1.1 between two sidecars: many requests over one connection, and a sidecar
//! that does not know how.

use crate::support::{Mesh, Sidecar, identity, sample};
use linnet_proxy::server::Running;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
const CALLERS: usize = 50;

/// The caller's sidecar, which takes what is at the address for payment's.
async fn caller(mesh: &Mesh, address: SocketAddr) -> Running {
    let host = "payment.default.svc.cluster.local:80";
    let identity = identity("payment");
    let sidecar = Sidecar {
        account: "checkout",
        outbound: format!("127.0.0.1:0={host}"),
        inbound: String::new(),
        services: format!(
            "services:\n  {host}:\n    - address: {address}\n      identity: {identity}\n"
        ),
    };
    mesh.start(sidecar).await
}

async fn ask(sidecar: SocketAddr) -> String {
    let mut stream = TcpStream::connect(sidecar).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// What so many callers at once are answered.
async fn ask_at_once(sidecar: SocketAddr) -> Vec<String> {
    let mut asking = JoinSet::new();
    for _ in 0..CALLERS {
        asking.spawn(ask(sidecar));
    }
    asking.join_all().await
}

/// Passes connections on, and counts them.
async fn counted(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::<AtomicUsize>::default();
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            counted.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                // Whoever ends it does so at the end of the test.
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, count)
}

#[tokio::test]
async fn requests_at_once_share_a_connection() {
    let mesh = Mesh::new();
    let app = sample().await.addresses().http.unwrap();
    let server = mesh
        .start(Sidecar {
            account: "payment",
            outbound: String::new(),
            inbound: format!("127.0.0.1:0={app}"),
            services: "inboundMtls: STRICT\nservices: {}\n".into(),
        })
        .await;
    let (between, connections) = counted(server.inbound[0]).await;
    let client = caller(&mesh, between).await;
    for _ in 0..3 {
        for answer in ask_at_once(client.outbound[0]).await {
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
    assert_eq!(connections.load(SeqCst), 1);
}

/// A sidecar of a version before there was sharing: it agrees on HTTP/1.1 alone.
async fn older(mesh: &Mesh) -> (SocketAddr, Arc<AtomicUsize>) {
    let own = mesh.authority.workload("default", "payment");
    let config = own.server_config(&[b"linnet/http1"], true);
    let acceptor = TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::<AtomicUsize>::default();
    let count = served.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, count) = (acceptor.clone(), count.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                assert!(head.starts_with(b"GET / HTTP/1.1\r\n"));
                count.fetch_add(1, SeqCst);
                let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    (address, served)
}

#[tokio::test]
async fn an_older_sidecar_is_spoken_to_as_before() {
    let mesh = Mesh::new();
    let (address, served) = older(&mesh).await;
    let client = caller(&mesh, address).await;
    for answer in ask_at_once(client.outbound[0]).await {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(served.load(SeqCst), CALLERS);
}
