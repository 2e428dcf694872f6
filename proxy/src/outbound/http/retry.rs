//! Sends a request again, as a rule's policy says and the service's budget
//! allows.
//!
//! Costs a copy of the head and a body that is kept until somebody has
//! answered; a rule without a policy of its own does without for plain HTTP.

use super::{Route, accept};
use crate::{
    balance::{Asker, Balancer, InFlight, Verdict},
    error::Error,
    http::{
        Call,
        connection::{Answer, Failure},
        exchange::{Body, Exchange},
        replay::Replay,
    },
    telemetry::Flags,
};
use ::http::{Request, Response};
use linnet_mesh::{
    ResourceRef,
    route::{Outcome, RetryPolicy},
};
use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Instant};

/// Where a request goes, and how it may be sent again.
pub(super) struct Attempts<'a> {
    pub(super) policy: &'a RetryPolicy,
    pub(super) source: &'a Arc<ResourceRef>,
    pub(super) balancer: &'a Rc<Balancer>,
    pub(super) subset: Option<&'a str>,
}

impl Attempts<'_> {
    pub(super) async fn send(&self, route: &Route, call: Call) -> Result<Response<Body>, Error> {
        let Call { request, exchange } = call;
        let (head, body) = request.into_parts();
        let replay = Replay::new(body);
        let mut tried: Vec<SocketAddr> = Vec::new();
        self.balancer.budget.earn();
        for retry in 1.. {
            let asker = Asker::head(&head.uri, &head.headers, route.source);
            let in_flight = self.choose(&tried, &asker)?;
            route.place(&exchange, &in_flight, Some(self.balancer));
            let request = Request::from_parts(head.clone(), replay.body());
            let result = self.attempt(route, &in_flight, request).await;
            let outcome = match &result {
                Ok(answer) => response(answer, &exchange),
                Err((_, outcome)) => *outcome,
            };
            if !self.again(retry, &outcome, &replay, &exchange) {
                replay.forget();
                return match result {
                    Ok(answer) => Ok(accept(answer, &exchange, in_flight)),
                    Err((error, _)) => {
                        in_flight.failed(&error);
                        Err(error)
                    }
                };
            }
            match (result, outcome) {
                (Err((error, _)), _) => in_flight.failed(&error),
                (Ok(answer), Outcome::Response { grpc, .. }) => {
                    in_flight.answered();
                    in_flight.judge(Verdict::of(answer.response.status(), grpc));
                }
                (Ok(_), _) => in_flight.answered(),
            }
            tried.push(in_flight.candidate.endpoint.address);
            drop(in_flight);
            let wait = self.policy.wait(retry, rand::random());
            tokio::time::sleep(wait).await;
        }
        unreachable!("attempts are bounded by the policy")
    }

    fn choose(&self, tried: &[SocketAddr], asker: &Asker<'_>) -> Result<InFlight, Error> {
        let avoid = if self.policy.avoid_tried { tried } else { &[] };
        let chosen = self.balancer.choose(self.subset, avoid, asker);
        chosen.ok_or_else(|| Error::NoEndpoint {
            service: self.balancer.cell.key.clone(),
            subset: self.subset.map(str::to_owned),
        })
    }

    async fn attempt(
        &self,
        route: &Route,
        in_flight: &InFlight,
        request: Request<Body>,
    ) -> Result<Answer, (Error, Outcome)> {
        let sending = route.transmit(in_flight, request);
        let sent = match self.policy.per_try_timeout {
            None => sending.await,
            Some(limit) => match tokio::time::timeout(limit, sending).await {
                Ok(sent) => sent,
                Err(_) => {
                    let source_resource = self.source.clone();
                    let error = Error::Timeout {
                        source_resource,
                        limit,
                    };
                    return Err((error, Outcome::TimedOut));
                }
            },
        };
        sent.map_err(|Failure { error, unsent }| {
            let outcome = if error.before_sending() {
                Outcome::ConnectFailure
            } else if unsent.is_some() || error.is_refusal() {
                Outcome::Refused
            } else {
                Outcome::Reset
            };
            (error, outcome)
        })
    }

    /// Whether a retry follows; if so it is paid for.
    fn again(&self, retry: u32, outcome: &Outcome, replay: &Replay, exchange: &Exchange) -> bool {
        let policy = self.policy;
        if policy.attempts == 0 || !policy.retries(outcome) {
            return false;
        }
        if retry > policy.attempts {
            exchange.flag(Flags::URX);
            return false;
        }
        // A connection that does not come about is no request to anybody.
        let free = *outcome == Outcome::ConnectFailure;
        replay.is_whole() && (free || self.balancer.budget.spend(Instant::now()))
    }
}

fn response(answer: &Answer, exchange: &Exchange) -> Outcome {
    let headers = answer.response.headers();
    let grpc = headers
        .get("grpc-status")
        .filter(|_| exchange.is_grpc())
        .and_then(|value| value.to_str().ok()?.parse().ok());
    Outcome::Response {
        status: answer.response.status(),
        grpc,
    }
}
