//! The outbound HTTP stack: measure, rescue, upgrade, and at its heart the
//! route, which draws the backend that a request is sent to (`send.rs`).

mod cors;
pub(super) mod filter;
mod mirror;
mod outgoing;
mod retry;
mod send;
#[cfg(test)]
mod tests;

use self::{outgoing::Outgoing, send::accept};
use super::{Destination, destination_service, parties, pass::Goal, unplaced};
use crate::{
    access_log::{Ends, Record, draw_sample},
    balance::{Balancer, InFlight},
    clock,
    error::Error,
    http::{
        Call,
        body::Body,
        connection::Manner,
        deadline,
        exchange::{Exchange, Sink},
        forwarded,
        found::Found,
        measure::{Measure, MeasureLayer},
        rescue::{Rescue, RescueLayer},
        target::Sent,
        upgrade::{Callee, Upgrade, UpgradeLayer},
    },
    thread::Thread,
};
use ::http::{Request, Response, StatusCode, header::HOST};
use http_body::Body as _;
use linnet_discovery::Target;
use linnet_mesh::route::{Backend, HttpRoutes, HttpRule, RequestParts, RetryPolicy};
use linnet_runtime::places::Activity;
use std::{
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};
use tower::{Service, ServiceBuilder};

type Stack<U> = Measure<Rescue<Upgrade<Route>, U>>;

/// The stack for one client connection.
pub(super) fn stack(
    thread: Rc<Thread>,
    destination: Rc<Destination>,
    source: Option<IpAddr>,
    connection: Option<Rc<Activity>>,
) -> Stack<impl Fn(&Exchange) + Clone> {
    let route = Route {
        thread,
        destination,
        source,
    };
    let unplaced = {
        let route = route.clone();
        move |exchange: &Exchange| route.record_unplaced(exchange)
    };
    ServiceBuilder::new()
        .layer(MeasureLayer { connection })
        .layer(RescueLayer {
            unplaced,
            tells_undelivered: false,
        })
        .layer(UpgradeLayer)
        .service(route)
}

/// Sends a request where the destination's routes say.
#[derive(Clone)]
pub(super) struct Route {
    thread: Rc<Thread>,
    destination: Rc<Destination>,
    /// Where the client's connection comes from.
    source: Option<IpAddr>,
}

impl Callee for Route {
    fn host(&self) -> String {
        let on_port = |host: &str, port: u16| match port {
            80 => host.to_owned(),
            _ => format!("{host}:{port}"),
        };
        match self.destination.as_ref() {
            Destination::Service(balancer) => {
                let (cell, key) = (&balancer.cell, &balancer.cell.key);
                let known = cell.service().map(|service| service.hostname.clone());
                let known = known.filter(|host| !host.is_empty());
                let host = known.unwrap_or_else(|| format!("{}.{}", key.name, key.namespace));
                on_port(&host, key.port)
            }
            Destination::Endpoint(candidate) => candidate.endpoint.address.to_string(),
            Destination::External(address) => address.to_string(),
            Destination::Unknown(target) => match target {
                Target::Host(host) => host.strip_suffix(":80").unwrap_or(host).to_owned(),
                Target::Address(address) => address.to_string(),
                Target::Peer(peer) => peer.to_string(),
            },
        }
    }
}

impl Service<Call> for Route {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let route = self.clone();
        let exchange = &call.exchange;
        let carried = call.found.has(Found::DEADLINE);
        let asked = || deadline::asked(call.request.headers(), exchange.is_grpc());
        match carried.then(asked).flatten() {
            None => Box::pin(route.send(call)),
            Some(limit) => {
                let exchange = exchange.clone();
                let sending = Box::pin(route.send(call));
                Box::pin(async move { deadline::as_asked(limit, &exchange, sending).await })
            }
        }
    }
}

