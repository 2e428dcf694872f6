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
    // All six places, and then one of the stranger's, whose newest review gives way.
    for _ in 0..3 {
        tasks.push(webhook.send(API_SERVER, bytes(1)).await);
    }
    let given_up = tasks.remove(3);
    assert_eq!(given_up.await.unwrap(), StatusCode::TOO_MANY_REQUESTS);
    // Each has half.
    for from in [API_SERVER, STRANGER] {
        let refused = webhook.refused(from, bytes(1)).await;
        assert_eq!(refused, StatusCode::TOO_MANY_REQUESTS);
    }
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

/// Strangers of any number, who take all that there is and go on asking.
#[tokio::test]
async fn many_strangers_leave_everybody_an_equal_share() {
    for strangers in 1..=5 {
        for body in [|| bytes(KIB), || endless(60 * KIB)] {
            let webhook = Webhook::new();
            let mut open = Vec::new();
            for _ in 0..8 {
                for last in 0..strangers {
                    open.push(webhook.send([10, 9, 9, last], body()).await);
                }
            }
            let honest = webhook.send(API_SERVER, bytes(40 * KIB)).await;
            for last in 0..strangers {
                open.push(webhook.send([10, 9, 9, last], body()).await);
            }
            webhook.answer.send_replace(true);
            let answered = tokio::time::timeout(Duration::from_secs(60), honest).await;
            let answered = answered.unwrap().unwrap();
            assert_eq!(answered, StatusCode::OK, "{strangers} strangers");
            for task in open {
                task.abort();
                let _ = task.await;
            }
            assert!(webhook.gate.is_idle());
        }
    }
}

#[tokio::test]
async fn addresses_take_turns_however_many_reviews_one_has_waiting() {
    let webhook = Webhook::new();
    let mut tasks = Vec::new();
    for from in [STRANGER, STRANGER, STRANGER, API_SERVER] {
        tasks.push(webhook.send(from, bytes(SMALL.body / 2)).await);
    }
    let judged = |address: [u8; 4]| {
        let usage = webhook.gate.usage();
        let holder = usage.each.get(&IpAddr::from(address)).unwrap();
        let mut reviews = holder.reviews.values();
        reviews.any(|review| matches!(review.stage, Stage::Judged(_)))
    };
    assert!(judged(STRANGER) && !judged(API_SERVER));
    // The first had its turn before the other came: it has one more, and no further.
    for others in [true, false] {
        tasks.remove(0).abort();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!((judged(STRANGER), judged(API_SERVER)), (others, !others));
    }
    for task in tasks {
        task.abort();
    }
}

/// The work of a request that is given up goes on, and so does what it takes.
#[tokio::test]
async fn work_that_outlives_its_request_keeps_its_place() {
    let (began, mut started) = tokio::sync::mpsc::channel(1);
    let (finish, ended) = std::sync::mpsc::channel::<()>();
    let ended = Arc::new(Mutex::new(ended));
    let handler = async move |axum::Extension(turn): axum::Extension<Turn>| {
        let work = tokio::task::spawn_blocking(move || {
            began.blocking_send(()).unwrap();
            let _ = ended.lock().unwrap().recv();
            drop(turn);
        });
        work.await.unwrap();
    };
    let gate = Gate::new(SMALL);
    let layer = axum::middleware::from_fn_with_state(gate.clone(), admit);
    let router = Router::new().route("/", post(handler)).layer(layer);
    let request = Request::post("/").body(bytes(SMALL.body)).unwrap();
    let task = tokio::spawn(router.oneshot(request));
    started.recv().await.unwrap();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert!(!gate.is_idle());
    assert_eq!(gate.usage().free, 0);
    drop(finish);
    let idle = async {
        while !gate.is_idle() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), idle)
        .await
        .unwrap();
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
