use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use axum::{Router, routing::post};
use futures_util::{StreamExt, stream};
use linnet_runtime::{
    drain,
    serve::{self, ListenerKind, Transport},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tower::ServiceExt;

use super::*;

const API_SERVER: [u8; 4] = [10, 0, 0, 1];
const STRANGER: [u8; 4] = [10, 9, 9, 9];
const KIB: usize = 1024;
const SMALL: Limits = Limits {
    body: 100 * KIB,
    reviews: (6, 4),
    bytes: (300 * KIB, 200 * KIB),
    judged: 2 * UNIT,
};

/// A webhook that judges until it is told to answer.
struct Webhook {
    router: Router,
    gate: Arc<Gate>,
    answer: watch::Sender<bool>,
    judged: Arc<AtomicUsize>,
}

impl Webhook {
    fn new() -> Self {
        let (answer, told) = watch::channel(false);
        let judged = Arc::new(AtomicUsize::new(0));
        let counted = judged.clone();
        let handler = async move |body: Bytes| {
            counted.fetch_add(1, Ordering::SeqCst);
            told.clone().wait_for(|told| *told).await.unwrap();
            body.len().to_string()
        };
        let gate = Gate::new(SMALL);
        let layer = axum::middleware::from_fn_with_state(gate.clone(), admit);
        Self {
            router: Router::new().route("/", post(handler)).layer(layer),
            gate,
            answer,
            judged,
        }
    }

    /// Sends a review and lets it come as far as it can.
    async fn send(&self, from: [u8; 4], body: Body) -> JoinHandle<StatusCode> {
        let mut request = Request::post("/").body(body).unwrap();
        request.extensions_mut().insert(Peer {
            address: SocketAddr::from((from, 1)),
            identity: None,
        });
        let answered = self.router.clone().oneshot(request);
        let task = tokio::spawn(async move { answered.await.unwrap().status() });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        task
    }

    async fn refused(&self, from: [u8; 4], body: Body) -> StatusCode {
        let task = self.send(from, body).await;
        assert!(task.is_finished(), "a refusal comes at once");
        task.await.unwrap()
    }
}

fn bytes(length: usize) -> Body {
    Body::from(vec![b' '; length])
}

/// A body that begins and never ends, in pieces of a KiB.
fn endless(length: usize) -> Body {
    let piece = || Ok::<_, Infallible>(Bytes::from(vec![b' '; KIB]));
    let pieces = stream::iter((0..length / KIB).map(move |_| piece()));
    Body::from_stream(pieces.chain(stream::pending()))
}

#[tokio::test]
async fn the_next_review_of_one_address_is_refused_and_anothers_is_not() {
    let webhook = Webhook::new();
    let mut tasks = Vec::new();
    for _ in 0..4 {
        tasks.push(webhook.send(STRANGER, bytes(1)).await);
    }
    for _ in 0..50 {
        let refused = webhook.refused(STRANGER, bytes(1)).await;
        assert_eq!(refused, StatusCode::TOO_MANY_REQUESTS);
    }
    for _ in 0..2 {
        tasks.push(webhook.send(API_SERVER, bytes(1)).await);
    }
    // All together.
    let refused = webhook.refused(API_SERVER, bytes(1)).await;
    assert_eq!(refused, StatusCode::TOO_MANY_REQUESTS);
    webhook.answer.send_replace(true);
    for task in tasks {
        assert_eq!(task.await.unwrap(), StatusCode::OK);
    }
    assert!(webhook.gate.is_idle());
    let again = webhook.send(STRANGER, bytes(1)).await;
    assert_eq!(again.await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn bodies_that_never_end_take_a_share_and_no_more() {
    let webhook = Webhook::new();
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(webhook.send(STRANGER, endless(99 * KIB)).await);
    }
    let refused = webhook.refused(STRANGER, endless(10 * KIB)).await;
    assert_eq!(refused, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(webhook.judged.load(Ordering::SeqCst), 0);
    let held = webhook.gate.usage().all.bytes;
    assert_eq!(held, 198 * KIB);
    // The API server's share is there.
    webhook.answer.send_replace(true);
    let answered = webhook.send(API_SERVER, bytes(90 * KIB)).await;
    assert_eq!(answered.await.unwrap(), StatusCode::OK);
    // Who hangs up, or whose time is up, gives back what it held.
    for task in open {
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
    assert!(webhook.gate.is_idle());
}

#[tokio::test]
async fn a_long_body_is_refused_by_its_word_and_by_its_length() {
    let webhook = Webhook::new();
    for body in [bytes(SMALL.body + 1), endless(SMALL.body + KIB)] {
        let refused = webhook.refused(STRANGER, body).await;
        assert_eq!(refused, StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert!(webhook.gate.is_idle());
}

#[tokio::test]
async fn bodies_are_judged_by_their_size_at_a_time() {
    let webhook = Webhook::new();
    let mut tasks = Vec::new();
    for from in [API_SERVER, STRANGER] {
        for _ in 0..3 {
            tasks.push(webhook.send(from, bytes(1)).await);
        }
    }
    // Two units, a small body each.
    assert_eq!(webhook.judged.load(Ordering::SeqCst), 2);
    webhook.answer.send_replace(true);
    for task in tasks.drain(..) {
        assert_eq!(task.await.unwrap(), StatusCode::OK);
    }
    // A body of more than all units is judged alone, and judged.
    webhook.answer.send_replace(false);
    webhook.judged.store(0, Ordering::SeqCst);
    for length in [SMALL.body, 1] {
        tasks.push(webhook.send(API_SERVER, bytes(length)).await);
    }
    assert_eq!(webhook.judged.load(Ordering::SeqCst), 1);
    webhook.answer.send_replace(true);
    for task in tasks {
        assert_eq!(task.await.unwrap(), StatusCode::OK);
    }
}

/// Through a listener: the address is the connection's, whatever a request says.
#[tokio::test]
async fn shares_go_by_the_address_of_the_connection() {
    let webhook = Webhook::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let (_signal, drain) = drain::channel();
    let router = webhook.router.clone();
    let kind = ListenerKind::Webhook;
    tokio::spawn(serve::serve(
        listener,
        router,
        Transport::Plain,
        kind,
        drain,
    ));
    let connect = async |from: &str, length: usize| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(from.parse().unwrap()).unwrap();
        let mut stream = socket.connect(server).await.unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {}\r\ncontent-length: {length}\r\n\r\n",
            server.ip()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    let status = async |mut stream: TcpStream| {
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        String::from_utf8(answer.to_vec()).unwrap()
    };
    let mut open = Vec::new();
    for _ in 0..4 {
        // A body that never comes.
        open.push(connect("127.0.0.2:0", 1).await);
    }
    let all_here = async {
        while webhook.gate.usage().all.reviews < open.len() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all_here)
        .await
        .unwrap();
    let fifth = connect("127.0.0.2:0", 1).await;
    assert_eq!(status(fifth).await, "HTTP/1.1 429");
    webhook.answer.send_replace(true);
    let other = connect("127.0.0.1:0", 0).await;
    assert_eq!(status(other).await, "HTTP/1.1 200");
}
