//! The relay of two plain TCP connections by splice(2): bytes go from socket to
//! socket through a pipe and are never copied into this process.
//!
//! A pipe is held while there is something to move, and goes back to its thread's
//! few spare ones then. Where there is none to be had, or the system can't
//! splice, the bytes are copied.

use super::both;
use bytes::{Buf, Bytes};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use socket2::SockRef;
use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::Shutdown,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};
use tokio::{io::Interest, net::TcpStream};

/// What a pipe is asked to hold, bytes; the system's own size is 64 KiB, which
/// small segments fill before it is full.
const PIPE: usize = 256 * 1024;
/// Pipes that a thread keeps for later.
const MOST_SPARE: usize = 16;
/// A read where bytes must be copied, bytes.
const COPY: usize = 16 * 1024;
/// Rounds before others have their turn.
const ROUNDS: usize = 32;

thread_local! {
    static SPARE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// An empty pipe.
struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pipe {
    fn take() -> io::Result<Self> {
        if let Some(spare) = SPARE.with_borrow_mut(Vec::pop) {
            return Ok(spare);
        }
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Who may not have a larger one has the system's.
        let _ = fcntl_setpipe_size(&into, PIPE);
        Ok(Self { out, into })
    }

    fn put_back(self) {
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < MOST_SPARE {
                spare.push(self);
            }
        });
    }
}

/// One direction of a relay.
struct Half {
    /// Read already, and not written.
    read: Bytes,
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    pending: usize,
    copies: bool,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Open,
    Closing,
    Closed,
}

impl Half {
    fn new(read: Bytes) -> Self {
        Self {
            read,
            pipe: None,
            pending: 0,
            copies: false,
            state: State::Open,
        }
    }

