//! A proxy that asks and takes nothing: what the controller keeps for it, and for how
//! long. A process of its own, whose allocations are counted. The clock is paused, and a
//! connection is a task that holds its responses, as a server's connection does.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that panics is a test that fails"
)]

use axum::{Router, body::Body, extract::Request};
use http_body_util::BodyExt;
use linnet_controller::{
    compile::Context,
    discovery::{Admission, Handle, Server, spawn},
    index::Index,
    manifest::parse_yaml,
    source::{self, Change, Sink},
};
use linnet_discovery::{
    limits,
    proto::{self, proxy_message::Kind},
};
use linnet_mesh::TrustDomain;
use linnet_meter::{MIB, allocated, alone};
use linnet_runtime::{
    drain,
    places::Places,
    serve::{Hangup, Peer},
};
use prost::Message;
use std::{convert::Infallible, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{advance, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tower::ServiceExt;

/// Longer than a proxy may take nothing.
const LONG: Duration = Duration::from_secs(90);

/// Runs a test by a clock that is paused, and alone in this process.
fn paused(test: impl Future<Output = ()>) {
    let _alone = alone();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build();
    runtime.unwrap().block_on(test);
}

/// Frames that a proxy takes before it takes nothing more: the first message, and the
/// beginning of the second.
const TAKEN: usize = 2;

struct Controller {
    router: Router,
    handle: Handle,
    sink: Sink,
    places: Places,
    _drain: drain::Signal,
}

/// A stream of a proxy. Its response is with the connection.
struct Stream {
    requests: mpsc::Sender<Result<Vec<u8>, Infallible>>,
    connection: JoinHandle<Option<()>>,
    /// Takes all of the response from now on.
    read: oneshot::Sender<oneshot::Sender<Vec<u8>>>,
}

impl Controller {
    async fn start() -> Self {
        let (sink, events) = source::channel();
        let context = Context {
            cluster_domain: "cluster.local".to_owned(),
        };
        let index = Index::new(context, TrustDomain::default());
        let (handle, _) = spawn(index, events, ());
        let (signal, watch) = drain::channel();
        let server = Server::new(handle.clone(), Admission::AnyIdentity, watch);
        let controller = Self {
            router: server.router(),
            handle,
            sink,
            places: Places::new(1 << 20),
            _drain: signal,
        };
        controller.sink.send(Change::Synced).await.unwrap();
        controller
    }

    async fn apply(&self, yaml: &str) {
        for object in parse_yaml(yaml, "test").unwrap() {
            self.sink.send(Change::Apply(object)).await.unwrap();
        }
    }

    async fn open(&self, pod: &str) -> Stream {
        let (requests, body) = mpsc::channel(16);
        let address = "127.0.0.1:1".parse().unwrap();
        let place = self.places.take([127, 0, 0, 1].into()).unwrap();
        let mut request = Request::new(Body::from_stream(ReceiverStream::new(body)));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = "/linnet.discovery.v1.Discovery/Stream".parse().unwrap();
        request.extensions_mut().insert(Peer {
            address,
            identity: Some("spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()),
        });
        request
            .extensions_mut()
            .insert(Hangup::new(place.activity()));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (read, asked) = oneshot::channel::<oneshot::Sender<Vec<u8>>>();
        let connection = place.hold_by_requests(async move {
            // Whoever takes all but the end of a message has the next one queued behind it.
            let mut body = response.into_body();
            for _ in 0..TAKEN {
                body.frame().await;
            }
            let Ok(reply) = asked.await else {
                let _held = body;
                return std::future::pending().await;
            };
            let all = body.collect().await.unwrap();
            let _ = reply.send(all.to_bytes().to_vec());
        });
        let stream = Stream {
            requests,
            connection: tokio::spawn(connection),
            read,
        };
        stream
            .send(Kind::Hello(proto::Hello {
                pod: pod.to_owned(),
                proxy_version: "test".to_owned(),
            }))
            .await;
        stream
    }

    /// How many streams the controller counts, once it has done what it was asked to.
    async fn streams(&self) -> usize {
        // Sessions and the hub have their turns.
        sleep(Duration::from_millis(10)).await;
        self.handle.proxies().await.unwrap().len()
    }
}

impl Stream {
    async fn send(&self, kind: Kind) {
        let message = proto::ProxyMessage { kind: Some(kind) }.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&[0][..], &length, &message].concat();
        let _ = self.requests.send(Ok(framed)).await;
    }

    /// Asks for as much as one message may.
    async fn ask(&self, number: usize) {
        let targets = (0..limits::TARGETS_OF_MESSAGE).map(|at| {
            let host = format!("{number}-{at}-{}.example:80", "x".repeat(200));
            let kind = Some(proto::target::Kind::Host(host));
            proto::Target { kind }
        });
        let targets = targets.collect();
        self.send(Kind::Subscribe(proto::Targets { targets })).await;
    }
}

/// What proxies that take nothing leave behind is let go, however they come and go.
#[test]
fn streams_that_nobody_reads_are_let_go() {
    paused(async {
        for (what, closes, pods) in [
            ("of one pod, left open", false, 1),
            ("of one pod, closed", true, 1),
            ("of many pods, closed", true, 50),
        ] {
            let controller = Controller::start().await;
            controller.streams().await;
            let before = allocated();
            let (mut held, mut most) = (Vec::new(), 0);
            for number in 0..120 {
                let mut stream = controller.open(&format!("p{}", number % pods)).await;
                controller.streams().await;
                stream.ask(number).await;
                controller.streams().await;
                stream.ask(number + 1000).await;
                controller.streams().await;
                if closes {
                    // The half of a stream that is the proxy's own.
                    stream.requests = mpsc::channel(1).0;
                }
                held.push(stream);
                advance(Duration::from_secs(1)).await;
                most = most.max(allocated().saturating_sub(before));
            }
            println!("{what}: {} KiB at most", most >> 10);
            assert!(most < 12 * MIB, "{what}: {} MiB", most / MIB);
            sleep(LONG).await;
            assert_eq!(controller.streams().await, 0, "{what}");
            let left = allocated().saturating_sub(before);
            assert!(left < MIB, "{what}: {} KiB are left", left >> 10);
            assert!(held.iter().all(|stream| stream.connection.is_finished()));
            assert_eq!(controller.places.taken(), 0);
        }
    });
}

/// A proxy that reads is told all, and its stream stays for as long as it likes.
#[test]
fn a_stream_that_is_read_stays_and_is_told_why_it_ends() {
    paused(async {
        let controller = Controller::start().await;
        let mut stream = controller.open("p").await;
        let (reply, all) = oneshot::channel();
        let read = std::mem::replace(&mut stream.read, oneshot::channel().0);
        read.send(reply).unwrap();
        for number in 0..10 {
            stream.ask(number % 3).await;
            sleep(LONG).await;
            controller.apply(&format!("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{namespace: shop, name: n{number}}}\nspec: {{mtls: {{mode: STRICT}}}}\n")).await;
        }
        assert_eq!(controller.streams().await, 1);
        // It ends, and hears that it has.
        drop(stream.requests);
        let all = timeout(LONG, all).await.unwrap().unwrap();
        assert!(all.len() > 100_000, "{}", all.len());
        assert_eq!(controller.streams().await, 0);
    });
}

/// Pods share what they are told of their policies, also while they take nothing.
#[test]
fn pods_that_take_nothing_share_what_they_are_told() {
    paused(async {
        let controller = Controller::start().await;
        let paths = (0..4000).map(|at| format!("/{at}/{}", "x".repeat(200)));
        let paths = paths.collect::<Vec<_>>().join(", ");
        controller
        .apply(&format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{namespace: shop, name: large}}\n\
             spec: {{rules: [{{to: [{{operation: {{paths: [{paths}]}}}}]}}]}}\n"
        ))
        .await;
        controller.streams().await;
        let before = allocated();
        let mut held = Vec::new();
        for number in 0..100 {
            held.push(controller.open(&format!("p{number}")).await);
            controller.streams().await;
        }
        assert_eq!(controller.streams().await, 100);
        let grown = allocated() - before;
        println!("100 pods: {} KiB", grown >> 10);
        // Encoded, the policy takes 0.85 MB.
        assert!(grown < 4 * MIB, "{} KiB", grown >> 10);
        drop(held);
    });
}
