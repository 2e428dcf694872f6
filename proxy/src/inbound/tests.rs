//! Policies at work: a caller with an identity, the sidecar's inbound side, and
//! an application that counts what reaches it.

use super::*;
use crate::{
    access_log::{Line, Lines, Log},
    cap::Cap,
    directory::Directory,
    telemetry::Telemetry,
    thread::Shared,
    tls::Tls,
};
use ::http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use linnet_discovery::Update;
use linnet_mesh::{
    Inbound, ResourceRef, SpiffeId,
    authorization::{Action, Match, Operation, Policies, Policy, Rule},
};
use linnet_runtime::drain;
use linnet_workload::testing::Authority;
use std::{cell::Cell, convert::Infallible};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::LocalSet,
};

mod callers;
mod declared;
mod fields;
mod log;
mod open;
mod places;
mod reading;
mod server_name;
mod targets;
mod translation;

/// What a caller speaks through the mesh.
const HTTP1: MeshProtocol = MeshProtocol::Http1;
const OPAQUE: MeshProtocol = MeshProtocol::Opaque;

/// Bytes of the access log that may wait to be read.
const LOG: usize = 64 * 1024;

struct World {
    authority: Authority,
    thread: Rc<Thread>,
    app: SocketAddr,
    /// Connections that the application saw.
    reached: Rc<Cell<usize>>,
    /// The access log.
    lines: Lines,
    _signal: drain::Signal,
}

impl World {
    /// An application that answers HTTP with 200, or sends bytes back.
    async fn start(http: bool) -> Self {
        let authority = Authority::default();
        let own = authority.workload("shop", "db");
        Self::start_as(http, authority, own).await
    }

    /// The same, of a workload that trusts whom it likes.
    async fn start_as(http: bool, authority: Authority, own: linnet_workload::Workload) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = listener.local_addr().unwrap();
        let reached = Rc::<Cell<usize>>::default();
        let count = reached.clone();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.set(count.get() + 1);
                tokio::task::spawn_local(async move {
                    if !http {
                        let (mut reader, mut writer) = stream.split();
                        // The other side may cut it.
                        let _ = tokio::io::copy(&mut reader, &mut writer).await;
                        return;
                    }
                    let service = hyper::service::service_fn(|request: Request<Incoming>| async {
                        // Its sender may go away.
                        let _ = request.into_body().collect().await;
                        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                    });
                    let executor = crate::http::LocalExecutor;
                    let server = hyper_util::server::conn::auto::Builder::new(executor);
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let (directory, commands) = Directory::new(vec![]);
        drop(commands);
        let (signal, watch) = drain::channel();
        let (access_log, lines) = Log::for_test(LOG);
        let thread = Thread::new(Shared {
            directory,
            certificates: linnet_workload::Handle::fixed(own),
            telemetry: Telemetry::new("test"),
            access_log,
            opaque_ports: Arc::default(),
            drain: watch,
            cap: Cap::new(usize::MAX),
        });
        Self {
            authority,
            thread,
            app,
            reached,
            lines,
            _signal: signal,
        }
    }

    fn set(&self, policies: Vec<Policy>) {
        self.set_logged(policies, "denied");
    }

    /// The lines written so far.
    fn lines(&self) -> Vec<Line<'static>> {
        let lines = self.lines.take();
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The one line that there is or will be.
    async fn line(&self) -> Line<'static> {
        loop {
            if let Some(line) = self.lines().pop() {
                return line;
            }
            tokio::task::yield_now().await;
        }
    }

    fn set_logged(&self, policies: Vec<Policy>, log: &str) {
        let authorization = (!policies.is_empty()).then(|| Arc::new(Policies::new(policies)));
        self.thread
            .directory()
            .apply(vec![Update::Inbound(Arc::new(Inbound {
                mtls: MtlsMode::Permissive,
                authorization,
                access_log: log.parse::<AccessLog>().unwrap().into(),
                ..Inbound::default()
            }))]);
    }

    async fn plain(&self) -> TcpStream {
        let (client, stream, peer) = self.accepted().await;
        let arrival = self.arrival(peer, None);
        tokio::task::spawn_local(serve_connection(arrival, stream));
        client
    }

    /// Both ends of a connection that nobody serves yet, and the client's address.
    async fn accepted(&self) -> (TcpStream, TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, peer) = accepted.unwrap();
        (client.unwrap(), stream, peer)
    }

    fn arrival(&self, peer: SocketAddr, activity: Option<Rc<Activity>>) -> Arrival {
        Arrival {
            thread: self.thread.clone(),
            peer,
            port: self.app.port(),
            app: self.app,
            activity,
        }
    }

    async fn mesh(&self, account: &str, protocol: MeshProtocol) -> Stream {
        let own = self.authority.workload("shop", account);
        self.mesh_as(own, protocol).await
    }

    async fn mesh_as(&self, own: linnet_workload::Workload, protocol: MeshProtocol) -> Stream {
        let tls = Tls::new(linnet_workload::Handle::fixed(own), &[]);
        let expected: SpiffeId = "spiffe://cluster.local/ns/shop/sa/db".parse().unwrap();
        let stream = self.plain().await;
        let stream = tls.connect(stream, self.app, &expected, protocol).await;
        Stream::Client(Box::new(stream.unwrap()))
    }

    async fn request(
        &self,
        stream: Stream,
        request: Request<Empty<Bytes>>,
    ) -> (u16, String, String) {
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::task::spawn_local(connection);
        read(sender.send_request(request).await.unwrap()).await
    }
}

