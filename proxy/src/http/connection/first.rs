//! What a server says first: whether it speaks HTTP/2.
//!
//! A server of HTTP/2 sends a SETTINGS frame before it has seen a request (RFC 9113, 3.4). One
//! that speaks HTTP/1 alone answers the preface by something else, or closes the connection.

use crate::{clock, io};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

/// How long a server may take for its SETTINGS; a slower one is taken at its word.
const SETTINGS: Duration = Duration::from_secs(1);
/// The type of a SETTINGS frame (RFC 9113, 6.5).
const SETTINGS_TYPE: u8 = 4;

/// What the first bytes of a server say of its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    Http2,
    Other,
    /// There were none.
    Closed,
    /// There were none in time.
    Silent,
}

/// A connection whose first bytes are looked at as they are read.
pub(super) struct Probe<S> {
    stream: S,
    head: [u8; 4],
    have: usize,
    told: Option<oneshot::Sender<First>>,
}

impl<S> Probe<S> {
    pub(super) fn new(stream: S) -> (Self, oneshot::Receiver<First>) {
        let (told, first) = oneshot::channel();
        let probe = Self {
            stream,
            head: [0; 4],
            have: 0,
            told: Some(told),
        };
        (probe, first)
    }

    fn look(&mut self, bytes: &[u8]) {
        let new = bytes.len().min(self.head.len() - self.have);
        self.head[self.have..self.have + new].copy_from_slice(&bytes[..new]);
        self.have += new;
        let first = match self.head {
            _ if self.have == 0 => First::Closed,
            // Nobody's SETTINGS are as long as any text would be.
            [long, ..] if long != 0 => First::Other,
            _ if self.have < self.head.len() => return,
            [.., kind] if kind == SETTINGS_TYPE => First::Http2,
            _ => First::Other,
        };
        self.tell(first);
    }

    fn tell(&mut self, first: First) {
        if let Some(told) = self.told.take() {
            // Nobody may wait any more.
            let _ = told.send(first);
        }
    }
}

/// Waits until it is known what a server speaks.
pub(super) async fn spoken(first: oneshot::Receiver<First>) -> First {
    match clock::timeout(SETTINGS, first).await {
        Ok(Ok(first)) => first,
        Ok(Err(_)) => First::Closed,
        Err(_) => First::Silent,
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Probe<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if self.told.is_some() {
            match read {
                Ok(()) => self.look(&buffer.filled()[before..]),
                Err(_) => self.look(&[]),
            }
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Probe<S> {
    io::write_by!(stream);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn a_server_is_known_by_its_first_bytes_in_pieces_of_any_size() {
        for (said, expected) in [
            (&b"\x00\x00\x06\x04\x00\x00\x00\x00\x00"[..], First::Http2),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", First::Other),
            (b"\x00\x00\x08\x07\x00\x00\x00\x00\x00", First::Other),
            (b"", First::Closed),
        ] {
            for piece in 1..=9 {
                let (mut near, far) = tokio::io::duplex(64);
                let (mut probe, first) = Probe::new(far);
                let mut read = Vec::new();
                for part in said.chunks(piece) {
                    tokio::io::AsyncWriteExt::write_all(&mut near, part)
                        .await
                        .unwrap();
                    let mut seen = [0; 64];
                    let length = probe.read(&mut seen).await.unwrap();
                    read.extend_from_slice(&seen[..length]);
                }
                drop(near);
                probe.read_to_end(&mut read).await.unwrap();
                assert_eq!(read, said);
                assert_eq!(spoken(first).await, expected, "{said:?} by {piece}");
            }
        }
    }
}
