//! Ports that are declared to carry bytes, whatever a peer says that it speaks.

use super::*;
use linnet_mesh::{AppProtocol, InboundPort};

const SHARED: MeshProtocol = MeshProtocol::Shared;

/// An application that keeps what it was sent, and answers HTTP/1.1 200 to anything.
async fn keeping() -> (SocketAddr, Rc<std::cell::RefCell<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let kept = Rc::new(std::cell::RefCell::new(Vec::new()));
    let keeps = kept.clone();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let keeps = keeps.clone();
            tokio::task::spawn_local(async move {
                let mut part = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut part).await {
                    keeps.borrow_mut().extend_from_slice(&part[..length]);
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                        .await;
                }
            });
        }
    });
    (address, kept)
}

fn methods(method: &str) -> Rule {
    Rule {
        to: vec![Operation {
            methods: Match {
                any: vec![method.parse().unwrap()],
                none: vec![],
            },
            ..Operation::default()
        }],
        ..Rule::default()
    }
}

/// Where bytes are judged, an attribute of HTTP voids an ALLOW rule and widens a DENY rule: no
/// peer gets past that by saying that it speaks HTTP.
#[tokio::test]
async fn a_peer_does_not_choose_how_a_port_declared_tcp_is_judged() {
    for (name, action, rule) in [
        ("DENY methods DELETE", Action::Deny, methods("DELETE")),
        ("DENY paths /admin", Action::Deny, path("/admin")),
        ("ALLOW paths /ok", Action::Allow, path("/ok")),
    ] {
        for protocol in [OPAQUE, HTTP1, MeshProtocol::Http2, SHARED] {
            let rule = rule.clone();
            let test = async {
                let mut world = World::start(true).await;
                let (app, kept) = keeping().await;
                world.app = app;
                let inbound = Inbound {
                    mtls: MtlsMode::Strict,
                    ports: vec![InboundPort {
                        port: world.app.port(),
                        mtls: None,
                        protocol: AppProtocol::Opaque,
                        services: vec![],
                    }],
                    authorization: Some(Arc::new(Policies::new(vec![policy(action, vec![rule])]))),
                    ..Inbound::default()
                };
                world
                    .thread
                    .directory()
                    .apply(vec![Update::Inbound(Arc::new(inbound))]);
                let stream = world.mesh("web", protocol).await;
                let body = "\r\nFLUSHALL\r\nSET x 1\r\n";
                let text = format!(
                    "POST /ok HTTP/1.1\r\nhost: db\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let mut stream: Box<dyn Both> = match protocol {
                    MeshProtocol::Shared => {
                        let session = mux::connect(stream);
                        let opened = session.open().unwrap();
                        std::mem::forget(session);
                        Box::new(Stream::Shared(opened))
                    }
                    _ => Box::new(stream),
                };
                if protocol != MeshProtocol::Http2 {
                    let _ = stream.write_all(text.as_bytes()).await;
                    let _ = stream.flush().await;
                    let mut heard = vec![0; 256];
                    let read =
                        tokio::time::timeout(Duration::from_secs(2), stream.read(&mut heard));
                    let _ = read.await;
                    let reached = String::from_utf8_lossy(&kept.borrow()).into_owned();
                    assert!(reached.is_empty(), "{name} by {protocol:?}");
                }
            };
            LocalSet::new().run_until(test).await;
        }
    }
}

trait Both: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Both for T {}
