//! Whether a client's HTTP/1 connection is at work, silent, or in the middle of
//! a request's head: a client that never ends one must not keep the connection.
//!
//! hyper's own limit runs while a connection is idle between requests too, which
//! would close connections that the application's clients keep for later. This
//! one starts with a head's first byte, and no timer is armed where a head comes
//! in one piece.

use crate::stream::Stream;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One connection's. (Atomic only because hyper wants streams that may be sent to
/// another thread; none is.)
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Exchanges that have begun and not ended.
    exchanges: AtomicU32,
    /// Bytes have come since there was one.
    reading: AtomicBool,
}

impl Activity {
    /// Whether some of a head has come, and not all of it.
    pub(crate) fn awaits_head(&self) -> bool {
        self.reading.load(Relaxed) && self.exchanges.load(Relaxed) == 0
    }

    /// An exchange, until that is dropped.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.reading.store(false, Relaxed);
        self.exchanges
            .store(self.exchanges.load(Relaxed) + 1, Relaxed);
        Busy(self.clone())
    }
}

/// See [`Activity::busy`].
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        let exchanges = &self.0.exchanges;
        exchanges.store(exchanges.load(Relaxed).saturating_sub(1), Relaxed);
    }
}

/// A client's stream, whose reads are noted.
pub(crate) struct Watched {
    pub(crate) stream: Stream,
    pub(crate) activity: Arc<Activity>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before && self.activity.exchanges.load(Relaxed) == 0 {
            self.activity.reading.store(true, Relaxed);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
