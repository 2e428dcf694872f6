//! The task that moves a connection's frames.

use super::{Session, Stream, frame::Reader};
use crate::{clock::Coarse, http::one::server::Drain};
use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one read takes at most, bytes.
const BLOCK: usize = 32 * 1024;
/// Rounds before others have their turn.
const ROUNDS: usize = 32;
/// How long a client may take to hear that no new streams are wanted.
const LAST_STREAMS: Duration = Duration::from_secs(1);

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Makes a connection one that streams are opened on. It ends with its last stream
/// after [`Session::close`], or when the peer ends it.
pub(crate) fn connect<S>(connection: S) -> Rc<Session>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let session = Session::new(false);
    let mut driver = Driver::new(connection, session.clone());
    tokio::task::spawn_local(Coarse::new(async move {
        let none = None::<fn(Stream)>;
        if let Err(error) = driver.run(none).await {
            tracing::debug!(%error, "a connection that streams share broke");
        }
    }));
    session
}

/// Serves a connection whose peer opens streams, until it ends.
///
/// # Errors
/// It broke, or the peer did not keep to the protocol.
pub(crate) async fn serve<S>(
    connection: S,
    accept: impl FnMut(Stream),
    drain: impl Drain,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let session = Session::new(true);
    let mut driver = Driver::new(connection, session.clone());
    let leaving = async {
        drain.signaled().await;
        session.go_away();
        // What was opened before the client heard of it is served.
        tokio::time::sleep(LAST_STREAMS).await;
        session.close();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        ended = driver.run(Some(accept)) => ended,
        () = leaving => Ok(()),
    }
}

struct Driver<S> {
    connection: S,
    session: Rc<Session>,
    reader: Reader,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    fn new(connection: S, session: Rc<Session>) -> Self {
        Self {
            connection,
            session,
            reader: Reader::default(),
        }
    }

    async fn run<F: FnMut(Stream)>(&mut self, mut accept: Option<F>) -> io::Result<()> {
        let moved = poll_fn(|context| self.poll_move(context, accept.as_mut())).await;
        self.session.end(moved.as_ref().err().map(io::Error::kind));
        moved?;
        poll_fn(|context| Pin::new(&mut self.connection).poll_shutdown(context)).await
    }

    /// Reads and writes until the connection has ended, or nobody needs it.
    fn poll_move<F: FnMut(Stream)>(
        &mut self,
        context: &mut Context<'_>,
        mut accept: Option<&mut F>,
    ) -> Poll<io::Result<()>> {
        self.session.driven_by(context.waker());
        for _ in 0..ROUNDS {
            // The peer may have to read before it reads on.
            let written = self.poll_write(context)?;
            if written.is_ready() && self.session.is_done() {
                return Poll::Ready(Ok(()));
            }
            if written.is_pending() && self.session.is_flooded() {
                return Poll::Pending;
            }
            match self.poll_read(context, accept.as_deref_mut())? {
                Poll::Ready(0) => return Poll::Ready(Ok(())),
                Poll::Ready(_) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.session.state.borrow_mut();
        let wrote = !state.out.is_empty();
        ready!(state.out.poll_write(context, &mut self.connection))?;
        if wrote {
            state.written();
        }
        state.out.poll_flush(context, &mut self.connection)
    }

    /// Reads once and does what was said; 0 is the connection's end.
    fn poll_read<F: FnMut(Stream)>(
        &mut self,
        context: &mut Context<'_>,
        mut accept: Option<&mut F>,
    ) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(BLOCK, 0);
            let mut block = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.connection).poll_read(context, &mut block))?;
            let mut bytes = block.filled();
            let length = bytes.len();
            while let Some(event) = self.reader.next(&mut bytes)? {
                self.session.hear(event, accept.as_deref_mut())?;
            }
            Poll::Ready(Ok(length))
        })
    }
}
