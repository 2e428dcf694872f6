//! A TLS stream over rustls' unbuffered connections. What is read and what is
//! encrypted passes through buffers of the thread: a connection holds memory only
//! for part of a record, for plaintext its reader had no room for and for records
//! the socket did not take.
//!
//! It never writes to the socket when it is polled for reading, but for the alert of
//! a connection that has failed: the socket would forget who waits to write.

mod machine;
mod read;
#[cfg(test)]
mod tests;
mod write;

use super::Rewind;
pub(crate) use machine::Side;
use machine::{Machine, invalid};
use rustls::{
    ClientConfig, CommonState, ServerConfig, client::UnbufferedClientConnection,
    pki_types::ServerName, server::UnbufferedServerConnection,
};
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream of the side that connected.
pub(crate) type Client<S> = TlsStream<UnbufferedClientConnection, S>;
/// A stream of the side that accepted.
pub(crate) type Server<S> = TlsStream<UnbufferedServerConnection, S>;

/// See the module; the handshake is done.
pub(crate) struct TlsStream<C, S> {
    machine: Machine<C>,
    socket: S,
    /// What has come of a record that isn't complete.
    part: Box<[u8]>,
    /// What reading failed at after it had something to give.
    failure: Option<io::Error>,
    /// We have said that we are done.
    closing: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Makes a connection TLS.
    ///
    /// # Errors
    /// What the handshake failed at.
    pub(crate) async fn connect(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        socket: S,
    ) -> io::Result<Self> {
        let session = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        Self::new(session, socket, Box::default()).shake().await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Server<S> {
    /// Makes a connection that was accepted TLS.
    ///
    /// # Errors
    /// What the handshake failed at.
    pub(crate) async fn accept(config: Arc<ServerConfig>, stream: Rewind<S>) -> io::Result<Self> {
        let session = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let Rewind { prefix, inner } = stream;
        Self::new(session, inner, prefix[..].into()).shake().await
    }
}

impl<C: Side, S: AsyncRead + AsyncWrite + Unpin> TlsStream<C, S> {
    fn new(session: C, socket: S, part: Box<[u8]>) -> Self {
        Self {
            machine: Machine::new(session),
            socket,
            part,
            failure: None,
            closing: false,
        }
    }

    /// What the records go over.
    pub(crate) fn socket(&self) -> &S {
        &self.socket
    }

    /// Whether the peer has said that it is done.
    pub(crate) fn has_ended(&self) -> bool {
        self.machine.ended
    }

    /// What the two sides agreed on.
    pub(crate) fn session(&self) -> &CommonState {
        self.machine.session.state()
    }

    async fn shake(mut self) -> io::Result<Self> {
        // What has been read already, or nothing: a client begins.
        let mut said = std::mem::take(&mut self.part);
        match self.machine.read(&mut said, &mut ReadBuf::new(&mut [])) {
            Ok(used) => {
                self.part = said[used..].into();
                poll_fn(|context| self.poll_shake(context)).await?;
                Ok(self)
            }
            Err(error) => {
                // The alert, if the socket takes it: the error is what counts.
                let _ = poll_fn(|context| Poll::Ready(self.poll_send(context))).await;
                Err(invalid(error))
            }
        }
    }

    fn poll_shake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut told = self.poll_send(context)?;
            if told.is_ready() {
                told = Pin::new(&mut self.socket).poll_flush(context)?;
            }
            if !self.session().is_handshaking() {
                return told.map(Ok);
            }
            // Also while it can't be told everything: the peer may not read before it is read
            // from.
            let nowhere = &mut ReadBuf::new(&mut []);
            match ready!(self.poll_receive(context, nowhere)) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Err(io::Error::new(error.kind(), "tls handshake eof")));
                }
                result => result?,
            }
        }
    }

    /// Sends what the socket has not taken yet.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.machine.unsent.poll_write(context, &mut self.socket)
    }
}

impl<C: Side, S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<C, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().poll_plaintext(context, buffer)
    }
}

impl<C: Side, S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<C, S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .poll_encrypt(context, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_encrypt(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(context))?;
        Pin::new(&mut this.socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_close(context)
    }
}
