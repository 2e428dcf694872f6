//! Whose fault an exchange's end is: each way in which either side may err, at each moment of
//! an exchange, in HTTP/1.1 and HTTP/2. The response flag says it, and of an endpoint only its
//! own failures count.

use super::support::{Sidecar, key, local};
use linnet_discovery::Update;
use linnet_mesh::{
    AppProtocol, Endpoint, Service,
    destination::{Balance, DestinationPolicy, OutlierDetection},
    route::HttpRule,
};
use socket2::SockRef;
use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// Bounds a test that hangs.
const HANGS: Duration = Duration::from_secs(20);

const GET: &str = "GET / HTTP/1.1\r\nhost: payment\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nhost: payment\r\n\r\n";
const CHUNKS: &str =
    "POST / HTTP/1.1\r\nhost: payment\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
const LENGTH: &str = "POST / HTTP/1.1\r\nhost: payment\r\ncontent-length: 10\r\n\r\nhello";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf";

/// What a side does at its moment.
#[derive(Clone, Debug)]
enum Act {
    Fin,
    Rst,
    Says(String),
    Waits,
}

use Act::{Fin, Rst, Waits};

fn says(text: &str) -> Act {
    Act::Says(text.to_owned())
}

/// One exchange: the client says something, the server hears the end of it and says something;
/// then the client acts, and the server after it.
#[derive(Debug)]
struct Case {
    request: &'static str,
    /// The server has heard this before anybody acts.
    heard: &'static str,
    answer: String,
    client: Act,
    server: Act,
    /// How the answer begins that the client gets.
    status: &'static str,
    flag: &'static str,
    failed: bool,
}

/// The client errs.
fn client(request: &'static str, heard: &'static str, answer: &str, client: Act) -> Case {
    Case {
        request,
        heard,
        answer: answer.to_owned(),
        client,
        server: Waits,
        status: "",
        flag: "DC",
        failed: false,
    }
}

/// The server errs.
fn server(request: &'static str, heard: &'static str, answer: &str, server: Act) -> Case {
    Case {
        request,
        heard,
        answer: answer.to_owned(),
        client: Waits,
        server,
        status: "HTTP/1.1 503",
        flag: "UC",
        failed: true,
    }
}

/// Chunked bodies that are none, from a chunk's begin on.
const NO_CHUNKS: [&str; 19] = [
    "+5\r\nhello\r\n",
    "-5\r\nhello\r\n",
    "0x5\r\nhello\r\n",
    "\r\nhello\r\n",
    " 5\r\nhello\r\n",
    "5 x\r\nhello\r\n",
    "5\nhello\r\n",
    "5;a\nb\r\nhello\r\n",
    "5\r\nhello5\r\n",
    "5\r\nhello\n5\r\n",
    "fffffffffffffffff\r\nhello\r\n",
    "g\r\nhello\r\n",
    "0\r\nno trailer\r\n\r\n",
    "0\n\r\n",
    "0\r\n\n",
    "0\r\n\nGET /swallowed HTTP/1.1\r\nhost: payment\r\n\r\n",
    "0\r\nx: y\n\r\n",
    "0\r\nx: y\n\n",
    "0\r\nx: y\nz: a\r\n\r\n",
];

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for act in [Fin, Rst] {
        for upload in [CHUNKS, LENGTH] {
            cases.push(client(upload, "hello", "", act.clone()));
            cases.push(server(upload, "hello", "", act.clone()));
        }
        cases.push(server(GET, "\r\n\r\n", "", act.clone()));
        cases.push(server(HEAD, "\r\n\r\n", "", act.clone()));
        cases.push(server(GET, "\r\n\r\n", "HTTP/1.1 200 O", act.clone()));
        let hints = "HTTP/1.1 103 Early Hints\r\n\r\n";
        cases.push(Case {
            status: "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503",
            ..server(GET, "\r\n\r\n", hints, act.clone())
        });
        for (head, rest) in [
            ("content-length: 8", "half"),
            ("transfer-encoding: chunked", "5\r\nha"),
        ] {
            let half = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{rest}");
            cases.push(Case {
                status: "HTTP/1.1 200",
                ..server(GET, "\r\n\r\n", &half, act.clone())
            });
        }
    }
    cases.push(Case {
        status: "HTTP/1.1 200",
        ..server(GET, "\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nhalf", Rst)
    });
    cases.push(client(GET, "\r\n\r\n", "", Rst));
    cases.push(client(GET, "\r\n\r\n", HALF, Rst));
    // An answer to HEAD is whole without its body.
    cases.push(Case {
        server: says("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n"),
        status: "HTTP/1.1 200",
        flag: "-",
        ..client(HEAD, "\r\n\r\n", "", Waits)
    });
    // Whoever sends no more may hear.
    for (answer, rest) in [("", OK), (HALF, "half")] {
        cases.push(Case {
            server: says(rest),
            status: "HTTP/1.1 200",
            flag: "-",
            ..client(GET, "\r\n\r\n", answer, Fin)
        });
    }
    for chunk in NO_CHUNKS {
        cases.push(Case {
            status: "HTTP/1.1 400",
            flag: "DPE",
            ..client(CHUNKS, "hello", "", says(chunk))
        });
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
        cases.push(Case {
            status: "HTTP/1.1 200",
            flag: "UPE",
            ..server(GET, "\r\n\r\n", chunked, says(chunk))
        });
    }
    // A server's blank there is removed.
    cases.push(Case {
        status: "HTTP/1.1 400",
        flag: "DPE",
        ..client(CHUNKS, "hello", "", says("0\r\nx : y\r\n\r\n"))
    });
    for lengths in ["abc", "-1", "", "1\r\ncontent-length: 2"] {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {lengths}\r\n\r\n");
        cases.push(Case {
            status: "HTTP/1.1 502",
            flag: "UPE",
            ..server(HEAD, "\r\n\r\n", "", says(&head))
        });
    }
    for head in [
        "220 smtp\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\r\n folded\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        &format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(200_000)),
    ] {
        cases.push(Case {
            status: "HTTP/1.1 502",
            flag: "UPE",
            ..server(GET, "\r\n\r\n", "", says(head))
        });
    }
    cases
}

