//! HTTP/1 heads and bodies, through a sidecar to an application that reads by the
//! letter of RFC 9112: whatever a client sends, what goes on is requests that
//! everybody divides alike, and none that the sidecar did not make.

use linnet_proxy::{
    config::Config,
    server::{Deps, Running},
};
use linnet_runtime::{logging, settings::Settings};
use linnet_workload::testing::{Authority, Leaf};
use std::{
    collections::HashMap,
    fs, io,
    net::SocketAddr,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

/// What a client that has said all is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// The application's own limit of a line; the sidecar's is lower.
const LONGEST_LINE: usize = 256 * 1024;

/// A client that sends this and closes.
pub fn http1(data: &[u8]) {
    static BENCH: LazyLock<Bench> = LazyLock::new(Bench::new);
    // Other bytes are another protocol's, and go on as they are.
    if !linnet_proxy::fuzz::is_http1(data) {
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap();
    let bench = &*BENCH;
    bench
        .runtime
        .block_on(async {
            tokio::time::timeout(PATIENCE, call(bench.sidecar.inbound[0], data)).await
        })
        .expect("the connection of a client that has said all ends");
    if let Some(breach) = bench.breach.lock().unwrap().take() {
        panic!("the application read: {breach}");
    }
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A sidecar before its application, for all cases.
struct Bench {
    runtime: Runtime,
    sidecar: Running,
    breach: Arc<Mutex<Option<String>>>,
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let breach = Arc::<Mutex<Option<String>>>::default();
        let sidecar = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let told = breach.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let told = told.clone();
                    tokio::spawn(async move {
                        if let Err(error) = serve(stream).await
                            && error.kind() == io::ErrorKind::InvalidData
                        {
                            told.lock().unwrap().get_or_insert(error.to_string());
                        }
                    });
                }
            });
            sidecar(address).await
        });
        Self {
            runtime,
            sidecar,
            breach,
        }
    }
}

async fn sidecar(application: SocketAddr) -> Running {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name).display().to_string();
    let authority = Authority::default();
    let leaf = Leaf::new(&["spiffe://cluster.local/ns/default/sa/payment"]);
    let (chain, key) = authority.issue_pem(&leaf);
    fs::write(path("ca.pem"), authority.bundle_pem()).unwrap();
    fs::write(path("leaf.pem"), chain).unwrap();
    fs::write(path("leaf.key"), key).unwrap();
    fs::write(path("services"), "inboundMtls: PERMISSIVE\nservices: {}\n").unwrap();
    let loopback = "127.0.0.1:0".to_owned();
    let environment = HashMap::from([
        ("LINNET_STATIC_CONFIG", path("services")),
        ("LINNET_CERTIFICATE_DIR", files.path().display().to_string()),
        (
            "LINNET_INBOUND_LISTENERS",
            format!("{loopback}={application}"),
        ),
        ("LINNET_METRICS_LISTEN", loopback.clone()),
        ("LINNET_ADMIN_LISTEN", loopback),
        ("LINNET_ACCESS_LOG", path("access.log")),
    ]);
    let config = Config::read(Settings::new(&|name| environment.get(name).cloned())).unwrap();
    let log = logging::init("off");
    config.build(Deps { log }).await.unwrap()
}

async fn call(sidecar: SocketAddr, data: &[u8]) {
    let mut stream = TcpStream::connect(sidecar).await.unwrap();
    let (mut read, mut write) = stream.split();
    // It may be refused before all is sent, and reset.
    let sending = async {
        let _ = write.write_all(data).await;
        let _ = write.shutdown().await;
    };
    let reading = async { read.read_to_end(&mut Vec::new()).await };
    let _ = tokio::join!(sending, reading);
}

fn breach(what: &str, bytes: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(bytes);
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {text:?}"))
}

