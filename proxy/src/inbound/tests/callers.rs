//! Callers that have given up, or never let go.

use super::*;
use crate::http::LocalExecutor;
use hyper::client::conn::http2;
use tokio::sync::mpsc;

/// What an application sees of a request.
#[derive(Debug, PartialEq)]
enum Seen {
    /// With what is left of its time, if that is said, milliseconds.
    Request(Option<u64>),
    /// Nobody waits for its answer any more.
    Cancelled,
}

struct Cancelled(mpsc::UnboundedSender<Seen>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.send(Seen::Cancelled).unwrap();
    }
}

/// An application that answers nobody.
async fn silent() -> (World, mpsc::UnboundedReceiver<Seen>) {
    let mut world = World::start(true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.app = listener.local_addr().unwrap();
    world.set(vec![]);
    let (sender, seen) = mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let left = request.headers().get("x-envoy-expected-rq-timeout-ms");
                let left = left.map(|left| left.to_str().unwrap().parse().unwrap());
                sender.send(Seen::Request(left)).unwrap();
                let cancelled = Cancelled(sender.clone());
                async move {
                    let _cancelled = cancelled;
                    std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
                }
            });
            let server = hyper::server::conn::http1::Builder::new();
            tokio::task::spawn_local(async move {
                // Broken off on purpose.
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (world, seen)
}

fn within(milliseconds: &str) -> Request<Empty<Bytes>> {
    let mut request = get("/");
    let limit = milliseconds.parse().unwrap();
    let name = "x-envoy-expected-rq-timeout-ms";
    request.headers_mut().insert(name, limit);
    request
}

#[tokio::test(start_paused = true)]
async fn a_deadline_reaches_the_application_and_ends_its_work() {
    let test = async {
        let (world, mut seen) = silent().await;
        let begun = tokio::time::Instant::now();
        let stream = world.mesh("web", HTTP1).await;
        let (status, _, body) = world.request(stream, within("2500")).await;
        assert_eq!(status, 504, "{body}");
        assert!(begun.elapsed() >= Duration::from_millis(2500));
        let Some(Seen::Request(Some(left))) = seen.recv().await else {
            panic!("the application was told no deadline");
        };
        assert!((1..=2500).contains(&left), "{left}");
        assert_eq!(seen.recv().await, Some(Seen::Cancelled));
        let metrics = world.thread.shared.telemetry.render();
        assert!(metrics.contains("response_flags=\"UT\""), "{metrics}");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_caller_that_goes_away_is_not_worked_for() {
    let test = async {
        let (world, mut seen) = silent().await;
        let mut stream = world.mesh("web", HTTP1).await;
        let request = b"GET / HTTP/1.1\r\nhost: db\r\n\r\n";
        stream.write_all(request).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(seen.recv().await, Some(Seen::Request(None)));
        // Without a word: one that says that it sends no more may wait for the answer.
        drop(stream);
        assert_eq!(seen.recv().await, Some(Seen::Cancelled));
        while !world
            .thread
            .shared
            .telemetry
            .render()
            .contains("response_flags=\"DC\"")
        {
            tokio::task::yield_now().await;
        }
    };
    LocalSet::new().run_until(test).await;
}

/// What a caller does amid its upload.
#[derive(Clone, Copy)]
enum Amid {
    Says(&'static str),
    Leaves,
    /// Nothing, but a policy does.
    IsForbidden,
}

/// The answer to an upload, as far as the status goes, where the caller stays; and its flag.
async fn upload(amid: Amid, answer: &str, flag: &str) -> String {
    let (world, mut seen) = silent().await;
    world.set(vec![policy(Action::Allow, vec![from("web")])]);
    let mut stream = world.mesh("web", HTTP1).await;
    let head = "POST / HTTP/1.1\r\nhost: db\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(b"2\r\nab\r\n").await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(seen.recv().await, Some(Seen::Request(None)));
    let mut heard = vec![0; answer.len()];
    match amid {
        Amid::Leaves => drop(stream),
        Amid::Says(rest) => {
            stream.write_all(rest.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            stream.read_exact(&mut heard).await.unwrap();
        }
        Amid::IsForbidden => {
            world.set(vec![policy(Action::Allow, vec![from("other")])]);
            stream.read_exact(&mut heard).await.unwrap();
        }
    }
    let flagged = format!("response_flags=\"{flag}\"");
    while !world.thread.shared.telemetry.render().contains(&flagged) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    String::from_utf8(heard).unwrap()
}

#[tokio::test]
async fn a_caller_s_faults_are_not_the_application_s() {
    let test = async {
        for (amid, answer, flag) in [
            (Amid::Says("0x5\r\nhello\r\n"), "HTTP/1.1 400", "DPE"),
            (Amid::Says("5\r\nhello!\r\n"), "HTTP/1.1 400", "DPE"),
            (Amid::IsForbidden, "HTTP/1.1 403", "UAEX"),
            (Amid::Leaves, "", "DC"),
        ] {
            let running = upload(amid, answer, flag);
            let heard = tokio::time::timeout(Duration::from_secs(20), running).await;
            assert_eq!(heard.as_deref(), Ok(answer), "{flag}");
        }
    };
    LocalSet::new().run_until(test).await;
}

/// 30 minutes, a tenth more or less.
#[tokio::test(start_paused = true)]
async fn a_caller_s_old_connection_ends_after_its_last_request() {
    let test = async {
        let world = World::start(true).await;
        world.set(vec![]);
        let stream = world.mesh("web", MeshProtocol::Http2).await;
        let begun = tokio::time::Instant::now();
        let io = TokioIo::new(stream);
        let (mut sender, connection) = http2::handshake(LocalExecutor, io).await.unwrap();
        let ended = tokio::task::spawn_local(connection);
        tokio::time::sleep(Duration::from_secs(26 * 60)).await;
        let request = Request::get("http://db/").body(Empty::<Bytes>::new());
        let response = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(read(response).await.0, 200);
        ended.await.unwrap().unwrap();
        let lived = begun.elapsed();
        let age = Duration::from_secs(27 * 60)..Duration::from_secs(34 * 60);
        assert!(age.contains(&lived), "{lived:?}");
    };
    LocalSet::new().run_until(test).await;
}
