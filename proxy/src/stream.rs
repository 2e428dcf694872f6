//! The one stream type that HTTP and relays run on: plain, either side of mutual
//! TLS, or one of many that share such a connection.

use crate::{
    io::{
        Rewind, Watch, relay as relay_bytes, relay_watched as relay_bytes_watched, splice,
        tls::{Client, Server},
    },
    mux,
};
use linnet_mesh::protocol::MeshProtocol;
use socket2::SockRef;
use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
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
    /// Any of these whose first bytes have been read already.
    Rewound(Box<Rewind<Stream>>),
}

impl Stream {
    /// Whether both sides agreed to share the connection among many streams.
    pub(crate) fn is_to_be_shared(&self) -> bool {
        match self {
            Self::Client(_) => self.chosen() == Some(MeshProtocol::Shared.alpn()),
            Self::Plain(_) | Self::Server(_) | Self::Shared(_) | Self::Rewound(_) => false,
        }
    }

    /// The protocol that the server of a TLS connection chose; `None`: it chose none.
    pub(crate) fn chosen(&self) -> Option<&[u8]> {
        match self {
            Self::Client(stream) => stream.session().alpn_protocol(),
            Self::Plain(_) | Self::Server(_) | Self::Shared(_) | Self::Rewound(_) => None,
        }
    }

    /// Makes the connection end by a reset once it is dropped: its peer learns that what it
    /// called did not end, but failed. A stream that shares its connection ends by itself.
    pub(crate) fn abort(&self) {
        match self {
            Self::Plain(stream) => abort(stream.inner()),
            Self::Client(stream) => abort(stream.socket()),
            Self::Server(stream) => abort(stream.socket()),
            Self::Rewound(stream) => stream.inner().abort(),
            Self::Shared(_) => {}
        }
    }

    /// Makes a connection whose application was reached, or that was denied, end as one that
    /// failed: its peer is not to take it for one that ended, nor for one that led nowhere,
    /// as a sidecar takes a reset. So mutual TLS ends without its last word; what was said in
    /// plaintext is reset.
    pub(crate) fn break_off(&self) {
        match self {
            Self::Server(stream) => {
                // One that has gone already needs none.
                let _ = SockRef::from(stream.socket()).shutdown(Shutdown::Write);
            }
            Self::Rewound(stream) => stream.inner().break_off(),
            Self::Plain(_) | Self::Client(_) | Self::Shared(_) => self.abort(),
        }
    }

    /// Whether the peer of a mutual TLS connection has reset it.
    pub(crate) fn is_reset(&self) -> bool {
        match self {
            Self::Client(stream) => stream.socket().peer_addr().is_err(),
            Self::Rewound(stream) => stream.inner().is_reset(),
            Self::Plain(_) | Self::Server(_) | Self::Shared(_) => false,
        }
    }
}

/// Makes a connection end by a reset once it is dropped.
pub(crate) fn abort(socket: &TcpStream) {
    // One that has gone already needs none.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Relays two streams until both directions have ended: by splice(2) where both
/// are plain.
///
/// # Errors
/// The first error of either side; the connection is of no use after it, and both ends of it
/// are broken off.
pub(crate) async fn relay(
    client: &mut Stream,
    upstream: &mut Stream,
    sent: impl FnMut(u64),
    received: impl FnMut(u64),
) -> io::Result<()> {
    let relayed = match (&mut *client, &mut *upstream) {
        (Stream::Plain(client), Stream::Plain(upstream)) => {
            splice::relay(client.parts(), upstream.parts(), sent, received).await
        }
        (client, upstream) => relay_bytes(client, upstream, sent, received).await,
    };
    if relayed.is_err() {
        // Who has not failed is to know that the other one did.
        client.break_off();
        upstream.abort();
    }
    relayed
}

/// Relays as [`relay`] does, but never the whole of a first line that some HTTP server
/// would take for a request's.
///
/// # Errors
/// The same, and such a line ([`RequestLine`](crate::io::watch::RequestLine)).
pub(crate) async fn relay_watched(
    client: &mut Stream,
    upstream: &mut Stream,
    mut sent: impl FnMut(u64),
    mut received: impl FnMut(u64),
) -> io::Result<()> {
    let mut watch = Watch::default();
    let ends = (&mut *client, &mut *upstream);
    match relay_bytes_watched(ends, &mut sent, &mut received, &mut watch).await {
        Ok(true) => relay(client, upstream, sent, received).await,
        Ok(false) => Ok(()),
        Err(error) => {
            client.break_off();
            upstream.abort();
            Err(error)
        }
    }
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Plain($stream) => $call,
            Stream::Client($stream) => $call,
            Stream::Server($stream) => $call,
            Stream::Shared($stream) => $call,
            Stream::Rewound($stream) => $call,
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
            Self::Rewound(stream) => stream.is_write_vectored(),
        }
    }
}
