//! The sidecar as a process with few files: strangers' idle connections to a port that
//! anybody may reach must leave the workload's connections theirs.

#![allow(
    clippy::unwrap_used,
    reason = "in a test a failure is a panic with a line number"
)]

use linnet_runtime::files;
use linnet_workload::testing::{Authority, Leaf};
use std::{collections::HashMap, fs, net::SocketAddr, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

/// Bounds a hang, nothing else.
const PATIENCE: Duration = Duration::from_secs(60);
const HOST: &str = "payment.default.svc.cluster.local:80";

struct Sidecar {
    _process: Child,
    outbound: SocketAddr,
    inbound: SocketAddr,
    metrics: SocketAddr,
    _files: tempfile::TempDir,
}

/// Starts the sidecar with so many files, its hard limit.
async fn sidecar(app: SocketAddr, files: usize) -> Sidecar {
    let endpoints = format!("    - address: {app}\n");
    sidecar_before(app, &endpoints, files).await
}

async fn sidecar_before(app: SocketAddr, endpoints: &str, files: usize) -> Sidecar {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let authority = Authority::default();
    let identity = "spiffe://cluster.local/ns/default/sa/payment";
    let (chain, key) = authority.issue_pem(&Leaf::new(&[identity]));
    fs::write(at("ca.pem"), authority.bundle_pem()).unwrap();
    fs::write(at("leaf.pem"), chain).unwrap();
    fs::write(at("leaf.key"), key).unwrap();
    let services = format!("inboundMtls: PERMISSIVE\nservices:\n  {HOST}:\n{endpoints}");
    fs::write(at("services.yaml"), services).unwrap();
    let environment = HashMap::from([
        (
            "LINNET_CERTIFICATE_DIR",
            directory.path().display().to_string(),
        ),
        (
            "LINNET_STATIC_CONFIG",
            at("services.yaml").display().to_string(),
        ),
        ("LINNET_OUTBOUND_LISTENERS", format!("127.0.0.1:0={HOST}")),
        ("LINNET_INBOUND_LISTENERS", format!("127.0.0.1:0={app}")),
        ("LINNET_METRICS_LISTEN", "127.0.0.1:0".to_owned()),
        ("LINNET_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ("LINNET_ACCESS_LOG", at("access.log").display().to_string()),
    ]);
    let run = format!(
        "ulimit -n {files}; exec {}",
        env!("CARGO_BIN_EXE_linnet-proxy")
    );
    let mut process = Command::new("sh")
        .args(["-c", &run])
        .envs(environment)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let started = async {
        loop {
            let line = lines.next_line().await.unwrap().unwrap();
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "started" {
                return line;
            }
        }
    };
    let started = tokio::time::timeout(PATIENCE, started).await.unwrap();
    // What it says later must not fill the pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let address = |name: &str| {
        let text = started[name].as_str().unwrap();
        text.trim_matches(['[', ']']).parse().unwrap()
    };
    Sidecar {
        outbound: address("outbound"),
        inbound: address("inbound"),
        metrics: address("metrics"),
        _process: process,
        _files: directory,
    }
}

/// An application that answers each connection's request.
async fn application() -> SocketAddr {
    // At every address of loopback.
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                while stream.read(&mut head).await.is_ok_and(|length| length > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

async fn ask(address: SocketAddr, path: &str) -> String {
    let asking = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // It may be closed at once.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .expect("an answer")
}

#[tokio::test]
async fn two_thousand_idle_connections_leave_data_its_files() {
    files::raise();
    let app = application().await;
    let sidecar = sidecar(app, 1024).await;
    let mut open = Vec::new();
    for _ in 0..2000 {
        open.push(TcpStream::connect(sidecar.metrics).await.unwrap());
    }
    for address in [sidecar.outbound, sidecar.inbound] {
        for _ in 0..20 {
            let answer = ask(address, "/").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
    // From elsewhere the port itself answers, too.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(sidecar.metrics).await.unwrap();
    let request = b"GET /healthz/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// At the data listeners, too: those that come are closed before the files end.
#[tokio::test]
async fn a_flood_of_data_connections_leaves_files_for_upstreams() {
    files::raise();
    let app = application().await;
    let sidecar = sidecar(app, 1024).await;
    let mut open = Vec::new();
    for _ in 0..1500 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(sidecar.inbound).await.unwrap();
        // Each takes an upstream as well, or has been closed.
        let _ = stream
            .write_all(b"GET / HTTP/1.1\r\nhost: payment\r\n\r\n")
            .await;
        open.push(stream);
    }
    for address in [sidecar.outbound, sidecar.inbound] {
        for _ in 0..20 {
            let answer = ask(address, "/").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
}

/// More endpoints than files: connections that are kept for later give way.
#[tokio::test]
async fn idle_upstream_connections_give_up_their_files() {
    files::raise();
    let app = application().await;
    let endpoint = |number: u16| {
        let [high, low] = number.to_be_bytes();
        format!("    - address: 127.1.{high}.{low}:{}\n", app.port())
    };
    let endpoints: String = (1..=400).map(endpoint).collect();
    let sidecar = sidecar_before(app, &endpoints, 200).await;
    for number in 0..1000 {
        let answer = ask(sidecar.outbound, "/").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{number}: {answer}");
    }
}
