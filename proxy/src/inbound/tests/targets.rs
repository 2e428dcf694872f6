//! Targets with bytes that no URI has, and what is said of the scheme, on their way to the
//! application.

use super::*;
use std::cell::RefCell;
use tokio::io::{AsyncRead, AsyncWrite};

/// A world whose application notes the heads that it reads, byte for byte.
async fn noting() -> (World, Rc<RefCell<Vec<Vec<u8>>>>) {
    let mut world = World::start(true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.app = listener.local_addr().unwrap();
    let seen = Rc::<RefCell<Vec<_>>>::default();
    let noted = seen.clone();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let noted = noted.clone();
            tokio::task::spawn_local(async move {
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else {
                            return;
                        };
                        head.push(byte);
                    }
                    noted.borrow_mut().push(head);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (world, seen)
}

/// Sends a request and returns its status.
async fn asked(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    target: &[u8],
    fields: &str,
) -> u16 {
    let end = format!(" HTTP/1.1\r\nhost: db\r\nconnection: close\r\n{fields}\r\n");
    let request = [b"GET ", target, end.as_bytes()].concat();
    stream.write_all(&request).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    // It may be ended without a word of TLS.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer)[9..12].parse().unwrap()
}

/// A path that is no text is what Latin-1 makes of it, too, and one with odd letters is
/// itself.
#[tokio::test]
async fn no_byte_of_a_path_is_a_way_around_a_policy() {
    let test = async {
        let (world, seen) = noting().await;
        for (action, value, target, passes) in [
            (Action::Deny, "/caf\u{e9}", &b"/caf\xe9"[..], false),
            (Action::Deny, "/caf\u{e9}", b"/caf\xe8", true),
            (Action::Deny, "/caf\u{e9}", "/caf\u{e9}".as_bytes(), false),
            (Action::Deny, "/caf*", b"/caf\xe9", false),
            (Action::Deny, "/a<b", b"/a<b", false),
            (Action::Deny, "/a<b", b"/a%3Cb", false),
            (Action::Deny, "/a<b*", b"/a<b\xff", false),
            (Action::Allow, "/a<b", b"/a<b", true),
            (Action::Allow, "/a<b", b"/a<c", false),
            (Action::Allow, "/caf\u{e9}", b"/caf\xe9", false),
            (Action::Allow, "/caf*", b"/caf\xe9?q=\"\xff\"", true),
        ] {
            world.set(vec![policy(action, vec![path(value)])]);
            let before = seen.borrow().len();
            let stream = world.mesh("web", HTTP1).await;
            let status = asked(stream, target, "").await;
            let expected = if passes { 200 } else { 403 };
            assert_eq!(status, expected, "{action:?} {value} {target:?}");
            assert_eq!(seen.borrow().len() - before, usize::from(passes));
            if passes {
                let begins = [b"GET ", target, b" HTTP/1.1\r\n"].concat();
                assert!(seen.borrow().last().unwrap().starts_with(&begins));
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

/// Whoever says it: the application hears what without a mesh it would hear, and no policy
/// goes by it.
#[tokio::test]
async fn the_application_hears_who_ended_tls_as_it_was_said() {
    let test = async {
        let (world, seen) = noting().await;
        world.set(vec![]);
        for says in ["https", "http", "other"] {
            let field = format!("x-forwarded-proto: {says}\r\n");
            let peer = world.mesh("web", HTTP1).await;
            assert_eq!(asked(peer, b"/", &field).await, 200);
            assert_eq!(asked(world.plain().await, b"/", &field).await, 200);
            for head in seen.take() {
                let head = String::from_utf8(head).unwrap();
                assert_eq!(head.matches("x-forwarded-proto").count(), 1, "{head}");
                assert!(head.contains(&field), "{head}");
            }
        }
        assert_eq!(asked(world.plain().await, b"/", "").await, 200);
        let head = String::from_utf8(seen.take().remove(0)).unwrap();
        assert!(!head.contains("x-forwarded-proto"), "{head}");
    };
    LocalSet::new().run_until(test).await;
}
