//! Connections that arrive at the workload: who calls, whether that is allowed,
//! and on to the application.
//!
//! Nothing of a connection reaches the application before its mTLS mode has
//! been satisfied and the workload's policies have allowed the caller.

mod again;
mod authorize;
mod http;
mod reading;
mod refusal;
pub(crate) mod token;

pub(crate) use authorize::Decisions;
use authorize::Verdict;
pub(crate) use refusal::Refusals;

use crate::{
    access_log::{Ends, Record, draw_sample},
    cap::Direction,
    clock::Coarse,
    connect,
    detect::{Expected, Finding},
    error::Error,
    http::serve::{HttpVersion, serve},
    io::{Rewind, watch::RequestLine},
    mux,
    outbound::ConnectionError,
    sniff,
    stream::{Stream, relay, relay_watched},
    telemetry::{DestinationService, Flags, Outcome, Parties, Reporter},
    thread::Thread,
    tls::VerifiedPeer,
};
use bytes::Bytes;
use linnet_mesh::{
    AppProtocol, Endpoint, MtlsMode, ServicePort, Workload, access_log::AccessLog,
    protocol::MeshProtocol,
};
use linnet_runtime::places::Activity;
use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// How long a STRICT port waits for a client's hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection waits for the controller's first word, after a start.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// One connection that arrived.
pub(crate) struct Arrival {
    pub(crate) thread: Rc<Thread>,
    /// The caller's address.
    pub(crate) peer: SocketAddr,
    /// The port that was called; what policies and telemetry go by.
    pub(crate) port: u16,
    /// Where the application listens.
    pub(crate) app: SocketAddr,
    /// What the connection does, for whoever must give way.
    pub(crate) activity: Option<Rc<Activity>>,
}

/// Who is calling.
#[derive(Clone, Debug)]
enum Caller {
    Verified(VerifiedPeer),
    /// In plaintext or TLS of the application's own, with the name that this asks
    /// for: an address is no identity.
    Unknown(Option<Arc<str>>),
}

/// Serves one connection.
pub(crate) async fn serve_connection(arrival: Arrival, client: TcpStream) {
    let arrival = Rc::new(arrival);
    if let Err(error) = arrival.serve(client).await {
        let (peer, port) = (arrival.peer, arrival.port);
        tracing::debug!(%peer, port, %error, "an inbound connection ended early");
    }
}

impl Arrival {
    async fn serve(self: &Rc<Self>, mut client: TcpStream) -> Result<(), ConnectionError> {
        // Before the controller has spoken nobody knows that plaintext is allowed.
        if !self.thread.directory().is_inbound_known() && !self.is_told().await {
            return self.refuse(
                &client,
                "untold",
                "the controller has not said how to be called",
            );
        }
        let (mode, expected) = {
            let inbound = self.thread.directory().inbound();
            (inbound.mode(self.port), self.expected(&inbound))
        };
        match mode {
            MtlsMode::Strict => {
                let reading = sniff::read_finding(&mut client);
                match Box::pin(tokio::time::timeout(HELLO_TIMEOUT, reading)).await {
                    Ok(found) => match found? {
                        Some((Finding::Tls(hello), bytes)) if hello.mesh.is_some() => {
                            self.serve_mesh(Rewind::new(bytes, client), expected).await
                        }
                        Some(_) => self.refuse_plaintext(&client),
                        None => Ok(()),
                    },
                    Err(_) => self.refuse_plaintext(&client),
                }
            }
            MtlsMode::Permissive | MtlsMode::Disable => {
                Box::pin(self.serve_any(client, mode, expected)).await
            }
        }
    }

    /// Waits for the controller's first word; not for ever.
    async fn is_told(&self) -> bool {
        let known = self.thread.directory().inbound_known();
        let known = tokio::time::timeout(KNOWN_TIMEOUT, known);
        Box::pin(known).await.is_ok()
    }

    async fn serve_mesh(
        self: &Rc<Self>,
        client: Rewind<TcpStream>,
        expected: Expected,
    ) -> Result<(), ConnectionError> {
        let accepted = Box::pin(self.thread.tls.accept(client)).await;
        let (stream, peer, protocol) =
            accepted.inspect_err(|error| self.handshake_failed(error))?;
        let caller = Caller::Verified(peer);
        let stream = Stream::Server(Box::new(stream));
        match protocol {
            MeshProtocol::Shared => return Box::pin(self.serve_shared(stream, caller)).await,
            MeshProtocol::Http1 => self.serve_own(stream, HttpVersion::Http1, caller).await,
            MeshProtocol::Http2 => self.serve_own(stream, HttpVersion::Http2, caller).await,
            MeshProtocol::Opaque => {
                return Box::pin(self.serve_opaque(stream, expected, caller)).await;
            }
        }
        Ok(())
    }

