//! A data thread whose directory knows one service, and its endpoints.

use crate::{
    access_log::Log,
    cap::Cap,
    config::{StaticConfig, StaticEndpoint, StaticService},
    directory::{Directory, fixed},
    inbound::{self, Arrival},
    outbound::serve_connection,
    pool::Limit,
    telemetry::Telemetry,
    thread::{Shared, Thread},
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use linnet_discovery::{EndpointsUpdate, Target, Update};
use linnet_mesh::{
    AppProtocol, Endpoint, Inbound, MtlsMode, ResourceRef, Service, ServicePort,
    destination::{Destination, DestinationPolicy},
    route::{Backend, Filters, HeaderFilters, HttpRoutes, HttpRule},
};
use linnet_runtime::drain;
use linnet_workload::testing::Authority;
use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};
use tokio::net::{TcpListener, TcpStream};

pub(super) const HOST: &str = "payment.default.svc.cluster.local:80";

pub(super) fn key() -> ServicePort {
    ServicePort {
        namespace: "default".into(),
        name: "payment".into(),
        port: 80,
    }
}

pub(super) fn resource() -> Arc<ResourceRef> {
    Arc::new(ResourceRef {
        kind: "VirtualService".into(),
        namespace: "default".into(),
        name: "payment".into(),
    })
}

pub(super) fn rule(filters: Filters) -> HttpRule {
    HttpRule {
        source: resource(),
        position: 0,
        name: None,
        matches: vec![],
        backends: vec![Backend {
            service: key(),
            subset: None,
            weight: 1,
            unresolved: None,
            headers: HeaderFilters::default(),
        }],
        filters,
    }
}

/// A server and the heads of what it was sent.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    pub(super) seen: Rc<RefCell<Vec<(http::request::Parts, Bytes)>>>,
    pub(super) connections: Rc<Cell<usize>>,
}

impl Upstream {
    /// Answers each request, numbered from 0.
    pub(super) async fn start<F, R>(answer: F) -> Self
    where
        F: Fn(usize) -> R + 'static,
        R: Future<Output = Response<Full<Bytes>>> + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, answer).await
    }

    /// The same at an address of the test's own.
    pub(super) async fn on<F, R>(listener: TcpListener, answer: F) -> Self
    where
        F: Fn(usize) -> R + 'static,
        R: Future<Output = Response<Full<Bytes>>> + 'static,
    {
        let address = listener.local_addr().unwrap();
        let seen = Rc::<RefCell<Vec<_>>>::default();
        let (heads, answer) = (seen.clone(), Rc::new(answer));
        let connections = Rc::<Cell<usize>>::default();
        let accepted = connections.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.set(accepted.get() + 1);
                let (heads, answer) = (heads.clone(), answer.clone());
                tokio::task::spawn_local(async move {
                    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                        let (heads, answer) = (heads.clone(), answer.clone());
                        async move {
                            let (head, body) = request.into_parts();
                            let body = body.collect().await.unwrap().to_bytes();
                            heads.borrow_mut().push((head, body));
                            let number = heads.borrow().len() - 1;
                            Ok::<_, Infallible>(answer(number).await)
                        }
                    });
                    let executor = crate::http::LocalExecutor;
                    let server = hyper_util::server::conn::auto::Builder::new(executor);
                    let stream = TokioIo::new(stream);
                    // A test may break the connection on purpose.
                    let _ = server.serve_connection(stream, service).await;
                });
            }
        });
        Self {
            address,
            seen,
            connections,
        }
    }

    pub(super) async fn ok() -> Self {
        Self::start(|_| async { status(200) }).await
    }

    pub(super) fn count(&self) -> usize {
        self.seen.borrow().len()
    }
}

pub(super) fn status(code: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn described(rules: Option<Vec<HttpRule>>, destination: Option<Destination>) -> Update {
    Update::Service(Arc::new(Service {
        key: key(),
        hostname: "payment.default.svc.cluster.local".into(),
        protocol: AppProtocol::Detect,
        http: rules.map(|rules| {
            Arc::new(HttpRoutes {
                sources: vec![resource()],
                rules,
            })
        }),
        tcp: None,
        subsets: vec!["v1".into(), "v2".into()],
        destination: destination.map(Arc::new),
    }))
}

/// A data thread by itself, and what ends it.
fn thread(
    directory: Arc<Directory>,
    workload: linnet_workload::Workload,
    cap: Cap,
) -> (Rc<Thread>, drain::Signal) {
    let (signal, watch) = drain::channel();
    let thread = Thread::new(Shared {
        directory,
        certificates: linnet_workload::Handle::fixed(workload),
        telemetry: Telemetry::new("test"),
        access_log: Log::for_test(1024).0,
        opaque_ports: Arc::default(),
        drain: watch,
        cap,
    });
    (thread, signal)
}

/// A server that sends back what it hears.
pub(super) async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                let (mut reader, mut writer) = stream.split();
                // The other side may cut it.
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    address
}

