//! Byte streams: one that starts with bytes already read, one of TLS, and the
//! relay of opaque connections.
//!
//! No idle connection holds a buffer: bytes are read when the socket has some.

mod gather;
mod outgoing;
pub(crate) mod spare;
pub(crate) mod splice;
pub(crate) mod tls;
pub(crate) mod watch;

pub(crate) use gather::Gather;
pub(crate) use outgoing::Outgoing;
pub(crate) use watch::Watch;

use bytes::{Buf, Bytes, BytesMut};
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose first bytes have been read already.
#[derive(Debug)]
pub(crate) struct Rewind<S> {
    prefix: Bytes,
    inner: S,
}

impl<S> Rewind<S> {
    pub(crate) fn new(prefix: Bytes, inner: S) -> Self {
        Self { prefix, inner }
    }

    /// The stream behind its first bytes.
    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }

    /// The stream, and what is left of its first bytes.
    pub(crate) fn parts(&mut self) -> (&S, Bytes) {
        (&self.inner, std::mem::take(&mut self.prefix))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(context, buffer);
        }
        let length = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix[..length]);
        self.prefix.advance(length);
        if self.prefix.is_empty() {
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

/// Writes `AsyncWrite`'s methods, by those of a field.
macro_rules! write_by {
    ($field:ident) => {
        fn poll_write(
            mut self: ::std::pin::Pin<&mut Self>,
            context: &mut ::std::task::Context<'_>,
            data: &[u8],
        ) -> ::std::task::Poll<::std::io::Result<usize>> {
            ::std::pin::Pin::new(&mut self.$field).poll_write(context, data)
        }

        fn poll_flush(
            mut self: ::std::pin::Pin<&mut Self>,
            context: &mut ::std::task::Context<'_>,
        ) -> ::std::task::Poll<::std::io::Result<()>> {
            ::std::pin::Pin::new(&mut self.$field).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: ::std::pin::Pin<&mut Self>,
            context: &mut ::std::task::Context<'_>,
        ) -> ::std::task::Poll<::std::io::Result<()>> {
            ::std::pin::Pin::new(&mut self.$field).poll_shutdown(context)
        }

        fn poll_write_vectored(
            mut self: ::std::pin::Pin<&mut Self>,
            context: &mut ::std::task::Context<'_>,
            slices: &[::std::io::IoSlice<'_>],
        ) -> ::std::task::Poll<::std::io::Result<usize>> {
            ::std::pin::Pin::new(&mut self.$field).poll_write_vectored(context, slices)
        }

        fn is_write_vectored(&self) -> bool {
            self.$field.is_write_vectored()
        }
    };
}
pub(crate) use write_by;

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewind<S> {
    write_by!(inner);
}

/// Smallest and largest copy buffer of one direction, bytes. It starts small
/// and doubles while reads fill it.
const SMALL: usize = 8 * 1024;
const LARGE: usize = 128 * 1024;

/// One direction of a relay.
struct Direction {
    /// Empty and without capacity whenever nothing is in flight.
    buffer: BytesMut,
    capacity: usize,
    unflushed: bool,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Open,
    Closing,
    Closed,
}

impl Direction {
    fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            capacity: SMALL,
            unflushed: false,
            state: State::Open,
        }
    }

    /// Whether it holds nothing back, and goes on.
    fn is_between(&self) -> bool {
        self.buffer.is_empty() && !self.unflushed && self.state == State::Open
    }

    /// Copies until both sides would block; ready when the reader has ended and
    /// the writer has been told.
    fn poll_copy<R, W>(
        &mut self,
        context: &mut Context<'_>,
        (reader, writer): (&mut R, &mut W),
        mut count: impl FnMut(u64),
        mut watch: Option<&mut Watch>,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        // A fast pair could otherwise keep its thread for ever.
        for _ in 0..32 {
            while !self.buffer.is_empty() {
                let written = ready!(Pin::new(&mut *writer).poll_write(context, &self.buffer))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.buffer.advance(written);
                self.unflushed = true;
                count(written as u64);
            }
            match self.state {
                State::Closed => return Poll::Ready(Ok(())),
                State::Closing => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(context))?;
                    self.state = State::Closed;
                    return Poll::Ready(Ok(()));
                }
                State::Open => {}
            }
            match self.poll_fill(context, reader) {
                Poll::Ready(result) => {
                    let length = result?;
                    if let Some(watch) = &mut watch {
                        watch.look(&self.buffer)?;
                    }
                    if length == 0 {
                        self.state = State::Closing;
                    }
                }
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *writer).poll_flush(context))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<usize>> {
        // The empty buffer may still own its memory from the last round.
        self.buffer.clear();
        if self.buffer.capacity() < self.capacity {
            self.buffer.reserve(self.capacity);
        }
        match poll_read(reader, context, &mut self.buffer)? {
            Poll::Ready(length) => {
                if length == self.capacity && self.capacity < LARGE {
                    self.capacity *= 2;
                }
                Poll::Ready(Ok(length))
            }
            Poll::Pending => {
                self.buffer = BytesMut::new();
                Poll::Pending
            }
        }
    }
}

