//! The ports below HTTP: bytes echoed, and a server that speaks first.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::BANNER;

/// Echoes bytes until the client closes its half.
pub(super) async fn echo(mut stream: TcpStream, stop: &CancellationToken) -> std::io::Result<()> {
    let (mut read, mut write) = stream.split();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = tokio::select! {
            count = read.read(&mut buffer) => count?,
            () = stop.cancelled() => 0,
        };
        if count == 0 {
            return write.shutdown().await;
        }
        write.write_all(&buffer[..count]).await?;
    }
}

/// Sends the banner before it reads anything, as SMTP and MySQL do, then
/// echoes lines.
pub(super) async fn banner_then_lines(
    mut stream: TcpStream,
    stop: &CancellationToken,
) -> std::io::Result<()> {
    /// A longer line ends the connection instead of growing memory.
    const LONGEST_LINE: u64 = 64 * 1024;
    stream.write_all(BANNER.as_bytes()).await?;
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut lines).take(LONGEST_LINE);
        let count = tokio::select! {
            count = limited.read_until(b'\n', &mut line) => count?,
            () = stop.cancelled() => 0,
        };
        if count == 0 || !line.ends_with(b"\n") {
            return write.shutdown().await;
        }
        write.write_all(&line).await?;
    }
}
