//! Sends a request to an endpoint of a backend: the one loop in which endpoints are
//! chosen, asked and judged, for requests and their mirrored copies.
//!
//! An endpoint that can't serve costs a request nothing but the way to the next
//! one, whatever its method and policy ([`Pass`]). What else is sent again, a
//! policy says ([`Retries`]).

use super::{Route, outgoing::Outgoing, retry::Retries};
use crate::{
    balance::{InFlight, Verdict},
    error::Error,
    http::{
        body::Body,
        connection::{self, Answer, Failure, Manner},
        deadline,
        exchange::Exchange,
    },
    outbound::pass::{Goal, Pass},
};
use ::http::{Request, Response, Version, header::SET_COOKIE};
use http_body::Body as _;
use linnet_mesh::route::RetryPolicy;
use std::{rc::Rc, time::Duration};

impl Route {
    /// Sends a request to one endpoint of a backend after the other, as far as pass
    /// and policy go. A mirrored copy has no exchange.
    pub(super) async fn send_to(
        &self,
        goal: &Goal<'_>,
        policy: Option<&RetryPolicy>,
        exchange: Option<&Rc<Exchange>>,
        outgoing: &mut Outgoing,
    ) -> Result<(Answer, InFlight), Error> {
        goal.balancer.budget.earn();
        let mut in_flight = goal.choose(&[], &outgoing.asker(self.source))?;
        if policy.is_some() || in_flight.others > 0 {
            let kept = outgoing.keep().await;
            kept.map_err(|error| caller_fault(exchange).unwrap_or(error))?;
            if in_flight.probes {
                outgoing.hold();
            }
        }
        let mut pass = Pass::default();
        let mut retries = Retries::new(policy, goal);
        loop {
            let request = outgoing.take().ok_or_else(|| Error::Upstream {
                address: in_flight.candidate.endpoint.address,
                reason: "the request's body grew too large to be sent again".to_owned(),
                refused: false,
            })?;
            let manner = Manner {
                others: pass.has_others(&in_flight),
                keep_head: outgoing.needs_head(),
                informs: false,
            };
            if let Some(exchange) = exchange {
                self.place(exchange, &in_flight, Some(goal.balancer));
            }
            let sending = self.transmit(exchange, &in_flight, request, manner);
            let sent = match retries.limit() {
                None => sending.await,
                Some(limit) => Box::pin(retries.within(limit, exchange, sending)).await,
            };
            let wait = match sent {
                Ok(answer) => {
                    let wait = retries.after_answer(&answer, outgoing, &in_flight, exchange);
                    let Some(wait) = wait else {
                        outgoing.forget();
                        return Ok((answer, in_flight));
                    };
                    let verdict = retries.verdict(&answer, exchange);
                    in_flight.answered(verdict, answer.response.headers());
                    in_flight.judge(verdict);
                    pass.note(&in_flight);
                    wait
                }
                Err(mut failure) => {
                    if let Some(error) = caller_fault(exchange) {
                        failure.error = error;
                    }
                    match is_client_slow(&failure.error, exchange) {
                        true => in_flight.excuse(),
                        false => in_flight.failed(&failure.error),
                    }
                    if failure.error.is_overflow() || failure.error.is_caller_fault() {
                        return Err(failure.error);
                    }
                    pass.note(&in_flight);
                    let (unseen, outcome) = (failure.is_unseen(), retries.outcome(&failure));
                    outgoing.take_back(&mut failure);
                    let asker = outgoing.asker(self.source);
                    let unseen = unseen && outgoing.is_whole();
                    if let Some(next) = pass.next(goal, &in_flight, unseen, &asker) {
                        drop(asker);
                        in_flight = next;
                        continue;
                    }
                    drop(asker);
                    match retries.after_failure(&outcome, outgoing, &in_flight, exchange) {
                        Some(wait) => wait,
                        None => {
                            outgoing.forget();
                            return Err(failure.error);
                        }
                    }
                }
            };
            drop(in_flight);
            pause(wait).await;
            in_flight = goal.choose(retries.avoid(&pass), &outgoing.asker(self.source))?;
        }
    }

    pub(super) fn transmit<'a>(
        &'a self,
        exchange: Option<&Rc<Exchange>>,
        in_flight: &'a InFlight,
        mut request: Request<Body>,
        mut manner: Manner,
    ) -> impl Future<Output = Result<Answer, Failure>> + use<'a> {
        if let Some(exchange) = exchange {
            deadline::carry(request.headers_mut(), exchange, deadline::GRACE);
            manner.informs = request.version() == Version::HTTP_11;
        }
        let (tls, connections) = (&self.thread.tls, &in_flight.candidate.connections);
        connection::send(tls, connections, &in_flight.pool, request, manner)
    }
}

/// Returns why a request could not be sent whole, where that is not the endpoint's fault.
pub(super) fn caller_fault(exchange: Option<&Rc<Exchange>>) -> Option<Error> {
    exchange.and_then(|exchange| exchange.request_error())
}

/// Reports whether an attempt took too long because its client did not go on sending.
fn is_client_slow(error: &Error, exchange: Option<&Rc<Exchange>>) -> bool {
    matches!(error, Error::Timeout { .. })
        && exchange.is_some_and(|exchange| exchange.progress.is_client_s_turn())
}

/// Waits before a retry; boxed, for it is rare.
async fn pause(wait: Duration) {
    if !wait.is_zero() {
        Box::pin(tokio::time::sleep(wait)).await;
    }
}

/// A response on its way back to the client.
pub(super) fn accept(
    answer: Answer,
    exchange: &Exchange,
    mut in_flight: InFlight,
) -> Response<Body> {
    // Of gRPC the last word is still to come.
    let verdict = Verdict::of(answer.response.status(), None);
    in_flight.answered(verdict, answer.response.headers());
    if !exchange.is_grpc() {
        match verdict.is_failure() || answer.response.body().is_end_stream() {
            true => in_flight.judge(verdict),
            // It may still break off.
            false => in_flight.judge_at_end(verdict),
        }
    }
    let cookie = in_flight.take_cookie();
    exchange.weigh_on(in_flight.into_load());
    let mut response = answer.into_response(exchange);
    if let Some(cookie) = cookie {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}
