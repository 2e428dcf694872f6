//! What rustls' state machine asks for, of either side.

use crate::io::Outgoing;
use bytes::BytesMut;
use rustls::{
    AlertDescription, CommonState, Error,
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic},
};
use std::io;
use tokio::io::ReadBuf;

/// A connection of one side.
pub(crate) trait Side: Unpin {
    type Data;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn state(&self) -> &CommonState;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

/// A connection, and what it has for its reader and for the socket.
pub(super) struct Machine<C> {
    pub(super) session: C,
    /// Plaintext the reader had no room for.
    pub(super) plaintext: BytesMut,
    /// Records the socket has not taken.
    pub(super) unsent: Outgoing,
    /// The peer has said that it is done.
    pub(super) ended: bool,
    /// Nothing more can be made of what the peer says.
    pub(super) failed: bool,
    /// The peer has said something to the reader.
    pub(super) heard: bool,
}

impl<C: Side> Machine<C> {
    pub(super) fn new(session: C) -> Self {
        Self {
            session,
            plaintext: BytesMut::new(),
            unsent: Outgoing::default(),
            ended: false,
            failed: false,
            heard: false,
        }
    }

    /// Processes all records of `input` that are complete; plaintext goes to
    /// `reader`. How many bytes of the input are done with; the rest is to come
    /// again, as it is then, with more after it.
    ///
    /// # Errors
    /// What is wrong with the records; an alert about it is among what is unsent.
    pub(super) fn read(
        &mut self,
        input: &mut [u8],
        reader: &mut ReadBuf<'_>,
    ) -> Result<usize, Error> {
        Ok(self.drive(input, reader, |_| ())?.0)
    }

    /// As [`Machine::read`], and calls `write` once the machine can encrypt, which
    /// it can after the handshake.
    pub(super) fn drive<R>(
        &mut self,
        input: &mut [u8],
        reader: &mut ReadBuf<'_>,
        write: impl FnOnce(WriteTraffic<'_, C::Data>) -> R,
    ) -> Result<(usize, Option<R>), Error> {
        let all = input.len();
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state } = self.session.process(&mut input[used..]);
            let mut skipped = discard;
            let error = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    match traffic.next_record() {
                        Some(Ok(record)) => {
                            skipped += record.discard;
                            self.heard = true;
                            let room = record.payload.len().min(reader.remaining());
                            let (now, later) = record.payload.split_at(room);
                            reader.put_slice(now);
                            self.plaintext.extend_from_slice(later);
                        }
                        Some(Err(error)) => break Some(error),
                        None => break None,
                    }
                },
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, self.unsent.buffer());
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // It goes before all that is encrypted later.
                    data.done();
                    None
                }
                Ok(ConnectionState::WriteTraffic(traffic)) => {
                    return Ok(((used + discard).min(all), Some(write(traffic))));
                }
                Ok(ConnectionState::BlockedHandshake) => {
                    return Ok(((used + discard).min(all), None));
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.ended = true;
                    // What comes after is to be ignored.
                    skipped = all;
                    None
                }
                Ok(ConnectionState::Closed) => return Ok((all, None)),
                // Early data, which no configuration allows.
                Ok(_) => Some(Error::General("unexpected state".to_owned())),
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                self.fail();
                return Err(error);
            }
            used = (used + skipped).min(all);
        }
    }

    /// Nothing is read any more; takes the alert that says why.
    fn fail(&mut self) {
        self.failed = true;
        // With something to encode, the machine looks at no input.
        while self.session.state().wants_write() {
            match self.session.process(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, self.unsent.buffer()),
                _ => break,
            }
        }
    }
}

fn encode<Data>(mut data: EncodeTlsData<'_, Data>, unsent: &mut Vec<u8>) {
    let before = unsent.len();
    loop {
        match data.encode(&mut unsent[before..]) {
            Ok(length) => return unsent.truncate(before + length),
            Err(EncodeError::InsufficientSize(size)) => {
                unsent.resize(before + size.required_size, 0);
            }
            Err(EncodeError::AlreadyEncoded) => return,
        }
    }
}

pub(super) fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Makes the error of what was read; `heard`: not as the first thing after the handshake.
///
/// In TLS 1.3 a client is done with the handshake before the server has verified the
/// client's certificate. Until then the server gives nobody what the client has sent
/// (RFC 8446, 4.4.4; there is no early data here), so a refusal of the certificate as its
/// first word says that nothing was seen.
pub(super) fn unread(error: Error, heard: bool) -> io::Error {
    match error {
        Error::AlertReceived(alert) if !heard && refuses_certificate(alert) => {
            io::Error::new(io::ErrorKind::PermissionDenied, error)
        }
        error => invalid(error),
    }
}

fn refuses_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
    )
}