    /// Serves each stream of a connection like a connection of its own.
    async fn serve_shared(
        self: &Rc<Self>,
        client: Stream,
        caller: Caller,
    ) -> Result<(), ConnectionError> {
        let shared = &self.thread.shared;
        let accept = |stream: mux::Stream| {
            let Some(place) = shared.cap.take(Direction::Inbound, self.peer.ip()) else {
                stream.refuse();
                return;
            };
            let (arrival, caller) = (self.clone(), caller.clone());
            let activity = Some(Rc::new(place.activity()));
            // The connection is not idle while a stream is open; idle streams go by themselves.
            let open = self.activity.as_ref().map(|connection| connection.begin());
            tokio::task::spawn_local(place.hold(Coarse::new(async move {
                let _open = open;
                let stream = Stream::Shared(stream);
                let version = HttpVersion::Http1;
                arrival.serve_http(stream, version, caller, activity).await;
            })));
        };
        Ok(mux::serve(client, accept, shared.drain.clone()).await?)
    }

    /// Serves requests of the connection itself.
    async fn serve_own(self: &Rc<Self>, client: Stream, version: HttpVersion, caller: Caller) {
        let activity = self.activity.clone();
        self.serve_http(client, version, caller, activity).await;
    }

    /// Serves requests of the connection, or of a stream of it.
    async fn serve_http(
        self: &Rc<Self>,
        client: Stream,
        version: HttpVersion,
        caller: Caller,
        activity: Option<Rc<Activity>>,
    ) {
        let stack = http::stack(self.clone(), caller, activity);
        let drain = self.thread.shared.drain.clone();
        Box::pin(serve(client, version, stack, drain, true)).await;
    }

    async fn relay(
        self: &Rc<Self>,
        mut client: Stream,
        greeting: Bytes,
        upstream: Option<Stream>,
        caller: Caller,
        expected: Expected,
    ) -> Result<(), ConnectionError> {
        let verdict = self.authorize_connection(&caller);
        let mut line = self.line(&verdict);
        if let Some(denied) = verdict.denied {
            self.count_denied(line, &caller).await;
            // A silent one would wait for ever behind a sidecar that hears of a mere end.
            client.break_off();
            return Err(denied.into());
        }
        let mut upstream = match upstream {
            Some(upstream) => upstream,
            // Without a mesh a caller would be refused as well. Its sidecar takes the reset
            // for the word that the application has not seen anything.
            None => self.open().await.inspect_err(|_| client.abort())?,
        };
        let source = self.source(&caller).await;
        let parties = self.parties(&caller, source);
        let series = self.thread.shared.telemetry.tcp(&parties);
        series.opened();
        let (bytes_in, bytes_out) = (Cell::new(0u64), Cell::new(0u64));
        let began = Instant::now();
        let greeted = !greeting.is_empty();
        let relayed = async {
            if !greeting.is_empty() {
                client.write_all(&greeting).await?;
                client.flush().await?;
                series.sent(greeting.len() as u64);
                bytes_out.set(greeting.len() as u64);
            }
            let received = |bytes| {
                bytes_in.set(bytes_in.get() + bytes);
                series.received(bytes);
            };
            let sent = |bytes| {
                bytes_out.set(bytes_out.get() + bytes);
                series.sent(bytes);
            };
            // A server that spoke first, and not as HTTP's do, takes no requests.
            if expected == Expected::PerhapsHttp && !greeted {
                let watched = relay_watched(&mut client, &mut upstream, received, sent);
                return Box::pin(watched).await;
            }
            relay(&mut client, &mut upstream, received, sent).await
        };
        let (flags, result) = tokio::select! {
            result = relayed => match result {
                Ok(()) => (Flags::default(), Ok(())),
                Err(error) if RequestLine::is_cause(&error) => (Flags::DPE, Err(error.into())),
                Err(error) => (Flags::UC, Err(error.into())),
            },
            () = self.is_http_now(expected, greeted) => (Flags::DPE, Ok(())),
            verdict = self.forbidden(&caller) => {
                let cut = self.line(&verdict);
                line = cut.map(|line| line.began_ago(began.elapsed()));
                let end = verdict.denied.map_or(Ok(()), |denied| Err(denied.into()));
                (Flags::UAEX, end)
            }
        };
        if flags != Flags::default() {
            client.break_off();
        }
        series.closed(flags);
        let outcome = Outcome {
            duration: began.elapsed(),
            request_bytes: bytes_in.get(),
            response_bytes: bytes_out.get(),
            ..ended(flags)
        };
        write(line, &parties, &outcome);
        result
    }