/// A callee's sidecar before an application.
pub(super) struct Callee {
    pub(super) thread: Rc<Thread>,
    pub(super) address: SocketAddr,
    pub(super) signal: Cell<Option<drain::Signal>>,
    /// Connections that it has accepted.
    pub(super) connections: Rc<Cell<usize>>,
}

impl Callee {
    pub(super) async fn start(authority: &Authority, account: &str, app: SocketAddr) -> Self {
        let workload = authority.workload("default", account);
        Self::with(workload, usize::MAX, app).await
    }

    /// One with so many places for streams.
    pub(super) async fn with(
        workload: linnet_workload::Workload,
        places: usize,
        app: SocketAddr,
    ) -> Self {
        let (directory, commands) = Directory::new(vec![]);
        drop(commands);
        directory.apply(vec![Update::Inbound(Arc::new(Inbound {
            mtls: MtlsMode::Strict,
            ..Inbound::default()
        }))]);
        let (thread, signal) = thread(directory, workload, Cap::new(places));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = thread.clone();
        let connections = Rc::<Cell<usize>>::default();
        let counted = connections.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                counted.set(counted.get() + 1);
                let arrival = Arrival {
                    thread: accepting.clone(),
                    peer,
                    port: app.port(),
                    app,
                    activity: None,
                };
                tokio::task::spawn_local(inbound::serve_connection(arrival, stream));
            }
        });
        Self {
            thread,
            address,
            signal: Cell::new(Some(signal)),
            connections,
        }
    }

    /// Requests that it has answered itself for want of an application.
    pub(super) fn refused(&self) -> usize {
        self.flagged("UF")
    }

    /// Requests that it has denied.
    pub(super) fn denied(&self) -> usize {
        self.flagged("UAEX")
    }

    pub(super) fn flagged(&self, flags: &str) -> usize {
        let text = self.thread.shared.telemetry.render();
        let flags = format!("response_flags=\"{flags}\"");
        let lines = text
            .lines()
            .filter(|line| line.starts_with("istio_requests_total{") && line.contains(&flags));
        let counts = lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap());
        counts.sum::<f64>() as usize
    }

    /// Connections that it has accepted, each of which is turned away.
    pub(super) fn turned_away(&self) -> usize {
        self.connections.get()
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        meshed(self.address)
    }
}

/// An endpoint that must prove to be payment.
pub(super) fn meshed(address: SocketAddr) -> Endpoint {
    let identity = "spiffe://cluster.local/ns/default/sa/payment";
    Endpoint {
        identity: Some(identity.parse().unwrap()),
        ..Endpoint::at(address)
    }
}

/// The caller's sidecar.
pub(super) struct Sidecar {
    pub(super) thread: Rc<Thread>,
    /// Who vouches for it, and for its peers.
    pub(super) authority: Authority,
    _signal: drain::Signal,
}

impl Sidecar {
    pub(super) fn new(rules: Option<Vec<HttpRule>>, endpoints: &[SocketAddr]) -> Self {
        let (directory, commands) = Directory::new(vec![]);
        // Nobody serves them: all there is to know is told here.
        drop(commands);
        let endpoints = endpoints.iter().map(|&address| StaticEndpoint {
            address,
            identity: None,
        });
        let service = StaticService {
            host: HOST.to_owned(),
            endpoints: endpoints.collect(),
        };
        let config = StaticConfig {
            services: vec![service],
            inbound_mtls: MtlsMode::Permissive,
            access_log: Default::default(),
        };
        fixed::fill(&directory, &config);
        directory.apply(vec![described(rules, None)]);
        let authority = Authority::default();
        let workload = authority.workload("default", "checkout");
        let (thread, signal) = thread(directory, workload, Cap::new(usize::MAX));
        Self {
            thread,
            authority,
            _signal: signal,
        }
    }

    /// The same, by a DestinationRule.
    pub(super) fn by(
        policy: DestinationPolicy,
        rules: Option<Vec<HttpRule>>,
        endpoints: &[SocketAddr],
    ) -> Self {
        let sidecar = Self::new(None, endpoints);
        let destination = Destination {
            policy: Arc::new(policy),
            ..Destination::default()
        };
        let update = described(rules, Some(destination));
        sidecar.thread.directory().apply(vec![update]);
        sidecar
    }

