//! Connections that the workload opens: to whom, what they speak, and on.

mod ending;
mod http;
mod pass;
mod tcp;

pub(crate) use http::{authority, filter::request_head, request_parts};

use crate::{
    balance::{Balancer, Candidate, InFlight},
    connect,
    detect::{Expected, Finding},
    directory::Resolved,
    error::Error,
    http::serve::{HttpVersion, serve},
    io::Rewind,
    pool::{Limit, Plan},
    sniff::{self, Sniffed, sniff},
    stream::{Stream, abort},
    telemetry::{DestinationService, Parties, Reporter},
    thread::{FirstSpeaker, Thread},
};
use bytes::Bytes;
use linnet_discovery::Target;
use linnet_mesh::{AppProtocol, Endpoint, Workload, protocol::MeshProtocol};
use linnet_runtime::places::Activity;
use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpStream, time::Instant};

/// Where a connection leads.
pub(crate) enum Destination {
    Service(Rc<Balancer>),
    Endpoint(Rc<Candidate>),
    /// Not the mesh's business: forwarded as it is.
    External(SocketAddr),
    /// The controller has not said.
    Unknown(Target),
}

/// Serves one connection of the workload.
pub(crate) async fn serve_connection(
    thread: Rc<Thread>,
    client: TcpStream,
    target: Target,
    activity: Option<Rc<Activity>>,
) {
    let resolved = Box::pin(thread.directory().resolve(target.clone())).await;
    let destination = match resolved {
        Some(Resolved::Service(cell)) => Destination::Service(thread.balancer(&cell)),
        Some(Resolved::Endpoint(endpoint)) => Destination::Endpoint(thread.direct(&endpoint)),
        Some(Resolved::External) => match target {
            Target::Address(address) => Destination::External(address),
            Target::Host(_) | Target::Peer(_) => Destination::Unknown(target.clone()),
        },
        Some(Resolved::Peer(_)) | None => Destination::Unknown(target.clone()),
    };
    let connection = Connection {
        thread,
        target,
        source: client.peer_addr().ok().map(|address| address.ip()),
        destination: Rc::new(destination),
        activity,
    };
    if let Err(error) = connection.serve(client).await {
        tracing::debug!(target = %connection.target, %error, "an outbound connection ended early");
    }
}

struct Connection {
    thread: Rc<Thread>,
    target: Target,
    destination: Rc<Destination>,
    /// Where the client's connection comes from.
    source: Option<IpAddr>,
    /// What the connection does, for whoever must give way.
    activity: Option<Rc<Activity>>,
}

impl Connection {
    async fn serve(&self, mut client: TcpStream) -> Result<(), ConnectionError> {
        let known = self.thread.first_speaker(&self.target);
        if known == Some(FirstSpeaker::Server) || self.is_opaque() {
            let client = Stream::Plain(Rewind::new(Bytes::new(), client));
            let (thread, destination) = (&self.thread, &self.destination);
            let facts = self.facts(None);
            return Box::pin(tcp::relay_silent(thread, destination, &facts, client)).await;
        }
        let patience = match known {
            Some(_) => sniff::CLIENT_SPEAKS,
            None => sniff::UNKNOWN,
        };
        let (sniffed, opened) = Box::pin(self.sniff(&mut client, patience)).await?;
        match sniffed {
            Sniffed::Client(finding, bytes, upstream) => {
                self.thread.remember(&self.target, FirstSpeaker::Client);
                let client = Stream::Plain(Rewind::new(bytes, client));
                let version = match finding {
                    Finding::Http1 => HttpVersion::Http1,
                    Finding::Http2 => HttpVersion::Http2,
                    Finding::Tls(hello) => {
                        // What was opened before the name was known may be
                        // another's.
                        let named = hello.server_name.is_some()
                            && tcp::looks_at_server_names(&self.destination);
                        let upstream = upstream.filter(|_| !named);
                        let upstream = opened_upstream(upstream, opened);
                        return Box::pin(self.relay(client, upstream, hello.server_name)).await;
                    }
                    Finding::Opaque => {
                        let upstream = opened_upstream(upstream, opened);
                        return Box::pin(self.relay(client, upstream, None)).await;
                    }
                };
                let (thread, destination) = (self.thread.clone(), self.destination.clone());
                let stack = http::stack(thread, destination, self.source, self.activity.clone());
                let drain = self.thread.shared.drain.clone();
                Box::pin(serve(client, version, stack, drain, false)).await;
                Ok(())
            }
            Sniffed::Server(greeting, stream) => {
                if !greeting.is_empty() {
                    self.thread.remember(&self.target, FirstSpeaker::Server);
                }
                let client = Stream::Plain(Rewind::new(Bytes::new(), client));
                if let Some(upstream) = opened_upstream(Some(stream), opened) {
                    let relayed = {
                        let said = tcp::Said::by_server(greeting);
                        tcp::relay_greeted(&self.thread, client, Ok(said), upstream)
                    };
                    Box::pin(relayed).await?;
                }
                Ok(())
            }
            // Without a mesh the client would be refused, too.
            Sniffed::Unreachable(error) => {
                abort(&client);
                Err(error.into())
            }
            Sniffed::Reset(error) => {
                abort(&client);
                Err(error.into())
            }
            Sniffed::Closed => Ok(()),
        }
    }