/// Status, `grpc-status` and body.
async fn read(response: Response<Incoming>) -> (u16, String, String) {
    let status = response.status().as_u16();
    let grpc = response.headers().get("grpc-status");
    let grpc = grpc.map_or("", |code| code.to_str().unwrap()).to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, grpc, String::from_utf8(body.to_vec()).unwrap())
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(path).header("host", "db");
    request.body(Empty::new()).unwrap()
}

fn policy(action: Action, rules: Vec<Rule>) -> Policy {
    Policy {
        source: ResourceRef {
            kind: "AuthorizationPolicy".into(),
            namespace: "shop".into(),
            name: "p".into(),
        },
        action,
        dry_run: false,
        rules,
    }
}

fn from(account: &str) -> Rule {
    let principal = format!("cluster.local/ns/shop/sa/{account}");
    Rule {
        from: vec![linnet_mesh::authorization::Source {
            principals: Match {
                any: vec![principal.parse().unwrap()],
                none: vec![],
            },
            ..Default::default()
        }],
        ..Rule::default()
    }
}

fn path(path: &str) -> Rule {
    Rule {
        to: vec![Operation {
            paths: Match {
                any: vec![path.parse().unwrap()],
                none: vec![],
            },
            ..Operation::default()
        }],
        ..Rule::default()
    }
}

