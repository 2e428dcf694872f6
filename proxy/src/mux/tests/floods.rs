//! Each kind of frame as a flood, by a peer that reads what it is answered and by one
//! that does not: the connection ends or waits, and what was done for it is bounded.

use super::*;
use crate::mux::frame::{HEADER, Header, Kind};
use std::cell::Cell;

/// Rounds of a flood; far more than any bound.
const ROUNDS: u32 = 200_000;

fn frame(stream: u32, kind: Kind, length: u32) -> Vec<u8> {
    let header = Header {
        stream,
        kind,
        length,
    };
    header.encode().to_vec()
}

fn open(stream: u32) -> Vec<u8> {
    frame(stream, Kind::Data, 0)
}

fn data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    [
        frame(stream, Kind::Data, bytes.len() as u32),
        bytes.to_vec(),
    ]
    .concat()
}

/// What a flood is made of: its name, and the bytes of each round.
type Flood = (&'static str, fn(u32) -> Vec<u8>);

/// In the first round a stream that is open (0), and one that is over (1).
fn begin(round: u32, then: Vec<u8>) -> Vec<u8> {
    match round {
        0 => [open(0), open(1), frame(1, Kind::Reset, 0), then].concat(),
        _ => then,
    }
}

/// Every use of a kind that the protocol does not forbid at once.
fn floods(kind: Kind) -> Vec<Flood> {
    match kind {
        Kind::Data => vec![
            ("streams that are opened and not used", open),
            ("nothing, on an open stream", |round| begin(round, open(0))),
            ("bytes of a stream that is over", |round| {
                begin(round, data(1, b"x"))
            }),
            ("streams with a request, left alone", |round| {
                data(round, b"GET")
            }),
        ],
        Kind::End => vec![
            ("an end again and again", |round| {
                begin(round, frame(0, Kind::End, 0))
            }),
            ("an end of what is over", |round| {
                begin(round, frame(1, Kind::End, 0))
            }),
            ("streams that end as they begin", |round| {
                [open(round), frame(round, Kind::End, 0)].concat()
            }),
        ],
        Kind::Credit => vec![
            ("credit for nothing", |round| {
                begin(round, frame(0, Kind::Credit, 1))
            }),
            ("credit for what is over", |round| {
                begin(round, frame(1, Kind::Credit, 1))
            }),
        ],
        Kind::Reset => vec![
            ("rapid reset", |round| {
                [
                    open(round),
                    data(round, b"GET"),
                    frame(round, Kind::Reset, 0),
                ]
                .concat()
            }),
            ("streams that end and are reset", |round| {
                [
                    data(round, b"GET"),
                    frame(round, Kind::End, 0),
                    frame(round, Kind::Reset, 0),
                ]
                .concat()
            }),
            ("a reset of what is over", |round| {
                begin(round, frame(1, Kind::Reset, 0))
            }),
        ],
        Kind::GoAway => vec![("farewells", |round| begin(round, frame(0, Kind::GoAway, 0)))],
    }
}

#[derive(Debug, Default)]
struct Done {
    /// The server ended the connection.
    ended: bool,
    /// Streams that the server began to serve.
    begun: u32,
    /// Streams that a byte was read of.
    read: u32,
    /// Rounds that the server took.
    taken: u32,
    /// The server asked for no more streams.
    told: bool,
}

async fn flooded(round: fn(u32) -> Vec<u8>, reads: bool) -> Done {
    let (near, far) = duplex(16 * 1024);
    let (begun, read) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let counts = (begun.clone(), read.clone());
    // As the sidecar serves a stream: a task of its own, that reads.
    let accept = move |mut stream: Stream| {
        counts.0.set(counts.0.get() + 1);
        let read = counts.1.clone();
        tokio::task::spawn_local(async move {
            if stream.read_u8().await.is_ok() {
                read.set(read.get() + 1);
                while stream.read_u8().await.is_ok() {}
            }
        });
    };
    let (_drain, signal) = watch::channel(false);
    let ended = tokio::task::spawn_local(serve(far, accept, Signal(signal)));
    let (mut reader, mut writer) = tokio::io::split(near);
    let told = Rc::new(Cell::new(false));
    let heard = told.clone();
    if reads {
        tokio::task::spawn_local(async move {
            let mut head = [0; HEADER];
            while reader.read_exact(&mut head).await.is_ok() {
                heard.set(heard.get() || head[4] == 4);
            }
        });
    }
    let taken = Cell::new(0);
    let flood = async {
        for number in 0..ROUNDS {
            if writer.write_all(&round(number)).await.is_err() {
                return;
            }
            taken.set(number + 1);
        }
    };
    // With a paused clock: it waits for us.
    let _ = tokio::time::timeout(Duration::from_secs(1), flood).await;
    tokio::task::yield_now().await;
    Done {
        ended: ended.is_finished(),
        begun: begun.get(),
        read: read.get(),
        taken: taken.get(),
        told: told.get(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_each_kind_of_frame_ends_or_waits() {
    local(async {
        for kind in Kind::ALL {
            for (name, round) in floods(kind) {
                for reads in [true, false] {
                    let done = flooded(round, reads).await;
                    let what = format!("{kind:?}, {name}, reads {reads}: {done:?}");
                    assert!(done.taken < ROUNDS / 4, "{what}");
                    // One who reads is cut off, for it would go on for ever.
                    assert!(done.ended || !reads, "{what}");
                    let most = MOST_RESETS + LAST_RESETS + MOST_STREAMS as u32 + 1;
                    assert!(done.begun <= most, "{what}");
                }
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_resets_in_a_loop_is_told_and_what_it_asked_is_not_read() {
    local(async {
        let (_, rapid) = floods(Kind::Reset).remove(0);
        let done = flooded(rapid, true).await;
        assert!(done.ended && done.told, "{done:?}");
        // Only where a block of bytes ended between the request and its reset.
        assert!(done.read <= done.begun / 10, "{done:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_clients_leave_often_keeps_its_connection() {
    local(async {
        let mut world = World::new();
        for _ in 0..4 * MOST_RESETS {
            let (near, mut far) = world.pair().await;
            far.write_u8(b'!').await.unwrap();
            drop((near, far));
            let (near, far) = world.pair().await;
            drop(near);
            drop(far);
        }
        assert!(!world.client.is_over() && !world.ended.is_finished());
    })
    .await;
}
