//! When a relayed connection ends although neither side has ended it: by its policy's
//! limits, or because the endpoint's node is gone.
//!
//! A node that vanishes with bytes under way to it is found out by another connection to
//! the endpoint, not by TCP's own limit (`TCP_USER_TIMEOUT`): that would also end a
//! connection whose application does not read for a while, as one that waits for a lock.
//! An idle connection has no timer.

use crate::{balance::InFlight, clock, telemetry::Flags};
use linnet_mesh::destination::ConnectionPool;
use std::{cell::Cell, io, net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, sync::Notify, time::Instant};

/// How long bytes may be under way, and nothing be heard, before it is looked whether the
/// endpoint's node is there; and how long that look may take.
const UNANSWERED: Duration = Duration::from_secs(15);
/// The longest pause between two looks while nothing changes.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What has moved over a connection.
#[derive(Default)]
pub(super) struct Moved {
    sent: Cell<u64>,
    received: Cell<u64>,
    /// Somebody waits for something to be sent.
    waits: Cell<bool>,
    wake: Notify,
}

impl Moved {
    /// Counts bytes to the endpoint.
    pub(super) fn send(&self, bytes: u64) {
        self.sent.set(self.sent.get() + bytes);
        if self.waits.replace(false) {
            self.wake.notify_one();
        }
    }

    /// Counts bytes from the endpoint.
    pub(super) fn receive(&self, bytes: u64) {
        self.received.set(self.received.get() + bytes);
    }

    /// Bytes to the endpoint.
    pub(super) fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Bytes from the endpoint.
    pub(super) fn received(&self) -> u64 {
        self.received.get()
    }

    fn total(&self) -> u64 {
        self.sent() + self.received()
    }

    /// Until more than so many bytes have been sent.
    async fn sent_more_than(&self, known: u64) {
        while self.sent() <= known {
            self.waits.set(true);
            self.wake.notified().await;
        }
    }
}

/// Until a connection has been idle or open for as long as its policy allows.
pub(super) async fn over(policy: Option<&ConnectionPool>, moved: &Moved) -> Flags {
    let idle = async {
        let Some(longest) = policy.and_then(|policy| policy.tcp_idle_timeout) else {
            return std::future::pending().await;
        };
        // A look now and then costs less than the time of each byte.
        let step = longest / 8;
        let (mut seen, mut since) = (moved.total(), Instant::now());
        loop {
            tokio::time::sleep(step).await;
            if moved.total() != seen {
                (seen, since) = (moved.total(), Instant::now());
            } else if since.elapsed() >= longest {
                return;
            }
        }
    };
    let old = async {
        match policy.and_then(|policy| policy.max_connection_duration) {
            Some(longest) => tokio::time::sleep(longest).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = idle => Flags::SI,
        () = old => Flags::DT,
    }
}

/// Until an endpoint of the mesh is known to be gone, with bytes under way to it.
pub(super) async fn vanished(held: Option<&InFlight>, moved: &Moved) -> io::Error {
    let Some(held) = held.filter(|held| held.is_meshed()) else {
        return std::future::pending().await;
    };
    let address = held.candidate.endpoint.address;
    unanswered(moved, || is_gone(address, UNANSWERED)).await;
    held.availability().mark_unavailable(clock::instant());
    io::Error::new(io::ErrorKind::TimedOut, "the endpoint's node is gone")
}

/// Until bytes have been under way for so long that it was looked, and `is_gone` found it
/// to be so.
async fn unanswered<F: Future<Output = bool>>(moved: &Moved, is_gone: impl Fn() -> F) {
    // Sent when something was heard last: whatever is beyond that may be under way.
    let mut answered = 0;
    let mut heard = 0;
    loop {
        moved.sent_more_than(answered).await;
        let mut pause = UNANSWERED;
        loop {
            let before = moved.total();
            tokio::time::sleep(pause).await;
            if moved.received() != heard {
                (heard, answered) = (moved.received(), moved.sent());
                break;
            }
            if moved.total() != before {
                // It still takes something.
                pause = UNANSWERED;
                continue;
            }
            if is_gone().await && moved.total() == before {
                return;
            }
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }
}

/// Reports whether nothing at an address answers, not even by a refusal.
async fn is_gone(address: SocketAddr, patience: Duration) -> bool {
    match tokio::time::timeout(patience, TcpStream::connect(address)).await {
        Err(_) => true,
        Ok(Ok(_)) => false,
        Ok(Err(error)) => matches!(
            error.kind(),
            io::ErrorKind::TimedOut
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use tokio::{net::TcpSocket, task::LocalSet};

    /// What happens to a connection after so many seconds.
    enum Event {
        Sends,
        Hears,
        Vanishes,
    }

    /// When a node was found to be gone, if within an hour, and how often it was looked;
    /// in seconds from the beginning.
    async fn found_out(events: &[(u64, Event)]) -> (Option<u64>, usize) {
        let began = Instant::now();
        let moved = Rc::new(Moved::default());
        let (gone, looks) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let watching = {
            let (moved, gone, looks) = (moved.clone(), gone.clone(), looks.clone());
            tokio::task::spawn_local(async move {
                let look = || {
                    looks.set(looks.get() + 1);
                    std::future::ready(gone.get())
                };
                unanswered(&moved, look).await;
                began.elapsed().as_secs()
            })
        };
        for (second, event) in events {
            tokio::time::sleep_until(began + Duration::from_secs(*second)).await;
            match event {
                Event::Sends => moved.send(1),
                Event::Hears => moved.receive(1),
                Event::Vanishes => gone.set(true),
            }
        }
        let hour = began + Duration::from_secs(3600);
        let found = tokio::time::timeout_at(hour, watching).await;
        (found.ok().map(Result::unwrap), looks.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_vanishes_with_bytes_under_way_is_found_out_and_no_other() {
        use Event::{Hears, Sends, Vanishes};
        let test = async {
            for (events, expected) in [
                // A connection that is idle, or whose bytes were answered, is not looked after.
                (vec![(0, Vanishes)], (None, 0)),
                (vec![(0, Sends), (1, Hears), (2, Vanishes)], (None, 0)),
                (vec![(0, Vanishes), (0, Sends)], (Some(15), 1)),
                (
                    vec![(0, Sends), (1, Hears), (20, Vanishes), (20, Sends)],
                    (Some(35), 1),
                ),
                // It is looked at less and less whether somebody is there who does not read.
                (vec![(0, Sends), (20, Vanishes)], (Some(45), 2)),
                (vec![(0, Sends)], (None, 15)),
                // As long as bytes are taken, or something is heard, nobody looks.
                (
                    vec![(0, Sends), (10, Sends), (20, Sends), (21, Vanishes)],
                    (Some(45), 1),
                ),
                (vec![(0, Vanishes), (0, Sends), (14, Hears)], (None, 0)),
            ] {
                assert_eq!(found_out(&events).await, expected);
            }
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn who_refuses_is_there_and_who_says_nothing_is_not() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let soon = Duration::from_millis(500);
        assert!(!is_gone(address, soon).await);
        // A queue that is full drops whoever comes, as the network to a node that is gone.
        let listener = socket.listen(0).unwrap();
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(soon, TcpStream::connect(address)).await {
            queued.push(stream);
            assert!(queued.len() < 16);
        }
        assert!(is_gone(address, soon).await);
        drop(listener);
    }
}
