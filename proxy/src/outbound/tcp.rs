//! Opaque connections: an endpoint is chosen once, then bytes are relayed.

use super::{ConnectionError, Destination, destination_service, open_endpoint, parties, unplaced};
use crate::{
    balance::{Asker, InFlight},
    connect,
    error::Error,
    io::{Rewind, relay as copy},
    stream::Stream,
    telemetry::{Flags, TcpSeries},
    thread::Thread,
};
use bytes::Bytes;
use linnet_mesh::Endpoint;
use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Instant,
};
use tokio::io::AsyncWriteExt;

/// Endpoints tried at most.
const ATTEMPTS: usize = 3;

/// An open upstream connection.
pub(super) struct Upstream {
    pub(super) stream: Stream,
    /// The endpoint; `None` outside of the mesh.
    pub(super) in_flight: Option<InFlight>,
}

/// Opens a connection to one of a destination's endpoints.
pub(super) async fn open(
    thread: &Thread,
    destination: &Destination,
    source: Option<IpAddr>,
) -> Result<Upstream, Error> {
    match destination {
        Destination::Service(balancer) => {
            let mut tried: Vec<SocketAddr> = Vec::new();
            loop {
                let chosen = balancer.choose(None, &tried, &Asker::connection(source));
                let mut in_flight = chosen.ok_or_else(|| Error::NoEndpoint {
                    service: balancer.cell.key.clone(),
                    subset: None,
                })?;
                match open_endpoint(thread, &mut in_flight).await {
                    Ok(stream) => {
                        in_flight.connected();
                        let in_flight = Some(in_flight);
                        return Ok(Upstream { stream, in_flight });
                    }
                    Err(error) if error.is_overflow() => {
                        in_flight.failed(&error);
                        return Err(error);
                    }
                    Err(error) => {
                        in_flight.failed(&error);
                        tried.push(in_flight.candidate.endpoint.address);
                        if tried.len() == ATTEMPTS {
                            return Err(error);
                        }
                    }
                }
            }
        }
        Destination::Endpoint(candidate) => {
            let (candidate, pool) = (candidate.clone(), thread.plain.clone());
            let mut in_flight = InFlight::new(candidate, pool, Instant::now());
            let stream = open_endpoint(thread, &mut in_flight).await?;
            in_flight.connected();
            let in_flight = Some(in_flight);
            Ok(Upstream { stream, in_flight })
        }
        Destination::External(address) => {
            let stream = connect::tcp(*address, &thread.plain.policy.pool).await?;
            let stream = Stream::Plain(Rewind::new(Bytes::new(), stream));
            let in_flight = None;
            Ok(Upstream { stream, in_flight })
        }
        Destination::Unknown(target) => Err(Error::Discovery(target.clone())),
    }
}

/// Relays a client, to the upstream given or a new one.
pub(super) async fn relay(
    thread: &Rc<Thread>,
    destination: &Destination,
    source: Option<IpAddr>,
    client: Stream,
    upstream: Option<Upstream>,
) -> Result<(), ConnectionError> {
    let upstream = match upstream {
        Some(upstream) => Ok(upstream),
        None => open(thread, destination, source).await,
    };
    let upstream = match upstream {
        Ok(upstream) => upstream,
        Err(error) => {
            let series = thread
                .shared
                .telemetry
                .tcp(&unplaced(thread, destination.service()));
            series.opened();
            series.closed(error.flags());
            return Err(error.into());
        }
    };
    relay_greeted(thread, destination, client, Bytes::new(), upstream).await
}

/// Relays a client to a server that has spoken already.
pub(super) async fn relay_greeted(
    thread: &Rc<Thread>,
    destination: &Destination,
    mut client: Stream,
    greeting: Bytes,
    mut upstream: Upstream,
) -> Result<(), ConnectionError> {
    let endpoint = upstream
        .in_flight
        .as_ref()
        .map(|held| &held.candidate.endpoint);
    let series = series(thread, destination, endpoint);
    series.opened();
    let result = async {
        if !greeting.is_empty() {
            client.write_all(&greeting).await?;
            series.received(greeting.len() as u64);
        }
        let sent = |bytes| series.sent(bytes);
        let received = |bytes| series.received(bytes);
        copy(&mut client, &mut upstream.stream, sent, received).await
    }
    .await;
    series.closed(if result.is_ok() {
        Flags::default()
    } else {
        Flags::UC
    });
    Ok(result?)
}

fn series(
    thread: &Thread,
    destination: &Destination,
    endpoint: Option<&Arc<Endpoint>>,
) -> Arc<TcpSeries> {
    let service = match destination {
        Destination::Service(balancer) => Some(destination_service(balancer)),
        _ => None,
    };
    let parties = match endpoint {
        Some(endpoint) => parties(thread, service, endpoint),
        None => unplaced(thread, service),
    };
    thread.shared.telemetry.tcp(&parties)
}
