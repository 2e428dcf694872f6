use crate::http::one::client::Connection;
use bytes::Bytes;
use http::{Request, StatusCode, request};
use http_body::{Body, Frame};
use http_body_util::{Full, StreamBody};
use std::{convert::Infallible, future::poll_fn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
};
use tokio_stream::wrappers::UnboundedReceiverStream;

fn post(headers: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::post("/form").header("host", "shop");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

type Sender = mpsc::UnboundedSender<Result<Frame<Bytes>, Infallible>>;

/// A body that is made while it is sent.
fn made() -> (Sender, impl Body<Data = Bytes, Error = Infallible> + Unpin) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (
        sender,
        StreamBody::new(UnboundedReceiverStream::new(receiver)),
    )
}

async fn read_body<B>(connection: &mut Connection<DuplexStream, B>) -> Vec<u8>
where
    B: Body<Data = Bytes, Error = Infallible> + Unpin,
{
    let mut all = Vec::new();
    while let Some(frame) = poll_fn(|context| connection.poll_frame(context)).await {
        all.extend_from_slice(frame.unwrap().data_ref().unwrap());
    }
    all
}

/// All that is sent until it ends like this.
async fn heard(far: &mut DuplexStream, end: &[u8]) -> String {
    let mut said = Vec::new();
    while !said.ends_with(end) {
        said.push(far.read_u8().await.unwrap());
    }
    String::from_utf8(said).unwrap()
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    let (near, mut far) = duplex(64 * 1024);
    let mut connection = Connection::new(near);
    for _ in 0..3 {
        assert!(connection.is_quiet());
        let body = Full::new(Bytes::from_static(b"hello"));
        connection.begin(&post(&[]), body).unwrap();
        let answering = async {
            let head = "POST /form HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\n\r\n";
            assert_eq!(heard(&mut far, b"hello").await, format!("{head}hello"));
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await
                .unwrap();
        };
        let (answer, ()) = tokio::join!(connection.answer(), answering);
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
        assert!(!connection.is_reusable(), "its body has not been read");
        assert_eq!(read_body(&mut connection).await, b"ok");
        assert!(connection.is_reusable());
    }
}

#[tokio::test]
async fn an_idle_connection_that_ends_or_speaks_is_noticed() {
    let (near, far) = duplex(64);
    let mut connection = Connection::<_, Full<Bytes>>::new(near);
    assert!(connection.is_quiet());
    drop(far);
    assert!(!connection.is_quiet());
    let (near, mut far) = duplex(64);
    let mut connection = Connection::<_, Full<Bytes>>::new(near);
    far.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        .await
        .unwrap();
    assert!(!connection.is_quiet());
    assert!(!connection.is_quiet(), "and stays so");
}

/// The server must not find the next request behind half of this one.
#[tokio::test]
async fn an_answer_that_comes_before_its_request_has_been_sent_ends_the_connection() {
    let (near, mut far) = duplex(64 * 1024);
    let mut connection = Connection::new(near);
    let (sender, body) = made();
    connection.begin(&post(&[]), body).unwrap();
    let answering = async {
        heard(&mut far, b"\r\n\r\n").await;
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
    };
    let (answer, ()) = tokio::join!(connection.answer(), answering);
    answer.unwrap();
    assert!(connection.is_ended() && !connection.is_sent() && !connection.is_reusable());
    // It may still want to hear the rest.
    sender
        .send(Ok(Frame::data(Bytes::from_static(b"rest"))))
        .unwrap();
    drop(sender);
    let rest = heard(&mut far, b"0\r\n\r\n");
    let (rest, ()) = tokio::join!(rest, connection.finish());
    assert_eq!(rest, "4\r\nrest\r\n0\r\n\r\n");
}

/// Neither waits for the other to be done: an echo that began at once would stand
/// still otherwise.
#[tokio::test]
async fn bodies_larger_than_the_pipe_go_both_ways() {
    const SIZE: usize = 1024 * 1024;
    let (near, mut far) = duplex(1024);
    let mut connection = Connection::new(near);
    let body: Vec<u8> = (0..SIZE).map(|n| n as u8).collect();
    connection
        .begin(&post(&[]), Full::new(Bytes::from(body.clone())))
        .unwrap();
    let echo = async {
        heard(&mut far, b"\r\n\r\n").await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n");
        far.write_all(head.as_bytes()).await.unwrap();
        let mut part = vec![0; 700];
        let mut left = SIZE;
        while left > 0 {
            let length = far.read(&mut part).await.unwrap();
            far.write_all(&part[..length]).await.unwrap();
            left -= length;
        }
    };
    let calling = async {
        connection.answer().await.unwrap();
        read_body(&mut connection).await
    };
    let (echoed, ()) = tokio::join!(calling, echo);
    assert!(echoed == body);
    assert!(connection.is_reusable());
}

