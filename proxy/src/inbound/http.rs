//! The inbound HTTP stack: measure, rescue, upgrade, authorize, and the forward to the
//! application with the caller's verified identity in a header.

use super::{
    Arrival, Caller,
    authorize::{Authorize, AuthorizeLayer},
};
use crate::{
    balance::Candidate,
    detect::Expected,
    error::Error,
    http::{
        Call,
        body::Body,
        connection::{self, Failure, Manner},
        deadline,
        exchange::{Exchange, Sink, Slot},
        found::Found,
        measure::{Measure, MeasureLayer},
        rescue::{Rescue, RescueLayer},
        upgrade::{Upgrade, UpgradeLayer},
    },
    telemetry::RequestProtocol,
};
use ::http::{HeaderName, HeaderValue, Response, Version};
use linnet_runtime::places::Activity;
use std::{
    cell::OnceCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};
use tower::{Service, ServiceBuilder};

/// Envoy's header that carries identities; from the outside it is worth nothing.
static FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// What Envoy's own proxies tell each other; who is not of the mesh can't have been told.
static INTERNAL: [HeaderName; 3] = [
    HeaderName::from_static("x-envoy-internal"),
    HeaderName::from_static("x-envoy-peer-metadata"),
    HeaderName::from_static("x-envoy-peer-metadata-id"),
];

type Stack<U> = Measure<Rescue<Upgrade<Authorize<Forward>>, U>>;

/// The stack for one connection.
pub(super) fn stack(
    arrival: Rc<Arrival>,
    caller: Caller,
    connection: Option<Rc<Activity>>,
) -> Stack<impl Fn(&Exchange) + Clone> {
    let authorize = AuthorizeLayer {
        arrival: arrival.clone(),
        caller: caller.clone(),
        as_bytes: arrival.expected(&arrival.thread.inbound()) == Expected::Bytes,
    };
    let tells_undelivered = matches!(caller, Caller::Verified(_));
    let app = arrival.thread.direct(&arrival.app_endpoint());
    app.connections.declare(arrival.declared());
    let forward = Forward {
        state: Rc::new(State {
            client_cert: client_cert(&arrival, &caller),
            app,
            slots: Slots {
                arrival,
                caller,
                http: OnceCell::new(),
                grpc: OnceCell::new(),
            },
        }),
    };
    let unplaced = {
        let state = forward.state.clone();
        move |exchange: &Exchange| exchange.record_in(state.slots.sink(exchange.protocol))
    };
    ServiceBuilder::new()
        .layer(MeasureLayer { connection })
        .layer(RescueLayer {
            unplaced,
            tells_undelivered,
        })
        .layer(UpgradeLayer)
        .layer(authorize)
        .service(forward)
}

/// `x-forwarded-client-cert` as Envoy writes it.
fn client_cert(arrival: &Arrival, caller: &Caller) -> Option<HeaderValue> {
    let Caller::Verified(peer) = caller else {
        return None;
    };
    let own = arrival.thread.tls.identity()?;
    HeaderValue::from_str(&format!("By={own};URI={}", peer.0)).ok()
}

/// Forwards requests to the application.
#[derive(Clone)]
pub(super) struct Forward {
    state: Rc<State>,
}

struct State {
    client_cert: Option<HeaderValue>,
    app: Rc<Candidate>,
    slots: Slots,
}

/// Where the connection's exchanges are recorded, once the caller's workload is
/// known.
struct Slots {
    arrival: Rc<Arrival>,
    caller: Caller,
    http: OnceCell<Rc<Slot>>,
    grpc: OnceCell<Rc<Slot>>,
}

impl Slots {
    fn sink(&self, protocol: RequestProtocol) -> Sink {
        let cell = match protocol {
            RequestProtocol::Http => &self.http,
            RequestProtocol::Grpc => &self.grpc,
        };
        let slot = cell.get_or_init(|| {
            let slot = Rc::new(Slot::default());
            let (arrival, caller) = (self.arrival.clone(), self.caller.clone());
            let filled = slot.clone();
            tokio::task::spawn_local(async move {
                let source = arrival.source(&caller).await;
                let parties = arrival.parties(&caller, source);
                let series = arrival.thread.shared.telemetry.http(&parties, protocol);
                filled.fill(series, parties);
            });
            slot
        });
        Sink::Slot(slot.clone())
    }
}

impl Service<Call> for Forward {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let state = self.state.clone();
        let exchange = &call.exchange;
        let carried = call.found.has(Found::DEADLINE);
        let asked = || deadline::asked(call.request.headers(), exchange.is_grpc());
        match carried.then(asked).flatten() {
            None => Box::pin(state.send(call)),
            Some(limit) => {
                let exchange = exchange.clone();
                let sending = Box::pin(state.send(call));
                Box::pin(async move { deadline::as_asked(limit, &exchange, sending).await })
            }
        }
    }
}

impl State {
    async fn send(self: Rc<Self>, call: Call) -> Result<Response<Body>, Error> {
        let Call {
            mut request,
            exchange,
            found,
        } = call;
        exchange.record_in(self.slots.sink(exchange.protocol));
        match &self.client_cert {
            Some(value) => {
                let headers = request.headers_mut();
                headers.insert(&FORWARDED_CLIENT_CERT, value.clone());
            }
            None if !found.has(Found::INTERNAL) => {}
            None => {
                let headers = request.headers_mut();
                headers.remove(&FORWARDED_CLIENT_CERT);
                for name in &INTERNAL {
                    headers.remove(name);
                }
            }
        }
        let thread = &self.slots.arrival.thread;
        // There is no other application to choose: nobody asks how fast this one is.
        exchange.weigh_on(self.app.clone().loaded());
        deadline::carry(request.headers_mut(), &exchange, Duration::ZERO);
        let connections = &self.app.connections;
        let manner = Manner {
            informs: request.version() == Version::HTTP_11,
            ..Manner::default()
        };
        let pool = &thread.application;
        let sent = connection::send(&thread.tls, connections, pool, request, manner).await;
        let own = |failure| {
            exchange
                .request_error()
                .unwrap_or_else(|| self.failed(failure))
        };
        let answer = sent.map_err(own)?;
        Ok(answer.into_response(&exchange))
    }

    /// Why the application did not answer.
    fn failed(&self, failure: Failure) -> Error {
        match failure.error {
            // It may have seen the request before it stopped listening.
            Error::Connect { address, source } if failure.resent => Error::Upstream {
                address,
                reason: format!("and then: {source}"),
                refused: false,
            },
            error => error,
        }
    }
}
