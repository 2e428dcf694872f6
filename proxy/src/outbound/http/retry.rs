//! Retries after an answer or a failure, as a rule's policy says and the service's
//! budget allows.

use super::outgoing::Outgoing;
use crate::{
    balance::{InFlight, Verdict},
    clock,
    error::Error,
    http::{
        connection::{Answer, Failure},
        deadline::End,
        exchange::Exchange,
    },
    outbound::pass::{Goal, Pass},
    pool::{Limit, Slot},
    telemetry::Flags,
};
use ::http::{StatusCode, header::RETRY_AFTER};
use linnet_mesh::route::{Outcome, RetryPolicy};
use std::{future::poll_fn, net::SocketAddr, rc::Rc, time::Duration};

/// Whoever asks to be left alone for longer is not asked again: its answer goes
/// to the caller, `retry-after` and all.
const LONGEST_ASKED: Duration = Duration::from_secs(10);

/// The retries of one request.
pub(super) struct Retries<'a> {
    policy: Option<&'a RetryPolicy>,
    goal: &'a Goal<'a>,
    /// Retries that have been sent.
    sent: u32,
    /// One of `maxRetries` while a retry is under way.
    granted: Option<Slot>,
}

impl<'a> Retries<'a> {
    /// Of a request to a backend; without a policy there are none.
    pub(super) fn new(policy: Option<&'a RetryPolicy>, goal: &'a Goal<'a>) -> Self {
        Self {
            policy,
            goal,
            sent: 0,
            granted: None,
        }
    }

    /// How long one attempt may take to the head of its answer.
    pub(super) fn limit(&self) -> Option<Duration> {
        self.policy.and_then(|policy| policy.per_try_timeout)
    }

    /// Gives an attempt so long.
    pub(super) async fn within(
        &self,
        limit: Duration,
        exchange: Option<&Rc<Exchange>>,
        sending: impl Future<Output = Result<Answer, Failure>>,
    ) -> Result<Answer, Failure> {
        let mut end = match exchange {
            Some(exchange) => End::of(limit, exchange),
            None => End::from_now(limit),
        };
        tokio::select! {
            biased;
            sent = sending => return sent,
            () = poll_fn(|context| end.poll(context)) => {}
        }
        let rule = self.goal.rule.map(ToString::to_string);
        let rule = rule.unwrap_or_default();
        Err(Failure::new(Error::Timeout { rule, limit }, None))
    }

    /// The endpoints that a retry avoids.
    pub(super) fn avoid<'p>(&self, pass: &'p Pass) -> &'p [SocketAddr] {
        let avoids = self.policy.is_some_and(|policy| policy.avoid_tried);
        if avoids { pass.tried() } else { &[] }
    }

    /// How long to wait before the retry that follows an answer; `None`: it is the
    /// client's.
    pub(super) fn after_answer(
        &mut self,
        answer: &Answer,
        outgoing: &Outgoing,
        in_flight: &InFlight,
        exchange: Option<&Rc<Exchange>>,
    ) -> Option<Duration> {
        self.policy?;
        let asked = asked_to_wait(answer);
        if asked.is_some_and(|asked| asked > LONGEST_ASKED) {
            return None;
        }
        let outcome = response(answer, exchange);
        let wait = self.after_failure(&outcome, outgoing, in_flight, exchange)?;
        Some(wait.max(asked.unwrap_or_default()))
    }

    /// How long to wait before the retry that follows a failure; `None`: there is
    /// none.
    pub(super) fn after_failure(
        &mut self,
        outcome: &Outcome,
        outgoing: &Outgoing,
        in_flight: &InFlight,
        exchange: Option<&Rc<Exchange>>,
    ) -> Option<Duration> {
        let policy = self.policy?;
        let flag = |flags: Flags| {
            if let Some(exchange) = exchange {
                exchange.flag(flags);
            }
        };
        if policy.attempts == 0 || !policy.retries(outcome) {
            return None;
        }
        if self.sent >= policy.attempts {
            flag(Flags::URX);
            return None;
        }
        // A connection that does not come about is no request to anybody.
        let free = *outcome == Outcome::ConnectFailure;
        if !outgoing.is_whole() || !(free || self.goal.balancer.budget.spend(clock::instant())) {
            return None;
        }
        match in_flight.pool.take(Limit::Retries) {
            Ok(granted) => self.granted = granted,
            Err(_) => {
                flag(Flags::UO);
                return None;
            }
        }
        self.sent += 1;
        Some(policy.wait(self.sent, rand::random()))
    }

    /// How a failed attempt ended, for the policy.
    pub(super) fn outcome(&self, failure: &Failure) -> Outcome {
        match &failure.error {
            Error::Timeout { .. } => Outcome::TimedOut,
            error if error.is_refusal() => Outcome::Refused,
            error if error.reached_nobody() => Outcome::ConnectFailure,
            _ if failure.unsent.is_some() => Outcome::Refused,
            _ => Outcome::Reset,
        }
    }

    /// What an answer that is not the client's says of its endpoint.
    pub(super) fn verdict(&self, answer: &Answer, exchange: Option<&Rc<Exchange>>) -> Verdict {
        match response(answer, exchange) {
            Outcome::Response { status, grpc } => Verdict::of(status, grpc),
            _ => Verdict::Failed,
        }
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

fn response(answer: &Answer, exchange: Option<&Rc<Exchange>>) -> Outcome {
    let headers = answer.response.headers();
    let grpc = headers
        .get("grpc-status")
        .filter(|_| exchange.is_some_and(|exchange| exchange.is_grpc()))
        .and_then(|value| value.to_str().ok()?.parse().ok());
    Outcome::Response {
        status: answer.response.status(),
        grpc,
    }
}
