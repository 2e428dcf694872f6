//! The outbound HTTP stack: measure, rescue, upgrade, and at its heart the
//! route, which sends a request to an endpoint of the backend it draws.

use super::{Destination, destination_service, parties, unplaced};
use crate::{
    balance::{Balancer, InFlight},
    error::Error,
    http::{
        Call,
        connection::{self, Answer, Failure},
        exchange::{Body, Exchange, Sink},
        forwarded,
        measure::{Measure, MeasureLayer},
        rescue::{Rescue, RescueLayer},
        upgrade::{Upgrade, UpgradeLayer},
    },
    thread::Thread,
};
use ::http::{Request, Response, StatusCode, header::HOST};
use linnet_mesh::{
    ServicePort,
    route::{HttpRoutes, RequestParts},
};
use std::{
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};
use tower::{Service, ServiceBuilder};

/// Endpoints tried at most before anything of a request was sent.
const ATTEMPTS: usize = 3;

type Stack<U> = Measure<Rescue<Upgrade<Route>, U>>;

/// The stack for one client connection.
pub(super) fn stack(
    thread: Rc<Thread>,
    destination: Rc<Destination>,
) -> Stack<impl Fn(&Exchange) + Clone> {
    let unplaced = {
        let (thread, destination) = (thread.clone(), destination.clone());
        move |exchange: &Exchange| {
            let parties = unplaced(&thread, destination.service());
            let series = thread.shared.telemetry.http(&parties, exchange.protocol);
            exchange.record_in(Sink::Series(series));
        }
    };
    ServiceBuilder::new()
        .layer(MeasureLayer)
        .layer(RescueLayer { unplaced })
        .layer(UpgradeLayer)
        .service(Route {
            thread,
            destination,
        })
}

/// Sends a request where the destination's routes say.
#[derive(Clone)]
pub(super) struct Route {
    thread: Rc<Thread>,
    destination: Rc<Destination>,
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
        Box::pin(async move { route.send(call).await })
    }
}

/// A backend that was drawn.
struct Drawn {
    balancer: Rc<Balancer>,
    subset: Option<String>,
}

impl Route {
    async fn send(&self, call: Call) -> Result<Response<Body>, Error> {
        match self.destination.as_ref() {
            Destination::Service(balancer) => {
                let drawn = self.draw(balancer, &call.request)?;
                self.send_to_backend(&drawn, call).await
            }
            Destination::Endpoint(candidate) => {
                let in_flight = InFlight::new(candidate.clone(), Instant::now());
                let Call { request, exchange } = call;
                self.place(&exchange, &in_flight, None);
                match connection::send(&self.thread.tls, candidate, request).await {
                    Ok(answer) => Ok(accept(answer, &exchange, in_flight)),
                    Err(failure) => Err(failure.error),
                }
            }
            Destination::External(address) => Err(Error::BadRequest(format!(
                "{address} is outside of the mesh and is not looked at"
            ))),
            Destination::Unknown(target) => Err(Error::Discovery(target.clone())),
        }
    }

    /// The backend that the service's routes draw for a request.
    fn draw(&self, balancer: &Rc<Balancer>, request: &Request<Body>) -> Result<Drawn, Error> {
        let service = balancer.cell.service();
        let Some(routes) = service.as_ref().and_then(|service| service.http.as_ref()) else {
            return Ok(Drawn {
                balancer: balancer.clone(),
                subset: None,
            });
        };
        let backend = draw_backend(routes, &balancer.cell.key, request)?;
        let found = self.thread.balancer_of(&backend.service);
        let balancer = found.ok_or_else(|| Error::UnresolvedBackend {
            source_resource: routes.source.clone(),
            reason: format!("the controller has not described {}", backend.service),
        })?;
        Ok(Drawn {
            balancer,
            subset: backend.subset.clone(),
        })
    }

    async fn send_to_backend(&self, drawn: &Drawn, call: Call) -> Result<Response<Body>, Error> {
        let Call {
            mut request,
            exchange,
        } = call;
        let subset = drawn.subset.as_deref();
        let mut tried: Vec<SocketAddr> = Vec::new();
        loop {
            let chosen = drawn.balancer.choose(subset, &tried);
            let in_flight = chosen.ok_or_else(|| Error::NoEndpoint {
                service: drawn.balancer.cell.key.clone(),
                subset: drawn.subset.clone(),
            })?;
            self.place(&exchange, &in_flight, Some(&drawn.balancer));
            let candidate = in_flight.candidate.clone();
            match connection::send(&self.thread.tls, &candidate, request).await {
                Ok(answer) => return Ok(accept(answer, &exchange, in_flight)),
                Err(Failure { error, unsent }) => {
                    in_flight.failed();
                    tried.push(candidate.endpoint.address);
                    match unsent {
                        Some(unsent) if error.before_sending() && tried.len() < ATTEMPTS => {
                            request = unsent;
                        }
                        _ => return Err(error),
                    }
                }
            }
        }
    }

    /// Notes where an exchange went.
    fn place(&self, exchange: &Exchange, in_flight: &InFlight, balancer: Option<&Rc<Balancer>>) {
        let thread = &self.thread;
        let candidate = &in_flight.candidate;
        let own = &thread.own_workload();
        let series = candidate.series(&thread.shared.telemetry, exchange.protocol, own, || {
            let service = balancer.map(|balancer| destination_service(balancer));
            parties(thread, service, &candidate.endpoint)
        });
        exchange.record_in(Sink::Series(series));
    }
}

fn draw_backend<'a>(
    routes: &'a HttpRoutes,
    service: &ServicePort,
    request: &Request<Body>,
) -> Result<&'a linnet_mesh::route::Backend, Error> {
    let uri = request.uri();
    let parts = RequestParts {
        method: request.method(),
        path: uri.path(),
        authority: authority(request),
        scheme: uri.scheme_str().unwrap_or("http"),
        headers: request.headers(),
    };
    let unresolved = |reason: String| Error::UnresolvedBackend {
        source_resource: routes.source.clone(),
        reason,
    };
    let (position, rule) = routes.rule(&parts).ok_or_else(|| Error::NoRule {
        service: service.clone(),
        source_resource: routes.source.clone(),
    })?;
    let backend = rule
        .backend(rand::random())
        .ok_or_else(|| unresolved(format!("rule {position} gives every destination weight 0")))?;
    match &backend.unresolved {
        None => Ok(backend),
        Some(reason) => Err(unresolved(reason.clone())),
    }
}

/// HTTP/2 and absolute-form requests name it in the URI, others in `Host`.
fn authority(request: &Request<Body>) -> &str {
    let host = || {
        let value = request.headers().get(HOST)?;
        value.to_str().ok()
    };
    match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => host().unwrap_or_default(),
    }
}

/// A response on its way back to the client.
fn accept(answer: Answer, exchange: &Rc<Exchange>, in_flight: InFlight) -> Response<Body> {
    in_flight.answered();
    exchange.hold(in_flight);
    if let Some(lease) = answer.lease {
        exchange.lend(lease);
    }
    let mut response = answer.response.map(Body::incoming);
    let upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let version = response.version();
    forwarded::response_head(response.headers_mut(), version, upgrade);
    response
}