    /// Which endpoints are ejected.
    pub(super) fn ejected(&self) -> Vec<SocketAddr> {
        let cell = self.thread.directory().service(&key()).unwrap();
        let states = cell.states(std::time::Instant::now()).into_iter();
        let ejected = states.filter(|state| state.ejected_for.is_some());
        ejected.map(|state| state.endpoint.address).collect()
    }

    /// The controller says something else of the service.
    pub(super) fn told(&self, rules: Option<Vec<HttpRule>>, destination: Option<Destination>) {
        let update = described(rules, destination);
        self.thread.directory().apply(vec![update]);
    }

    /// Without rules, and called like this.
    pub(super) fn called(&self, destination: Destination) {
        let now = self.thread.directory().service(&key());
        let now = now.and_then(|cell| cell.service());
        let rules = now.and_then(|service| service.http.clone());
        self.told(rules.map(|routes| routes.rules.clone()), Some(destination));
    }

    /// Other endpoints, each in a subset.
    pub(super) fn endpoints(&self, endpoints: &[(SocketAddr, &str)]) {
        let endpoint = |&(address, subset): &(SocketAddr, &str)| Endpoint {
            subsets: vec![subset.to_owned()],
            ..Endpoint::at(address)
        };
        self.replace(endpoints.iter().map(endpoint).collect());
    }

    /// One endpoint with a sidecar, whose port may take nothing but mutual TLS.
    pub(super) fn meshed_endpoint(&self, address: SocketAddr, mtls_only: bool) {
        let identity = "spiffe://cluster.local/ns/default/sa/payment";
        self.replace(vec![Endpoint {
            identity: Some(identity.parse().unwrap()),
            mtls_only,
            ..Endpoint::at(address)
        }]);
    }

    pub(super) fn replace(&self, endpoints: Vec<Endpoint>) {
        let update = Update::Endpoints(EndpointsUpdate {
            service: key(),
            replace: true,
            upserts: endpoints.into_iter().map(Arc::new).collect(),
            removed: vec![],
        });
        self.thread.directory().apply(vec![update]);
    }

    /// Of calls to no subset, how many of what is limited are taken.
    pub(super) fn taken(&self, limit: Limit) -> u32 {
        let cell = self.thread.directory().service(&key()).unwrap();
        cell.pools().plan(None).taken(limit)
    }

    /// A connection of the application's to the service.
    pub(super) async fn connect(&self) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let target = Target::Host(HOST.into());
        let serve = serve_connection(self.thread.clone(), accepted.unwrap().0, target, None);
        tokio::task::spawn_local(serve);
        client.unwrap()
    }

    /// One request over a connection of its own, HTTP/1.1.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let io = TokioIo::new(self.connect().await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::task::spawn_local(connection);
        sender.send_request(request).await.unwrap()
    }

    pub(super) async fn send_http2(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let io = TokioIo::new(self.connect().await);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .unwrap();
        tokio::task::spawn_local(connection);
        sender.send_request(request).await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> Response<Incoming> {
        self.send(get(path)).await
    }

    /// The metrics' text.
    pub(super) fn metrics(&self) -> String {
        self.thread.shared.telemetry.render()
    }

    /// Response flags of what has been recorded, once so many are.
    pub(super) async fn flags(&self, requests: usize) -> Vec<String> {
        self.flags_of("istio_requests_total", requests).await
    }

    /// The same by another counter.
    pub(super) async fn flags_of(&self, counter: &str, times: usize) -> Vec<String> {
        loop {
            let text = self.metrics();
            let mut flags = Vec::new();
            for line in text.lines() {
                let labels = line.strip_prefix(counter);
                let Some(labels) = labels.and_then(|labels| labels.strip_prefix('{')) else {
                    continue;
                };
                let flag = labels.split("response_flags=\"").nth(1).unwrap();
                let flag = flag.split('"').next().unwrap().to_owned();
                let counted: f64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
                flags.extend(std::iter::repeat_n(flag, counted as usize));
            }
            if flags.len() >= times {
                flags.sort();
                return flags;
            }
            tokio::task::yield_now().await;
        }
    }
}

pub(super) fn get(path: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().uri(path).header("host", "payment");
    request.body(Full::default()).unwrap()
}

pub(super) async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

pub(super) async fn local(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

/// A server that says this to each connection once it has heard something, and
/// then nothing.
pub(super) async fn raw(says: &'static str) -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.read_u8().await.unwrap();
            stream.write_all(says.as_bytes()).await.unwrap();
            open.push(stream);
        }
    });
    address
}