impl Route {
    async fn send(self, call: Call) -> Result<Response<Body>, Error> {
        self.note(&call);
        match self.destination.as_ref() {
            Destination::Service(balancer) => {
                let service = balancer.cell.routed();
                match service.as_ref().and_then(|service| service.http.as_ref()) {
                    None => {
                        let goal = Goal {
                            balancer,
                            subset: None,
                            rule: None,
                        };
                        let Call {
                            request, exchange, ..
                        } = call;
                        let mut outgoing = Outgoing::new(request, false);
                        let sent = self.send_to(&goal, None, Some(&exchange), &mut outgoing);
                        let (answer, in_flight) = sent.await?;
                        Ok(accept(answer, &exchange, in_flight))
                    }
                    // What rules can ask for is larger than what most requests need.
                    Some(routes) => Box::pin(self.follow(balancer, routes, call)).await,
                }
            }
            Destination::Endpoint(candidate) => {
                let pool = self.thread.plain.clone();
                let in_flight = InFlight::new(candidate.clone(), pool, clock::instant());
                let Call {
                    request, exchange, ..
                } = call;
                self.place(&exchange, &in_flight, None);
                // Whoever is called by its own address has nobody beside it.
                let manner = Manner::default();
                let sent = self.transmit(Some(&exchange), &in_flight, request, manner);
                match sent.await {
                    Ok(answer) => Ok(accept(answer, &exchange, in_flight)),
                    Err(failure) => {
                        let error = exchange.request_error().unwrap_or(failure.error);
                        in_flight.failed(&error);
                        Err(error)
                    }
                }
            }
            Destination::External(address) => Err(Error::BadRequest(format!(
                "{address} is outside of the mesh and is not looked at"
            ))),
            Destination::Unknown(target) => Err(Error::Discovery(target.clone())),
        }
    }

    /// Does what the rule that matches a request says.
    async fn follow(
        &self,
        balancer: &Rc<Balancer>,
        routes: &HttpRoutes,
        call: Call,
    ) -> Result<Response<Body>, Error> {
        let parts = request_parts(&call.request, authority(&call.request));
        let found = routes.rule(&parts);
        let (_, rule) = found.ok_or_else(|| Error::NoRule {
            service: balancer.cell.key.clone(),
            sources: routes.sources.clone(),
        })?;
        match &rule.filters.cors {
            None => self.obey(rule, call).await,
            Some(cors) => {
                let exchange = call.exchange.clone();
                let (answer, origin) = cors::ask(cors, &call.request);
                if let Some(answer) = answer {
                    self.record_unplaced(&exchange);
                    return Ok(answer);
                }
                let response = Box::pin(self.obey(rule, call)).await;
                self.told(cors, origin, &exchange, response)
            }
        }
    }

    /// Does what a rule says.
    async fn obey(&self, rule: &HttpRule, mut call: Call) -> Result<Response<Body>, Error> {
        if let Some(fault) = &rule.filters.fault {
            Box::pin(filter::inject(fault, rule, &call.exchange)).await?;
        }
        if let Some(answer) = &rule.filters.answer {
            self.record_unplaced(&call.exchange);
            return filter::answer(answer, rule, &call.request);
        }
        let backend = draw(rule)?;
        let found = self.thread.balancer_of(&backend.service);
        let balancer = found.ok_or_else(|| Error::UnresolvedBackend {
            rule: rule.to_string(),
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: format!("the controller has not described {}", backend.service),
        })?;
        filter::request_head(rule, backend, &mut call.request)?;
        for mirror in &rule.filters.mirrors {
            self.mirror(mirror, &mut call.request);
        }
        let subset = backend.subset.as_deref();
        let policy = match &rule.filters.retry {
            None if call.exchange.is_grpc() => Some(&RetryPolicy::DEFAULT),
            own => own.as_ref(),
        };
        let Call {
            request, exchange, ..
        } = call;
        if rule.filters.timeout.is_some() || policy.is_some_and(|p| p.per_try_timeout.is_some()) {
            let whole = request.body().is_end_stream();
            exchange.progress.watch(rule.timed_from(), whole);
        }
        let mut outgoing = Outgoing::new(request, policy.is_some());
        let goal = Goal {
            balancer: &balancer,
            subset,
            rule: Some(rule),
        };
        let sending = async {
            let sent = self.send_to(&goal, policy, Some(&exchange), &mut outgoing);
            let (answer, in_flight) = sent.await?;
            Ok(accept(answer, &exchange, in_flight))
        };
        let sending = pin!(sending);
        let mut response = match rule.filters.timeout {
            None => sending.await?,
            Some(limit) => filter::within(limit, rule, &exchange, sending).await?,
        };
        filter::response_head(rule, backend, response.headers_mut());
        Ok(response)
    }

