//! Slowness and numbers: what is held open must cost little, and not others'
//! requests. (The time a head may take is tested with a clock that runs ahead, in
//! `proxy/src/inbound/tests.rs`.)

use crate::{
    app::App,
    support::{Mesh, Pair},
    wire::{Front, PATIENCE, answer, send},
};
use linnet_proxy::server::Running;
use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";

/// A sidecar that may have so many connections open, in each direction.
async fn limited(mesh: &Mesh, app: SocketAddr, most: usize) -> Running {
    let files = tempfile::tempdir().unwrap();
    let services = files.path().join("services.yaml");
    let host = "other.default.svc.cluster.local:80";
    let text = format!("inboundMtls: PERMISSIVE\nservices:\n  {host}:\n    - address: {app}\n",);
    fs::write(&services, text).unwrap();
    let environment = HashMap::from([
        ("LINNET_STATIC_CONFIG", services.display().to_string()),
        ("LINNET_INBOUND_LISTENERS", format!("127.0.0.1:0={app}")),
        ("LINNET_OUTBOUND_LISTENERS", format!("127.0.0.1:0={host}")),
        ("LINNET_MAX_CONNECTIONS", most.to_string()),
    ]);
    mesh.run("payment", environment).await
}

#[tokio::test]
async fn a_flood_of_connections_stops_at_the_limit() {
    const MOST: usize = 20;
    let mesh = Mesh::new();
    let app = App::start().await;
    let sidecar = limited(&mesh, app.address, MOST).await;
    let mut open = Vec::new();
    for _ in 0..MOST {
        let mut stream = TcpStream::connect(sidecar.inbound[0]).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: payment\r\n\r\n")
            .await
            .unwrap();
        let said = answer(&mut stream, |said| said.ends_with(b"ok")).await;
        assert!(said.starts_with(b"HTTP/1.1 200"));
        open.push(stream);
    }
    for _ in 0..3 {
        let stream = TcpStream::connect(sidecar.inbound[0]).await.unwrap();
        assert_eq!(send(stream, REQUEST).await, "", "one too many");
    }
    // The workload's own connections have places of their own.
    let stream = TcpStream::connect(sidecar.outbound[0]).await.unwrap();
    assert!(send(stream, REQUEST).await.starts_with("HTTP/1.1 200"));
    drop(open);
    let served = async {
        loop {
            let stream = TcpStream::connect(sidecar.inbound[0]).await.unwrap();
            if send(stream, REQUEST).await.starts_with("HTTP/1.1 200") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, served)
        .await
        .expect("there is room again");
}

/// Strangers of one address take all places, silent ones, such that stop in a head,
/// and such that wait after a response; callers from elsewhere are served all the same.
#[tokio::test]
async fn idle_connections_of_one_address_keep_no_other_out() {
    const MOST: usize = 24;
    let mesh = Mesh::new();
    let app = App::start().await;
    let sidecar = limited(&mesh, app.address, MOST).await;
    let from = async |source: [u8; 4]| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        socket.connect(sidecar.inbound[0]).await.unwrap()
    };
    let mut open = Vec::new();
    for number in 0..2 * MOST {
        let mut stream = from([127, 0, 0, 2]).await;
        match number % 3 {
            0 => {}
            1 => {
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nhos").await;
            }
            _ => {
                let request = b"GET / HTTP/1.1\r\nhost: payment\r\n\r\n";
                let _ = stream.write_all(request).await;
                answer(&mut stream, |said| said.ends_with(b"ok")).await;
            }
        }
        open.push(stream);
    }
    for _ in 0..MOST {
        let said = send(from([127, 0, 0, 1]).await, REQUEST).await;
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    }
}

/// Requests one behind the other by a client that reads no answers.
#[tokio::test]
async fn a_pipeline_whose_answers_are_not_read_waits() {
    const MOST: usize = 32 * 1024 * 1024;
    let front = Front::start().await;
    let requests = b"GET /piped HTTP/1.1\r\nhost: payment\r\n\r\n".repeat(1000);
    let mut stream = front.as_app().await;
    let mut taken = 0;
    while taken < MOST {
        let writing = stream.write_all(&requests);
        match tokio::time::timeout(Duration::from_secs(2), writing).await {
            Ok(Ok(())) => taken += requests.len(),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    assert!(taken < MOST, "{taken} bytes of requests were taken");
    front.serves_others().await;
}

/// Hundreds of requests whose bodies do not come.
#[tokio::test]
async fn bodies_that_do_not_come_keep_nobody_waiting() {
    let front = Front::start().await;
    let mut open = Vec::new();
    for n in 0..300 {
        let head =
            format!("POST /{n} HTTP/1.1\r\nhost: payment\r\ncontent-length: 1000000\r\n\r\nx");
        let mut stream = front.as_app().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        open.push(stream);
    }
    front.serves_others().await;
    assert_eq!(front.app.targets(), ["/others"]);
    drop(open);
    front.serves_others().await;
}

/// A client that asks for much and reads nothing: the application waits, the
/// sidecars do not keep it for them.
#[tokio::test]
async fn a_client_that_does_not_read_fills_no_memory() {
    const MOST: usize = 64 * 1024 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let written = Arc::<AtomicUsize>::default();
    let counted = written.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let part = vec![0; 64 * 1024];
        while stream.write_all(&part).await.is_ok() {
            counted.fetch_add(part.len(), Relaxed);
        }
    });
    let mesh = Mesh::new();
    let pair = Pair::before(&mesh, "payment", &[address]).await;
    let mut stream = TcpStream::connect(pair.port(0)).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    let mut last = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = written.load(Relaxed);
        assert!(now < MOST, "{now} bytes were taken from the application");
        if now == last && now > 0 {
            break;
        }
        last = now;
    }
}

/// Half a hello, none at all, and one that comes byte by byte: a STRICT port waits
/// for 10 s.
#[tokio::test]
async fn a_hello_that_does_not_come_ends_its_connection() {
    let front = Front::start().await;
    let address = front.pair.server.inbound[0];
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(&[22, 3, 1, 2, 0, 1, 0]).await.unwrap();
    let (mut slow, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let trickle = tokio::spawn(async move {
        let mut next = [22_u8, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3].into_iter();
        while writer.write_all(&[next.next().unwrap_or(0)]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    front.serves_others().await;
    let said = tokio::join!(
        answer(&mut silent, |_| false),
        answer(&mut half, |_| false),
        answer(&mut slow, |_| false),
    );
    for said in [said.0, said.1, said.2] {
        assert!(said.is_empty(), "{said:?}");
    }
    trickle.abort();
    assert!(
        front
            .app
            .seen()
            .iter()
            .all(|seen| seen.target() == "/others")
    );
}
