//! From the writer to the socket, through buffers of the thread's.

use super::{
    TlsStream,
    machine::{Side, invalid},
};
use rustls::unbuffered::{EncryptError, WriteTraffic};
use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Plaintext of a record at most, bytes.
const RECORD: usize = 16 * 1024;
/// Plaintext that one write takes at most, bytes.
const MOST: usize = 4 * RECORD;
/// What those records are longer at most, with something that goes before them.
const OVERHEAD: usize = 1024;

thread_local! {
    static RECORDS: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static GATHERED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The thread's buffer of records.
struct Output {
    bytes: Vec<u8>,
    /// How many are records.
    filled: usize,
}

impl Output {
    fn take() -> Self {
        let mut bytes = RECORDS.take();
        if bytes.is_empty() {
            bytes = vec![0; MOST + OVERHEAD];
        }
        Self { bytes, filled: 0 }
    }

    fn put(self) {
        RECORDS.set(self.bytes);
    }

    fn records(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Adds what `write` makes, in as much room as it says it needs.
    fn add(
        &mut self,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), EncryptError> {
        loop {
            match write(&mut self.bytes[self.filled..]) {
                Err(EncryptError::InsufficientSize(size)) => {
                    self.bytes.resize(self.filled + size.required_size, 0);
                }
                length => {
                    self.filled += length?;
                    return Ok(());
                }
            }
        }
    }

    /// Encrypts as much as one write takes, in as few records as there can be.
    fn encrypt<Data>(
        &mut self,
        traffic: &mut WriteTraffic<'_, Data>,
        slices: &[IoSlice<'_>],
    ) -> Result<usize, EncryptError> {
        let mut record = |data: &[u8]| self.add(|output| traffic.encrypt(data, output));
        if let [slice] = slices {
            let data = &slice[..slice.len().min(MOST)];
            record(data)?;
            return Ok(data.len());
        }
        let mut gathered = GATHERED.take();
        gathered.clear();
        let mut accepted = 0;
        for slice in slices {
            let mut rest = &slice[..slice.len().min(MOST - accepted)];
            accepted += rest.len();
            while !rest.is_empty() {
                let whole = rest.len() - rest.len() % RECORD;
                if gathered.is_empty() && whole > 0 {
                    record(&rest[..whole])?;
                    rest = &rest[whole..];
                    continue;
                }
                let (now, later) = rest.split_at(rest.len().min(RECORD - gathered.len()));
                gathered.extend_from_slice(now);
                rest = later;
                if gathered.len() == RECORD {
                    record(&gathered)?;
                    gathered.clear();
                }
            }
        }
        if !gathered.is_empty() {
            record(&gathered)?;
        }
        GATHERED.set(gathered);
        Ok(accepted)
    }
}

impl<C: Side, S: AsyncRead + AsyncWrite + Unpin> TlsStream<C, S> {
    /// Takes plaintext once all that was taken before is with the socket.
    pub(super) fn poll_encrypt(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        if let Err(error) = ready!(self.poll_send(context)) {
            return Poll::Ready(Err(self.why(context, error)));
        }
        if self.closing || self.machine.failed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut output = Output::take();
        let written = self
            .drive(|mut traffic| output.encrypt(&mut traffic, slices))
            .and_then(|accepted| {
                self.send(context, output.records())?;
                Ok(accepted)
            });
        output.put();
        Poll::Ready(written.map_err(|error| self.why(context, error)))
    }

    /// Returns why nothing can be written: a peer that refuses our certificate says so
    /// before it goes.
    fn why(&mut self, context: &mut Context<'_>, error: io::Error) -> io::Error {
        if self.machine.heard || self.machine.failed {
            return error;
        }
        match self.poll_receive(context, &mut ReadBuf::new(&mut [])) {
            Poll::Ready(Err(refusal)) if refusal.kind() == io::ErrorKind::PermissionDenied => {
                refusal
            }
            _ => error,
        }
    }

    /// Says that we are done, then closes the socket's writing side.
    pub(super) fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            self.closing = true;
            // An alert has said it already of one that has failed.
            if !self.machine.failed {
                let mut output = Output::take();
                let said = self
                    .drive(|mut traffic| output.add(|output| traffic.queue_close_notify(output)));
                self.machine.unsent.add(output.records());
                output.put();
                said?;
            }
        }
        ready!(self.poll_send(context))?;
        match ready!(Pin::new(&mut self.socket).poll_shutdown(context)) {
            // The peer was first.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }

    fn drive<R>(
        &mut self,
        write: impl FnOnce(WriteTraffic<'_, C::Data>) -> Result<R, EncryptError>,
    ) -> io::Result<R> {
        // The machine expects what it has seen of a record to be there.
        let nowhere = &mut ReadBuf::new(&mut []);
        let (used, written) = self
            .machine
            .drive(&mut self.part, nowhere, write)
            .map_err(invalid)?;
        if used > 0 {
            self.part = self.part[used..].into();
        }
        written
            .ok_or(io::ErrorKind::NotConnected)?
            .map_err(io::Error::other)
    }

    /// Gives the socket what it takes now and keeps the rest.
    fn send(&mut self, context: &mut Context<'_>, records: &[u8]) -> io::Result<()> {
        let mut rest = records;
        // Something of the machine's own goes first.
        let mut result = Ok(());
        while !rest.is_empty() && self.machine.unsent.is_empty() {
            match Pin::new(&mut self.socket).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => result = Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(sent)) => {
                    rest = &rest[sent..];
                    continue;
                }
                Poll::Ready(Err(error)) => result = Err(error),
                Poll::Pending => {}
            }
            break;
        }
        self.machine.unsent.add(rest);
        result
    }
}