/// Who refuses a request while it is being sent often closes at once.
#[tokio::test]
async fn an_answer_is_heard_although_the_request_is_not_taken() {
    let (near, mut far) = duplex(64);
    let mut connection = Connection::new(near);
    let body = Full::new(Bytes::from(vec![7; 100_000]));
    connection.begin(&post(&[]), body).unwrap();
    let refusing = async {
        far.read_u8().await.unwrap();
        let answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n";
        far.write_all(answer).await.unwrap();
        drop(far);
    };
    let (answer, ()) = tokio::join!(connection.answer(), refusing);
    assert_eq!(answer.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(!connection.is_reusable());
}

#[tokio::test]
async fn no_answer_is_a_hang_up() {
    let (near, mut far) = duplex(1024);
    let mut connection = Connection::new(near);
    connection
        .begin(&post(&[]), Full::new(Bytes::new()))
        .unwrap();
    let leaving = async {
        heard(&mut far, b"\r\n\r\n").await;
        drop(far);
    };
    let (answer, ()) = tokio::join!(connection.answer(), leaving);
    assert!(answer.unwrap_err().is_hang_up());
}

/// What is said and what is sent must be the same, or the server would take the
/// next request for the rest of this one.
#[tokio::test]
async fn a_body_of_another_length_than_said_is_not_sent_on_as_a_whole() {
    for (said, body) in [("9", "short"), ("2", "longer")] {
        let (near, _far) = duplex(1024);
        let mut connection = Connection::new(near);
        let body = Full::new(Bytes::from_static(body.as_bytes()));
        connection
            .begin(&post(&[("content-length", said)]), body)
            .unwrap();
        assert!(connection.answer().await.is_err(), "{said}");
    }
}

#[tokio::test]
async fn trailers_are_sent_announced_or_not_but_what_is_no_trailer() {
    let (near, mut far) = duplex(1024);
    let mut connection = Connection::new(near);
    let (sender, body) = made();
    let trailers = [("x-sum", "1"), ("x-other", "2"), ("host", "other")];
    let trailers = trailers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    sender
        .send(Ok(Frame::data(Bytes::from_static(b"hello"))))
        .unwrap();
    sender
        .send(Ok(Frame::trailers(trailers.into_iter().collect())))
        .unwrap();
    connection
        .begin(&post(&[("trailer", "x-sum, host")]), body)
        .unwrap();
    let answering = async {
        let said = heard(&mut far, b"\r\n\r\n").await + &heard(&mut far, b"\r\n\r\n").await;
        far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .unwrap();
        said
    };
    let (answer, said) = tokio::join!(connection.answer(), answering);
    assert!(
        said.ends_with("5\r\nhello\r\n0\r\nx-sum: 1\r\nx-other: 2\r\n\r\n"),
        "{said}"
    );
    assert_eq!(answer.unwrap().status(), StatusCode::NO_CONTENT);
    assert!(connection.is_reusable());
}

#[tokio::test]
async fn an_upgrade_gives_the_stream_and_what_was_read_of_it() {
    for asks in [true, false] {
        let (near, mut far) = duplex(1024);
        let mut connection = Connection::new(near);
        let headers: &[_] = match asks {
            true => &[("connection", "upgrade"), ("upgrade", "echo")],
            false => &[],
        };
        connection
            .begin(&post(headers), Full::new(Bytes::new()))
            .unwrap();
        let answering = async {
            heard(&mut far, b"\r\n\r\n").await;
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\n\r\nhello";
            far.write_all(answer).await.unwrap();
        };
        let (answer, ()) = tokio::join!(connection.answer(), answering);
        assert_eq!(answer.is_ok(), asks, "nobody asked for it");
        if asks {
            let (mut stream, unread) = connection.into_parts();
            assert_eq!(unread, "hello");
            stream.write_all(b"there").await.unwrap();
            heard(&mut far, b"there").await;
        }
    }
}

/// A client that spoke HTTP/1.0 is served by HTTP/1.1.
#[tokio::test]
async fn a_request_of_http_1_0_is_sent_as_1_1() {
    let (near, mut far) = duplex(64 * 1024);
    let mut connection = Connection::new(near);
    let mut head = post(&[]);
    head.version = http::Version::HTTP_10;
    let body = Full::new(Bytes::from_static(b"hello"));
    connection.begin(&head, body).unwrap();
    let answering = async {
        let said = heard(&mut far, b"hello").await;
        assert!(said.starts_with("POST /form HTTP/1.1\r\n"), "{said}");
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
    };
    let (answer, ()) = tokio::join!(connection.answer(), answering);
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
}
