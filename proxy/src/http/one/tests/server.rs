use super::{Never, Said, Switched};
use crate::http::one::server::{Answer, Drain, Incoming, serve};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use std::{
    cell::Cell,
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    sync::{oneshot, watch},
    task::spawn_local,
};

struct Signal(watch::Receiver<bool>);

impl Drain for Signal {
    fn is_draining(&self) -> bool {
        *self.0.borrow()
    }

    async fn signaled(&self) {
        let _ = self.0.clone().wait_for(|draining| *draining).await;
    }
}

/// A client of a connection that is served by a handler.
struct Client {
    stream: DuplexStream,
    drain: watch::Sender<bool>,
    served: tokio::task::JoinHandle<bool>,
}

impl Client {
    fn of<H, F>(room: usize, handler: H) -> Self
    where
        H: FnMut(Request<Incoming<DuplexStream>>) -> F + 'static,
        F: Future<Output = Response<Said>> + 'static,
    {
        let (stream, far) = duplex(room);
        let (drain, signal) = watch::channel(false);
        let mut handler = handler;
        let handler = move |request| {
            let answering = handler(request);
            async move { Ok::<_, Infallible>(answering.await) }
        };
        let served = spawn_local(async move {
            // The future of a connection is what an idle one costs.
            let serving = serve(far, handler, Signal(signal));
            assert!(size_of_val(&serving) < 2048, "{}", size_of_val(&serving));
            serving.await.is_ok()
        });
        Self {
            stream,
            drain,
            served,
        }
    }

    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    async fn hear(&mut self, end: &str) -> String {
        let mut said = Vec::new();
        while !said.ends_with(end.as_bytes()) {
            said.push(self.stream.read_u8().await.unwrap());
        }
        String::from_utf8(said).unwrap()
    }

    async fn hear_all(&mut self) -> String {
        let mut said = String::new();
        self.stream.read_to_string(&mut said).await.unwrap();
        said
    }
}

fn ok(text: &'static str) -> Response<Said> {
    Response::new(Said::new(Full::new(Bytes::from_static(text.as_bytes()))))
}

async fn local(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_client_that_waits_for_a_word_gets_it_when_its_body_is_read() {
    local(async {
        let mut client = Client::of(4096, |request: Request<Incoming<_>>| async {
            if request.uri().path() == "/refused" {
                let mut refusal = ok("");
                *refusal.status_mut() = StatusCode::EXPECTATION_FAILED;
                return refusal;
            }
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, "hello");
            ok("ok")
        });
        let head = "HTTP/1.1\r\nhost: shop\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
        client.say(&format!("POST /read {head}")).await;
        let word = client.hear("\r\n\r\n").await;
        assert_eq!(word, "HTTP/1.1 100 Continue\r\n\r\n");
        client.say("hello").await;
        assert!(client.hear("\r\n\r\nok").await.starts_with("HTTP/1.1 200"));
        client.say(&format!("POST /refused {head}")).await;
        let refusal = client.hear_all().await;
        assert!(refusal.starts_with("HTTP/1.1 417"), "{refusal}");
        assert!(refusal.contains("connection: close"), "{refusal}");
    })
    .await;
}

/// A stream that its other side may reset.
struct Resettable(DuplexStream, oneshot::Receiver<()>);

impl AsyncRead for Resettable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if Pin::new(&mut self.1).poll(context).is_ready() {
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, data)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