/// Reads once into the spare capacity of `buffer`.
fn poll_read<R: AsyncRead + Unpin>(
    reader: &mut R,
    context: &mut Context<'_>,
    buffer: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    use std::future::Future;
    use tokio::io::AsyncReadExt;
    // `read_buf` holds no state between polls: a fresh future continues.
    std::pin::pin!(reader.read_buf(buffer)).poll(context)
}

/// Copies both ways until both directions have ended. `sent` counts bytes from
/// `client` to `upstream`, `received` those of the other direction.
///
/// # Errors
/// The first error of either side; the connection is of no use after it.
pub(crate) async fn relay<C, U>(
    client: &mut C,
    upstream: &mut U,
    sent: impl FnMut(u64),
    received: impl FnMut(u64),
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let ends = (client, upstream);
    relay_with(ends, sent, received, None).await?;
    Ok(())
}

/// Copies both ways as [`relay`] does, until the client's first line is known to be no
/// request's. Reports whether it is then to go on; else both directions have ended.
///
/// # Errors
/// The first error of either side, or such a line; the connection is of no use after it.
pub(crate) async fn relay_watched<C, U>(
    ends: (&mut C, &mut U),
    sent: impl FnMut(u64),
    received: impl FnMut(u64),
    watch: &mut Watch,
) -> io::Result<bool>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    relay_with(ends, sent, received, Some(watch)).await
}

async fn relay_with<C, U>(
    (client, upstream): (&mut C, &mut U),
    mut sent: impl FnMut(u64),
    mut received: impl FnMut(u64),
    mut watch: Option<&mut Watch>,
) -> io::Result<bool>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut forth = Direction::new();
    let mut back = Direction::new();
    poll_fn(|context| {
        let watched = watch.as_deref_mut();
        let copied = forth.poll_copy(context, (client, upstream), &mut sent, watched);
        let copied = both(copied, || {
            back.poll_copy(context, (upstream, client), &mut received, None)
        })?;
        let seen = watch.as_ref().is_some_and(|watch| watch.is_over());
        if seen && forth.is_between() && back.is_between() {
            return Poll::Ready(Ok(true));
        }
        copied.map(|()| Ok(false))
    })
    .await
}

/// Ready once both directions of a relay have ended, or one has failed.
fn both(
    forth: Poll<io::Result<()>>,
    back: impl FnOnce() -> Poll<io::Result<()>>,
) -> Poll<io::Result<()>> {
    let forth = forth?;
    let back = back()?;
    match forth.is_ready() && back.is_ready() {
        true => Poll::Ready(Ok(())),
        false => Poll::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn rewound_bytes_come_first() {
        let (mut far, near) = duplex(64);
        far.write_all(b" world").await.unwrap();
        drop(far);
        let mut stream = Rewind::new(Bytes::from_static(b"hello"), near);
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello world");
    }

    #[tokio::test]
    async fn relay_copies_both_ways_and_half_closes() {
        let (mut client, mut near_client) = duplex(1024);
        let (mut near_upstream, mut upstream) = duplex(1024);
        let big = vec![7u8; 300_000];
        let (mut sent, mut received) = (0, 0);
        let app = async {
            let mut request = Vec::new();
            upstream.read_to_end(&mut request).await.unwrap();
            upstream.write_all(&request).await.unwrap();
            upstream.shutdown().await.unwrap();
        };
        let caller = async {
            let (mut read, mut write) = tokio::io::split(&mut client);
            let writing = async {
                write.write_all(&big).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut answer = Vec::new();
            tokio::join!(writing, async {
                read.read_to_end(&mut answer).await.unwrap()
            });
            answer
        };
        let relaying = relay(
            &mut near_client,
            &mut near_upstream,
            |n| sent += n,
            |n| received += n,
        );
        let (relayed, (), answer) = tokio::join!(relaying, app, caller);
        relayed.unwrap();
        assert_eq!(answer.len(), 300_000);
        assert_eq!((sent, received), (300_000, 300_000));
    }
}