    /// Decides whether the exchange's end is a line of the access log.
    fn note(&self, call: &Call) {
        let Call {
            request, exchange, ..
        } = call;
        let inbound = self.thread.inbound();
        let log = &inbound.access_log.client;
        if log.writes(false, draw_sample) {
            let to = &self.thread.shared.access_log;
            let source = self.source.map(|ip| SocketAddr::new(ip, 0));
            let record = Record::of_request(to, log, request, authority(request));
            exchange.note(record.called_from(source));
        }
    }

    /// Notes that an exchange went nowhere.
    fn record_unplaced(&self, exchange: &Exchange) {
        let parties = unplaced(&self.thread, self.destination.service());
        let telemetry = &self.thread.shared.telemetry;
        exchange.record_in(Sink::Series(telemetry.http(&parties, exchange.protocol)));
        exchange.note_place(|| Rc::new(Ends::new(parties)), None);
    }

    /// Notes where an exchange went.
    fn place(&self, exchange: &Exchange, in_flight: &InFlight, balancer: Option<&Rc<Balancer>>) {
        let thread = &self.thread;
        let candidate = &in_flight.candidate;
        let own = &thread.own_workload();
        let pool = &in_flight.pool;
        let parties = || {
            let service = balancer.map(|balancer| destination_service(balancer));
            parties(thread, service, &candidate.endpoint, pool)
        };
        let telemetry = &thread.shared.telemetry;
        let series = candidate.series(telemetry, exchange.protocol, own, pool, parties);
        exchange.record_in(Sink::Series(series));
        let upstream = candidate.endpoint.address;
        exchange.note_place(|| candidate.ends(parties), Some(upstream));
        exchange.expect_of(in_flight.blame());
    }
}

fn draw(rule: &HttpRule) -> Result<&Backend, Error> {
    let unresolved = |status: StatusCode, reason: String| Error::UnresolvedBackend {
        rule: rule.to_string(),
        status,
        reason,
    };
    let backend = rule.backend(rand::random()).ok_or_else(|| {
        let reason = "gives every destination weight 0".to_owned();
        unresolved(StatusCode::SERVICE_UNAVAILABLE, reason)
    })?;
    match &backend.unresolved {
        None => Ok(backend),
        Some(known) => Err(unresolved(known.status, known.reason.clone())),
    }
}

pub(crate) fn request_parts<'a, B>(
    request: &'a Request<B>,
    authority: &'a str,
) -> RequestParts<'a> {
    let uri = request.uri();
    let (path, query) = match request.extensions().get::<Sent>() {
        None => (uri.path(), uri.query()),
        Some(sent) => sent.text(uri),
    };
    RequestParts {
        method: request.method(),
        path,
        query: query.unwrap_or_default(),
        authority,
        scheme: forwarded::scheme(request),
        headers: request.headers(),
    }
}

/// HTTP/2 and absolute-form requests name it in the URI, others in `Host`.
pub(crate) fn authority<B>(request: &Request<B>) -> &str {
    let host = || {
        let value = request.headers().get(HOST)?;
        value.to_str().ok()
    };
    match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => host().unwrap_or_default(),
    }
}
