//! A stream whose writes leave together. h2 writes and flushes each part of a body
//! by itself; here all that is written in one turn of the event loop goes in one
//! piece: one TLS record, one system call.

use super::Outgoing;
use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered before its writer waits, bytes.
const ENOUGH: usize = 64 * 1024;
/// What goes by itself, if nothing is before it, bytes: to copy it costs more than
/// to write it.
const LARGE: usize = 8 * 1024;

/// See the module.
pub(crate) struct Gather<S>(Rc<RefCell<Gathered<S>>>);

struct Gathered<S> {
    inner: S,
    waiting: Outgoing,
    /// The task that sends, when it has nothing to send.
    sender: Option<Waker>,
    /// Who waits for room.
    writer: Option<Waker>,
    /// What sending failed at, until the writer hears of it.
    failure: Option<io::Error>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Gather<S> {
    /// Starts the task that sends; it ends with the stream.
    pub(crate) fn new(inner: S) -> Self {
        let gathered = Rc::new(RefCell::new(Gathered {
            inner,
            waiting: Outgoing::default(),
            sender: None,
            writer: None,
            failure: None,
        }));
        tokio::task::spawn_local(send(Rc::downgrade(&gathered)));
        Self(gathered)
    }
}

/// Sends what others gather, for as long as they can.
async fn send<S: AsyncWrite + Unpin>(gathered: Weak<RefCell<Gathered<S>>>) {
    poll_fn(|context| {
        let Some(gathered) = gathered.upgrade() else {
            return Poll::Ready(());
        };
        let mut gathered = gathered.borrow_mut();
        let sent = gathered.poll_send(context);
        if let Poll::Ready(result) = sent {
            gathered.failure = result.err();
            gathered.sender = Some(context.waker().clone());
            wake(&mut gathered.writer);
        }
        Poll::Pending
    })
    .await;
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl<S> Drop for Gather<S> {
    fn drop(&mut self) {
        wake(&mut self.0.borrow_mut().sender);
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn poll_gather(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failure.take() {
            return Poll::Ready(Err(error));
        }
        if self.waiting.len() >= ENOUGH {
            self.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let length = slices.iter().map(|slice| slice.len()).sum();
        wake(&mut self.sender);
        // While something is unflushed, the sender is who is told when the stream takes
        // more.
        if self.waiting.is_empty() && !self.waiting.unflushed && length >= LARGE {
            self.waiting.unflushed = true;
            return Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        }
        let waiting = self.waiting.buffer();
        for slice in slices {
            waiting.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }

    /// Sends all that waits.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.waiting.poll_write(context, &mut self.inner))?;
        self.waiting.poll_flush(context, &mut self.inner)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = self.0.borrow_mut();
        gathered.poll_gather(context, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_gather(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is gathered is on its way: it goes in this turn of the event loop.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.borrow_mut().failure.take().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.borrow_mut();
        // The sender may be the one whom the stream tells that it takes more.
        gathered.writer = Some(context.waker().clone());
        ready!(gathered.poll_send(context))?;
        Pin::new(&mut gathered.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        task::LocalSet,
    };

    /// Counts what is written at once.
    struct Counting<S>(S, Rc<RefCell<Vec<usize>>>);

    impl<S: AsyncRead + Unpin> AsyncRead for Counting<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            let written = ready!(Pin::new(&mut self.0).poll_write(context, data))?;
            self.1.borrow_mut().push(written);
            Poll::Ready(Ok(written))
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    #[tokio::test]
    async fn what_is_written_in_one_turn_leaves_together_and_in_order() {
        let test = async {
            let (mut far, near) = duplex(1 << 20);
            let written = Rc::<RefCell<Vec<usize>>>::default();
            let mut stream = Gather::new(Counting(near, written.clone()));
            for part in ["a", "bc", "def"] {
                stream.write_all(part.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
            let mut first = [0; 6];
            far.read_exact(&mut first).await.unwrap();
            assert_eq!(*written.borrow(), [6]);
            stream.write_all(&[b'x'; LARGE]).await.unwrap();
            stream.write_all(b"y").await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(*written.borrow(), [6, LARGE, 1]);
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            assert_eq!((&first, all.len()), (b"abcdef", LARGE + 1));
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn one_who_does_not_read_makes_the_writer_wait_until_he_does() {
        let test = async {
            let (mut far, near) = duplex(1024);
            let mut stream = Gather::new(near);
            let gathered = stream.0.clone();
            let writing = tokio::task::spawn_local(async move {
                let part = [0; 1000];
                for _ in 0..ENOUGH / 100 {
                    stream.write_all(&part).await.unwrap();
                }
                stream.shutdown().await.unwrap();
            });
            while gathered.borrow().writer.is_none() {
                tokio::task::yield_now().await;
            }
            assert!(gathered.borrow().waiting.len() < ENOUGH + 1000);
            drop(gathered);
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            assert_eq!(all.len(), ENOUGH / 100 * 1000);
            writing.await.unwrap();
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_told_to_its_writer() {
        let test = async {
            let (far, near) = duplex(1024);
            drop(far);
            let mut stream = Gather::new(near);
            let error = loop {
                if let Err(error) = stream.write_all(b"?").await {
                    break error;
                }
                tokio::task::yield_now().await;
            };
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        };
        LocalSet::new().run_until(test).await;
    }
}