/// Resets a connection.
pub(super) fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
}

async fn act(mut stream: TcpStream, act: &Act) -> Option<TcpStream> {
    match act {
        Fin => stream.shutdown().await.unwrap(),
        Rst => {
            reset(stream);
            return None;
        }
        // The other side may be gone.
        Act::Says(text) => drop(stream.write_all(text.as_bytes()).await),
        Waits => {}
    }
    Some(stream)
}

async fn hear(stream: &mut TcpStream, end: &str) -> String {
    let mut heard = Vec::new();
    while !heard.ends_with(end.as_bytes()) {
        match stream.read_u8().await {
            Ok(byte) => heard.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(heard).unwrap()
}

/// A service of so many endpoints, of which one is ejected as soon as it has failed once.
fn watched(addresses: &[SocketAddr]) -> Sidecar {
    watched_by(addresses, None)
}

/// The same by rules.
pub(super) fn watched_by(addresses: &[SocketAddr], rules: Option<Vec<HttpRule>>) -> Sidecar {
    let policy = DestinationPolicy {
        outlier: Some(OutlierDetection {
            consecutive_5xx: Some(1),
            max_ejection_percent: 100,
            ..OutlierDetection::DEFAULT
        }),
        balance: Balance::Random,
        ..DestinationPolicy::default()
    };
    let sidecar = Sidecar::by(policy, rules, addresses);
    sidecar.replace(addresses.iter().copied().map(Endpoint::at).collect());
    sidecar
}

/// Two moments that the sides wait for.
#[derive(Default)]
struct Moments {
    /// The server has heard and said what it has to.
    begun: Notify,
    /// The client has acted.
    acted: Notify,
}

async fn serve(listener: TcpListener, case: Rc<Case>, moments: Rc<Moments>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    hear(&mut stream, case.heard).await;
    stream.write_all(case.answer.as_bytes()).await.unwrap();
    moments.begun.notify_one();
    moments.acted.notified().await;
    let _held = act(stream, &case.server).await;
    std::future::pending::<()>().await;
}

/// Runs a case with so many endpoints: the answer, its flag, and whether one was ejected.
async fn run(case: Case, endpoints: usize) -> (String, Vec<String>, usize) {
    let (case, moments) = (Rc::new(case), Rc::<Moments>::default());
    let mut addresses = Vec::new();
    for _ in 0..endpoints {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        tokio::task::spawn_local(serve(listener, case.clone(), moments.clone()));
    }
    let sidecar = watched(&addresses);
    let mut client = sidecar.connect().await;
    client.write_all(case.request.as_bytes()).await.unwrap();
    moments.begun.notified().await;
    let mut answer = match case.answer.ends_with("half") {
        true => hear(&mut client, "half").await,
        false => String::new(),
    };
    let client = act(client, &case.client).await;
    moments.acted.notify_one();
    if let Some(mut client) = client {
        let flags = sidecar.flags(1).await;
        let mut rest = Vec::new();
        // The connection goes on after a whole answer.
        match (flags[0].as_str(), &case.server) {
            ("-", Act::Says(text)) => {
                rest = hear(&mut client, &text[text.len() - 2..]).await.into();
            }
            _ if case.status.contains("HTTP/1.1 50") => {
                for _ in case.status.matches("HTTP") {
                    rest.extend(hear(&mut client, "\r\n\r\n").await.into_bytes());
                }
            }
            _ => drop(client.read_to_end(&mut rest).await),
        }
        answer += &String::from_utf8_lossy(&rest);
    }
    let flags = sidecar.flags(1).await;
    (answer, flags, sidecar.ejected().len())
}

#[tokio::test]
async fn over_http_1_each_side_answers_for_its_own_faults() {
    local(async {
        let mut wrong = Vec::new();
        for endpoints in [1, 2] {
            for case in cases() {
                let mut told = format!("{case:?}");
                told.truncate(300);
                let expected = (
                    case.status,
                    case.flag,
                    usize::from(case.failed && endpoints > 1),
                );
                let ran = tokio::time::timeout(HANGS, run(case, endpoints)).await;
                let Ok((answer, flags, ejected)) = ran else {
                    wrong.push(format!("{told}: hangs"));
                    continue;
                };
                let right = answer.starts_with(expected.0)
                    && !(expected.0.is_empty() && !answer.is_empty() && !answer.ends_with("half"));
                if !right || flags != [expected.1] || ejected != expected.2 {
                    let line = answer.lines().next().unwrap_or_default();
                    wrong.push(format!("{told}: {line:?} {flags:?} {ejected}"));
                }
            }
        }
        assert_none(&wrong);
    })
    .await;
}

/// Fails with all cases that went wrong.
fn assert_none(wrong: &[String]) {
    let text = wrong.join("\n");
    assert!(wrong.is_empty(), "{} wrong:\n{text}", wrong.len());
}

/// How one side of an exchange of HTTP/2 errs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errs {
    /// It resets the stream.
    Reset(h2::Reason),
    /// It ends the stream before the length that it said.
    Short,
    /// It ends the connection.
    Connection,
}

/// The moments of an exchange at which a side may err.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Upload,
    Waiting,
    Answer,
}

