//! One pass over the endpoints of a backend: who is chosen, and whether another one
//! is tried when the chosen one can't serve.
//!
//! Requests, mirrored ones and opaque connections go by it alike. It goes on only
//! where no application has seen anything, so any method may be sent again. It is
//! bounded in endpoints and in time, and costs a service no more attempts than it
//! has endpoints: who fails is known to all threads, and where all are known to be
//! unavailable, each further attempt is paid for by the retry budget, and the pass has
//! one `connectTimeout`. Endpoints of which nothing is known are tried for longer: when
//! a zone is gone, a short `connectTimeout` is no reason not to get to the next one.

use crate::{
    balance::{Asker, Balancer, InFlight},
    clock,
    error::Error,
};
use linnet_mesh::destination::ConnectionPool;
use std::{fmt::Display, net::SocketAddr, rc::Rc, time::Instant};

/// Most endpoints that one request is sent to.
const MOST_TRIED: usize = 64;

/// Where a request or a connection is to go.
pub(super) struct Goal<'a> {
    pub(super) balancer: &'a Rc<Balancer>,
    pub(super) subset: Option<&'a str>,
    /// The rule that says so.
    pub(super) rule: Option<&'a dyn Display>,
}

impl Goal<'_> {
    /// Chooses an endpoint, other than those to avoid where there are others.
    pub(super) fn choose(
        &self,
        avoid: &[SocketAddr],
        asker: &Asker<'_>,
    ) -> Result<InFlight, Error> {
        let chosen = self.balancer.choose(self.subset, avoid, asker);
        chosen.ok_or_else(|| Error::NoEndpoint {
            rule: self.rule.map(ToString::to_string),
            service: self.balancer.cell.key.clone(),
            subset: self.subset.map(str::to_owned),
        })
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Pass {
    tried: Vec<SocketAddr>,
    /// When the first endpoint failed.
    began: Option<Instant>,
}

impl Pass {
    /// Endpoints that have been tried.
    pub(super) fn tried(&self) -> &[SocketAddr] {
        &self.tried
    }

    /// Takes note that an endpoint has been tried.
    pub(super) fn note(&mut self, in_flight: &InFlight) {
        self.tried.push(in_flight.candidate.endpoint.address);
    }

    /// Whether there are endpoints left besides the chosen one.
    pub(super) fn has_others(&self, in_flight: &InFlight) -> bool {
        self.tried.len() < in_flight.others
    }

    /// The endpoint to go to after the last one noted, which could not serve.
    /// `unseen`: it has not seen anything of the request.
    pub(super) fn next(
        &mut self,
        goal: &Goal<'_>,
        failed: &InFlight,
        unseen: bool,
        asker: &Asker<'_>,
    ) -> Option<InFlight> {
        if !unseen || failed.others == 0 || self.tried.len() >= MOST_TRIED {
            return None;
        }
        let now = clock::instant();
        let began = *self.began.get_or_insert(now);
        let spent = now.saturating_duration_since(began);
        let timeout = failed.pool.policy.pool.connect_timeout;
        if spent > timeout.max(ConnectionPool::CONNECT_TIMEOUT) {
            return None;
        }
        if failed.desperate && !goal.balancer.budget.spend(now) {
            return None;
        }
        let next = goal
            .balancer
            .choose_other(goal.subset, &self.tried, asker)?;
        if next.desperate && spent > timeout {
            next.withdraw();
            return None;
        }
        goal.balancer.cell.standing.count_moved();
        Some(next)
    }
}
