//! Calls below HTTP: bytes and their echo, with or without a banner first.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Answer, Call, CallError, tcp};
use crate::BANNER;

/// A connection and how many exchanges it has seen.
pub(super) struct Stream {
    tcp: TcpStream,
    exchanges: u64,
}

pub(super) async fn connect(call: &Call) -> Result<Stream, CallError> {
    Ok(Stream {
        tcp: tcp(call).await?,
        exchanges: 0,
    })
}

/// Says nothing before the banner is there, as a client of SMTP or MySQL.
pub(super) async fn connect_and_greet(call: &Call) -> Result<Stream, CallError> {
    let mut stream = connect(call).await?;
    let mut banner = [0; BANNER.len()];
    stream.tcp.read_exact(&mut banner).await?;
    if banner != BANNER.as_bytes() {
        return Err(CallError::Answer("the banner is another one"));
    }
    Ok(stream)
}

pub(super) async fn echo(stream: &mut Stream, call: &Call) -> Result<Answer, CallError> {
    stream.exchanges += 1;
    // The count tells a late echo of an earlier exchange from this one's.
    let mut sent = format!("exchange {:020} ", stream.exchanges).into_bytes();
    sent.resize(sent.len() + call.body_bytes, b'r');
    sent.push(b'\n');
    let mut received = vec![0; sent.len()];
    let (mut read, mut write) = stream.tcp.split();
    // Both at once: a long message fills the buffers of both directions.
    tokio::try_join!(write.write_all(&sent), read.read_exact(&mut received))?;
    if received != sent {
        return Err(CallError::Answer("the bytes are not an echo"));
    }
    Ok(Answer::default())
}
