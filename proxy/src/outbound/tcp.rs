//! Opaque connections: an endpoint is chosen once, then bytes are relayed.

use super::{
    ConnectionError, Destination, destination_service,
    ending::{Moved, over, vanished},
    open_endpoint, parties,
    pass::{Goal, Pass},
    unplaced,
};
use crate::{
    access_log::{Ends, Record, draw_sample},
    balance::{Asker, Balancer, InFlight},
    connect,
    error::Error,
    io::Rewind,
    pool::APPLICATION_TIMEOUT,
    stream::{Stream, relay as copy},
    telemetry::{Flags, Outcome, TcpSeries},
    thread::Thread,
};
use ::http::StatusCode;
use bytes::{Bytes, BytesMut};
use linnet_mesh::route::ConnectionParts;
use std::{fmt::Display, io, net::IpAddr, rc::Rc, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

/// How long after a connection has come about its end may mean that there is no
/// application; an application that accepts it may end it later for its own reasons. The
/// callee's sidecar waits for its application for less.
const AT_ONCE: Duration = APPLICATION_TIMEOUT.saturating_add(Duration::from_secs(1));
/// How long a connection that looks whether an application is back waits for its sidecar to
/// say that it is not.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes of each side that are read before it is known that there is an application.
const FIRST_READ: usize = 2048;

/// An open upstream connection.
pub(super) struct Upstream {
    pub(super) stream: Stream,
    /// The endpoint; `None` outside of the mesh.
    pub(super) in_flight: Option<InFlight>,
    /// The service that a route led to.
    pub(super) service: Option<Rc<Balancer>>,
}

/// What is known of a client's connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Where it comes from.
    pub(super) source: Option<IpAddr>,
    /// The address that it was to go to.
    pub(super) destination: Option<IpAddr>,
    /// The name that a TLS client asks for.
    pub(super) server_name: Option<String>,
}

/// Whether an upstream depends on the name that a TLS client asks for.
pub(super) fn looks_at_server_names(destination: &Destination) -> bool {
    let Destination::Service(balancer) = destination else {
        return false;
    };
    let service = balancer.cell.service();
    let routes = service.as_ref().and_then(|service| service.tcp.as_ref());
    routes.is_some_and(|routes| routes.look_at_server_names())
}

/// Where a connection goes.
struct Routed {
    balancer: Rc<Balancer>,
    subset: Option<String>,
    /// The rule that says so.
    rule: Option<String>,
}

/// Where the routes of a service send a connection: to a service and one of its
/// subsets.
fn route(thread: &Thread, balancer: &Rc<Balancer>, facts: &Facts) -> Result<Routed, Error> {
    let service = balancer.cell.service();
    let parts = ConnectionParts {
        server_name: facts.server_name.as_deref(),
        destination: facts.destination,
    };
    let routes = service.as_ref().and_then(|service| service.tcp.as_ref());
    let Some(rule) = routes.and_then(|routes| routes.rule(&parts)) else {
        return Ok(Routed {
            balancer: balancer.clone(),
            subset: None,
            rule: None,
        });
    };
    let unresolved = |reason: String| Error::UnresolvedBackend {
        rule: rule.to_string(),
        status: StatusCode::SERVICE_UNAVAILABLE,
        reason,
    };
    let backend = rule.backend(rand::random());
    let backend =
        backend.ok_or_else(|| unresolved("gives every destination weight 0".to_owned()))?;
    if let Some(known) = &backend.unresolved {
        return Err(unresolved(known.reason.clone()));
    }
    let found = thread.balancer_of(&backend.service);
    let found = found.ok_or_else(|| {
        unresolved(format!(
            "the controller has not described {}",
            backend.service
        ))
    })?;
    Ok(Routed {
        balancer: found,
        subset: backend.subset.clone(),
        rule: Some(rule.to_string()),
    })
}

/// The endpoints that a client's connection has been to.
#[derive(Default)]
pub(super) struct Tries {
    pass: Pass,
    /// The last of them, whose application accepts none.
    failed: Option<(InFlight, Error)>,
}

