//! HTTP/2 to an application that takes few streams on a connection.

use super::{
    resilience::policy,
    support::{HOST, Sidecar, get, local},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use linnet_mesh::destination::ConnectionPool;
use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};

/// What waits for so long never comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// An application that holds its answers back.
struct App {
    address: SocketAddr,
    /// Connections that it has accepted.
    accepted: Rc<Cell<usize>>,
    /// Requests that it has at a time, and the most that it had.
    at_once: Rc<Cell<usize>>,
    most: Rc<Cell<usize>>,
    /// A permit for each answer.
    gate: Rc<Semaphore>,
}

impl App {
    /// Takes so many streams a connection, and so many connections.
    async fn start(streams: u32, connections: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = Self {
            address: listener.local_addr().unwrap(),
            accepted: Rc::default(),
            at_once: Rc::default(),
            most: Rc::default(),
            gate: Rc::new(Semaphore::new(0)),
        };
        let accepted = app.accepted.clone();
        let (at_once, most) = (app.at_once.clone(), app.most.clone());
        let gate = app.gate.clone();
        tokio::task::spawn_local(async move {
            for _ in 0..connections {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.set(accepted.get() + 1);
                let (at_once, most, gate) = (at_once.clone(), most.clone(), gate.clone());
                let service = hyper::service::service_fn(move |_: Request<Incoming>| {
                    let (at_once, most, gate) = (at_once.clone(), most.clone(), gate.clone());
                    async move {
                        at_once.set(at_once.get() + 1);
                        most.set(most.get().max(at_once.get()));
                        gate.acquire().await.unwrap().forget();
                        at_once.set(at_once.get() - 1);
                        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                    }
                });
                tokio::task::spawn_local(async move {
                    let mut server =
                        hyper_util::server::conn::auto::Builder::new(crate::http::LocalExecutor);
                    server.http2().max_concurrent_streams(streams);
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        app
    }

    /// Until it has so many requests at a time.
    async fn has(&self, requests: usize) {
        let until = async {
            while self.at_once.get() != requests {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, until).await;
        assert!(waited.is_ok(), "{} requests", self.at_once.get());
    }
}

/// Sends requests over HTTP/2 connections of the application's.
async fn burst(sidecar: &Sidecar, connections: usize, each: usize) -> Vec<JoinHandle<u16>> {
    let mut asked = Vec::new();
    for _ in 0..connections {
        let io = TokioIo::new(sidecar.connect().await);
        let executor = TokioExecutor::new();
        let (sender, connection) = hyper::client::conn::http2::handshake(executor, io)
            .await
            .unwrap();
        tokio::task::spawn_local(connection);
        for _ in 0..each {
            let mut sender = sender.clone();
            asked.push(tokio::task::spawn_local(async move {
                let request =
                    Request::get(format!("http://{HOST}/")).body(Full::<Bytes>::default());
                let response = sender.send_request(request.unwrap()).await.unwrap();
                response.status().as_u16()
            }));
        }
    }
    asked
}

async fn all_are_answered(asked: Vec<JoinHandle<u16>>) {
    for one in asked {
        let status = tokio::time::timeout(PATIENCE, one).await;
        assert_eq!(status.unwrap().unwrap(), 200);
    }
}

fn limited(connections: u32) -> linnet_mesh::destination::Destination {
    policy(ConnectionPool {
        max_connections: Some(connections),
        ..ConnectionPool::DEFAULT
    })
}

#[tokio::test]
async fn streams_beyond_the_peer_s_limit_get_a_further_connection() {
    local(async {
        for (streams, wanted) in [(10, 4), (1, 40), (100, 1)] {
            let app = App::start(streams, usize::MAX).await;
            let sidecar = Sidecar::new(None, &[app.address]);
            let asked = burst(&sidecar, 4, 10).await;
            // All at once, though none is answered yet.
            app.has(40).await;
            assert_eq!(app.accepted.get(), wanted, "by {streams}");
            app.gate.add_permits(80);
            all_are_answered(asked).await;
            // They serve what comes next, too.
            all_are_answered(burst(&sidecar, 4, 10).await).await;
            assert_eq!(app.accepted.get(), wanted, "by {streams}");
        }
    })
    .await;
}

#[tokio::test]
async fn further_connections_are_bounded_and_what_is_beyond_waits() {
    local(async {
        for (policy, streams, connections) in [(Some(2), 5, 2), (Some(1), 5, 1), (None, 1, 64)] {
            let app = App::start(streams, usize::MAX).await;
            let sidecar = Sidecar::new(None, &[app.address]);
            if let Some(most) = policy {
                sidecar.called(limited(most));
            }
            let asked = burst(&sidecar, 4, 20).await;
            let at_once = streams as usize * connections;
            app.has(at_once).await;
            for _ in 0..80 {
                app.gate.add_permits(1);
                tokio::task::yield_now().await;
            }
            all_are_answered(asked).await;
            assert_eq!(app.accepted.get(), connections, "{policy:?}");
            assert_eq!(app.most.get(), at_once, "{policy:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_takes_no_further_connection_goes_on_with_what_it_has() {
    local(async {
        let app = App::start(2, 1).await;
        let sidecar = Sidecar::new(None, &[app.address]);
        let asked = burst(&sidecar, 1, 5).await;
        app.has(2).await;
        app.gate.add_permits(5);
        all_are_answered(asked).await;
        assert_eq!((app.accepted.get(), app.most.get()), (1, 2));
    })
    .await;
}

#[tokio::test]
async fn an_idle_further_connection_makes_room_for_http1() {
    local(async {
        let app = App::start(1, usize::MAX).await;
        let sidecar = Rc::new(Sidecar::new(None, &[app.address]));
        sidecar.called(limited(2));
        let asked = burst(&sidecar, 1, 2).await;
        app.has(2).await;
        app.gate.add_permits(2);
        all_are_answered(asked).await;
        let answers = Rc::<RefCell<Vec<_>>>::default();
        for _ in 0..2 {
            let (sidecar, answers) = (sidecar.clone(), answers.clone());
            tokio::task::spawn_local(async move {
                let response = sidecar.send(get("/")).await;
                answers.borrow_mut().push(response.status());
            });
        }
        app.has(2).await;
        app.gate.add_permits(2);
        app.has(0).await;
    })
    .await;
}
