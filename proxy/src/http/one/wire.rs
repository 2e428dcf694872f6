//! A connection's bytes: what has been read and not used, what is to be written.
//!
//! Reads land in a block that all connections of a thread share, and messages
//! are slices of it: nothing is copied. A block is used again once nobody holds
//! a slice; what stays for longer, such as half a head, is copied out of it.

use super::Error;
use crate::io::spare;
use bytes::{Buf, Bytes, BytesMut};
use std::{
    cell::RefCell,
    future::Future,
    io::{self, IoSlice},
    mem,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// The block's size, and what must be left of it for another read, bytes. Two
/// TLS records fit; it stays in the nearest cache.
const BLOCK: usize = 32 * 1024;
const LEAST: usize = 8 * 1024;
/// Bytes to write that are gathered before the next part of a body is asked for.
const ENOUGH: usize = 16 * 1024;
/// Parts of a body below this size are copied behind what is before them.
const COPIED: usize = 4 * 1024;

thread_local! {
    static READ: RefCell<BytesMut> = RefCell::default();
}

/// See the module.
pub(super) struct Wire<S> {
    stream: S,
    unread: Bytes,
    /// The peer will send no more.
    ended: bool,
    out: Out,
    unflushed: bool,
}

/// What is to be written, in this order.
#[derive(Default)]
pub(super) struct Out {
    /// Heads, framing and small parts of bodies; of the thread, if it is empty.
    flat: Vec<u8>,
    written: usize,
    large: Bytes,
    end: &'static [u8],
}

impl Out {
    /// Where heads are written to.
    pub(super) fn flat(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.large.is_empty(), "what is large comes last");
        if self.flat.capacity() == 0 {
            self.flat = spare::take();
        }
        &mut self.flat
    }

    /// Adds a part of a body and what ends it.
    pub(super) fn data(&mut self, data: Bytes, end: &'static [u8]) {
        if data.len() < COPIED {
            let flat = self.flat();
            flat.extend_from_slice(&data);
            flat.extend_from_slice(end);
        } else {
            self.large = data;
            self.end = end;
        }
    }

    /// Whether another part of a body may be added.
    pub(super) fn has_room(&self) -> bool {
        self.large.is_empty() && self.end.is_empty() && self.flat.len() - self.written < ENOUGH
    }

    fn is_empty(&self) -> bool {
        self.flat.len() == self.written && self.large.is_empty() && self.end.is_empty()
    }

    fn advance(&mut self, mut written: usize) {
        let flat = written.min(self.flat.len() - self.written);
        self.written += flat;
        written -= flat;
        let large = written.min(self.large.len());
        self.large.advance(large);
        written -= large;
        self.end = &self.end[written.min(self.end.len())..];
    }

    /// Gives its buffer back to the thread.
    fn rest(&mut self) {
        self.large = Bytes::new();
        self.written = 0;
        spare::put(mem::take(&mut self.flat));
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            unread: Bytes::new(),
            ended: false,
            out: Out::default(),
            unflushed: false,
        }
    }

    /// The stream, and what has been read from it and not used.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        (self.stream, self.unread)
    }

    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    pub(super) fn unread(&mut self) -> &mut Bytes {
        &mut self.unread
    }

    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    pub(super) fn out(&mut self) -> &mut Out {
        &mut self.out
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.out.is_empty() && !self.unflushed
    }

    /// Lets go of the thread's block: what is unread will stay for a while.
    pub(super) fn keep_unread(&mut self) {
        if self.unread.is_empty() {
            self.unread = Bytes::new();
        } else {
            self.unread = Bytes::copy_from_slice(&self.unread);
        }
    }

    /// Reads once, behind what is unread; 0 is the stream's end.
    pub(super) fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        READ.with_borrow_mut(|block| {
            if !block.try_reclaim(BLOCK) && block.capacity() < LEAST {
                block.reserve(BLOCK);
            }
            let read = pin!(self.stream.read_buf(block)).poll(context);
            let length = ready!(read)?;
            if length == 0 {
                self.ended = true;
                return Poll::Ready(Ok(0));
            }
            let read = block.split().freeze();
            if self.unread.is_empty() {
                self.unread = read;
            } else {
                let before = mem::take(&mut self.unread);
                let before = before.try_into_mut();
                let mut all = before.unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                all.extend_from_slice(&read);
                self.unread = all.freeze();
            }
            Poll::Ready(Ok(length))
        })
    }

    /// Writes all that is to be written, as far as the stream takes it.
    pub(super) fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.out.is_empty() {
            let out = &self.out;
            let stream = Pin::new(&mut self.stream);
            let flat = &out.flat[out.written..];
            let written = if out.large.is_empty() && out.end.is_empty() {
                ready!(stream.poll_write(context, flat))?
            } else {
                let slices = [flat, &out.large, out.end].map(IoSlice::new);
                let first = usize::from(flat.is_empty());
                ready!(stream.poll_write_vectored(context, &slices[first..]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            self.out.advance(written);
            self.unflushed = true;
        }
        self.out.rest();
        Poll::Ready(Ok(()))
    }

    /// Writes all, and sees to it that the stream has sent it.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_write(context))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