    /// Moves until either side would block; ready when the reader has ended and
    /// the writer has been told.
    fn poll_move(
        &mut self,
        context: &mut Context<'_>,
        reader: &TcpStream,
        writer: &TcpStream,
        mut count: impl FnMut(u64),
    ) -> Poll<io::Result<()>> {
        for _ in 0..ROUNDS {
            ready!(self.poll_deliver(context, writer, &mut count))?;
            match self.state {
                State::Closed => return Poll::Ready(Ok(())),
                State::Closing => {
                    self.rest();
                    self.state = State::Closed;
                    let told = SockRef::from(writer).shutdown(Shutdown::Write);
                    return Poll::Ready(match told {
                        // It has gone for good: nobody to tell.
                        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
                        told => told,
                    });
                }
                State::Open => {}
            }
            match self.poll_fetch(context, reader)? {
                Poll::Ready(0) => self.state = State::Closing,
                Poll::Ready(_) => {}
                Poll::Pending => {
                    self.rest();
                    return Poll::Pending;
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Nothing is to be moved for a while.
    fn rest(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.put_back();
        }
    }

    fn poll_deliver(
        &mut self,
        context: &mut Context<'_>,
        writer: &TcpStream,
        count: &mut impl FnMut(u64),
    ) -> Poll<io::Result<()>> {
        while !self.read.is_empty() || self.pending > 0 {
            ready!(writer.poll_write_ready(context))?;
            let written = match &self.pipe {
                _ if !self.read.is_empty() => writer.try_write(&self.read),
                Some(pipe) => writer.try_io(Interest::WRITABLE, || {
                    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
                    Ok(splice(&pipe.out, None, writer, None, self.pending, flags)?)
                }),
                None => Err(io::ErrorKind::WriteZero.into()),
            };
            let written = match written {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                Err(error) if is_transient(&error) => continue,
                written => written,
            }?;
            if self.read.is_empty() {
                self.pending -= written;
            } else {
                self.read.advance(written);
            }
            count(written as u64);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fetch(
        &mut self,
        context: &mut Context<'_>,
        reader: &TcpStream,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(reader.poll_read_ready(context))?;
            if self.pipe.is_none() && !self.copies {
                match Pipe::take() {
                    Ok(pipe) => self.pipe = Some(pipe),
                    Err(_) => self.copies = true,
                }
            }
            let Some(pipe) = self.pipe.as_ref().filter(|_| !self.copies) else {
                let mut buffer = Vec::with_capacity(COPY);
                match reader.try_read_buf(&mut buffer) {
                    Err(error) if is_transient(&error) => continue,
                    length => {
                        self.read = buffer.into();
                        return Poll::Ready(length);
                    }
                }
            };
            let moved = reader.try_io(Interest::READABLE, || {
                let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
                Ok(splice(reader, None, &pipe.into, None, PIPE, flags)?)
            });
            match moved {
                Err(error) if is_transient(&error) => {}
                // Not between these sockets, or not on this system.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
                    ) =>
                {
                    self.copies = true;
                }
                moved => {
                    let length = moved?;
                    self.pending = length;
                    return Poll::Ready(Ok(length));
                }
            }
        }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        // What still holds bytes is nobody else's.
        if self.pending == 0 {
            self.rest();
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Moves both ways until both directions have ended, beginning with what each
/// side has said already. `sent` counts bytes from `client` to `upstream`,
/// `received` those of the other direction.
///
/// # Errors
/// The first error of either side; the connection is of no use after it.
pub(crate) async fn relay(
    (client, said): (&TcpStream, Bytes),
    (upstream, answered): (&TcpStream, Bytes),
    mut sent: impl FnMut(u64),
    mut received: impl FnMut(u64),
) -> io::Result<()> {
    let mut forth = Half::new(said);
    let mut back = Half::new(answered);
    poll_fn(|context| {
        let forth = forth.poll_move(context, client, upstream, &mut sent);
        both(forth, || {
            back.poll_move(context, upstream, client, &mut received)
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap());
        let (far, near) = tokio::join!(far, listener.accept());
        (far.unwrap(), near.unwrap().0)
    }

    #[tokio::test]
    async fn moves_both_ways_through_half_closes_and_counts() {
        let (mut client, near_client) = pair().await;
        let (near_upstream, mut upstream) = pair().await;
        let big: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let (sent, received) = (Cell::new(0), Cell::new(0));
        let relaying = relay(
            (&near_client, Bytes::from_static(b"first ")),
            (&near_upstream, Bytes::new()),
            |n| sent.set(sent.get() + n),
            |n| received.set(received.get() + n),
        );
        let application = async {
            let mut request = Vec::new();
            upstream.read_to_end(&mut request).await.unwrap();
            upstream.write_all(&request).await.unwrap();
            upstream.shutdown().await.unwrap();
        };
        let caller = async {
            client.write_all(&big).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let (relayed, (), answer) = tokio::join!(relaying, application, caller);
        relayed.unwrap();
        assert_eq!(answer.strip_prefix(b"first "), Some(&big[..]));
        let all = big.len() as u64 + 6;
        assert_eq!((sent.get(), received.get()), (all, all));
    }

    #[tokio::test]
    async fn an_idle_relay_holds_no_pipe_and_a_broken_one_leaves_none() {
        let (mut client, near_client) = pair().await;
        let (near_upstream, mut upstream) = pair().await;
        let spare = || SPARE.with_borrow(Vec::len);
        let relaying = relay(
            (&near_client, Bytes::new()),
            (&near_upstream, Bytes::new()),
            |_| {},
            |_| {},
        );
        let talk = async {
            for _ in 0..3 {
                client.write_all(b"ping").await.unwrap();
                let mut ping = [0; 4];
                upstream.read_exact(&mut ping).await.unwrap();
                upstream.write_all(&ping).await.unwrap();
                client.read_exact(&mut ping).await.unwrap();
            }
            // Both directions have had one, and rest.
            tokio::task::yield_now().await;
            assert!((1..=2).contains(&spare()), "{}", spare());
            SockRef::from(&upstream)
                .set_linger(Some(std::time::Duration::ZERO))
                .unwrap();
            drop(upstream);
            drop(client);
        };
        let (_, ()) = tokio::join!(relaying, talk);
        assert!(spare() <= 2);
    }
}