    /// Finds out what a client speaks, and opens its upstream while it is silent. One
    /// that is reset meanwhile has no application: the next one is opened.
    async fn sniff(
        &self,
        client: &mut TcpStream,
        mut patience: Duration,
    ) -> Result<(Sniffed, Option<Opened>), ConnectionError> {
        let facts = self.facts(None);
        let mut tries = tcp::Tries::default();
        loop {
            let (mut opened, mut since) = (None, None);
            let open = async {
                if self.declares_http() {
                    // It is the client's to speak.
                    return std::future::pending().await;
                }
                let (thread, destination) = (&self.thread, &self.destination);
                let upstream = tcp::open(thread, destination, &facts, &mut tries).await?;
                since = Some(Instant::now());
                opened = Some((upstream.in_flight, upstream.service));
                Ok(upstream.stream)
            };
            let sniffed = sniff(client, patience, Expected::Anything, open).await?;
            if let (Sniffed::Reset(error), Some((in_flight, _)), Some(since)) =
                (&sniffed, &mut opened, since)
                && tries.reset(in_flight, since, error)
            {
                patience = Duration::ZERO;
                continue;
            }
            return Ok((sniffed, opened));
        }
    }

    /// Whether the service says that its clients speak first.
    fn declares_http(&self) -> bool {
        let Destination::Service(balancer) = self.destination.as_ref() else {
            return false;
        };
        let protocol = balancer.cell.service().map(|service| service.protocol);
        matches!(protocol, Some(AppProtocol::Http1 | AppProtocol::Http2))
    }

    async fn relay(
        &self,
        client: Stream,
        upstream: Option<tcp::Upstream>,
        server_name: Option<String>,
    ) -> Result<(), ConnectionError> {
        tcp::relay(
            &self.thread,
            &self.destination,
            &self.facts(server_name),
            client,
            upstream,
        )
        .await
    }

    fn facts(&self, server_name: Option<String>) -> tcp::Facts {
        let destination = match &self.target {
            Target::Address(address) => Some(address.ip().to_canonical()),
            Target::Host(_) | Target::Peer(_) => None,
        };
        tcp::Facts {
            source: self.source,
            destination,
            server_name,
        }
    }

    fn is_opaque(&self) -> bool {
        let port = match &self.target {
            Target::Address(address) => Some(address.port()),
            Target::Host(host) => host
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse().ok()),
            Target::Peer(_) => None,
        };
        if port.is_some_and(|port| self.thread.shared.opaque_ports.contains(&port)) {
            return true;
        }
        match self.destination.as_ref() {
            Destination::External(_) => true,
            Destination::Service(balancer) => balancer
                .cell
                .service()
                .is_some_and(|service| service.protocol == AppProtocol::Opaque),
            Destination::Endpoint(_) | Destination::Unknown(_) => false,
        }
    }
}

/// What a connection opened ahead counts for: its endpoint and its service.
type Opened = (Option<InFlight>, Option<Rc<Balancer>>);

/// An upstream that was opened while the client was silent.
fn opened_upstream(stream: Option<Stream>, opened: Option<Opened>) -> Option<tcp::Upstream> {
    let (in_flight, service) = opened?;
    Some(tcp::Upstream {
        stream: stream?,
        in_flight,
        service,
    })
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Mesh(#[from] Error),
}

/// Who is on both ends of what this workload sends to an endpoint.
fn parties(
    thread: &Thread,
    service: Option<DestinationService>,
    endpoint: &Endpoint,
    plan: &Plan,
) -> Parties {
    // A DestinationRule may ask for something else than the mesh's own TLS.
    let meshed = plan.policy.tls.is_mesh();
    let identity = endpoint.identity.as_ref().filter(|_| meshed);
    Parties {
        reporter: Reporter::Source,
        source: thread.own_workload(),
        source_principal: identity.and_then(|_| thread.tls.identity()),
        destination: endpoint.workload.clone(),
        destination_principal: identity.cloned(),
        service,
        secured: identity.is_some(),
    }
}

/// The same for what never reached an endpoint.
fn unplaced(thread: &Thread, service: Option<DestinationService>) -> Parties {
    Parties {
        reporter: Reporter::Source,
        source: thread.own_workload(),
        source_principal: None,
        destination: Arc::new(Workload::default()),
        destination_principal: None,
        service,
        secured: false,
    }
}

fn destination_service(balancer: &Balancer) -> DestinationService {
    let key = &balancer.cell.key;
    let hostname = balancer.cell.service().map_or_else(
        || format!("{}.{}", key.name, key.namespace),
        |s| s.hostname.clone(),
    );
    DestinationService {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        hostname: hostname.into(),
    }
}

impl Destination {
    /// The service that telemetry names.
    fn service(&self) -> Option<DestinationService> {
        match self {
            Self::Service(balancer) => Some(destination_service(balancer)),
            Self::Endpoint(_) | Self::External(_) | Self::Unknown(_) => None,
        }
    }
}

/// Opens an opaque connection, which counts as open while it is in flight.
/// `others`: there are endpoints that have not been tried.
async fn open_endpoint(
    thread: &Thread,
    in_flight: &mut InFlight,
    others: bool,
) -> Result<Stream, Error> {
    let pool = in_flight.pool.clone();
    // Who speaks no HTTP can't be told to wait: there is room now, or never.
    let room = pool
        .room()
        .ok_or_else(|| pool.overflow(Limit::Connections))?;
    let endpoint = &in_flight.candidate.endpoint;
    let opening = connect::endpoint(&thread.tls, &pool, endpoint, MeshProtocol::Opaque);
    let (availability, address) = (in_flight.availability(), endpoint.address);
    let stream = connect::watched(availability, others, address, opening).await?;
    in_flight.occupy(room);
    Ok(stream)
}