    /// Counts and logs a connection that is denied before the application is connected to.
    async fn count_denied(&self, line: Option<Record>, caller: &Caller) {
        let source = self.source(caller).await;
        let parties = self.parties(caller, source);
        let series = self.thread.shared.telemetry.tcp(&parties);
        series.opened();
        series.closed(Flags::UAEX);
        write(line, &parties, &ended(Flags::UAEX));
    }

    /// Opens a connection to the application.
    async fn open(&self) -> Result<Stream, Error> {
        let stream = connect::tcp(self.app, &self.thread.application.policy.pool).await?;
        Ok(Stream::Plain(Rewind::new(Bytes::new(), stream)))
    }

    /// The line that a connection's end is to be, now that it is known what
    /// the policies say.
    fn line(&self, verdict: &Verdict) -> Option<Record> {
        let inbound = self.thread.directory().inbound();
        let log = &inbound.access_log.server;
        let wanted = log.writes(verdict.is_noteworthy(), draw_sample);
        wanted.then(|| self.record(log).decided(verdict.decided.clone()))
    }

    fn record(&self, log: &AccessLog) -> Record {
        Record::of_connection(&self.thread.shared.access_log, log)
            .called_from(Some(self.peer))
            .sent_to(self.app)
    }

    /// The caller's workload: by its address, which the mesh knows, or failing
    /// that by its identity.
    async fn source(&self, caller: &Caller) -> Arc<Workload> {
        let by_address = if is_pod_address(self.peer.ip()) {
            self.thread.directory().peer(self.peer.ip()).await
        } else {
            None
        };
        match (caller, by_address) {
            (Caller::Verified(peer), Some(workload)) if belongs(&workload, peer) => workload,
            (Caller::Verified(peer), _) if peer.is_federated() => {
                Arc::new(Workload::from_federated_identity(&peer.0))
            }
            (Caller::Verified(peer), _) => Arc::new(Workload::from_identity(&peer.0)),
            (Caller::Unknown(_), Some(workload)) => workload,
            (Caller::Unknown(_), None) => Arc::default(),
        }
    }

    fn parties(&self, caller: &Caller, source: Arc<Workload>) -> Parties {
        let inbound = self.thread.directory().inbound();
        let service = inbound
            .port(self.port)
            .and_then(|port| port.services.first())
            .map(destination_service);
        let source_principal = match caller {
            Caller::Verified(peer) => Some(peer.0.clone()),
            Caller::Unknown(_) => None,
        };
        let secured = source_principal.is_some();
        Parties {
            reporter: Reporter::Destination,
            source,
            source_principal,
            destination: self.thread.own_workload(),
            destination_principal: if secured {
                self.thread.tls.identity()
            } else {
                None
            },
            service,
            secured,
        }
    }

    /// What the port that was called declares to speak.
    fn declared(&self) -> AppProtocol {
        let inbound = self.thread.inbound();
        let port = inbound.port(self.port);
        port.map_or(AppProtocol::default(), |port| port.protocol)
    }

    /// The application, as an endpoint without a sidecar.
    fn app_endpoint(&self) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            workload: self.thread.own_workload(),
            ..Endpoint::at(self.app)
        })
    }
}

/// The end of a connection that moved nothing.
fn ended(flags: Flags) -> Outcome {
    Outcome {
        flags,
        ..Outcome::default()
    }
}

fn write(line: Option<Record>, parties: &Parties, outcome: &Outcome) {
    if let Some(line) = line {
        line.write(outcome, false, Some(&Ends::new(parties.clone())));
    }
}

/// Whether an address can be a pod's: on loopback all workloads share one.
fn is_pod_address(ip: IpAddr) -> bool {
    !ip.is_loopback()
}

/// Reports whether a workload known by address, one of this mesh, is the verified peer's.
fn belongs(workload: &Workload, peer: &VerifiedPeer) -> bool {
    !peer.is_federated()
        && workload.namespace == peer.0.namespace()
        && workload.service_account == peer.0.service_account()
}

fn destination_service(key: &ServicePort) -> DestinationService {
    let hostname = format!("{}.{}.svc.cluster.local", key.name, key.namespace);
    DestinationService {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        hostname: hostname.into(),
    }
}

#[cfg(test)]
mod tests;