#[tokio::test]
async fn a_request_without_permission_does_not_reach_the_application() {
    let test = async {
        let world = World::start(true).await;
        world.set(vec![policy(Action::Allow, vec![from("web")])]);
        let denied = world.mesh("frontend", HTTP1).await;
        let (status, _, body) = world.request(denied, get("/")).await;
        assert_eq!(status, 403);
        assert_eq!(body, "RBAC: access denied\nno ALLOW rule matched");
        let plain = Stream::Plain(Rewind::new(Bytes::new(), world.plain().await));
        // Who has no identity is not told what decided.
        let (status, _, body) = world.request(plain, get("/")).await;
        assert_eq!((status, body.as_str()), (403, "RBAC: access denied"));
        assert_eq!(world.reached.get(), 0);
        let allowed = world.mesh("web", HTTP1).await;
        assert_eq!(world.request(allowed, get("/")).await.0, 200);
        assert_eq!(world.reached.get(), 1);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_denial_names_policy_and_rule_and_is_permission_denied_to_grpc() {
    let test = async {
        let world = World::start(true).await;
        world.set(vec![policy(
            Action::Deny,
            vec![from("nobody"), path("/admin*")],
        )]);
        let by = "AuthorizationPolicy shop/p (DENY), spec.rules[1]; a server may read the path as \"/admin\"";
        let stream = world.mesh("web", HTTP1).await;
        let (status, _, body) = world.request(stream, get("/x/%2e%2e/admin")).await;
        assert_eq!((status, body), (403, format!("RBAC: access denied\n{by}")));
        let mut request = get("/admin");
        let grpc = ::http::HeaderValue::from_static("application/grpc");
        request.headers_mut().insert("content-type", grpc);
        let stream = world.mesh("web", HTTP1).await;
        let (status, grpc, body) = world.request(stream, request).await;
        assert_eq!((status, grpc.as_str(), body.as_str()), (200, "7", ""));
        assert_eq!(world.reached.get(), 0);
        let metrics = loop {
            let metrics = world.thread.shared.telemetry.render();
            if metrics.contains("grpc_response_status=\"7\"") {
                break metrics;
            }
            tokio::task::yield_now().await;
        };
        assert!(metrics.contains("response_flags=\"UAEX\""), "{metrics}");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_new_policy_acts_on_the_next_request_of_an_open_connection() {
    let test = async {
        let world = World::start(true).await;
        world.set(vec![]);
        let io = TokioIo::new(world.mesh("web", HTTP1).await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::task::spawn_local(connection);
        for (policies, expected) in [
            (vec![], 200),
            (vec![policy(Action::Deny, vec![from("web")])], 403),
            (vec![policy(Action::Allow, vec![from("web")])], 200),
        ] {
            world.set(policies);
            let response = sender.send_request(get("/")).await.unwrap();
            assert_eq!(read(response).await.0, expected);
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_dry_run_lets_pass() {
    let test = async {
        let world = World::start(true).await;
        let mut dry = policy(Action::Deny, vec![Rule::default()]);
        dry.dry_run = true;
        world.set(vec![dry]);
        let stream = world.mesh("web", HTTP1).await;
        assert_eq!(world.request(stream, get("/")).await.0, 200);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn an_opaque_connection_without_permission_is_closed_before_the_application_sees_it() {
    let test = async {
        let world = World::start(false).await;
        world.set(vec![policy(Action::Allow, vec![from("web")])]);
        let mut denied = world.mesh("frontend", OPAQUE).await;
        denied.write_all(b"hello").await.unwrap();
        let mut answer = Vec::new();
        // An end or a reset, but nothing said.
        let _ = denied.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
        let mut plain = world.plain().await;
        plain.write_all(b"\x00\x01\x02\x03 hello").await.unwrap();
        let _ = plain.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
        assert_eq!(world.reached.get(), 0);
        let metrics = world.thread.shared.telemetry.render();
        assert!(metrics.contains("response_flags=\"UAEX\""), "{metrics}");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn an_open_connection_is_cut_when_a_policy_forbids_it() {
    let test = async {
        let world = World::start(false).await;
        world.set(vec![policy(Action::Allow, vec![from("web")])]);
        let mut stream = world.mesh("web", OPAQUE).await;
        let mut answer = [0; 5];
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        world.set(vec![policy(Action::Allow, vec![from("web"), from("x")])]);
        stream.write_all(b"again").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"again", "still allowed");
        world.set(vec![policy(Action::Allow, vec![from("x")])]);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_request_for_two_hosts_is_refused_where_policies_are() {
    let test = async {
        let world = World::start(true).await;
        let two = || {
            let mut request = get("/");
            let other = ::http::HeaderValue::from_static("other");
            request.headers_mut().append("host", other);
            request
        };
        world.set(vec![policy(Action::Deny, vec![])]);
        let stream = world.mesh("web", HTTP1).await;
        assert_eq!(world.request(stream, two()).await.0, 400);
        assert_eq!(world.reached.get(), 0);
    };
    LocalSet::new().run_until(test).await;
}

/// Slowloris: a head that is sent byte by byte ends the connection, however busy it
/// looks.
#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_end_ends_its_connection() {
    let test = async {
        let world = World::start(true).await;
        world.set(vec![]);
        let mut slow = world.plain().await;
        let begun = tokio::time::Instant::now();
        slow.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let (mut reader, mut writer) = slow.split();
        let trickle = async {
            while writer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        };
        let mut answer = Vec::new();
        tokio::select! {
            () = trickle => {}
            _ = reader.read_to_end(&mut answer) => {}
        }
        let lasted = begun.elapsed();
        let limit = Duration::from_secs(30)..Duration::from_secs(40);
        assert!(limit.contains(&lasted), "{lasted:?}");
    };
    LocalSet::new().run_until(test).await;
}

/// A connection that a client keeps for later is not slow.
#[tokio::test(start_paused = true)]
async fn a_connection_between_requests_is_left_alone() {
    let test = async {
        let world = World::start(true).await;
        world.set(vec![]);
        let stream = Stream::Plain(Rewind::new(Bytes::new(), world.plain().await));
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::task::spawn_local(connection);
        for _ in 0..3 {
            let response = sender.send_request(get("/")).await.unwrap();
            assert_eq!(read(response).await.0, 200);
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
    };
    LocalSet::new().run_until(test).await;
}

/// A request that takes long, or whose body does, is not slow either.
#[tokio::test(start_paused = true)]
async fn a_slow_body_is_left_alone() {
    let test = async {
        let world = World::start(true).await;
        world.set(vec![]);
        let mut stream = world.plain().await;
        let head = b"POST / HTTP/1.1\r\nhost: db\r\ncontent-length: 1000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            stream.write_all(&[b'x'; 100]).await.unwrap();
        }
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    };
    LocalSet::new().run_until(test).await;
}

/// A client that never says what it speaks, a byte at a time, is taken for opaque.
#[tokio::test(start_paused = true)]
async fn a_protocol_that_is_not_told_is_opaque_after_ten_seconds() {
    let test = async {
        let world = World::start(false).await;
        world.set(vec![]);
        let mut slow = world.plain().await;
        let begun = tokio::time::Instant::now();
        let (mut reader, mut writer) = slow.split();
        let trickle = async {
            for _ in 0..20 {
                writer.write_all(b"X").await.unwrap();
                tokio::time::sleep(Duration::from_millis(900)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = trickle => {}
            echo = reader.read_u8() => assert_eq!(echo.unwrap(), b'X'),
        }
        let lasted = begun.elapsed();
        let limit = Duration::from_secs(10)..Duration::from_secs(12);
        assert!(limit.contains(&lasted), "{lasted:?}");
    };
    LocalSet::new().run_until(test).await;
}
