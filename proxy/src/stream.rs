//! The one stream type that HTTP and relays run on: plain, either side of mutual
//! TLS, or one of many that share such a connection.

use crate::{
    io::{
        Rewind, relay as relay_bytes, splice,
        tls::{Client, Server},
    },
    mux,
};
use linnet_mesh::protocol::MeshProtocol;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// See the module.
pub(crate) enum Stream {
    Plain(Rewind<TcpStream>),
    /// We connected.
    Client(Box<Client<TcpStream>>),
    /// We accepted.
    Server(Box<Server<TcpStream>>),
    /// With others over one connection.
    Shared(mux::Stream),
}

impl Stream {
    /// Whether both sides agreed to share the connection among many streams.
    pub(crate) fn is_to_be_shared(&self) -> bool {
        match self {
            Self::Client(stream) => {
                let agreed = stream.session().alpn_protocol();
                agreed == Some(MeshProtocol::Shared.alpn())
            }
            Self::Plain(_) | Self::Server(_) | Self::Shared(_) => false,
        }
    }
}

/// Relays two streams until both directions have ended: by splice(2) where both
/// are plain.
///
/// # Errors
/// The first error of either side; the connection is of no use after it.
pub(crate) async fn relay(
    client: &mut Stream,
    upstream: &mut Stream,
    sent: impl FnMut(u64),
    received: impl FnMut(u64),
) -> io::Result<()> {
    match (client, upstream) {
        (Stream::Plain(client), Stream::Plain(upstream)) => {
            splice::relay(client.parts(), upstream.parts(), sent, received).await
        }
        (client, upstream) => relay_bytes(client, upstream, sent, received).await,
    }
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Plain($stream) => $call,
            Stream::Client($stream) => $call,
            Stream::Server($stream) => $call,
            Stream::Shared($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write(context, data))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_shutdown(context))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Client(stream) => stream.is_write_vectored(),
            Self::Server(stream) => stream.is_write_vectored(),
            Self::Shared(stream) => stream.is_write_vectored(),
        }
    }
}