/// What a server of HTTP/2 is to do with each request: hears one frame of its body, if it has
/// one, begins the answer, if it is to, and errs, if it does.
async fn serve_http2(
    listener: TcpListener,
    when: When,
    errs: Option<Errs>,
    begun: Rc<Notify>,
    whole: Rc<std::cell::Cell<bool>>,
) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let accepted = connection.accept().await.unwrap().unwrap();
    let (request, mut respond) = accepted;
    let serving = async move {
        let mut body = request.into_body();
        if when == When::Upload {
            body.data().await.unwrap().unwrap();
        }
        let mut sending = None;
        if when == When::Answer {
            let head = http::Response::builder().header("content-length", "8");
            let mut stream = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            stream.send_data("half".into(), false).unwrap();
            sending = Some(stream);
        }
        // What was said is on its way before anybody errs.
        tokio::time::sleep(Duration::from_millis(20)).await;
        begun.notify_one();
        match (errs, &mut sending) {
            (Some(Errs::Reset(reason)), Some(stream)) => stream.send_reset(reason),
            (Some(Errs::Reset(reason)), None) => respond.send_reset(reason),
            (Some(Errs::Short), Some(stream)) => stream.send_data("".into(), true).unwrap(),
            (Some(Errs::Connection), _) => return,
            (Some(Errs::Short), None) | (None, _) => {}
        }
        if when == When::Upload {
            whole.set(body.data().await.is_none());
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = serving => {}
        _ = std::future::poll_fn(|context| connection.poll_closed(context)) => {}
    }
}

/// Runs an exchange of HTTP/2: its flag, how many endpoints were ejected, and whether the
/// server took the request for whole.
async fn run_http2(when: When, errs: Errs, client_errs: bool) -> (Vec<String>, usize, bool) {
    let (begun, whole) = (
        Rc::<Notify>::default(),
        Rc::<std::cell::Cell<bool>>::default(),
    );
    let mut addresses = Vec::new();
    for _ in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        let errs = Some(errs).filter(|_| !client_errs);
        let serving = serve_http2(listener, when, errs, begun.clone(), whole.clone());
        tokio::task::spawn_local(serving);
    }
    let sidecar = watched(&addresses);
    let stream = sidecar.connect().await;
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::task::spawn_local(async move { drop(connection.await) });
    let mut request = http::Request::post("http://payment/");
    if when == When::Upload {
        request = request.header("content-length", "10");
    }
    let request = request.body(()).unwrap();
    let (answer, mut body) = sender.send_request(request, when != When::Upload).unwrap();
    if when == When::Upload {
        body.send_data("hello".into(), false).unwrap();
    }
    begun.notified().await;
    let mut answered = None;
    if when == When::Answer {
        let mut answer = answer.await.unwrap().into_body();
        answer.data().await.unwrap().unwrap();
        answered = Some(answer);
    }
    if client_errs {
        match errs {
            Errs::Reset(reason) => body.send_reset(reason),
            Errs::Short => body.send_data("".into(), true).unwrap(),
            Errs::Connection => connection.abort(),
        }
    }
    let flags = sidecar.flags(1).await;
    drop(answered);
    (flags, sidecar.ejected().len(), whole.get())
}

