//! A stream as its user has it: bytes in, bytes out.

use super::frame::Kind;
use super::session::{Lane, Session};
use bytes::{Buf, BytesMut};
use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module. Who lets go of it before both directions have ended resets it.
pub(crate) struct Stream {
    session: Rc<Session>,
    lane: Rc<RefCell<Lane>>,
    number: u32,
}

impl Stream {
    pub(super) fn new(session: Rc<Session>, lane: Rc<RefCell<Lane>>, number: u32) -> Self {
        Self {
            session,
            lane,
            number,
        }
    }

    /// Ends a stream that nothing has been read of: whoever opened it may send what it
    /// sent elsewhere.
    pub(crate) fn refuse(self) {
        let mut lane = self.lane.borrow_mut();
        if !lane.said_end && lane.broken.is_none() {
            lane.said_end = true;
            // What is sent on it all the same goes nowhere.
            lane.broken = Some(io::ErrorKind::ConnectionRefused);
            let mut state = self.session.state.borrow_mut();
            state.push(self.number, Kind::End, 0);
        }
    }

    /// Reports whether the peer's side has ended the stream in order, or has not seen it.
    /// One that serves HTTP ends none in order between a request and its answer.
    pub(crate) fn is_over_in_order(&self) -> bool {
        let lane = self.lane.borrow();
        lane.ended || lane.broken == Some(io::ErrorKind::ConnectionRefused)
    }

    fn write(&self, context: &Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut lane = self.lane.borrow_mut();
        if let Some(kind) = lane.broken {
            return Poll::Ready(Err(kind.into()));
        }
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        if lane.said_end || wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        if lane.credit == 0 {
            note(&mut lane.writer, context);
            return Poll::Pending;
        }
        let mut state = self.session.state.borrow_mut();
        let Some(room) = state.room() else {
            state.block(context.waker());
            return Poll::Pending;
        };
        let length = wanted.min(room).min(lane.credit as usize);
        // At most the credit.
        lane.credit -= length as u32;
        if !std::mem::replace(&mut lane.answered, true) {
            state.note_answer();
        }
        state.push_data(self.number, slices, length);
        Poll::Ready(Ok(length))
    }
}

fn note(known: &mut Option<Waker>, context: &Context<'_>) {
    let waker = context.waker();
    if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
        *known = Some(waker.clone());
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut lane = self.lane.borrow_mut();
        if lane.unread.is_empty() {
            return match lane.broken {
                _ if lane.ended => Poll::Ready(Ok(())),
                Some(kind) => Poll::Ready(Err(kind.into())),
                None => {
                    note(&mut lane.reader, context);
                    Poll::Pending
                }
            };
        }
        let length = lane.unread.len().min(buffer.remaining());
        buffer.put_slice(&lane.unread[..length]);
        if length == lane.unread.len() {
            // An idle stream holds no buffer.
            lane.unread = BytesMut::new();
        } else {
            lane.unread.advance(length);
        }
        if let Some(credit) = lane.consume(length) {
            let mut state = self.session.state.borrow_mut();
            state.push(self.number, Kind::Credit, credit);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(context, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What has been written is on its way: the connection's driver sends it in
    /// this turn of the event loop.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lane = self.lane.borrow_mut();
        if !lane.said_end && lane.broken.is_none() {
            lane.said_end = true;
            let mut state = self.session.state.borrow_mut();
            state.push(self.number, Kind::End, 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.session.forget(self.number, &self.lane.borrow());
    }
}
