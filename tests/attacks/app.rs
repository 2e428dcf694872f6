//! An application that believes what it reads and remembers it, byte for byte.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) head: String,
    /// The same, where it is no text.
    pub(crate) bytes: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// The target of the request line.
    pub(crate) fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// The values of a header.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1);
        lines
            .filter_map(|line| line.split_once(": "))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }
}

/// See the module.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl App {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let noted = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let noted = noted.clone();
                // It may be broken off on purpose.
                tokio::spawn(async move { serve(stream, &noted).await });
            }
        });
        Self { address, seen }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The targets of all requests that came.
    pub(crate) fn targets(&self) -> Vec<String> {
        let seen = self.seen();
        seen.iter().map(|seen| seen.target().to_owned()).collect()
    }
}

/// Whether a chunked body has come to its end, trailers included.
fn is_last(body: &[u8]) -> bool {
    let last = b"\r\n0\r\n";
    let begun = body.starts_with(b"0\r\n") || body.windows(last.len()).any(|part| part == last);
    begun && body.ends_with(b"\r\n\r\n")
}

/// Frames by `Transfer-Encoding` if it is there, else by `Content-Length`, without a
/// single check.
async fn serve(mut stream: TcpStream, noted: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let mut seen = Seen {
            head: String::from_utf8_lossy(&head).into_owned(),
            bytes: head,
            body: Vec::new(),
        };
        if seen.values("transfer-encoding").is_empty() {
            let length = seen.values("content-length").first().map(|l| l.parse());
            seen.body = vec![0; length.and_then(Result::ok).unwrap_or_default()];
            stream.read_exact(&mut seen.body).await?;
        } else {
            while !is_last(&seen.body) {
                seen.body.push(stream.read_u8().await?);
            }
        }
        let upgrade = !seen.values("upgrade").is_empty() || seen.head.starts_with("CONNECT");
        noted.lock().unwrap().push(seen);
        // It agrees to every upgrade, and goes on to speak HTTP.
        let answer: &[u8] = if upgrade {
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
        } else {
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        };
        stream.write_all(answer).await?;
    }
}