impl Answer<Resettable> for Said {
    fn poll_progress(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn switch(self, _: Resettable, _: Bytes) {}
}

const WHOLE_REQUESTS: [&str; 2] = [
    "GET / HTTP/1.1\r\n\r\n",
    "POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello",
];

#[tokio::test]
async fn work_for_a_client_that_has_reset_the_connection_is_dropped() {
    struct Dropped(Rc<Cell<bool>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    local(async {
        for request in WHOLE_REQUESTS {
            let dropped = Rc::<Cell<bool>>::default();
            let work = dropped.clone();
            let handler = move |request: Request<Incoming<Resettable>>| {
                let work = Dropped(work.clone());
                async move {
                    let _work = work;
                    request.into_body().collect().await.unwrap();
                    std::future::pending::<Result<Response<Said>, Infallible>>().await
                }
            };
            let (mut stream, far) = duplex(4096);
            let (reset, resets) = oneshot::channel();
            let served = spawn_local(serve(Resettable(far, resets), handler, Never));
            stream.write_all(request.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
            assert!(!dropped.get());
            reset.send(()).unwrap();
            assert!(served.await.unwrap().is_err());
            assert!(dropped.get(), "{request}");
        }
    })
    .await;
}

/// Such clients exist, old and new: whoever sends no more may hear (RFC 9112, 9.6).
#[tokio::test]
async fn a_client_that_sends_no_more_is_answered() {
    local(async {
        for request in WHOLE_REQUESTS {
            let (release, released) = watch::channel(false);
            let mut client = Client::of(4096, move |request: Request<Incoming<_>>| {
                let mut released = released.clone();
                async move {
                    request.into_body().collect().await.unwrap();
                    let _ = released.wait_for(|released| *released).await;
                    ok("slow")
                }
            });
            client.say(request).await;
            client.stream.shutdown().await.unwrap();
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            release.send_replace(true);
            let answer = client.hear_all().await;
            assert!(answer.ends_with("slow"), "{request}: {answer}");
            assert!(client.served.await.unwrap());
        }
    })
    .await;
}

/// Nobody is left who could be told that the request is not whole.
#[tokio::test]
async fn half_a_request_is_not_answered() {
    local(async {
        let mut client = Client::of(4096, |request: Request<Incoming<_>>| async {
            assert!(request.into_body().collect().await.is_err());
            ok("")
        });
        client
            .say("POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nhello")
            .await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.hear_all().await, "");
        assert!(!client.served.await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_drain_ends_an_idle_connection_at_once_and_a_busy_one_after_its_answer() {
    local(async {
        let client = Client::of(4096, |_| async { ok("") });
        tokio::task::yield_now().await;
        client.drain.send_replace(true);
        assert!(client.served.await.unwrap());

        let (release, released) = watch::channel(false);
        let mut client = Client::of(4096, move |_| {
            let mut released = released.clone();
            async move {
                let _ = released.wait_for(|released| *released).await;
                ok("ok")
            }
        });
        client.say("GET / HTTP/1.1\r\n\r\n").await;
        tokio::task::yield_now().await;
        client.drain.send_replace(true);
        tokio::task::yield_now().await;
        assert!(!client.served.is_finished());
        release.send_replace(true);
        let answer = client.hear_all().await;
        assert!(
            answer.contains("connection: close") && answer.ends_with("ok"),
            "{answer}"
        );
        assert!(client.served.await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_body_that_nobody_reads_is_skipped_if_it_is_there() {
    local(async {
        let mut client = Client::of(4096, |_| async { ok("ok") });
        client
            .say("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello")
            .await;
        assert!(!client.hear("ok").await.contains("connection: close"));
        client
            .say("POST / HTTP/1.1\r\ncontent-length: 500\r\n\r\nhello")
            .await;
        assert!(client.hear_all().await.contains("connection: close"));
    })
    .await;
}

/// Announced or not; whoever speaks HTTP/1.1 can read them (RFC 9112, 7.1.2).
#[tokio::test]
async fn trailers_go_to_whoever_speaks_http_1_1() {
    let answer = |announced: bool| {
        let trailers = [("x-sum".parse().unwrap(), "1".parse().unwrap())];
        let frames = [
            Frame::data(Bytes::from_static(b"hello")),
            Frame::trailers(trailers.into_iter().collect()),
        ];
        let body = StreamBody::new(tokio_stream::iter(frames.map(Ok::<_, Infallible>)));
        let mut answer = Response::new(Said::new(body));
        if announced {
            let headers = answer.headers_mut();
            headers.insert("trailer", "x-sum".parse().unwrap());
        }
        answer
    };
    local(async {
        let mut client = Client::of(4096, move |request: Request<Incoming<_>>| async move {
            answer(request.uri().path() == "/announced")
        });
        for target in ["/announced", "/"] {
            for te in ["te: trailers\r\n", ""] {
                client
                    .say(&format!("GET {target} HTTP/1.1\r\n{te}\r\n"))
                    .await;
                client.hear("\r\n\r\n").await;
                let body = client.hear("\r\n\r\n").await;
                assert_eq!(body, "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n", "{target} {te}");
            }
        }
        // HTTP/1.0 knows no chunks: the end of the connection is that of the body.
        client
            .say("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
            .await;
        let old = client.hear_all().await;
        assert!(old.starts_with("HTTP/1.0 200 OK\r\n"), "{old}");
        assert!(
            old.ends_with("\r\n\r\nhello") && !old.contains("chunked"),
            "{old}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_large_answer_through_a_small_pipe_is_whole_and_the_next_one_too() {
    const SIZE: usize = 300_000;
    local(async {
        let mut client = Client::of(1000, |request: Request<Incoming<_>>| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Response::new(Said::new(Full::new(body)))
        });
        for _ in 0..2 {
            let body: Vec<u8> = (0..SIZE).map(|n| n as u8).collect();
            let (mut read, mut write) = tokio::io::split(&mut client.stream);
            let asking = async {
                let head = format!("POST / HTTP/1.1\r\ncontent-length: {SIZE}\r\n\r\n");
                write.write_all(head.as_bytes()).await.unwrap();
                write.write_all(&body).await.unwrap();
            };
            let hearing = async {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(read.read_u8().await.unwrap());
                }
                let mut echo = vec![0; SIZE];
                read.read_exact(&mut echo).await.unwrap();
                echo
            };
            let ((), echo) = tokio::join!(asking, hearing);
            assert!(echo == body);
        }
    })
    .await;
}

#[tokio::test]
async fn a_protocol_change_hands_over_the_stream_and_what_was_read_of_it() {
    local(async {
        let switched = Switched::default();
        let noted = switched.clone();
        let mut client = Client::of(4096, move |_| {
            let switched = noted.clone();
            async move {
                let mut said = Said::new(Empty::new());
                said.switched = switched;
                let mut answer = Response::new(said);
                *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                let headers = answer.headers_mut();
                headers.insert("connection", "upgrade".parse().unwrap());
                headers.insert("upgrade", "echo".parse().unwrap());
                answer
            }
        });
        client
            .say("GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello")
            .await;
        let head = client.hear("\r\n\r\n").await;
        assert!(
            head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
            "{head}"
        );
        assert!(
            !head.contains("content-length") && !head.contains("close"),
            "{head}"
        );
        assert!((&mut client.served).await.unwrap());
        let (mut stream, unread) = switched.take().unwrap();
        assert_eq!(unread, "hello");
        stream.write_all(b"there").await.unwrap();
        client.hear("there").await;
    })
    .await;
}

/// What a head is read as, or refused for, does not hang on how it is cut.
#[tokio::test]
async fn a_head_in_two_pieces_is_read_as_in_one() {
    let test = async {
        for (target, answer) in [
            (&b"/caf\xe9"[..], "HTTP/1.1 200"),
            (b"/a b", "a blank"),
            (b"/a\x01b", "a control character"),
        ] {
            let rest = b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            let head = [b"GET ", target, rest].concat();
            for at in 1..head.len() {
                let mut client = Client::of(1024, |_| async { ok("") });
                client.stream.write_all(&head[..at]).await.unwrap();
                // The server reads it.
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
                // It may have refused it already.
                let _ = client.stream.write_all(&head[at..]).await;
                let said = client.hear_all().await;
                assert!(said.contains(answer), "{at} {target:?}: {said}");
            }
        }
    };
    local(test).await;
}
