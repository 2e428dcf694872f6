//! Waiting for a connection's first bytes without making anybody wait.
//!
//! While the client is silent the upstream is opened; if that side speaks first,
//! the connection is opaque at once. Patience only delays the opening, to spare
//! clients that are about to speak a needless upstream connection.

use crate::{
    detect::{self, Expected, Finding},
    error::Error,
    stream::Stream,
};
use bytes::{Bytes, BytesMut};
use std::{io, pin::pin, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};

/// Patience with a destination of which nothing is known.
pub(crate) const UNKNOWN: Duration = Duration::from_millis(5);
/// Patience with a destination whose clients were seen to speak first.
pub(crate) const CLIENT_SPEAKS: Duration = Duration::from_millis(250);
/// How long a client may pause in the middle of what looks like a known
/// protocol before it is taken for another.
const REST: Duration = Duration::from_secs(1);
/// How long a client may take, in many small steps, over what tells its protocol:
/// as long as for the hello of a STRICT port.
const SETTLED: Duration = Duration::from_secs(10);
/// First read, bytes: most requests and hellos fit.
const FIRST_READ: usize = 4096;

/// What a connection turned out to be.
pub(crate) enum Sniffed {
    /// The client spoke: what it speaks, its first bytes, and the upstream if it
    /// was opened meanwhile.
    Client(Finding, Bytes, Option<Stream>),
    /// The server spoke first, this; nothing: it ended its side.
    Server(Bytes, Stream),
    /// One side is gone.
    Closed,
    /// The upstream could not be opened while the client was silent.
    Unreachable(Error),
    /// The upstream was opened, and broke while the client was silent.
    Reset(io::Error),
}

/// Finds out what a connection speaks, to a port that is known to speak something.
///
/// # Errors
/// The client's connection broke.
pub(crate) async fn sniff<R, F>(
    client: &mut R,
    patience: Duration,
    expected: Expected,
    open: F,
) -> io::Result<Sniffed>
where
    R: AsyncRead + Unpin,
    F: Future<Output = Result<Stream, Error>>,
{
    let mut first = FirstBytes::default();
    if let Ok(read) = tokio::time::timeout(patience, first.read_some(client)).await {
        read?;
        return Ok(sniffed(first.finding(client, expected).await?, None));
    }
    let opening = pin!(open);
    let mut upstream = tokio::select! {
        biased;
        read = first.read_some(client) => {
            read?;
            return Ok(sniffed(first.finding(client, expected).await?, None));
        }
        opened = opening => match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Sniffed::Unreachable(error)),
        }
    };
    let mut greeting = FirstBytes::default();
    let upstream = tokio::select! {
        biased;
        read = first.read_some(client) => {
            read?;
            Some(upstream)
        }
        greeted = greeting.read_some(&mut upstream) => match greeted {
            Ok(()) if !greeting.bytes.is_empty() && expected.is_opaque_by(&greeting.bytes) => {
                return Ok(Sniffed::Server(greeting.bytes.freeze(), upstream));
            }
            Err(error) if expected != Expected::Http || is_reset(&error) => {
                return Ok(Sniffed::Reset(error));
            }
            // It hung up on a silent client, which is to hear of it.
            Ok(()) if greeting.bytes.is_empty() && expected != Expected::Http => {
                return Ok(match expected {
                    // Whatever else is said is nobody's: it may be a request.
                    Expected::PerhapsHttp => Sniffed::Closed,
                    _ => Sniffed::Server(Bytes::new(), upstream),
                });
            }
            // It is one of HTTP; the client may still speak.
            Ok(()) | Err(_) => None,
        }
    };
    Ok(sniffed(first.finding(client, expected).await?, upstream))
}

fn is_reset(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionReset
}

fn sniffed(found: Option<(Finding, Bytes)>, upstream: Option<Stream>) -> Sniffed {
    match found {
        Some((finding, bytes)) => Sniffed::Client(finding, bytes, upstream),
        None => Sniffed::Closed,
    }
}

/// Reads until the bytes tell what they are; `None` at the end of the stream.
///
/// # Errors
/// The client's connection broke.
pub(crate) async fn read_finding<R: AsyncRead + Unpin>(
    client: &mut R,
) -> io::Result<Option<(Finding, Bytes)>> {
    let first = FirstBytes::default();
    first.finding(client, Expected::Anything).await
}

/// What one side has said so far.
#[derive(Default)]
struct FirstBytes {
    bytes: BytesMut,
    ended: bool,
}

impl FirstBytes {
    /// Reads once. (Waiting for the socket to be readable would not do: that
    /// may be told before it is true.)
    async fn read_some<R: AsyncRead + Unpin>(&mut self, reader: &mut R) -> io::Result<()> {
        self.bytes.reserve(FIRST_READ);
        self.ended = reader.read_buf(&mut self.bytes).await? == 0;
        Ok(())
    }

    /// Reads until the bytes tell what they are. A client that does not tell in time is
    /// taken for what counts in doubt: HTTP has its own limits of time.
    async fn finding<R: AsyncRead + Unpin>(
        mut self,
        client: &mut R,
        expected: Expected,
    ) -> io::Result<Option<(Finding, Bytes)>> {
        let in_doubt = match expected.is_http_in_doubt() {
            true => Finding::Http1,
            false => Finding::Opaque,
        };
        let mut spoke = None;
        loop {
            if let Some(finding) = detect::classify_as(&self.bytes, expected) {
                return Ok(Some((finding, self.bytes.freeze())));
            }
            if self.ended {
                // A half-closed client has said all it will say.
                let said = !self.bytes.is_empty();
                return Ok(said.then(|| (in_doubt, self.bytes.freeze())));
            }
            let mut rest = REST;
            if !self.bytes.is_empty() {
                let spoke = spoke.get_or_insert_with(Instant::now);
                let left = SETTLED.saturating_sub(spoke.elapsed());
                if left.is_zero() {
                    return Ok(Some((in_doubt, self.bytes.freeze())));
                }
                if expected.is_http_in_doubt() {
                    rest = left;
                }
            }
            match tokio::time::timeout(rest, self.read_some(client)).await {
                Ok(read) => read?,
                Err(_) if self.bytes.is_empty() => {}
                Err(_) => return Ok(Some((in_doubt, self.bytes.freeze()))),
            }
        }
    }
}