/// Answers requests, each of which must be as RFC 9112 has it. A connection that
/// ends in the middle of one is its client's.
async fn serve(stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let Some(line) = line(&mut stream).await? else {
            return Ok(());
        };
        let is_head = check_request_line(&line)?;
        let mut framing = Framing::default();
        loop {
            match self::line(&mut stream).await? {
                Some(line) if line.is_empty() => break,
                Some(line) => framing.note(&line)?,
                None => return Err(breach("a head that ends early", &line)),
            }
        }
        framing.read_body(&mut stream).await?;
        let body: &[u8] = if is_head { b"" } else { b"ok" };
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
            .await?;
        stream.write_all(body).await?;
    }
}

/// A line without its end; `None`: the stream's end.
async fn line(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let limit = LONGEST_LINE as u64;
    if stream.take(limit).read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    let Some(text) = line.strip_suffix(b"\r\n") else {
        return Err(breach("a line that CR LF does not end", &line));
    };
    let control = |b: &u8| *b != b'\t' && (*b < b' ' || *b == 0x7f);
    if text.iter().any(control) {
        return Err(breach("a control character in a line", &line));
    }
    Ok(Some(text.to_vec()))
}

fn is_token(text: &[u8]) -> bool {
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !text.is_empty() && text.iter().all(token)
}

/// Whether it is a `HEAD`, whose answer has no body.
fn check_request_line(line: &[u8]) -> io::Result<bool> {
    let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    match words[..] {
        [method, target, b"HTTP/1.1"]
            if is_token(method) && method != b"CONNECT" && !target.is_empty() =>
        {
            Ok(method == b"HEAD")
        }
        _ => Err(breach("a request line that is none", line)),
    }
}

/// What a head says of its body's end.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    hosts: usize,
}

impl Framing {
    fn note(&mut self, line: &[u8]) -> io::Result<()> {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            return Err(breach("a header without a colon", line));
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if !is_token(name) {
            return Err(breach("a header without a name", line));
        }
        match &*name.to_ascii_lowercase() {
            b"content-length" => {
                let text = std::str::from_utf8(value).unwrap_or_default();
                let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                let length = text.parse().ok().filter(|_| digits);
                let length = length.ok_or_else(|| breach("a length that is none", line))?;
                if self.length.replace(length).is_some() || self.chunked {
                    return Err(breach("framing said twice", line));
                }
            }
            b"transfer-encoding" => {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(breach("another encoding than chunked", line));
                }
                if std::mem::replace(&mut self.chunked, true) || self.length.is_some() {
                    return Err(breach("framing said twice", line));
                }
            }
            b"host" => {
                self.hosts += 1;
                if self.hosts > 1 {
                    return Err(breach("two hosts", line));
                }
            }
            // The sidecar takes it off what comes in plaintext: a request that has
            // one never was a request to the sidecar.
            b"x-forwarded-client-cert" => {
                return Err(breach("a request that the sidecar did not make", line));
            }
            _ => {}
        }
        Ok(())
    }

    async fn read_body(&self, stream: &mut BufReader<TcpStream>) -> io::Result<()> {
        if self.hosts == 0 {
            return Err(breach("no host", b""));
        }
        if !self.chunked {
            return skip(stream, self.length.unwrap_or_default()).await;
        }
        loop {
            let Some(size) = line(stream).await? else {
                return Ok(());
            };
            let text = std::str::from_utf8(&size).unwrap_or_default();
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
            let length = u64::from_str_radix(text, 16).ok().filter(|_| digits);
            match length.ok_or_else(|| breach("a chunk's size that is none", &size))? {
                0 => break,
                length => skip(stream, length).await?,
            }
            match line(stream).await? {
                Some(end) if !end.is_empty() => {
                    return Err(breach("a chunk of another length than said", &end));
                }
                Some(_) => {}
                None => return Ok(()),
            }
        }
        let mut trailers = Self::default();
        while let Some(line) = line(stream).await? {
            if line.is_empty() {
                break;
            }
            trailers.note(&line)?;
            if trailers.length.is_some() || trailers.chunked || trailers.hosts > 0 {
                return Err(breach("framing in a trailer", &line));
            }
        }
        Ok(())
    }
}

async fn skip(stream: &mut BufReader<TcpStream>, length: u64) -> io::Result<()> {
    tokio::io::copy(&mut stream.take(length), &mut tokio::io::sink()).await?;
    Ok(())
}
