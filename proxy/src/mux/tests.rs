mod floods;

use super::*;
use crate::http::one::server::Drain;
use std::{cell::RefCell, io, rc::Rc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::{mpsc, watch},
    task::LocalSet,
};

/// The drain of a test's server.
#[derive(Clone)]
struct Signal(watch::Receiver<bool>);

impl Drain for Signal {
    fn is_draining(&self) -> bool {
        *self.0.borrow()
    }

    async fn signaled(&self) {
        if self.0.clone().wait_for(|begun| *begun).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

struct World {
    client: Rc<Session>,
    accepted: mpsc::UnboundedReceiver<Stream>,
    drain: watch::Sender<bool>,
    /// How the server's side ended.
    ended: tokio::task::JoinHandle<io::Result<()>>,
}

impl World {
    fn new() -> Self {
        let (near, far) = duplex(16 * 1024);
        let (accepted, drain, ended) = server(far);
        Self {
            client: connect(near),
            accepted,
            drain,
            ended,
        }
    }

    /// A stream and its other end.
    async fn pair(&mut self) -> (Stream, Stream) {
        let mut near = self.client.open().unwrap();
        near.write_all(b"!").await.unwrap();
        let mut far = self.accepted.recv().await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'!');
        (near, far)
    }
}

type Server = (
    mpsc::UnboundedReceiver<Stream>,
    watch::Sender<bool>,
    tokio::task::JoinHandle<io::Result<()>>,
);

fn server(connection: DuplexStream) -> Server {
    let (found, accepted) = mpsc::unbounded_channel();
    let (drain, signal) = watch::channel(false);
    let accept = move |stream| {
        // A test that is over takes no more.
        let _ = found.send(stream);
    };
    let ended = tokio::task::spawn_local(serve(connection, accept, Signal(signal)));
    (accepted, drain, ended)
}

async fn local(test: impl Future<Output = ()>) {
    let patience = Duration::from_secs(20);
    let set = LocalSet::new();
    let test = tokio::time::timeout(patience, set.run_until(test));
    test.await.expect("it comes to an end");
}

#[tokio::test]
async fn streams_carry_their_own_bytes_both_ways_and_half_close() {
    local(async {
        let mut world = World::new();
        let mut tasks = Vec::new();
        for number in 0..50u8 {
            let mut near = world.client.open().unwrap();
            tasks.push(tokio::task::spawn_local(async move {
                let sent = vec![number; 100_000 + usize::from(number)];
                near.write_all(&sent).await.unwrap();
                near.shutdown().await.unwrap();
                let mut answer = Vec::new();
                near.read_to_end(&mut answer).await.unwrap();
                assert!(answer == sent, "stream {number}");
            }));
        }
        for _ in 0..50 {
            let mut far = world.accepted.recv().await.unwrap();
            tasks.push(tokio::task::spawn_local(async move {
                let mut all = Vec::new();
                far.read_to_end(&mut all).await.unwrap();
                far.write_all(&all).await.unwrap();
                far.shutdown().await.unwrap();
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(world.client.streams(), 0);
        world.client.close();
        assert!(world.ended.await.unwrap().is_ok());
    })
    .await;
}

#[tokio::test]
async fn one_who_does_not_read_makes_its_own_sender_wait_and_nobody_else() {
    local(async {
        let mut world = World::new();
        let (mut near, far) = world.pair().await;
        let (mut other, mut other_far) = world.pair().await;
        let written = Rc::new(RefCell::new(0));
        let count = written.clone();
        let writing = tokio::task::spawn_local(async move {
            let part = [7; 4096];
            while let Ok(length) = near.write(&part).await {
                *count.borrow_mut() += length;
            }
        });
        for round in 0..1000u32 {
            other.write_u32(round).await.unwrap();
            assert_eq!(other_far.read_u32().await.unwrap(), round);
        }
        // What the first byte took has not been given back yet.
        assert_eq!(*written.borrow(), WINDOW as usize - 1);
        drop(far);
        writing.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn credit_comes_back_as_bytes_are_read() {
    local(async {
        let mut world = World::new();
        let (mut near, mut far) = world.pair().await;
        let most = 5 * WINDOW as usize;
        let writing = tokio::task::spawn_local(async move {
            near.write_all(&vec![1; most]).await.unwrap();
            near
        });
        let mut seen = vec![0; most];
        far.read_exact(&mut seen).await.unwrap();
        assert!(seen.iter().all(|byte| *byte == 1));
        drop(writing.await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn what_is_let_go_of_is_reset_and_what_was_sent_before_is_read() {
    local(async {
        let mut world = World::new();
        let (mut near, mut far) = world.pair().await;
        far.write_all(b"answer").await.unwrap();
        far.shutdown().await.unwrap();
        drop(far);
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");

        let (mut near, far) = world.pair().await;
        drop(far);
        let error = near.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let error = near.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    })
    .await;
}

#[tokio::test]
async fn streams_that_write_in_another_order_or_not_at_all_are_told_apart() {
    local(async {
        let mut world = World::new();
        let [mut first, unused, mut last] = [(); 3].map(|()| world.client.open().unwrap());
        last.write_all(b"3").await.unwrap();
        drop(unused);
        first.write_all(b"1").await.unwrap();
        let mut heard = Vec::new();
        for _ in 0..3 {
            let mut far = world.accepted.recv().await.unwrap();
            heard.push(far.read_u8().await.ok());
        }
        assert_eq!(heard, [Some(b'1'), None, Some(b'3')]);
    })
    .await;
}

#[tokio::test]
async fn streams_break_with_their_connection() {
    local(async {
        let (near, mut far) = duplex(1024);
        let client = connect(near);
        let mut stream = client.open().unwrap();
        stream.write_all(b"!").await.unwrap();
        let mut frames = [0; 2 * frame::HEADER + 1];
        far.read_exact(&mut frames).await.unwrap();
        drop(far);
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(client.is_over() && client.open().is_none());
    })
    .await;
}

#[tokio::test]
async fn a_connection_has_so_many_streams_and_room_again_when_one_ends() {
    local(async {
        let world = World::new();
        let mut all: Vec<_> = (0..MOST_STREAMS)
            .map(|_| world.client.open().unwrap())
            .collect();
        assert!(world.client.open().is_none());
        all.pop();
        assert!(world.client.open().is_some());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_serves_what_is_open_and_ends_then() {
    local(async {
        let mut world = World::new();
        let (mut near, mut far) = world.pair().await;
        world.drain.send(true).unwrap();
        while !world.client.is_over() {
            tokio::task::yield_now().await;
        }
        assert!(world.client.open().is_none());
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!world.ended.is_finished());
        near.write_all(b"?").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'?');
        drop(near);
        assert!(far.read_u8().await.is_err());
        drop(far);
        assert!(world.ended.await.unwrap().is_ok());
    })
    .await;
}

/// What a peer says that does not keep to the protocol, as a client.
async fn ends_with(said: &[[u8; 8]], payload: usize) -> io::ErrorKind {
    let (mut near, far) = duplex(1 << 20);
    let (_accepted, _drain, ended) = server(far);
    for frame in said {
        near.write_all(frame).await.unwrap();
    }
    near.write_all(&vec![0; payload]).await.unwrap();
    ended.await.unwrap().unwrap_err().kind()
}

#[tokio::test]
async fn a_peer_that_does_not_keep_to_the_protocol_loses_its_connection() {
    local(async {
        let unknown_kind = [[0, 0, 0, 0, 9, 0, 0, 0]];
        let credit_for_nothing = [[0; 8], [0, 0, 0, 0, 2, 0, 0, 1]];
        let reset_of_nothing = [[0, 0, 0, 7, 3, 0, 0, 0]];
        let begin = [0; 8];
        let behind_the_end = [begin, [0, 0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]];
        let invalid = io::ErrorKind::InvalidData;
        assert_eq!(ends_with(&unknown_kind, 0).await, invalid);
        assert_eq!(ends_with(&credit_for_nothing, 0).await, invalid);
        assert_eq!(ends_with(&reset_of_nothing, 0).await, invalid);
        assert_eq!(ends_with(&behind_the_end, 1).await, invalid);
    })
    .await;
}

#[tokio::test]
async fn more_than_was_allowed_ends_the_connection() {
    local(async {
        let (mut near, far) = duplex(1 << 20);
        let (_accepted, _drain, ended) = server(far);
        for _ in 0..=WINDOW / 1024 {
            near.write_all(&[0, 0, 0, 0, 0, 0, 4, 0]).await.unwrap();
            near.write_all(&[0; 1024]).await.unwrap();
        }
        let error = ended.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    })
    .await;
}

/// Streams beyond the limit are refused one by one, and whoever goes on is cut off.
#[tokio::test]
async fn a_flood_of_streams_is_refused_and_ends_its_connection() {
    local(async {
        let (near, far) = duplex(4096);
        let (mut accepted, _drain, ended) = server(far);
        let (_read, mut write) = tokio::io::split(near);
        let flood = async {
            for stream in 0..u32::MAX {
                let mut frame = [0; 8];
                frame[..4].copy_from_slice(&stream.to_be_bytes());
                if write.write_all(&frame).await.is_err() {
                    break;
                }
            }
        };
        flood.await;
        let error = ended.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let mut streams = 0;
        while accepted.try_recv().is_ok() {
            streams += 1;
        }
        // Those that were let go of made room for no others: nobody was polled.
        assert_eq!(streams, MOST_STREAMS);
    })
    .await;
}

/// Reads one frame without a payload: its stream and kind.
async fn bare(peer: &mut DuplexStream) -> (u32, u8) {
    let mut head = [0; frame::HEADER];
    peer.read_exact(&mut head).await.unwrap();
    let [a, b, c, d, kind, length @ ..] = head;
    assert_eq!(length, [0; 3]);
    (u32::from_be_bytes([a, b, c, d]), kind)
}

/// Its end before anything else says that nothing of it was looked at: older peers take it
/// for an end.
#[tokio::test]
async fn a_stream_that_is_refused_ends_before_anything_else() {
    const END: u8 = 1;
    local(async {
        // For want of places on the connection.
        let (mut near, far) = duplex(1 << 20);
        let (mut accepted, _drain, _ended) = server(far);
        let most = MOST_STREAMS as u32;
        for stream in 0..=most {
            near.write_all(&[&stream.to_be_bytes()[..], &[0; 4]].concat())
                .await
                .unwrap();
        }
        let held = accepted.recv().await.unwrap();
        assert_eq!(bare(&mut near).await, (most, END));
        drop(held);

        // By who accepts it, whatever had come with it.
        let (mut near, far) = duplex(1 << 20);
        near.write_all(&[0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
        near.write_all(&[0, 0, 0, 0, 0, 0, 0, 1, b'G'])
            .await
            .unwrap();
        let (_drain, signal) = watch::channel(false);
        tokio::task::spawn_local(serve(far, Stream::refuse, Signal(signal)));
        assert_eq!(bare(&mut near).await, (0, END));
        // What comes for it later goes nowhere, and the connection goes on.
        near.write_all(&[0, 0, 0, 0, 0, 0, 0, 1, b'E'])
            .await
            .unwrap();
        near.write_all(&[0, 0, 0, 0, 3, 0, 0, 0]).await.unwrap();
        near.write_all(&[0, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
        assert_eq!(bare(&mut near).await, (1, END));
    })
    .await;
}

/// What the peer said before the connection ended in order, and whether a stream that it
/// has not said anything of is then one that it has not seen.
#[tokio::test]
async fn a_peer_that_is_done_has_not_seen_what_it_has_not_ended() {
    let goodbye = [0, 0, 0, 0, 4, 0, 0, 0];
    let reset = [0, 0, 0, 0, 3, 0, 0, 0];
    let end = [0, 0, 0, 0, 1, 0, 0, 0];
    let answer = [0, 0, 0, 0, 0, 0, 0, 1, b'H'];
    for (said, unseen) in [
        (vec![&goodbye[..]], true),
        (vec![&end], true),
        // Without a goodbye it may have been looked at.
        (vec![], false),
        (vec![&answer[..]], false),
        (vec![&reset], false),
        (vec![&goodbye, &reset], false),
    ] {
        local(async {
            let (near, mut far) = duplex(1024);
            let client = connect(near);
            let mut stream = client.open().unwrap();
            for frame in &said {
                far.write_all(frame).await.unwrap();
            }
            far.shutdown().await.unwrap();
            let mut heard = Vec::new();
            let read = stream.read_to_end(&mut heard).await;
            assert_eq!(stream.is_over_in_order(), unseen, "{said:?} {read:?}");
            assert_eq!(heard, if said == [answer] { &b"H"[..] } else { b"" });
        })
        .await;
    }
}