#[tokio::test]
async fn over_http_2_each_side_answers_for_its_own_faults() {
    use h2::Reason;
    let resets = [
        Reason::CANCEL,
        Reason::NO_ERROR,
        Reason::INTERNAL_ERROR,
        Reason::PROTOCOL_ERROR,
    ];
    local(async {
        let mut wrong = Vec::new();
        for client_errs in [true, false] {
            for when in [When::Upload, When::Waiting, When::Answer] {
                let mut ways = resets.map(Errs::Reset).to_vec();
                ways.push(Errs::Connection);
                let said_a_length = match client_errs {
                    true => When::Upload,
                    false => When::Answer,
                };
                ways.extend((when == said_a_length).then_some(Errs::Short));
                for errs in ways {
                    let flag = match (client_errs, errs) {
                        (true, Errs::Short) => "DPE",
                        (true, _) => "DC",
                        (false, Errs::Short) => "UPE",
                        (false, _) => "UC",
                    };
                    let told = format!("{when:?} {errs:?}, by the client: {client_errs}");
                    let running = run_http2(when, errs, client_errs);
                    let Ok(ran) = tokio::time::timeout(HANGS, running).await else {
                        wrong.push(format!("{told}: hangs"));
                        continue;
                    };
                    let (flags, ejected, whole) = ran;
                    if flags != [flag] || ejected != usize::from(!client_errs) || whole {
                        wrong.push(format!("{told}: {flags:?} {ejected} {whole}"));
                    }
                }
            }
        }
        assert_none(&wrong);
    })
    .await;
}

/// A client that goes away is noticed behind what it sent on, too.
#[tokio::test]
async fn a_reset_behind_bytes_of_a_next_request_cancels() {
    local(async {
        for extra in ["", "\r\n", "GET /2 HTTP/1.1\r\nhost: payment\r\n\r\n"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let sidecar = Sidecar::new(None, &[listener.local_addr().unwrap()]);
            let mut client = sidecar.connect().await;
            let request = format!("{GET}{extra}");
            client.write_all(request.as_bytes()).await.unwrap();
            let (mut server, _) = listener.accept().await.unwrap();
            hear(&mut server, "\r\n\r\n").await;
            reset(client);
            let ended = tokio::time::timeout(HANGS, server.read_u8()).await;
            assert!(ended.expect("an end").is_err(), "{extra:?}");
        }
    })
    .await;
}

/// Whoever asks an application of HTTP/2 for a WebSocket errs: it serves others.
#[tokio::test]
async fn a_wish_that_http_2_does_not_have_blames_no_endpoint() {
    local(async {
        let mut addresses = Vec::new();
        for _ in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::task::spawn_local(async move {
                        let Ok(mut connection) = h2::server::handshake(stream).await else {
                            return;
                        };
                        while let Some(Ok((_, mut respond))) = connection.accept().await {
                            let _ = respond.send_response(http::Response::new(()), true);
                        }
                    });
                }
            });
        }
        let sidecar = watched(&addresses);
        let known = sidecar.thread.directory().service(&key()).unwrap();
        let service = Service {
            protocol: AppProtocol::Http2,
            ..(*known.service().unwrap()).clone()
        };
        let update = Update::Service(Arc::new(service));
        sidecar.thread.directory().apply(vec![update]);
        let wish = "GET / HTTP/1.1\r\nhost: payment\r\nconnection: upgrade\r\n\
                    upgrade: websocket\r\n\r\n";
        for (request, status) in [(GET, "200"), (wish, "502"), (GET, "200")] {
            let mut client = sidecar.connect().await;
            client.write_all(request.as_bytes()).await.unwrap();
            let heard = tokio::time::timeout(HANGS, hear(&mut client, "\r\n\r\n")).await;
            let heard = heard.expect("an answer");
            assert!(heard.starts_with(&format!("HTTP/1.1 {status}")), "{heard}");
        }
        sidecar.flags(3).await;
        assert!(sidecar.ejected().is_empty());
    })
    .await;
}