impl Tries {
    /// Takes note that a connection broke before a byte went over it. Returns whether to
    /// open another, as its application has not seen it: then [`open`] goes on where it
    /// was.
    pub(super) fn reset(
        &mut self,
        upstream: &mut Option<InFlight>,
        opened: Instant,
        error: &io::Error,
    ) -> bool {
        if opened.elapsed() > AT_ONCE && !refuses_certificate(error) {
            return false;
        }
        let held = upstream.as_ref();
        let Some(error) = held.and_then(|held| held.undelivered(error)) else {
            return false;
        };
        let failed = upstream.take_if(|failed| self.pass.has_others(failed));
        self.failed = failed.map(|failed| (failed, error));
        self.failed.is_some()
    }

    /// Chooses the first endpoint, or the one after that which was reset.
    fn choose(&mut self, goal: &Goal<'_>, asker: &Asker<'_>) -> Result<InFlight, Error> {
        match self.failed.take() {
            None => goal.choose(&[], asker),
            Some((failed, error)) => self.next(goal, &failed, error, asker),
        }
    }

    /// Chooses the endpoint after one that failed.
    fn next(
        &mut self,
        goal: &Goal<'_>,
        failed: &InFlight,
        error: Error,
        asker: &Asker<'_>,
    ) -> Result<InFlight, Error> {
        failed.failed(&error);
        self.pass.note(failed);
        let next = self.pass.next(goal, failed, error.reached_nobody(), asker);
        next.ok_or(error)
    }
}

/// Opens a connection to one of a destination's endpoints.
pub(super) async fn open(
    thread: &Thread,
    destination: &Destination,
    facts: &Facts,
    tries: &mut Tries,
) -> Result<Upstream, Error> {
    match destination {
        Destination::Service(balancer) => {
            let Routed {
                balancer,
                subset,
                rule,
            } = route(thread, balancer, facts)?;
            let goal = Goal {
                balancer: &balancer,
                subset: subset.as_deref(),
                rule: rule.as_ref().map(|rule| rule as &dyn Display),
            };
            let (stream, in_flight) = open_any(thread, &goal, facts, tries).await?;
            Ok(Upstream {
                stream,
                in_flight: Some(in_flight),
                service: Some(balancer),
            })
        }
        Destination::Endpoint(candidate) => {
            let (candidate, pool) = (candidate.clone(), thread.plain.clone());
            let mut in_flight = InFlight::new(candidate, pool, Instant::now().into_std());
            let stream = open_endpoint(thread, &mut in_flight, false).await?;
            in_flight.connected();
            let in_flight = Some(in_flight);
            let service = None;
            Ok(Upstream {
                stream,
                in_flight,
                service,
            })
        }
        Destination::External(address) => {
            let stream = connect::tcp(*address, &thread.plain.policy.pool).await?;
            let stream = Stream::Plain(Rewind::new(Bytes::new(), stream));
            let in_flight = None;
            let service = None;
            Ok(Upstream {
                stream,
                in_flight,
                service,
            })
        }
        Destination::Unknown(target) => Err(Error::Discovery(target.clone())),
    }
}

