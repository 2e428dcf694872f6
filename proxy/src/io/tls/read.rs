//! From the socket to the reader, through a block of the thread's.

use super::{
    TlsStream,
    machine::{Side, unread},
};
use bytes::{Buf, BytesMut};
use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The largest record TLS 1.3 makes, bytes: header, plaintext, type and tag.
const RECORD: usize = 5 + 16 * 1024 + 1 + 16;
/// What one read takes at most, bytes: of a stream of such records it leaves no
/// part of one.
const BLOCK: usize = 2 * RECORD;
/// The largest payload a header may announce, bytes (RFC 5246, 6.2.3).
const LARGEST: usize = 16 * 1024 + 2048;
/// What is kept of a handshake message at most, bytes; rustls' own limit.
const MOST_KEPT: usize = 0xffff;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The thread's block. It is taken while in use, so a socket that leads to another
/// TLS stream would have one of its own.
struct Block {
    bytes: Vec<u8>,
    /// How many hold something.
    filled: usize,
}

impl Block {
    fn take() -> Self {
        let mut bytes = SPARE.take();
        if bytes.len() < BLOCK {
            bytes = vec![0; BLOCK];
        }
        Self { bytes, filled: 0 }
    }

    fn put(mut self) {
        // Only a large handshake message makes it larger.
        self.bytes.truncate(2 * BLOCK);
        self.bytes.shrink_to(2 * BLOCK);
        SPARE.set(self.bytes);
    }

    /// Room behind what is there and what is to be put before it.
    fn room(&mut self, part: &[u8]) -> &mut [u8] {
        let start = self.filled + part.len();
        let part = if part.is_empty() {
            &self.bytes[..self.filled]
        } else {
            part
        };
        let end = start + wanted(part);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[start..end]
    }

    /// Forgets bytes at the front.
    fn discard(&mut self, used: usize) {
        self.bytes.copy_within(used..self.filled, 0);
        self.filled -= used;
    }
}

/// What to read after part of a record: its rest and one more.
fn wanted(part: &[u8]) -> usize {
    match part {
        [_, _, _, high, low, body @ ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            match length.checked_sub(body.len()) {
                Some(rest) if length <= LARGEST => rest + RECORD,
                _ => BLOCK,
            }
        }
        _ => BLOCK,
    }
}

impl<C: Side, S: AsyncRead + AsyncWrite + Unpin> TlsStream<C, S> {
    pub(super) fn poll_plaintext(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let plaintext = &mut self.machine.plaintext;
        if !plaintext.is_empty() {
            let length = plaintext.len().min(reader.remaining());
            reader.put_slice(&plaintext[..length]);
            plaintext.advance(length);
            if plaintext.is_empty() {
                *plaintext = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = self.failure.take() {
            return Poll::Ready(Err(error));
        }
        if self.machine.failed {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        if self.machine.ended || reader.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = reader.filled().len();
        let received = self.poll_receive(context, reader);
        if reader.filled().len() == before {
            return received;
        }
        // First what there is.
        if let Poll::Ready(Err(error)) = received {
            self.failure = Some(error);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads until there is plaintext for the reader, and on while that comes in
    /// whole blocks the reader has room for. In a handshake: reads once.
    pub(super) fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut block = Block::take();
        let received = self.poll_fill(context, reader, &mut block);
        if block.filled > 0 {
            self.part = block.bytes[..block.filled].into();
        }
        block.put();
        received
    }

    fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut ReadBuf<'_>,
        block: &mut Block,
    ) -> Poll<io::Result<()>> {
        let shaking = self.session().is_handshaking();
        let before = reader.filled().len();
        loop {
            let mut room = ReadBuf::new(block.room(&self.part));
            ready!(Pin::new(&mut self.socket).poll_read(context, &mut room))?;
            let (length, filled_up) = (room.filled().len(), room.remaining() == 0);
            if length == 0 {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "peer closed connection without sending TLS close_notify",
                )));
            }
            if !self.part.is_empty() {
                // Nothing was in the block: it is what the loop began with.
                block.bytes[..self.part.len()].copy_from_slice(&self.part);
                block.filled = self.part.len();
                self.part = Box::default();
            }
            block.filled += length;
            let nobody_waits = self.machine.unsent.is_empty();
            match self.machine.read(&mut block.bytes[..block.filled], reader) {
                Ok(used) => block.discard(used),
                Err(error) => {
                    block.filled = 0;
                    if nobody_waits {
                        // The alert, if the socket takes it: the error is what counts.
                        let _ = self.poll_send(context);
                    }
                    return Poll::Ready(Err(unread(error, self.machine.heard)));
                }
            }
            if block.filled >= MOST_KEPT {
                block.filled = 0;
                self.machine.failed = true;
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "message buffer full",
                )));
            }
            let got_some = reader.filled().len() > before;
            if shaking
                || self.machine.ended
                || got_some && (!filled_up || reader.remaining() < RECORD)
            {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
