//! Waiting for a connection's first bytes without making anybody wait.
//!
//! While the client is silent the upstream is opened; if that side speaks first,
//! the connection is opaque at once. Patience only delays the opening, to spare
//! clients that are about to speak a needless upstream connection.

use crate::{
    detect::{self, Finding},
    error::Error,
    stream::Stream,
};
use bytes::{Bytes, BytesMut};
use std::{io, pin::pin, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
};

/// Patience with a destination of which nothing is known.
pub(crate) const UNKNOWN: Duration = Duration::from_millis(5);
/// Patience with a destination whose clients were seen to speak first.
pub(crate) const CLIENT_SPEAKS: Duration = Duration::from_millis(250);
/// How long a client may pause in the middle of what looks like a known
/// protocol before it is taken for another.
const REST: Duration = Duration::from_secs(1);
/// First read, bytes: most requests and hellos fit.
const FIRST_READ: usize = 4096;

/// What a connection turned out to be.
pub(crate) enum Sniffed {
    /// The client spoke: what it speaks, its first bytes, and the upstream if it
    /// was opened meanwhile.
    Client(Finding, Bytes, Option<Stream>),
    /// The server spoke first, this.
    Server(Bytes, Stream),
    /// The client is gone.
    Closed,
    /// The upstream could not be opened while the client was silent.
    Unreachable(Error),
}

/// Finds out what a connection speaks.
///
/// # Errors
/// The client's connection broke.
pub(crate) async fn sniff<F>(
    client: &mut TcpStream,
    patience: Duration,
    open: F,
) -> io::Result<Sniffed>
where
    F: Future<Output = Result<Stream, Error>>,
{
    let mut upstream = None;
    if tokio::time::timeout(patience, client.readable())
        .await
        .is_err()
    {
        let opening = pin!(open);
        tokio::select! {
            biased;
            readable = client.readable() => readable?,
            opened = opening => match opened {
                Ok(opened) => upstream = Some(opened),
                Err(error) => return Ok(Sniffed::Unreachable(error)),
            }
        }
    }
    if let Some(mut opened) = upstream.take() {
        let mut greeting = BytesMut::new();
        tokio::select! {
            biased;
            readable = client.readable() => {
                readable?;
                upstream = Some(opened);
            }
            read = read_some(&mut opened, &mut greeting) => match read {
                // It hung up on a silent client; the client may still speak.
                Ok(0) | Err(_) => {}
                Ok(_) => return Ok(Sniffed::Server(greeting.freeze(), opened)),
            }
        }
    }
    Ok(match read_finding(client).await? {
        Some((finding, bytes)) => Sniffed::Client(finding, bytes, upstream),
        None => Sniffed::Closed,
    })
}

/// Reads until the bytes tell what they are; `None` at the end of the stream.
///
/// # Errors
/// The client's connection broke.
pub(crate) async fn read_finding(client: &mut TcpStream) -> io::Result<Option<(Finding, Bytes)>> {
    client.readable().await?;
    let mut buffer = BytesMut::new();
    loop {
        let read = match tokio::time::timeout(REST, read_some(client, &mut buffer)).await {
            Ok(read) => read?,
            Err(_) if buffer.is_empty() => continue,
            Err(_) => return Ok(Some((Finding::Opaque, buffer.freeze()))),
        };
        if read == 0 {
            // A half-closed client has said all it will say.
            let said = !buffer.is_empty();
            return Ok(said.then(|| (Finding::Opaque, buffer.freeze())));
        }
        if let Some(finding) = detect::classify(&buffer) {
            return Ok(Some((finding, buffer.freeze())));
        }
    }
}

async fn read_some<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut BytesMut,
) -> io::Result<usize> {
    buffer.reserve(FIRST_READ);
    reader.read_buf(buffer).await
}
