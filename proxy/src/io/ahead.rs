//! A stream that TLS reads from. rustls asks for 4 KiB at a time; a read of the
//! socket takes all that is there, up to a block, and what was not asked for yet
//! waits here.
//!
//! The block is the thread's: a connection holds memory only while something
//! waits, which is not longer than its reader is at work.

use super::Rewind;
use bytes::Bytes;
use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one read takes at most, bytes: two TLS records.
const BLOCK: usize = 32 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// See the module. What waits is what the inner stream is rewound to.
#[derive(Debug)]
pub(crate) struct Ahead<S>(Rewind<S>);

impl<S> Ahead<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self(Rewind::new(Bytes::new(), inner))
    }
}

impl<S> From<Rewind<S>> for Ahead<S> {
    fn from(rewind: Rewind<S>) -> Self {
        Self(rewind)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rewind = &mut self.0;
        if !rewind.prefix.is_empty() {
            return Pin::new(rewind).poll_read(context, buffer);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(BLOCK, 0);
            let mut block = ReadBuf::new(scratch);
            ready!(Pin::new(&mut rewind.inner).poll_read(context, &mut block))?;
            let read = block.filled();
            let (now, later) = read.split_at(read.len().min(buffer.remaining()));
            buffer.put_slice(now);
            rewind.prefix = Bytes::copy_from_slice(later);
            Poll::Ready(Ok(()))
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn small_reads_see_all_bytes_in_order() {
        let (mut far, near) = duplex(256 * 1024);
        let sent: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        far.write_all(&sent).await.unwrap();
        drop(far);
        let prefix = Bytes::from_static(b"before");
        let mut stream = Ahead::from(Rewind::new(prefix, near));
        let mut received = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let length = stream.read(&mut piece).await.unwrap();
            if length == 0 {
                break;
            }
            received.extend_from_slice(&piece[..length]);
        }
        assert_eq!(&received[..6], b"before");
        assert!(received[6..] == sent[..]);
        assert!(stream.0.prefix.is_empty());
    }
}