/// Opens a connection to the first endpoint of a backend that can be had.
async fn open_any(
    thread: &Thread,
    goal: &Goal<'_>,
    facts: &Facts,
    tries: &mut Tries,
) -> Result<(Stream, InFlight), Error> {
    let asker = Asker::connection(facts.source);
    let mut in_flight = tries.choose(goal, &asker)?;
    loop {
        let others = tries.pass.has_others(&in_flight);
        let error = match open_endpoint(thread, &mut in_flight, others).await {
            Ok(stream) => match Box::pin(looked(&in_flight, stream)).await {
                Ok(stream) => {
                    in_flight.connected();
                    return Ok((stream, in_flight));
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        in_flight = tries.next(goal, &in_flight, error, &asker)?;
    }
}

/// Waits, before it is given a client's bytes, whether an endpoint whose application
/// accepted nothing says so again.
async fn looked(in_flight: &InFlight, mut stream: Stream) -> Result<Stream, Error> {
    if !(in_flight.probes && in_flight.availability().is_undelivered()) {
        return Ok(stream);
    }
    let mut said = BytesMut::with_capacity(FIRST_READ);
    let heard = tokio::time::timeout(LOOK, stream.read_buf(&mut said)).await;
    if let Ok(Err(error)) = heard
        && let Some(error) = in_flight.undelivered(&error)
    {
        return Err(error);
    }
    if said.is_empty() {
        return Ok(stream);
    }
    let said = Rewind::new(said.freeze(), stream);
    Ok(Stream::Rewound(Box::new(said)))
}

/// What both sides said before it was known that there is an application.
#[derive(Default)]
pub(super) struct Said {
    client: Bytes,
    server: Bytes,
}

impl Said {
    /// A server's first words.
    pub(super) fn by_server(server: Bytes) -> Self {
        let client = Bytes::new();
        Self { client, server }
    }
}

/// Which side a connection broke on.
enum Broken {
    Client(io::Error),
    Server(io::Error),
}

/// Waits until a side speaks or ends, for as long as it takes an application to accept
/// a connection.
async fn first_words(client: &mut Stream, server: &mut Stream) -> Result<Said, Broken> {
    let mut from_client = BytesMut::with_capacity(FIRST_READ);
    let mut from_server = BytesMut::with_capacity(FIRST_READ);
    let speaking = async {
        tokio::select! {
            biased;
            read = client.read_buf(&mut from_client) => read.map_err(Broken::Client),
            read = server.read_buf(&mut from_server) => read.map_err(Broken::Server),
        }
    };
    // Whoever says nothing for that long is connected.
    if let Ok(spoke) = tokio::time::timeout(AT_ONCE, speaking).await {
        spoke?;
    }
    Ok(Said {
        client: from_client.freeze(),
        server: from_server.freeze(),
    })
}

/// Relays a client that has not said anything yet. As long as neither side has, an
/// application that accepts no connection is passed over.
pub(super) async fn relay_silent(
    thread: &Rc<Thread>,
    destination: &Destination,
    facts: &Facts,
    mut client: Stream,
) -> Result<(), ConnectionError> {
    let mut tries = Tries::default();
    loop {
        let mut upstream = match Box::pin(open(thread, destination, facts, &mut tries)).await {
            Ok(upstream) => upstream,
            Err(error) => return Err(refuse(thread, destination, &client, error)),
        };
        let opened = Instant::now();
        let said = match first_words(&mut client, &mut upstream.stream).await {
            Ok(said) => Ok(said),
            Err(Broken::Server(error)) if is_turned_away(&error) => {
                if tries.reset(&mut upstream.in_flight, opened, &error) {
                    continue;
                }
                Err(error)
            }
            Err(Broken::Client(error) | Broken::Server(error)) => Err(error),
        };
        return relay_greeted(thread, client, said, upstream).await;
    }
}

/// Ends a client's connection that leads nowhere.
fn refuse(
    thread: &Rc<Thread>,
    destination: &Destination,
    client: &Stream,
    error: Error,
) -> ConnectionError {
    client.abort();
    let series = thread
        .shared
        .telemetry
        .tcp(&unplaced(thread, destination.service()));
    series.opened();
    series.closed(error.flags());
    if let Some(mut record) = record(thread) {
        let ends = Ends::new(unplaced(thread, destination.service()));
        record.place(Rc::new(ends), None);
        record.write(
            &Outcome {
                flags: error.flags(),
                ..Outcome::default()
            },
            false,
            None,
        );
    }
    error.into()
}

/// Relays a client, to the upstream given or a new one.
pub(super) async fn relay(
    thread: &Rc<Thread>,
    destination: &Destination,
    facts: &Facts,
    client: Stream,
    upstream: Option<Upstream>,
) -> Result<(), ConnectionError> {
    let mut tries = Tries::default();
    let upstream = match upstream {
        Some(upstream) => Ok(upstream),
        None => Box::pin(open(thread, destination, facts, &mut tries)).await,
    };
    match upstream {
        Ok(upstream) => relay_greeted(thread, client, Ok(Said::default()), upstream).await,
        Err(error) => Err(refuse(thread, destination, &client, error)),
    }
}

/// Relays a client and a server that may have spoken already, or broken off.
pub(super) async fn relay_greeted(
    thread: &Rc<Thread>,
    mut client: Stream,
    said: io::Result<Said>,
    mut upstream: Upstream,
) -> Result<(), ConnectionError> {
    let series = series(
        thread,
        upstream.service.as_deref(),
        upstream.in_flight.as_ref(),
    );
    series.opened();
    let mut record = record(thread);
    if let (Some(record), Some(held)) = (&mut record, &upstream.in_flight) {
        let service = upstream.service.as_deref().map(destination_service);
        let endpoint = &held.candidate.endpoint;
        let parties = parties(thread, service, endpoint, &held.pool);
        record.place(Rc::new(Ends::new(parties)), Some(endpoint.address));
    }
    let moved = Moved::default();
    let began = Instant::now();
    let result = async {
        let ends = (&mut client, &mut upstream.stream);
        let (sent, received) = pass_on(said, ends).await?;
        series.sent(sent);
        series.received(received);
        moved.send(sent);
        moved.receive(received);
        let held = upstream.in_flight.as_ref();
        if let (1.., Some(held)) = (received, held) {
            held.delivered();
        }
        let sent = |bytes| {
            moved.send(bytes);
            series.sent(bytes);
        };
        let received = |bytes| {
            if let (0, Some(held)) = (moved.received(), held) {
                held.delivered();
            }
            moved.receive(bytes);
            series.received(bytes);
        };
        let pool = held.map(|held| held.pool.clone());
        tokio::select! {
            result = copy(&mut client, &mut upstream.stream, sent, received) => {
                result.map(|()| Flags::default())
            }
            flags = over(pool.as_ref().map(|pool| &pool.policy.pool), &moved) => Ok(flags),
            error = Box::pin(vanished(held, &moved)) => Err(error),
        }
    }
    .await;
    if result.is_err() {
        // Who has not failed is to know that the other one did.
        client.abort();
        upstream.stream.abort();
    }
    if let Some(held) = &upstream.in_flight {
        match &result {
            Ok(_) => held.delivered(),
            // The client's bytes are gone, but the next connection goes elsewhere.
            Err(error)
                if moved.received() == 0
                    && (refuses_certificate(error)
                        || began.elapsed() < AT_ONCE && is_unseen(error, &upstream.stream)) =>
            {
                let told = held.undelivered(error);
                told.iter().for_each(|error| held.failed(error));
            }
            Err(_) => {}
        }
    }
    let flags = *result.as_ref().unwrap_or(&Flags::UC);
    series.closed(flags);
    if let Some(record) = record {
        let outcome = Outcome {
            flags,
            duration: began.elapsed(),
            request_bytes: moved.sent(),
            response_bytes: moved.received(),
            ..Outcome::default()
        };
        record.write(&outcome, false, Some(&Ends::new(unplaced(thread, None))));
    }
    result?;
    Ok(())
}

/// Whether the other side may have passed nothing on, of which nothing was sent.
fn is_turned_away(error: &io::Error) -> bool {
    let ended = [io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof];
    ended.contains(&error.kind()) || refuses_certificate(error)
}

/// Whether a sidecar says that it has passed nothing on of what it was sent: it resets a
/// connection that its application did not accept, and no other. Of the client's own reset
/// the upstream has not heard yet.
fn is_unseen(error: &io::Error, upstream: &Stream) -> bool {
    error.kind() == io::ErrorKind::ConnectionReset && upstream.is_reset()
}

/// Whether a sidecar does not let this workload in.
fn refuses_certificate(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Passes on what both sides have said; returns how much of each.
async fn pass_on(
    said: io::Result<Said>,
    (client, server): (&mut Stream, &mut Stream),
) -> io::Result<(u64, u64)> {
    let said = said?;
    if !said.server.is_empty() {
        client.write_all(&said.server).await?;
    }
    if !said.client.is_empty() {
        server.write_all(&said.client).await?;
        server.flush().await?;
    }
    Ok((said.client.len() as u64, said.server.len() as u64))
}

/// The line of the access log that a connection's end is to be.
fn record(thread: &Thread) -> Option<Record> {
    let inbound = thread.directory().inbound();
    let log = &inbound.access_log.client;
    let wanted = log.writes(false, draw_sample);
    wanted.then(|| Record::of_connection(&thread.shared.access_log, log))
}

fn series(
    thread: &Thread,
    service: Option<&Balancer>,
    in_flight: Option<&InFlight>,
) -> Arc<TcpSeries> {
    let service = service.map(destination_service);
    let parties = match in_flight {
        Some(held) => parties(thread, service, &held.candidate.endpoint, &held.pool),
        None => unplaced(thread, service),
    };
    thread.shared.telemetry.tcp(&parties)
}
