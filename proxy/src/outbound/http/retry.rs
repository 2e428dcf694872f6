//! Sends a request again, as a rule's policy says and the service's budget
//! allows.
//!
//! Costs a copy of the head and a body that is kept until somebody has
//! answered; a rule without a policy of its own does without for plain HTTP.

use super::{Route, accept};
use crate::{
    balance::{Asker, Balancer, InFlight, Verdict},
    clock,
    error::Error,
    http::{
        Call,
        body::Body,
        connection::{Answer, Failure},
        exchange::Exchange,
        replay::Replay,
    },
    pool::Limit,
    telemetry::Flags,
};
use ::http::{Request, Response, StatusCode, header::RETRY_AFTER};
use http_body::Body as _;
use linnet_mesh::route::{HttpRule, Outcome, RetryPolicy};
use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

/// Whoever asks to be left alone for longer is not asked again: its answer goes
/// to the caller, `retry-after` and all.
const LONGEST_ASKED: Duration = Duration::from_secs(10);

/// Where a request goes, and how it may be sent again.
pub(super) struct Attempts<'a> {
    pub(super) policy: &'a RetryPolicy,
    pub(super) rule: &'a HttpRule,
    pub(super) balancer: &'a Rc<Balancer>,
    pub(super) subset: Option<&'a str>,
}

impl Attempts<'_> {
    pub(super) async fn send(&self, route: &Route, call: Call) -> Result<Response<Body>, Error> {
        let Call {
            request, exchange, ..
        } = call;
        let (head, body) = request.into_parts();
        // Where there is no body, there is nothing to keep.
        let replay = (!body.is_end_stream()).then(|| Replay::new(body));
        let mut tried: Vec<SocketAddr> = Vec::new();
        self.balancer.budget.earn();
        // One of `maxRetries` while a retry is under way.
        let mut _granted = None;
        for retry in 1.. {
            let asker = Asker::head(&head.uri, &head.headers, route.source);
            let in_flight = self.choose(&tried, &asker)?;
            route.place(&exchange, &in_flight, Some(self.balancer));
            let request = Request::from_parts(
                head.clone(),
                replay.as_ref().map_or_else(Body::empty, Replay::body),
            );
            let result = self.attempt(route, &exchange, &in_flight, request).await;
            if let Err((error, _)) = &result
                && error.is_overflow()
            {
                return Err(error.clone());
            }
            let asked = result.as_ref().ok().and_then(asked_to_wait);
            let outcome = match &result {
                Ok(answer) => response(answer, &exchange),
                Err((_, outcome)) => *outcome,
            };
            let too_long = asked.is_some_and(|asked| asked > LONGEST_ASKED);
            let again = !too_long && self.again(retry, &outcome, replay.as_ref(), &exchange);
            let granted = again.then(|| in_flight.pool.take(Limit::Retries));
            match granted {
                Some(Ok(granted)) => _granted = granted,
                refused => {
                    if refused.is_some() {
                        exchange.flag(Flags::UO);
                    }
                    if let Some(replay) = &replay {
                        replay.forget();
                    }
                    return match result {
                        Ok(answer) => Ok(accept(answer, &exchange, in_flight)),
                        Err((error, _)) => {
                            in_flight.failed(&error);
                            Err(error)
                        }
                    };
                }
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
            tokio::time::sleep(wait.max(asked.unwrap_or_default())).await;
        }
        unreachable!("attempts are bounded by the policy")
    }

    fn choose(&self, tried: &[SocketAddr], asker: &Asker<'_>) -> Result<InFlight, Error> {
        let avoid = if self.policy.avoid_tried { tried } else { &[] };
        let chosen = self.balancer.choose(self.subset, avoid, asker);
        chosen.ok_or_else(|| Error::NoEndpoint {
            rule: Some(self.rule.to_string()),
            service: self.balancer.cell.key.clone(),
            subset: self.subset.map(str::to_owned),
        })
    }

    async fn attempt(
        &self,
        route: &Route,
        exchange: &Exchange,
        in_flight: &InFlight,
        request: Request<Body>,
    ) -> Result<Answer, (Error, Outcome)> {
        let sending = route.transmit(exchange, in_flight, request);
        let sent = match self.policy.per_try_timeout {
            None => sending.await,
            Some(limit) => match clock::timeout(limit, sending).await {
                Ok(sent) => sent,
                Err(_) => {
                    let error = Error::Timeout {
                        rule: self.rule.to_string(),
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
    fn again(
        &self,
        retry: u32,
        outcome: &Outcome,
        replay: Option<&Replay>,
        exchange: &Exchange,
    ) -> bool {
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
        replay.is_none_or(Replay::is_whole) && (free || self.balancer.budget.spend(Instant::now()))
    }
}

/// How long an overloaded upstream asks to be left alone (RFC 9110, 10.2.3; a
/// date is not looked at: clocks differ).
fn asked_to_wait(answer: &Answer) -> Option<Duration> {
    let overloaded = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
    ];
    if !overloaded.contains(&answer.response.status()) {
        return None;
    }
    let value = answer.response.headers().get(RETRY_AFTER)?;
    let seconds: u32 = value.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds.into()))
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
